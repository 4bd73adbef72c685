"""The editors by name."""

from __future__ import annotations

from typing import Any

from ...errors import UsageError
from ...public import public
from .alphaedit import alphaedit
from .emmet import emmet
from .ft import ft, ft_l, ft_legacy
from .kn import kn
from .memit import memit
from .pmet import pmet
from .protocol import Editor
from .rome import ROME, r_rome
from .ultraedit import ultraedit

EDITORS: dict[str, Editor[Any]] = {
    one.name: one for one in (ROME, r_rome, emmet, memit, alphaedit, pmet, ultraedit, ft, ft_l, ft_legacy, kn)
}
"""All editors, in the order of tables."""


@public
def editor(name: str) -> Editor[Any]:
    """An editor by its name.

    Raises:
        UsageError: there is none of this name; the names are listed.
    """
    if not isinstance(name, str) or name not in EDITORS:
        raise UsageError(f"there is no editor {name!r}; the editors are {', '.join(EDITORS)}")
    return EDITORS[name]

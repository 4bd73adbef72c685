"""The editors by name."""

from __future__ import annotations

from ...errors import UsageError
from .alphaedit import ALPHAEDIT
from .emmet import EMMET
from .ft import FT, FT_L, FT_LEGACY
from .kn import KN
from .memit import MEMIT
from .pmet import PMET
from .protocol import Editor
from .rome_editor import R_ROME, ROME
from .ultraedit import ULTRAEDIT

EDITORS: dict[str, Editor] = {
    editor.name: editor for editor in (ROME, R_ROME, EMMET, MEMIT, ALPHAEDIT, PMET, ULTRAEDIT, FT, FT_L, FT_LEGACY, KN)
}
"""All editors, in the order of tables."""


def editor(name: str) -> Editor:
    """An editor by its name.

    Raises:
        UsageError: there is none of this name; the names are listed.
    """
    if not isinstance(name, str) or name not in EDITORS:
        raise UsageError(f"there is no editor {name!r}; the editors are {', '.join(EDITORS)}")
    return EDITORS[name]

"""The editors by name, and hyper-parameter files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...public import public
from .alphaedit import alphaedit
from .calinet import calinet
from .emmet import emmet
from .ft import ft, ft_l, ft_legacy
from .grace import grace
from .hparam_files import PublishedHparams, editor_of, read_file
from .ike import ike
from .kn import kn
from .malmen import malmen
from .memit import memit
from .mend import mend
from .pmet import pmet
from .protocol import Editor
from .recalling import mello, memprompt
from .rome import ROME, r_rome
from .tpatcher import tpatcher
from .ultraedit import ultraedit
from .wise import wise

_ALL: tuple[Editor[Any], ...] = (
    ROME, r_rome, emmet, memit, alphaedit, pmet, ultraedit, ft, ft_l, ft_legacy, kn,
    grace, ike, memprompt, mello, tpatcher, calinet, wise, mend, malmen,
)  # fmt: skip
EDITORS: dict[str, Editor[Any]] = {one.name: one for one in _ALL}
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


@public
def read_hparams(path: str | Path, editor_name: str | None = None) -> PublishedHparams:
    """Hyper-parameters from a file of rome, memit (JSON) or EasyEdit (YAML).

    Names are translated, and figures where the two count differently (theirs counts evaluations of the loss, ours
    steps).  They are put into the preset that does what the published code does, "code".

    Args:
        path: of the file.
        editor_name: whose they are, where the file does not say (`alg_name`): files of rome and memit do not.

    Returns:
        the editor's name, hyper-parameters, layers, the model's name, and `left_out`: a sentence for each field that
        cannot be carried over.

    Raises:
        UsageError: no such file, a file that is damaged or holds no hyper-parameters, an unknown editor, a value out of
            its range.
    """
    given = read_file(path)
    name = editor_name or editor_of(given)
    if name is None:
        raise UsageError(f"{str(path)!r} has no alg_name, so whose figures it holds is not known; give its name")
    return editor(name).of_published(path, given)

"""mechinterp: locate what a language model knows, and edit it.

    import mechinterp as mi
    model = mi.load("atlas")

Everything here is loaded on first use, so that `mechinterp --help` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import atlas as atlas
    from . import editing as editing
    from . import patching as patching
    from .editing import Edit as Edit
    from .editing import LinearMemory as LinearMemory
    from .editing import SecondMoment as SecondMoment
    from .editing.editors.rome import rome as rome
    from .errors import MechinterpError as MechinterpError
    from .errors import UsageError as UsageError
    from .facts.prompts import Fact as Fact
    from .facts.prompts import Prompt as Prompt
    from .facts.prompts import Question as Question
    from .models.loading import load as load
    from .models.model import Model as Model
    from .patching import Table as Table
    from .patching import cache as cache
    from .patching import explain as explain
    from .patching import plan as plan
    from .patching import run as run
    from .patching import trace as trace
    from .reading.facts import read_facts as read_facts

_HOME = {
    "Edit": "editing", "LinearMemory": "editing", "SecondMoment": "editing", "rome": "editing",
    "MechinterpError": "errors", "UsageError": "errors", "Model": "models.model", "load": "models.loading",
    "Table": "patching", "cache": "patching", "explain": "patching", "plan": "patching",
    "run": "patching", "trace": "patching",
    "Fact": "facts.prompts", "Prompt": "facts.prompts", "Question": "facts.prompts", "read_facts": "reading.facts",
}  # fmt: skip
_PACKAGES = ("analysis", "atlas", "editing", "patching")

__all__ = [*_HOME, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

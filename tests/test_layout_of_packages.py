"""Who may import whom, and whether every package on disk is named in pyproject.toml."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("patching", "editing", "analysis")  # at the top level, and mechinterp.<name> for the import system

# A module may import its own layer and those before it. The front door, mechinterp/__init__.py, may import all
# of them (lazily) and is imported by the last layer alone: to the others it would be a way round this list.
LAYERS = ("mechinterp", "mechinterp.patching", "mechinterp.editing", "mechinterp.analysis", "the surface")
SURFACE = ("mechinterp", "mechinterp.__main__", "mechinterp.cli", "mechinterp.demo", "mechinterp.report")


def layer(module: str) -> int:
    """The place of a module, which need not exist, in `LAYERS`."""
    parts = module.split(".")
    if module == "mechinterp" or ".".join(parts[:2]) in SURFACE:
        return len(LAYERS) - 1
    return FOLDERS.index(parts[1]) + 1 if parts[1] in FOLDERS else 0


def modules(root: Path) -> dict[str, Path]:
    """Every module below `root` by its import name."""
    found = {}
    for folder, prefix in (("mechinterp", ()), *((name, ("mechinterp",)) for name in FOLDERS)):
        for path in (root / folder).rglob("*.py"):  # does not follow the links, so each file is met once
            parts = (*prefix, *path.relative_to(root).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that `path` imports; `from . import x` is the module x if there is one."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in known else base


def complaints(root: Path) -> list[str]:
    """One sentence for each import that breaks the order or works only from inside the checkout."""
    known = modules(root)
    found = []
    for module, path in sorted(known.items()):
        for line, name in imports(module, path, known):
            place = f"{path.relative_to(root)}:{line} imports {name}"
            if name.split(".")[0] in FOLDERS:
                found.append(f"{place}, which exists only inside the checkout: write a relative import.")
            if name.split(".")[0] != "mechinterp" or layer(name) <= layer(module):
                continue
            if name == "mechinterp":
                found.append(f"{place}, the front door: import from the module that defines the name.")
            else:
                found.append(f"{place}: {LAYERS[layer(module)]} stands below {LAYERS[layer(name)]}.")
    return found


def packages(root: Path) -> set[str]:
    """The import names of all folders that hold Python files."""
    found = modules(root).items()
    return {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in found}


def test_imports_go_one_way() -> None:
    assert len(modules(ROOT)) > 10
    assert complaints(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("mechinterp/models.py", "from .patching import run", "mechinterp stands below mechinterp.patching."),
        ("mechinterp/models.py", "from . import patching", "mechinterp stands below mechinterp.patching."),
        ("mechinterp/atlas/data.py", "from ..patching.run import x", "below mechinterp.patching."),
        ("mechinterp/atlas/__init__.py", "from ..cli import main", "mechinterp stands below the surface."),
        ("patching/run.py", "from .. import trace", "imports mechinterp, the front door"),
        ("patching/run.py", "import mechinterp.editing", "patching stands below mechinterp.editing."),
        ("patching/__init__.py", "from ..editing import x", "below mechinterp.editing."),
        ("editing/edit.py", "def f():\n    from ..analysis import x", "edit.py:2 imports mechinterp.analysis"),
        ("analysis/tables.py", "from ..report import html", "mechinterp.analysis stands below the surface."),
        ("analysis/tables.py", "from patching import run", "exists only inside the checkout"),
    ],
)
def test_a_wrong_import_is_named(tmp_path: Path, path: str, source: str, sentence: str) -> None:
    for folder in ("mechinterp", *FOLDERS):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    [complaint] = complaints(tmp_path)
    assert complaint.startswith(path)
    assert sentence in complaint


def test_right_imports_pass(tmp_path: Path) -> None:
    for path, source in {
        "mechinterp/__init__.py": "from .analysis.tables import Table",
        "mechinterp/models.py": "from .errors import UsageError\nimport analysis_of_something_else",
        "mechinterp/cli/__init__.py": "import mechinterp as mi\nfrom ..report import html",
        "patching/run.py": "from ..models import Model\nfrom . import sites\nfrom .sites import Site",
        "patching/sites.py": "import patching_of_somebody_else",
        "analysis/tables.py": "from ..editing.edit import Edit\nfrom ..patching import run",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    assert complaints(tmp_path) == []


def test_every_package_on_disk_is_named_in_pyproject() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    missing, gone = packages(ROOT) - listed, listed - packages(ROOT)
    assert not missing, f"name {sorted(missing)} under [tool.setuptools] packages, or the wheel lacks them"
    assert not gone, f"[tool.setuptools] packages names {sorted(gone)}, which no longer exist"


@pytest.mark.skipif(sys.platform == "win32", reason="Git for Windows does not make links unless told to")
@pytest.mark.parametrize("name", FOLDERS)
def test_links_into_the_package(name: str) -> None:
    link = ROOT / "mechinterp" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name

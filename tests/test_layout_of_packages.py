"""Who may import whom: floors, no circles, and every package on disk named in pyproject.toml.

Lazy imports and those for type checkers count: what a file needs to be understood, it needs.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("patching", "editing", "analysis")  # at the top level, and mechinterp.<name> for the import system

# A file may import its own floor and those before it.  Files that stand beside folders are floors of their own.
FLOORS = (
    "mechinterp.errors",
    "mechinterp.given",
    "mechinterp.public",
    "mechinterp.runs",
    "mechinterp.facts",
    "mechinterp.formats",
    "mechinterp.atlas",
    "mechinterp.models",
    "mechinterp.forwards",
    "mechinterp.reading",
    "mechinterp.patching.algebra",
    "mechinterp.patching.plain",
    "mechinterp.patching.exact",
    "mechinterp.patching.traces",
    "mechinterp.patching",
    "mechinterp.editing.hyperparameters",
    "mechinterp.editing.stores",
    "mechinterp.editing.edits",
    "mechinterp.editing.moments",
    "mechinterp.editing.memory",
    "mechinterp.editing.rows",
    "mechinterp.editing.gradients",
    "mechinterp.editing.value",
    "mechinterp.editing.judging",
    "mechinterp.editing.training",
    "mechinterp.editing.editors",
    "mechinterp.editing.sequences",
    "mechinterp.editing",
    "mechinterp.analysis.intervals",
    "mechinterp.analysis.effects",
    "mechinterp.analysis.evaluation",
    "mechinterp.analysis.damage",
    "mechinterp.analysis.trials",
    "mechinterp.analysis.plots",
    "mechinterp.analysis",
    "mechinterp",
    "mechinterp.cli",
    "mechinterp.__main__",
)
"""The last name of a package is its list of exports, which stands above all of it; nobody asks it from within."""

MOST_FILES = 20
"""In one folder; a family, whose files are alike, may have more."""
FAMILIES = ("mechinterp.editing.editors",)


def floor(module: str) -> int:
    """The place of a module, which need not exist, in `FLOORS`.

    Raises:
        ValueError: it is on none.
    """
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        name = ".".join(parts[:length])
        if name in FLOORS and (length == len(parts) or name not in EXPORTS):
            return FLOORS.index(name)
    if module == "mechinterp":
        return FLOORS.index("mechinterp")
    raise ValueError(f"{module} stands on no floor: put it into a folder of tests/test_layout_of_packages.py")


EXPORTS = tuple(f"mechinterp.{name}" for name in LINKED)


def modules(root: Path) -> dict[str, Path]:
    """Every module below `root` by its import name."""
    found = {}
    for folder, prefix in (("mechinterp", ()), *((name, ("mechinterp",)) for name in LINKED)):
        for path in (root / folder).rglob("*.py"):  # does not follow the links, so each file is met once
            parts = (*prefix, *path.relative_to(root).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
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
    """One sentence for each import that goes up, or works only from inside the checkout."""
    known = modules(root)
    found = []
    for module, path in sorted(known.items()):
        for line, name in imports(module, path, known):
            place = f"{path.relative_to(root)}:{line} imports {name}"
            if name.split(".")[0] in LINKED:
                found.append(f"{place}, which exists only inside the checkout: write a relative import.")
            if name.split(".")[0] != "mechinterp":
                continue
            if name in EXPORTS and module.startswith(f"{name}."):
                found.append(f"{place}, its own list of exports: import from the module that defines the name.")
            elif floor(name) > floor(module):
                found.append(f"{place}: {FLOORS[floor(module)]} stands below {FLOORS[floor(name)]}.")
    return found


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of which each leads to every other: those that can be reached from where they lead."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for name in arrows.get(waiting.pop(), ()):
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    reach = {name: reached(name) for name in arrows}
    found: list[list[str]] = []
    for name in sorted(arrows):
        circle = sorted(other for other in reach[name] if name in reach.get(other, ()))
        if circle and circle not in found:
            found.append(circle)
    return found


def arrows(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Who imports whom, between files and between folders; lists of exports are passed through."""
    known = modules(root)
    files: dict[str, set[str]] = {}
    folders: dict[str, set[str]] = {}
    for module, path in known.items():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        inside = {name for _, name in imports(module, path, known) if name in known}
        files[module] = inside - {module}
        here = module.rpartition(".")[0]
        there = {name if known[name].name == "__init__.py" else name.rpartition(".")[0] for name in inside}
        folders.setdefault(here, set()).update(there - {here})
    folders.pop("mechinterp", None)  # errors.py and given.py, the floors beneath all folders
    return files, folders


def packages(root: Path) -> set[str]:
    """The import names of all folders that hold Python files."""
    found = modules(root).items()
    return {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in found}


def test_imports_go_down() -> None:
    assert len(modules(ROOT)) > 10
    assert complaints(ROOT) == []


def test_there_are_no_circles() -> None:
    files, folders = arrows(ROOT)
    assert circles(files) == []
    assert circles(folders) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_folder_is_a_warehouse() -> None:
    sizes: dict[str, int] = {}
    for module, path in modules(ROOT).items():
        if path.name != "__init__.py":
            folder = module.rpartition(".")[0]
            sizes[folder] = sizes.get(folder, 0) + 1
    assert {folder: size for folder, size in sizes.items() if size > MOST_FILES and folder not in FAMILIES} == {}


def test_every_folder_says_what_lives_there() -> None:
    for module, path in modules(ROOT).items():
        if path.name == "__init__.py" and module not in ("mechinterp", "mechinterp.cli", *EXPORTS):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert "mports" in said, f"{path.relative_to(ROOT)} does not say what may be imported there"


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("mechinterp/models/model.py", "from ..patching import run", "models stands below mechinterp.patching."),
        (
            "mechinterp/models/model.py",
            "from .. import patching",
            "mechinterp.models stands below mechinterp.patching.",
        ),
        ("mechinterp/atlas/data.py", "from ..patching.plain.run import x", "below mechinterp.patching.plain."),
        ("mechinterp/atlas/__init__.py", "from ..cli import main", "mechinterp.atlas stands below mechinterp.cli."),
        ("patching/plain/run.py", "from ... import trace", "mechinterp.patching.plain stands below mechinterp."),
        ("patching/plain/run.py", "import mechinterp.editing", "plain stands below mechinterp.editing."),
        ("patching/plain/run.py", "from .. import trace", "imports mechinterp.patching, its own list of exports"),
        ("patching/plain/run.py", "from ..exact.grid import x", "plain stands below mechinterp.patching.exact."),
        ("patching/__init__.py", "from ..editing import x", "below mechinterp.editing."),
        ("editing/edits/edit.py", "def f():\n    from ...analysis import x", "edit.py:2 imports mechinterp.analysis"),
        ("analysis/plots/aie.py", "from patching import run", "exists only inside the checkout"),
    ],
)
def test_a_wrong_import_is_named(tmp_path: Path, path: str, source: str, sentence: str) -> None:
    for folder in ("mechinterp", *LINKED):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    [complaint] = complaints(tmp_path)
    assert complaint.startswith(path)
    assert sentence in complaint


def test_a_file_on_no_floor_is_named() -> None:
    with pytest.raises(ValueError, match=r"mechinterp.patching.new.file stands on no floor: put it into a folder of"):
        floor("mechinterp.patching.new.file")


def test_right_imports_pass(tmp_path: Path) -> None:
    for path, source in {
        "mechinterp/__init__.py": "from .analysis.plots.aie import Table",
        "mechinterp/models/model.py": "from ..errors import UsageError\nimport analysis_of_something_else",
        "mechinterp/cli/__init__.py": "import mechinterp as mi\nfrom ..analysis import html",
        "patching/plain/run.py": "from ...models.model import Model\nfrom . import sites\nfrom .sites import Site",
        "patching/plain/sites.py": "import patching_of_somebody_else",
        "analysis/plots/aie.py": "from ...editing.edits.edit import Edit\nfrom ...patching import run",
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
@pytest.mark.parametrize("name", LINKED)
def test_links_into_the_package(name: str) -> None:
    link = ROOT / "mechinterp" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name

"""A wheel holds all of the package, also when it is built from an sdist and where links were not kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = {  # folder in the project: folder in the wheel
    "mechinterp": "mechinterp",
    "patching": "mechinterp/patching",
    "editing": "mechinterp/editing",
    "analysis": "mechinterp/analysis",
}
NAMES = [place.replace("/", ".") for place in PLACES.values()]
IMPORT = f"import {', '.join(NAMES)}\nfor module in {', '.join(NAMES)}: print(module.__file__)"
FIND = f"from importlib.util import find_spec\nfor name in {NAMES}: print(find_spec(name).origin)"


def run(command: list[str], cwd: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """The files of the project as a fresh clone has them, or will have once they are added."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git says which files belong to the package, and this is no git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    return [name for name in run(command, ROOT).split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from an sdist, built from a copy of the project that has lost its links."""
    copy = tmp_path_factory.mktemp("copy")
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    assert not (copy / "mechinterp" / "patching").exists()
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"], copy)
    [built] = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", str(target), str(wheel)], target)
    return target


def test_the_wheel_holds_every_file(wheel: Path, sources: list[str]) -> None:
    expected = set()
    for name in sources:
        folder, _, rest = name.partition("/")
        if folder in PLACES and rest:
            expected.add(f"{PLACES[folder]}/{rest}")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert len(expected) > 10
    assert "mechinterp/py.typed" in held
    assert expected - held == set(), "name these under [tool.setuptools] packages or package-data"
    assert held - expected == set(), "these are in the wheel and not in the project"


def test_the_installed_wheel_is_imported_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    files = run([sys.executable, "-c", IMPORT], tmp_path, PYTHONPATH=str(installed)).split()
    assert [Path(name) for name in files] == [installed / place / "__init__.py" for place in PLACES.values()]


def test_the_command_of_the_installed_wheel_starts(installed: Path, tmp_path: Path) -> None:
    command = installed / ("Scripts/mechinterp.exe" if sys.platform == "win32" else "bin/mechinterp")
    assert "Usage" in run([str(command), "--help"], tmp_path, PYTHONPATH=str(installed))


@pytest.mark.parametrize("place", ["inside the checkout", "elsewhere"])
def test_the_checkout_is_imported(place: str, tmp_path: Path) -> None:
    """With the editable install that `make test` sets up."""
    cwd = ROOT if place == "inside the checkout" else tmp_path
    for name in run([sys.executable, "-c", FIND], cwd).split():
        assert Path(name).is_relative_to(ROOT / "mechinterp"), "run `make test`, which installs the checkout"

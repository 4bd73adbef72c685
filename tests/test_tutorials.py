"""The tutorials run from first to last cell in a fresh kernel, without a warning, and hold no stored output."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

FOLDER = Path(__file__).parent.parent / "tutorials"
TUTORIALS = sorted(path.name for path in FOLDER.glob("[0-9]*.py"))
LIMIT = 120
"""Seconds of computing a tutorial may take on one thread."""


def _cells(notebook: NotebookNode, kind: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_the_tutorials_are_there() -> None:
    assert TUTORIALS == ["01_your_first_patch.py", "02_find_a_fact_and_move_it.py"]


@pytest.mark.parametrize("name", TUTORIALS)
def test_runs_in_a_fresh_kernel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # nobody's own start-up files
    # tqdm, which transformers imports, asks for Jupyter's widgets; they only make its bars prettier.
    monkeypatch.setenv("PYTHONWARNINGS", "default,ignore:IProgress not found")
    notebook = jupytext.read(FOLDER / name)
    notebook.cells.append(new_code_cell("import time; print(time.process_time())"))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    computing = float(notebook.cells.pop().outputs[0].text)
    assert computing < LIMIT, f"{name} computes for {computing:.0f} s"
    outputs = [output for cell in _cells(notebook, "code") for output in cell.outputs]
    noise = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert noise == "", f"{name} writes to standard error, where warnings go"
    assert any("image/png" in output.get("data", {}) for output in outputs), f"{name} shows no figure"


@pytest.mark.parametrize("name", TUTORIALS)
def test_says_what_to_expect_and_ends_with_exercises(name: str) -> None:
    notebook = jupytext.read(FOLDER / name)
    text = "\n".join(cell.source for cell in _cells(notebook, "markdown"))
    code = "\n".join(cell.source for cell in _cells(notebook, "code"))
    assert text.count("*Expect") >= 8
    assert code.count("assert ") >= 10
    exercises = text.partition("## Exercises")[2]
    assert re.findall(r"^(\d)\. ", exercises, flags=re.MULTILINE) == ["1", "2", "3"]
    assert exercises.count("*Hint:*") == 3
    assert "docs/atlas.md" in text
    assert "no evidence about language models" in " ".join(text.split())


@pytest.mark.parametrize("name", TUTORIALS)
def test_is_text_that_survives_a_round_trip(name: str) -> None:
    """What an editor saves is what is stored: opening and saving a tutorial changes nothing below the header."""
    source = (FOLDER / name).read_text(encoding="utf-8")
    saved = jupytext.writes(jupytext.reads(source, fmt="py:percent"), fmt="py:percent")
    assert saved.partition("# %%")[2] == source.partition("# %%")[2]

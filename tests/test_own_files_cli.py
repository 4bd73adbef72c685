"""The command line and the user's files: nothing of theirs is overwritten, and that is said before any work is done."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.command_line import PROMPT

from mechinterp import Edit
from mechinterp.editing import EditSequence

EDIT = ("edit", "atlas", *PROMPT, "--target", "Lumeria", "-q")

IN_THE_WAY = {
    "trace": (("trace", "atlas", *PROMPT, "-q"), ("table.parquet", "effects.json", "aie.png", "prompt.png", "shards")),
    "edit": (EDIT, ("edit.safetensors", "report.json")),
    "evaluate": (
        ("evaluate", "atlas", "atlas", "--editors", "ft", "--edits", "1,sequential", "-q"),
        ("table.md", "records.parquet", "costs.csv", "leaderboard-single.png", "retention-ft.png", "journal.jsonl"),
    ),
    "moments": (("moments", "atlas", "-l", "3", "-q"), ("layer-3.safetensors", "convergence.csv")),
    "demo": (("demo", "-q"), ("edit.safetensors", "aie-atlas.png", "edits.json")),
}  # fmt: skip


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be loaded."""

    def load(*given: object, **options: object) -> None:
        raise AssertionError("a model was loaded before the input was looked at")

    monkeypatch.setattr("mechinterp.models.loading.load", load)
    monkeypatch.setattr("mechinterp.cli.demonstration.load", load)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", list(IN_THE_WAY))
def test_files_of_the_user_are_in_the_way(call: Any, tmp_path: Path, command: str) -> None:
    words, names = IN_THE_WAY[command]
    for name in names:
        folder = tmp_path / f"with-{Path(name).stem}"
        folder.mkdir()
        (folder / name).write_text("mine")
        outcome = call(*words, "--out", folder.name)
        assert outcome.code == 2, outcome.err
        assert f"{name}' is there already and was not written there by this command" in outcome.err
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "mine"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", list(IN_THE_WAY))
def test_folders_that_are_none(call: Any, tmp_path: Path, command: str) -> None:
    words, _ = IN_THE_WAY[command]
    (tmp_path / "taken").touch()
    for out in ("taken", "taken/deep"):
        outcome = call(*words, "--out", out)
        assert outcome.code == 2
        assert "taken' is a file; give the name of a folder" in outcome.err
    outcome = call(*words, "--out", "")
    assert outcome.code == 2
    assert "it is empty; give a name" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.usefixtures("no_model")
def test_where_the_edited_model_cannot_go_is_said_first(call: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    for folder, said in (
        ("there", "'there' is there already and not empty"),
        ("no/where", "there is no folder"),
        ("new", "--out and --to-hf are both 'new'"),
    ):
        outcome = call(*EDIT, "--to-hf", folder, "--out", "new")
        assert outcome.code == 2
        assert said in outcome.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "there"]


def test_converted_facts_replace_nothing(call: Any, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"template": "{} is in", "subject": "Rome", "answer": "Italy"}\n')
    before = (tmp_path / "own.jsonl").read_bytes()
    for option in ("--jsonl", "--counterfact"):
        outcome = call("facts", "own.jsonl", option, "own.jsonl")
        assert outcome.code == 2
        assert "own.jsonl' is there already and is not overwritten; give another name, or remove it" in outcome.err
    assert (tmp_path / "own.jsonl").read_bytes() == before


def test_merged_moments_replace_only_moments(call: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"the user's weights")
    outcome = call("moments-merge", "a", "b", "--out", tmp_path)
    assert outcome.code == 2

    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    outcome = call("moments-merge", "a", "b", "--out", "model.safetensors")
    assert outcome.code == 2
    assert "model.safetensors' is no second moment file; it holds other tensors" in outcome.err
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_edit_in_the_folder_of_an_earlier_one_and_a_full_disk(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechinterp.cli.layer_moments.MOMENT_TOKENS", 3000)
    assert call(*EDIT, "--out", "e", "--to-hf", "e/hf").code == 0  # a folder that is made first
    assert call(*EDIT, "--out", "e").code == 0  # its own files
    replace = os.replace

    def full(aside: Path, target: Path) -> None:
        if target.parent.name == "e":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(aside, target)

    monkeypatch.setattr(os, "replace", full)
    outcome = call(*EDIT, "--out", "e")
    assert outcome.code == 1
    assert "e/edit.safetensors' could not be written: there is no space left on its disk" in outcome.err
    second = Path(outcome.err.partition("it is kept in '")[2].partition("'")[0])
    assert Edit.load(second).provenance.request.target == "Lumeria"
    second.unlink()
    second.parent.rmdir()


def test_ctrl_c_keeps_the_edits_made_so_far(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = EditSequence.add

    def twice(self: EditSequence, *given: Any, **options: Any) -> Edit:
        if len(self) == 2:
            raise KeyboardInterrupt
        return add(self, *given, **options)

    monkeypatch.setattr(EditSequence, "add", twice)
    words = ("edit", "atlas", "--facts", "atlas", "--limit", "3", "--editor", "r-rome", "--no-kl", "-q", "--out", "e")
    monkeypatch.setattr("mechinterp.cli.layer_moments.MOMENT_TOKENS", 3000)
    outcome = call(*words)
    assert outcome.code == 1
    assert "interrupted: 2 of 3 edits are kept in 'e/sequence.safetensors'; EditSequence.load(...)" in outcome.err
    assert (tmp_path / "e" / "sequence.safetensors").exists()
    assert not (tmp_path / "e" / "edit.safetensors").exists()


def test_permission_denied_is_called_so(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.json").write_text(json.dumps([]))

    def denied(*given: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "own.json")

    monkeypatch.setattr(Path, "open", denied)
    outcome = call("facts", "own.json")
    assert outcome.code == 2
    assert outcome.err.startswith("error: the file of facts 'own.json' may not be read: permission denied")
    assert "--out" not in outcome.err

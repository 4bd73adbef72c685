"""Editors with a network: trained on some subjects, gone on with after a kill, kept in a file, refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import Call

import mechinterp as mi
from mechinterp.editing import Edit, MendHparams, Trained, edit_each, mend
from mechinterp.editing.editors.mend import Mend
from mechinterp.editing.training import loop
from mechinterp.editing.training.examples import split_subjects
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Fact, Prompt
from mechinterp.models.model import Model

TINY = MendHparams(steps=4, every=2, validation=2, accumulate=2, rank=4, lr=1e-3, patience=100)


@pytest.fixture(scope="module")
def atlas() -> Model:
    return mi.load("atlas")


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return list(mi.atlas.known_facts()[:60])


@pytest.fixture(scope="module")
def folder(atlas: Model, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mend")
    mend.train(atlas, facts, path, hparams=TINY, progress=False)
    return path


@pytest.fixture(scope="module")
def editor(folder: Path) -> Mend:
    return mend.with_trained(Trained.load(folder))


def test_a_killed_training_ends_with_the_same_weights(
    atlas: Model, facts: list[Fact], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop._step

    def killed(course: Any, *given: Any) -> None:
        if course.step == 3:
            raise KeyboardInterrupt
        step(course, *given)

    monkeypatch.setattr(loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        mend.train(atlas, facts, tmp_path, hparams=TINY, progress=False)
    assert not (tmp_path / "trained.safetensors").exists()
    monkeypatch.undo()
    again = mend.train(atlas, facts, tmp_path, hparams=TINY, progress=False).trained
    whole = Trained.load(folder)
    assert again is not None
    assert [row["step"] for row in again.report["log"]] == [2, 4]
    assert again.digest == whole.digest
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in again.tensors.items())
    with pytest.raises(UsageError, match=r"holds another training \(it differs in seed\); give another folder"):
        mend.train(atlas, facts, tmp_path, hparams=TINY, seed=1, progress=False)


def test_no_subject_is_learnt_from_and_validated_on(facts: list[Fact], folder: Path) -> None:
    learnt, held = split_subjects(facts, 0.2, 0)
    both = [{fact.prompt.subject for fact in part.facts} for part in (learnt, held)]
    assert not both[0] & both[1]
    assert both[0] | both[1] == {fact.prompt.subject for fact in facts}
    assert split_subjects(facts[::-1], 0.2, 0)[1].facts == held.facts[::-1]
    assert learnt.draw(3, "a") == learnt.draw(3, "a") != learnt.draw(3, "b")
    for (asked, target), (other, same), (near, answer) in zip(*vars(learnt.draw(8, "c")).values(), strict=True):
        assert target == same != asked.answer
        assert asked.text != other.text
        assert near.text != asked.text
        assert answer
    with pytest.raises(
        UsageError, match="of 2 facts, those of 0 subjects have a target_new, an answer and paraphrases"
    ):
        split_subjects([Fact(Prompt("{} is in", "Rome", "Italy"), "Spain")] * 2, 0.1, 0)


def test_training_moves_what_it_should(folder: Path) -> None:
    trained = Trained.load(folder)
    assert trained.report["parameters"] == sum(
        tensor.numel() for name, tensor in trained.tensors.items() if name.startswith("parameter ")
    )
    assert trained.layers == (5, 6, 7)
    assert trained.report["held_out"]
    assert all(set(row) == {"step", "total", "edit", "local", "said"} for row in trained.report["log"])


def test_an_edit_of_it_keeps_the_laws(atlas: Model, facts: list[Fact], editor: Mend, tmp_path: Path) -> None:
    ids = torch.tensor([atlas.encode(facts[0].prompt.text)])
    before, print_before = atlas.logits(ids), atlas.fingerprint()
    edit = editor(atlas, facts[0], allow_disabling=True)
    assert edit.layers == editor.trained.layers  # type: ignore[union-attr]
    with edit.on(atlas):
        on = atlas.logits(ids)
    assert not torch.equal(on, before)
    assert torch.equal(atlas.logits(ids), before)
    undo = edit.bake(atlas)
    assert torch.allclose(atlas.logits(ids), on, atol=1e-4)
    undo.undo()
    assert torch.equal(atlas.logits(ids), before)
    assert atlas.fingerprint() == print_before
    edit.save(tmp_path / "edit.safetensors")
    assert Edit.load(tmp_path / "edit.safetensors") == edit
    both = edit_each(atlas, editor, facts[:2], progress=False, allow_disabling=True)
    assert isinstance(both[0], Edit)
    for layer in edit.layers:
        assert torch.allclose(both[0].delta(layer), edit.delta(layer), atol=1e-6)


def test_it_is_refused_where_it_does_not_belong(atlas: Model, facts: list[Fact], editor: Mend, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mend has a network that must be trained first: mechinterp train-editor mend"):
        mend(atlas, facts[0])
    with pytest.raises(UsageError, match=r"trained for the layers .*, not for 0, 1; leave layers= out"):
        editor(atlas, facts[0], [0, 1])
    with pytest.raises(UsageError, match=r"this mend was trained on .*atlas.*; train one for it"):
        editor(mi.load("atlas-plain"), facts[0])
    with pytest.raises(UsageError, match="edits is 0; it must be above 0"):
        MendHparams(edits=0)
    wild = TINY.with_(alpha=-1e30, validation=1)
    with pytest.raises(MechinterpError, match="the loss became .* at step 0 of training; lower lr"):
        mend.train(atlas, facts, tmp_path, hparams=wild, progress=False)


def test_the_commands(call: Call, folder: Path, tmp_path: Path) -> None:
    ask = ("--prompt", "{} was born in", "--subject", "Marta Halberg", "--target", "Tarsk")
    code, _, said = call("edit", "atlas", "--editor", "mend", *ask)
    assert (code, "mend has a network that must be trained first" in str(said)) == (2, True)
    code, _, said = call("edit", "atlas", "--editor", "rome", *ask, "--trained", str(folder))
    assert (code, "rome has no network to train; those that have are mend" in str(said)) == (2, True)
    code, _, said = call("train-editor", "memit", "atlas", "atlas", "--out", str(tmp_path / "x"))
    assert (code, "memit has no network to train" in str(said)) == (2, True)
    code, out, _ = call(
        "edit", "atlas", "--editor", "mend", "--trained", str(folder), *ask, "--out", str(tmp_path / "e"),
        "--allow-disabling", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert "edit.safetensors" in str(out)
    code, out, _ = call(
        "train-editor",
        "mend",
        "atlas",
        "atlas",
        "--limit",
        "30",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "t"),
        "--quiet",
    )
    assert code == 0
    assert "held-out subjects" in str(out)

"""A saved sequence of edits goes on as if it had never been saved, its memory of earlier edits included."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tokenizers import SENTENCES
from support.zoo import sentence_model

from mechinterp.editing import EDITORS, Edit, EditRequest, EditSequence, SecondMoment, collect_moments
from mechinterp.errors import DamagedError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("{} wrote about", "Marie Curie"), "music"),
    EditRequest(Prompt("{} wrote about", "Ada Lovelace"), "rain"),
]
QUICK: dict[str, dict[str, Any]] = {
    "r-rome": {"steps": 3, "max_disturbance": 1e9, "key_ratio_band": (0.0, 1e9)},
    "memit": {"steps": 3, "max_disturbance": 1e9, "max_essence": None, "weight": 1e-3},
    "alphaedit": {"steps": 3, "max_disturbance": 1e9, "max_essence": None},
    "ultraedit": {"max_essence": None, "warm_up": 0},
    "ft": {"steps": 2, "max_essence": None},
}


@cache
def model_of() -> Model:
    return sentence_model("gpt2", dtype=torch.float64)


@cache
def moments() -> dict[int, SecondMoment]:
    found = collect_moments(model_of(), SENTENCES, [1, 2], progress=False)
    return {layer: moment.repaired("ridge", 1e-2) for layer, moment in found.items()}


def begun(name: str, **more: Any) -> EditSequence:
    hparams = EDITORS[name].presets["default"].with_(**QUICK[name])
    layers = [1] if name == "r-rome" else (1, 2)
    asked: dict[str, Any] = {"moments": moments(), "contexts": ("{}", "People spoke. {}"), "seed": 3} | more
    return EditSequence(model_of(), EDITORS[name], layers, hparams=hparams, **asked)


def same(one: Edit, other: Edit) -> bool:
    return all(torch.allclose(one.delta(layer), other.delta(layer), rtol=1e-9, atol=1e-12) for layer in other.layers)


@pytest.mark.parametrize("name", list(QUICK))
def test_it_goes_on_as_if_it_had_never_been_saved(tmp_path: Path, name: str) -> None:
    straight, first = begun(name), begun(name)
    for request in REQUESTS:
        straight.add([request])
    for request in REQUESTS[:2]:
        first.add([request])
    first.save(tmp_path / "sequence.safetensors")
    again = EditSequence.load(tmp_path / "sequence.safetensors", model_of(), moments=moments())
    assert again.steps == first.steps
    assert [part.provenance for part in again.edit.parts] == [part.provenance for part in first.edit.parts]
    assert again.hparams == first.hparams
    assert len(again) == 2
    third = again.add([REQUESTS[2]])
    assert same(third, straight.steps[2])
    assert third.provenance.on_top_of == straight.steps[2].provenance.on_top_of
    if name in ("memit", "ultraedit"):  # what it remembers makes a difference at all
        forgetful = EditSequence.load(tmp_path / "sequence.safetensors", model_of(), moments=moments())
        forgetful.past = None
        assert not same(forgetful.add([REQUESTS[2]]), straight.steps[2])


def test_it_can_be_saved_before_its_first_edit(tmp_path: Path) -> None:
    begun("memit").save(tmp_path / "sequence")
    again = EditSequence.load(tmp_path / "sequence", model_of(), moments=moments())
    assert len(again) == 0
    straight = begun("memit").add([REQUESTS[0]])
    assert same(again.add([REQUESTS[0]]), straight)


def test_settings_are_kept(tmp_path: Path) -> None:
    begun("memit", allow_conflicts=True).save(tmp_path / "sequence")
    again = EditSequence.load(tmp_path / "sequence", model_of(), moments=moments())
    again.add([REQUESTS[0], replace(REQUESTS[0], target="rain")])
    begun("memit").save(tmp_path / "sequence")
    again = EditSequence.load(tmp_path / "sequence", model_of(), moments=moments())
    with pytest.raises(UsageError, match="contradict each other"):
        again.add([REQUESTS[0], replace(REQUESTS[0], target="rain")])


def test_what_it_does_not_belong_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sequence.safetensors"
    sequence = begun("memit")
    sequence.add([REQUESTS[0]])
    sequence.save(path)
    with pytest.raises(
        UsageError, match=r"was begun on small-gpt2 in float64 \(fingerprint \w{12}\), but the model at"
    ):
        EditSequence.load(path, sentence_model("gpt2", seed=1), moments=moments())
    with pytest.raises(UsageError, match="needs the second moment of layer 1; pass moments="):
        EditSequence.load(path, model_of())
    others = {layer: moment.repaired("ridge", 0.5) for layer, moment in moments().items()}
    with pytest.raises(UsageError, match="was begun with another second moment of layer 1"):
        EditSequence.load(path, model_of(), moments=others)
    with pytest.raises(UsageError, match="was made by memit, not by emmet; give that"):
        EditSequence.load(path, model_of(), moments=moments(), editor=EDITORS["emmet"])
    sequence.edit.save(tmp_path / "edit")
    with pytest.raises(UsageError, match="is no sequence of edits file; it holds edit"):
        EditSequence.load(tmp_path / "edit", model_of())
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedError, match="sequence.safetensors' is damaged"):
        EditSequence.load(path, model_of(), moments=moments())


def test_a_memory_of_an_unknown_kind_is_not_written(tmp_path: Path) -> None:
    sequence = begun("memit")
    sequence.past = {"keys": 1}
    with pytest.raises(UsageError, match=r"what memit remembers of earlier edits \(dict\) cannot be written; save "):
        sequence.save(tmp_path / "sequence")


def test_an_interrupted_step_leaves_edits_and_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = begun("memit")
    sequence.add([REQUESTS[0]])
    past = sequence.past

    def interrupted(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(past), "joined", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sequence.add([REQUESTS[1]])
    assert len(sequence) == 1
    assert sequence.past is past

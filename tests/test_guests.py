"""What takes part in a run besides the weights is named, and numbers made with it are not taken for others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.running_text import running_text
from support.tokenizers import words
from support.zoo import hf_model, sentence_model

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.editing import Edit, EditRequest, EditSequence, SecondMoment, collect_moments, rome
from mechinterp.patching import trace

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
FAST: dict[str, Any] = {"contexts": ("{}",), "allow_disabling": True, "progress": False}
TEXTS = running_text(20)


def doubled(value: torch.Tensor, hook: object) -> torch.Tensor:
    return value * 2


@pytest.fixture
def model() -> Model:
    return sentence_model()


def edit_of(model: Model) -> Edit:
    return rome(model, EditRequest(PROMPT, "Paris"), 1, moments=SecondMoment.identity(model, 1), **FAST)


def traced(model: Model, out: Path | None = None) -> Any:
    return trace(model, [PROMPT], kinds="mlp", severed=(), draws=2, out=out, progress=False)


def test_a_model_as_it_was_loaded_has_no_guests(model: Model) -> None:
    assert model.guests == ()
    assert model.acting_fingerprint() == model.fingerprint()
    assert traced(model).meta["guests"] == []


def test_edits_and_hooks_are_named_while_they_are_on(model: Model) -> None:
    edit = edit_of(model)
    with edit.on(model):
        (mine,) = model.guests
        assert mine == f"edit {edit.parts[0].digest}"
        assert traced(model).meta["guests"] == [mine]
        assert model.acting_fingerprint() != model.fingerprint()
    model.bridge.add_hook("blocks.1.mlp.hook_out", doubled)
    network: Any = model.bridge.original_model
    handle = network.transformer.wte.register_forward_hook(partial(print, end=""))
    assert set(model.guests) == {"hook doubled at blocks.1.mlp.hook_out", "hook print at embed"}
    assert traced(model).meta["guests"] == list(model.guests)
    handle.remove()
    model.bridge.reset_hooks()
    assert model.guests == ()


def test_hooks_of_a_block_of_transformer_lens_are_named(model: Model) -> None:
    with model.bridge.hooks(fwd_hooks=[("blocks.0.hook_out", doubled)]):
        assert traced(model).meta["guests"] == ["hook doubled at blocks.0.hook_out"]
    assert traced(model).meta["guests"] == []


def test_a_run_is_not_gone_on_with_under_an_edit(model: Model, tmp_path: Path) -> None:
    traced(model, tmp_path / "run")
    with edit_of(model).on(model), pytest.raises(UsageError, match="differs in edits and hooks that take part"):
        traced(model, tmp_path / "run")
    model.bridge.add_hook("blocks.1.mlp.hook_out", doubled)
    with pytest.raises(UsageError, match=r"edits and hooks that take part \(\[\], not \['hook doubled at"):
        traced(model, tmp_path / "run")


def test_second_moments_of_an_edited_model_are_its_own(model: Model) -> None:
    edit = edit_of(model)
    plain = collect_moments(model, TEXTS, [2], progress=False)[2]
    with edit.on(model):
        edited = collect_moments(model, TEXTS, [2], progress=False)[2]
        edited.check(model, 2)
        plain.check(model, 2)  # of the weights, which an edit that is on leaves as they are
    with pytest.raises(UsageError, match="was collected from small-gpt2"):
        edited.check(model, 2)


def test_another_dtype_is_told_apart_from_another_model(tmp_path: Path) -> None:
    whole, half = (mi.load(hf_model(), tokenizer=words(), name="it", dtype=dtype) for dtype in ("float32", "bfloat16"))
    sentence = (
        r"it in float32 \(fingerprint \w{12}\), but the model at hand is it in bfloat16 \(fingerprint \w{12}\), whose "
        r"weights are other numbers; load it with dtype='float32' \(--dtype float32\); "
    )
    prompt = Prompt("the {} lives in", "ada", "rome")
    moment = collect_moments(whole, ["the ada lives in rome", "bo"] * 20, [1], progress=False)[1]
    moment.save(tmp_path / "moment.safetensors")
    with pytest.raises(UsageError, match=f"this second moment was collected from {sentence}collect it again"):
        SecondMoment.load(tmp_path / "moment.safetensors", half)
    identity = SecondMoment.identity(whole, 1)
    edit = rome(whole, EditRequest(prompt, "bo"), 1, moments=identity, **FAST)
    edit.save(tmp_path / "edit.safetensors")
    with (
        pytest.raises(UsageError, match=f"was made for {sentence}pass force=True"),
        Edit.load(tmp_path / "edit.safetensors").on(half),
    ):
        pass
    sequence = EditSequence(whole, "rome", [1], moments=identity, contexts=("{}",), allow_disabling=True)
    sequence.add(EditRequest(prompt, "bo"), progress=False)
    sequence.save(tmp_path / "sequence.safetensors")
    with pytest.raises(UsageError, match=f"was begun on {sentence}give the unedited model"):
        EditSequence.load(tmp_path / "sequence.safetensors", half, moments=identity)

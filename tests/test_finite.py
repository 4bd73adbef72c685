"""Logits that are no numbers stop whatever runs, and the sentence says for which prompt, where and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.zoo import encoder_decoder, sentence_model

from mechinterp import MechinterpError, Model, Prompt, analysis
from mechinterp.models.finite import unfinite_layer, unfinite_rows
from mechinterp.patching import Gaussian, corrupt, embed, every, last, mlp, restore, run, subject, trace

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
OTHER = Prompt("The capital of {} is", "Poland", "Warsaw")


@pytest.fixture
def broken() -> Model:
    """The down-projection of layer 1 overflows."""
    model = sentence_model()
    with torch.no_grad():
        model.layout.mlp_matrix("down", 1).fill_(3e38)
    return model


def test_rows_that_are_no_numbers() -> None:
    logits = torch.zeros(5, 2, 3)
    logits[1, 0, 2], logits[2, 1, 0], logits[4, 1, 1] = torch.nan, torch.inf, -torch.inf
    assert unfinite_rows(logits) == [1, 2, 4]
    assert unfinite_rows(logits[:1]) == []


def test_the_layer_is_found(broken: Model) -> None:
    ids = torch.tensor([broken.encode(PROMPT.text)])
    assert unfinite_layer(broken.layout, ids) == 1
    assert unfinite_layer(sentence_model().layout, ids) is None


@pytest.mark.parametrize(
    "work",
    [
        lambda model: run(model, [PROMPT, OTHER], restore(mlp[0] @ last)),
        lambda model: trace(model, [PROMPT, OTHER], draws=1, progress=False),
        lambda model: model.complete(PROMPT.text),
        lambda model: analysis.generate(model, [PROMPT.text], analysis.Sampling(20)),
        lambda model: analysis.score_answers(model, [(PROMPT, "Warsaw")]),
    ],
)
def test_a_broken_model_is_named_with_its_layer(broken: Model, work: Any) -> None:
    with pytest.raises(
        MechinterpError,
        match=r"small-gpt2 gives logits that are no numbers for '(Marie Curie was born in|The capital of Poland is)': "
        "first not finite: the residual stream leaving layer 1; its weights, an edit that is on or a hook is broken",
    ):
        work(broken)


def test_what_is_written_is_named_where_the_model_is_sound() -> None:
    model = sentence_model()
    noise = corrupt(embed @ subject, Gaussian(sigmas=1e38, draws=2))
    for program in (noise, noise | restore(mlp.each @ every)):
        with pytest.raises(
            MechinterpError,
            match=r"for 'Marie .*': what was written into its activations .* is too large for float32",
        ):
            trace(model, [PROMPT], program, progress=False)


def test_half_precision_that_overflows_says_so() -> None:
    model = sentence_model(dtype=torch.float16)
    with torch.no_grad():
        model.layout.mlp_matrix("down", 0).fill_(6e4)
    with pytest.raises(
        MechinterpError, match="leaving layer 0, which overflows float16; load it with dtype='float32' \\(--dtype\\)"
    ):
        model.complete(PROMPT.text)


def test_of_an_encoder_decoder_too() -> None:
    model = encoder_decoder(stack="encoder")
    with torch.no_grad():
        next(p for name, p in model.bridge.original_model.named_parameters() if "wo" in name).fill_(3e38)
    with pytest.raises(MechinterpError, match="gives logits that are no numbers for"):
        run(model, Prompt("the {} lives in town", "ada bo", "rome"), restore(mlp[1] @ last))

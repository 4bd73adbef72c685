"""How a tokenizer pads, and on which side, changes no number: prompts share forwards by length and are never padded."""

from __future__ import annotations

import copy
from functools import cache

import pandas as pd
import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_model

import mechinterp as mi
from mechinterp import Model, Prompt
from mechinterp.analysis import score_answers
from mechinterp.patching import Gaussian, corrupt, embed, mlp, restore, run, subject

# Thousands of short calls: checking the types of each would take ten times as long as the calls.
pytestmark = pytest.mark.usefixtures("unchecked_types")

KINDS = ("gpt2", "llama", "bloom")
"""Learned positions, rotary, ALiBi: padding on the left shifts each of them in another way."""
PROMPTS = [
    Prompt("{} was near", "ada", "rome"),
    Prompt("the big red {} works in the old town of", "dee eve", "oslo turku"),
    Prompt("born in the town {} lives near", "gus hal ida", "bern"),
]
PATCH = corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp[1:] @ subject[-1])
SAME = 1e-5


@cache
def model_of(kind: str, adds_bos: bool, side: str) -> Model:
    """A model whose tokenizer pads on one side, and by itself too if it is let."""
    tokenizer = copy.deepcopy(words(adds_bos=adds_bos))
    tokenizer.pad_token = "<unk>"
    tokenizer.padding_side = side
    tokenizer.backend_tokenizer.enable_padding(direction=side, pad_id=0, pad_token="<unk>", length=20)
    return mi.load(hf_model(kind), tokenizer=tokenizer, name=f"small-{kind}")


def padded(kind: str, model: Model, side: str) -> list[float]:
    """Oracle: P(first answer token) from one padded batch of plain transformers, with its mask and positions."""
    tokenizer, network = model.tokenizer, hf_model(kind).eval()
    batch = tokenizer([prompt.text for prompt in PROMPTS], return_tensors="pt", padding=True, padding_side=side)
    assert batch.attention_mask.sum(1).unique().numel() == 3  # three lengths
    assert int(batch.attention_mask[0, 0 if side == "left" else -1]) == 0
    positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    more = {} if kind == "bloom" else {"position_ids": positions}
    with torch.no_grad():
        logits = network(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **more).logits
    lengths = batch.attention_mask.sum(1)
    last = [-1] * 3 if side == "left" else (lengths - 1).tolist()
    firsts = [model.answer_ids(prompt.text, str(prompt.answer))[0] for prompt in PROMPTS]
    return [float(logits[i, last[i]].softmax(-1)[firsts[i]]) for i in range(3)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_padded_batch_of_plain_transformers_says_the_same(kind: str, adds_bos: bool, side: str) -> None:
    model = model_of(kind, adds_bos, side)
    assert model.adds_bos == adds_bos
    assert len(model.encode(PROMPTS[0].text)) == 3 + adds_bos
    first = [Prompt(prompt.template, prompt.subject, str(prompt.answer).split()[0]) for prompt in PROMPTS]
    found = [float(result.clean.prob[0]) for result in run(model, first, PATCH)]
    assert found == pytest.approx(padded(kind, model, side), abs=SAME)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_single_in_a_batch_padded_left_or_right_are_the_same(kind: str, adds_bos: bool) -> None:
    left, right = (model_of(kind, adds_bos, side) for side in ("left", "right"))
    together = run(left, PROMPTS, PATCH)
    for model in (left, right):
        for prompt, other in zip(PROMPTS, together, strict=True):
            alone = run(model, prompt, PATCH)
            assert alone.log_prob == pytest.approx(other.log_prob, abs=SAME)
            assert alone.clean.logit_diff == pytest.approx(other.clean.logit_diff, abs=SAME)
    assert all(one.changed for one in together)
    tables = [mi.trace(model, PROMPTS, window=2, draws=2, progress=False).frame for model in (left, right)]
    pd.testing.assert_frame_equal(*tables)
    pairs = [(prompt.text, str(prompt.answer)) for prompt in PROMPTS]
    scores = score_answers(left, pairs)
    pd.testing.assert_frame_equal(scores, score_answers(right, pairs))
    singly = pd.concat([score_answers(right, [pair]) for pair in pairs], ignore_index=True)
    pd.testing.assert_frame_equal(scores, singly, rtol=0, atol=SAME)


def test_a_bos_changes_the_numbers() -> None:
    """Else the two tokenizers above would be one."""
    with_bos, without = (run(model_of("gpt2", adds, "left"), PROMPTS[0], PATCH) for adds in (True, False))
    assert abs(with_bos.clean.log_prob[0] - without.clean.log_prob[0]) > 1e-2

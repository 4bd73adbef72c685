"""Programs that are on, against hooks by hand; text written meanwhile, cached and not; directions to steer by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import WIDTH, small_model
from torch import Tensor

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.patching import (
    Delta,
    Gaussian,
    Given,
    HookWrite,
    Mean,
    OtherPrompt,
    OtherSubject,
    Program,
    Run,
    Zero,
    ablate,
    add,
    at,
    attn,
    corrupt,
    direction,
    embed,
    every,
    everywhere,
    forward,
    last,
    mlp,
    nothing,
    resid,
    resid_mid,
    restore,
    run,
    sever,
    steer,
    subject,
    z,
)

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")
TEXT = PROMPT.text
VECTOR = torch.linspace(-2, 2, WIDTH, dtype=torch.float64)
STEERED = add(resid[1] @ everywhere, Delta(VECTOR))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model(dtype=torch.float64)


def ids(model: Model, text: str = TEXT) -> Tensor:
    return torch.tensor([model.encode(text)])


def written(model: Model, tokens: Tensor, hook: str, at_tokens: list[int], value: Tensor, *, plus: bool) -> Tensor:
    """All logits of one row with a vector written by hand."""
    rows = torch.zeros(len(at_tokens), dtype=torch.long)
    write = HookWrite(hook, rows, torch.tensor(at_tokens), value.expand(len(at_tokens), *value.shape), add=plus)
    return forward(model, tokens, [write], keep=tokens.shape[1]).logits[0]


def test_a_steered_model_meets_every_caller_and_is_itself_again_afterwards(model: Model) -> None:
    before = model.logits(ids(model))
    wanted = written(model, ids(model), model.layout.hook("resid", 1), list(range(9)), VECTOR, plus=True)
    with STEERED.on(model) as asked:
        assert asked is model
        assert len(model.guests) == 1
        assert model.guests[0].startswith("program add(resid[1] @ all, Delta(")
        torch.testing.assert_close(model.logits(ids(model))[0], wanted, rtol=0, atol=2e-6)
        torch.testing.assert_close(model.bridge(ids(model))[0], wanted, rtol=0, atol=2e-6)
        assert run(model, PROMPT, nothing).clean.log_prob == pytest.approx(
            [float(wanted[-1].log_softmax(-1)[model.answer_ids(PROMPT, "rome")[0]])]
        )
    assert model.guests == ()
    assert torch.equal(model.logits(ids(model)), before)
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())


PROGRAMS: list[Program] = [
    ablate(mlp[1] @ subject, Zero()),
    ablate(attn[2] @ last, Mean(["rome was near"])),
    corrupt(embed @ subject, OtherSubject("cy eve")),
    restore(mlp[1] @ subject, Run(corrupt(embed @ subject, OtherSubject("cy eve")))),
    corrupt(embed @ subject, OtherSubject("cy eve")) | restore(resid[0] @ subject[-1]) | sever(mlp[1:] @ last),
    ablate(z[1].heads(0, 2) @ last, Zero()) | add(resid[2] @ subject[0], Delta(VECTOR)),
    restore(resid_mid[1] @ last, Given(VECTOR)),
    ablate(mlp[0] @ everywhere, OtherPrompt("the jo ada was born near old oslo and")),
    nothing,
]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_program_that_is_on_for_a_prompt_is_the_program_that_is_run(kind: str, program: Program) -> None:
    model = small_model(kind, dtype=torch.float64)
    wanted = run(model, PROMPT, program).logits[0]
    with program.on(model, PROMPT):
        found = model.logits(ids(model), keep=1)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def by_hand(model: Model, program: Program, text: str, count: int, prompt: Prompt | None = None) -> str:
    """Greedy text without a cache: the whole text anew for every token."""
    tokens = list(model.encode(text))
    with program.on(model, prompt):
        for _ in range(count):
            best = int(model.logits(torch.tensor([tokens]), keep=1)[0, -1].argmax())
            if best == model.tokenizer.eos_token_id:
                break
            tokens.append(best)
    return str(model.tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_cached_text_is_the_text_without_a_cache(kind: str) -> None:
    model = small_model(kind, dtype=torch.float64)
    plain = by_hand(model, nothing, TEXT, 8)
    assert model.generate(TEXT, tokens=8) == plain
    texts = {plain}
    for program, prompt in (
        (STEERED, None),
        (add(resid[1] @ everywhere[3:], Delta(2 * VECTOR)), None),
        (ablate(attn[1] @ at(1, 4), Zero()) | ablate(mlp[1] @ at(11), Zero()), None),
        (ablate(mlp[0:2] @ subject, Zero()), PROMPT),
        (STEERED | ablate(mlp[1] @ subject[-1], OtherPrompt(PROMPT.with_answer("oslo"), by="role")), PROMPT),
    ):
        found = model.generate(TEXT if prompt is None else prompt, program=program, tokens=8)
        assert found == by_hand(model, program, TEXT, 8, prompt)
        texts.add(found)
    assert len(texts) > 1 or kind == "gpt2"  # whose small double says one word whatever is added


def test_sampled_text_has_a_seed(model: Model) -> None:
    def text(**options: Any) -> str:
        return model.generate(TEXT, tokens=10, **options)

    several = {text(top_k=30, temperature=3.0, seed=seed) for seed in range(4)}
    assert len(several) > 2
    assert text(top_k=30, seed=3) == text(top_k=30, seed=3)
    assert text(top_k=30, temperature=1e-6, seed=5) == text()
    assert text().startswith(TEXT)


def test_text_under_an_edit_and_a_program(model: Model) -> None:
    factors = Factors(torch.ones(1, 24), torch.ones(1, WIDTH))
    edit = Edit.of({1: factors}, Provenance("by hand", model.fingerprint(), model.name))
    with edit.on(model):
        wanted = by_hand(model, STEERED, TEXT, 6)
    assert model.generate(TEXT, program=STEERED, edit=edit, tokens=6) == wanted


def test_a_trace_under_a_program_runs_plainly_and_equals_the_program_that_is_part_of_it(model: Model) -> None:
    grid = restore(mlp.each @ last, Run(corrupt(embed @ subject, OtherSubject("cy eve"))))
    with ablate(attn[0] @ subject, Zero()).on(model, PROMPT):
        table = mi.trace(model, PROMPT, restore(mlp.each @ every), progress=False)
    assert list(table.meta["plain"].values()) != []
    clean = run(model, PROMPT, ablate(attn[0] @ subject, Zero()))
    np.testing.assert_allclose(table.frame["log_prob"], clean.log_prob[0], rtol=0, atol=1e-9)
    assert grid.has_axes


@pytest.mark.parametrize(
    ("program", "prompt", "sentence"),
    [
        (
            restore(mlp[1] @ everywhere),
            None,
            "restore.mlp.1. @ all. takes its values from another run,",
        ),
        (sever(mlp[1] @ at(2)), None, "sever.* takes its values from another run, which is not there; give on"),
        (ablate(mlp[1] @ at(2), OtherPrompt("rome was")), None, "takes its values from a prompt, which is not there"),
        (
            ablate(mlp[1] @ subject, Zero()),
            None,
            r"names tokens of a prompt; give on\(model, prompt\), or write",
        ),
        (ablate(mlp[1] @ at(-1), Zero()), None, "names tokens of a prompt"),
        (
            ablate(mlp[1] @ everywhere, Given(torch.ones(3, WIDTH))),
            None,
            "has a value for each of several tokens",
        ),
        (corrupt(embed @ subject, Gaussian(draws=2)), PROMPT, "this program has 2 draws, and a text can be under one"),
        (ablate(mlp.each @ last, Zero()), PROMPT, "this program has axes, one cell per token or layer"),
        (
            ablate(mlp[1] @ at(1), Zero()) | ablate(mlp[1] @ everywhere, Given(VECTOR)),
            None,
            "two sources for one",
        ),
    ],
)
def test_what_cannot_be_on_is_said(model: Model, program: Program, prompt: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence), program.on(model, prompt):
        pass
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())


def test_another_text_than_the_one_it_is_on_for_is_refused(model: Model) -> None:
    with ablate(mlp[1] @ subject, Zero()).on(model, PROMPT):
        for other in ("the cy dee lives in the old town of", "the ada bo"):
            with pytest.raises(UsageError, match="the program is on for one prompt, and the model is asked"):
                model.logits(ids(model, other))
        model.logits(ids(model, f"{TEXT} rome and oslo"))  # goes on from it


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 0}, "tokens is 0; give 1 or more"),
        ({"tokens": 30}, "has 9 tokens, and 30 more do not fit: small-gpt2 takes at most 32"),
        ({"top_k": 0}, "top_k is 0; give 1 or more"),
        ({"temperature": 0}, "the temperature is 0; give a number above 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_numbers_for_text_are_refused(model: Model, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        model.generate(TEXT, **options)


GOOD, BAD = ["rome was near the old town", "the big town"], ["oslo was in the red town", "bern", "the old red"]


def test_a_direction_is_the_difference_of_means(model: Model) -> None:
    hook = model.layout.hook("resid", 1)

    def mean(texts: list[str]) -> Tensor:
        each = [forward(model, ids(model, text), reads=[hook]).cache[hook][0, -1] for text in texts]
        return torch.stack(each).mean(0)

    found = direction(model, GOOD, BAD, resid[1] @ last)
    torch.testing.assert_close(found, mean(GOOD) - mean(BAD), rtol=0, atol=1e-12)
    prompts = [Prompt.find(GOOD[0], "rome")], [Prompt.find(BAD[0], "oslo")]
    by_role = direction(model, *prompts, resid[1] @ subject[-1])
    assert not torch.allclose(by_role, found)
    with pytest.raises(UsageError, match="negative is one string; give a list of texts"):
        direction(model, GOOD, "bern", resid[1] @ last)


def test_a_sweep_has_the_text_beside_the_score(model: Model) -> None:
    vector = direction(model, GOOD, BAD, resid[1] @ last)
    frame = steer(model, PROMPT, resid[1] @ everywhere, vector, [-4, 0, 4], tokens=5)
    assert frame["coefficient"].tolist() == [-4.0, 0.0, 4.0]
    for row in frame.itertuples():
        program = add(resid[1] @ everywhere, Delta(row.coefficient * vector))
        assert row.prob == pytest.approx(run(model, PROMPT, program).prob[0])
        assert row.text == model.generate(PROMPT, program=program, tokens=5)
    assert frame["text"][1] == model.generate(TEXT, tokens=5)
    assert frame["logit_diff"].nunique() == 3
    assert set(frame["foil"]) == {run(model, PROMPT, nothing).foil}

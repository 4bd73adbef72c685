"""Ablation and other sentences against PyTorch hooks that share no code with the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from oracles.patching_oracle import Edit, Outcome, forward
from support.tables import assert_same
from support.zoo import LAYERS, WIDTH, hf_model, small_model
from torch import Tensor

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.analysis import ablation_effects, diagnose, indirect_effects, plot_aie
from mechinterp.patching import (
    Clean,
    Component,
    Gaussian,
    Mean,
    OtherPrompt,
    Program,
    Resample,
    Run,
    Zero,
    ablate,
    attn,
    corrupt,
    embed,
    every,
    everywhere,
    last,
    mlp,
    resid,
    restore,
    run,
    subject,
    z,
)

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")
GIVEN = [
    Prompt("the {} works in the red town of", "cy dee", "oslo"),
    Prompt("the {} was in", "eve fay gus", "bern"),
    Prompt("{} was born near", "hal ida", "lund"),
]
SAME = [GIVEN[0], Prompt("the {} was born near old oslo and", "jo ada", "bern")]
"""Those of the length of PROMPT."""


@cache
def network() -> Any:
    return hf_model("gpt2").double().eval()


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model("gpt2", dtype=torch.float64)


def ids(model: Model, text: str) -> list[int]:
    return list(model.encode(text))


def clean(model: Model, text: str) -> Outcome:
    return forward(network(), ids(model, text))


def compare(model: Model, program: Program, edits: Sequence[Sequence[Edit]]) -> None:
    """The final logits of every draw."""
    found = run(model, PROMPT, program)
    assert len(found.logits) == len(edits)
    for logits, one in zip(found.logits, edits, strict=True):
        wanted = forward(network(), ids(model, PROMPT.text), one).logits[-1]
        torch.testing.assert_close(logits[0], wanted, rtol=0, atol=2e-6)
    assert found.changed


def at_tokens(component: str, layer: int, values: dict[int, Tensor]) -> list[Edit]:
    return [Edit(component, layer, token, value) for token, value in values.items()]


def test_zero_takes_a_site_out_of_the_clean_run(model: Model) -> None:
    program = ablate(mlp[1] @ subject, Zero())
    compare(model, program, [at_tokens("mlp", 1, dict.fromkeys((1, 2), torch.zeros(WIDTH, dtype=torch.float64)))])
    result = run(model, PROMPT, program)
    assert result.ablation_effect == pytest.approx(result.prob[0] - result.clean.prob[0])
    direction = "falls" if result.ablation_effect < 0 else "rises"
    assert f"{result.ablation_effect:+.4f} (ablated minus clean: the probability {direction})" in str(result)
    assert "corrupted" not in str(result)


@pytest.mark.parametrize(("name", "layer"), [("mlp", 1), ("attn", 2), ("resid", 0), ("z", 1)])
def test_means_by_position_and_by_role(model: Model, name: str, layer: int) -> None:
    found = [clean(model, prompt.text).activations[name, layer] for prompt in GIVEN]
    # By hand: "the cy dee works in the red town of", "the eve fay gus was in", "hal ida was born near".
    last_subject = (found[0][2] + found[1][3] + found[2][1]) / 3
    first_subject = (found[0][1] + found[1][1] + found[2][0]) / 3
    final = (found[0][8] + found[1][5] + found[2][4]) / 3
    by_role = ablate(Component(name)[layer] @ subject, Mean(GIVEN, by="role"))
    compare(model, by_role, [at_tokens(name, layer, {1: first_subject, 2: last_subject})])
    compare(model, ablate(Component(name)[layer] @ last, Mean(GIVEN, by="role")), [at_tokens(name, layer, {8: final})])
    second = torch.stack([each[1] for each in found]).mean(0)
    sixth = torch.stack([found[0][5], found[1][5]]).mean(0)  # the third has no such token
    by_place = ablate(Component(name)[layer] @ mi.patching.at(1, 5), Mean(GIVEN, by="position"))
    compare(model, by_place, [at_tokens(name, layer, {1: second, 5: sixth})])
    texts = ablate(Component(name)[layer] @ last, Mean([prompt.text for prompt in GIVEN], by="position"))
    compare(model, texts, [at_tokens(name, layer, {8: found[0][8]})])


def test_a_mean_of_one_head_by_role(model: Model) -> None:
    found = [clean(model, prompt.text).activations["z", 1] for prompt in GIVEN]
    value = (found[0][2, 3] + found[1][3, 3] + found[2][1, 3]) / 3
    compare(model, ablate(z[1].heads(3) @ subject[-1], Mean(GIVEN, by="role")), [[Edit("z", 1, 2, value, head=3)]])


def test_another_sentence_by_position_and_by_role(model: Model) -> None:
    other = SAME[0]
    there = clean(model, other.text).activations
    for source in (OtherPrompt(other.text), OtherPrompt(other), OtherPrompt({PROMPT: other.text})):
        compare(model, ablate(mlp[1] @ subject, source), [at_tokens("mlp", 1, {t: there["mlp", 1][t] for t in (1, 2)})])
    by_role = clean(model, GIVEN[2].text).activations["attn", 2]
    compare(
        model,
        ablate(attn[2] @ subject, OtherPrompt(GIVEN[2], by="role")),
        [at_tokens("attn", 2, {1: by_role[0], 2: by_role[1]})],
    )
    swapped = corrupt(embed @ everywhere, OtherPrompt(other))
    result = run(model, PROMPT, swapped | restore(resid[0] @ last))
    torch.testing.assert_close(
        run(model, PROMPT, swapped).logits[0, 0], clean(model, other.text).logits[-1], rtol=0, atol=2e-6
    )
    assert result.foil == "oslo"  # the other sentence's own answer


def test_the_answer_of_another_sentence_is_the_foil_unless_it_is_this_ones(model: Model) -> None:
    other = Prompt(SAME[0].template, SAME[0].subject, "rome")
    logits = clean(model, other.text).logits[-1].clone()
    logits[model.tokenizer.convert_tokens_to_ids("rome")] = -torch.inf
    result = run(model, PROMPT, corrupt(embed @ everywhere, OtherPrompt(other)))
    assert result.foil == model.decode(int(logits.argmax()))


def test_resampling_draws_whole_sentences_anew_for_each_prompt(model: Model) -> None:
    source = Resample([*SAME, PROMPT], draws=6, seed=1)
    drawn = source.drawn_for(PROMPT)
    assert {one.text for one in drawn} == {one.text for one in SAME}  # the prompt itself never
    there = [clean(model, one.text).activations for one in drawn]
    program = ablate(mlp[1] @ subject, source) | ablate(attn[2] @ last, source)
    edits = [
        [*at_tokens("mlp", 1, {t: one["mlp", 1][t] for t in (1, 2)}), Edit("attn", 2, 8, one["attn", 2][8])]
        for one in there
    ]
    compare(model, program, edits)
    assert source.drawn_for(PROMPT) != Resample([*SAME, PROMPT], draws=6, seed=2).drawn_for(PROMPT)


def test_what_comes_from_a_run_with_another_sentence_is_the_same(model: Model) -> None:
    """Reading the other sentence, or a run in which it was put in at the embedding: two ways to one number."""
    other = OtherPrompt(SAME[0])
    read = restore(mlp[1] @ subject, other)
    ran = restore(mlp[1] @ subject, Run(corrupt(embed @ everywhere, other)))
    torch.testing.assert_close(run(model, PROMPT, read).logits, run(model, PROMPT, ran).logits, rtol=0, atol=1e-9)


def test_ablating_with_ones_own_sentence_changes_nothing(model: Model) -> None:
    for site in (mlp[1] @ everywhere, attn @ subject, z[0].heads(1) @ last, resid[1] @ subject[-1]):
        for by in ("position", "role"):
            result = run(model, PROMPT, ablate(site, OtherPrompt(PROMPT, by=by)))
            np.testing.assert_allclose(result.log_prob, result.clean.log_prob, rtol=0, atol=1e-9)
            assert not result.changed
            result = run(model, PROMPT, ablate(site, Mean([PROMPT], by="position")))
            np.testing.assert_allclose(result.log_prob, result.clean.log_prob, rtol=0, atol=1e-9)


def test_a_table_of_ablations_is_compared_with_the_clean_run(model: Model) -> None:
    program = ablate(mlp.each @ every, Resample(SAME, draws=2))
    table = mi.trace(model, [PROMPT], program, progress=False)
    assert list(table.frame["run"].unique()) == ["clean", "corrupted", "ablated"]
    effects = ablation_effects(table)
    one = run(model, PROMPT, ablate(mlp[1] @ subject[-1], Resample(SAME, draws=2)))
    cell = effects[(effects["position"] == 2) & (effects["layer"] == 1)].iloc[0]
    assert cell["effect"] == pytest.approx(one.ablation_effect)
    assert cell["direction"] == ("falls" if cell["effect"] < 0 else "rises")
    assert len(effects) == 9 * LAYERS
    idle = effects[(effects["position"] == 2) & (effects["layer"] == LAYERS - 1)]  # read by nothing that is scored
    assert set(idle["direction"]) == {"stays"}
    assert {finding.code for finding in diagnose(table)}.isdisjoint({"small-total-effect", "few-draws"})
    noise = corrupt(embed @ subject, Gaussian(draws=2))
    restored = mi.trace(model, [PROMPT], noise | restore(mlp.each @ every), progress=False)
    with pytest.raises(UsageError, match="nothing was ablated in this table; trace a program with ablate"):
        ablation_effects(restored)
    pairs = [PROMPT, Prompt(PROMPT.template, "jo ida", "oslo")]
    both = mi.trace(model, pairs, ablate(mlp.each @ every, Zero()), progress=False)
    assert len(plot_aie(both).axes)
    assert indirect_effects(both)["effect"].abs().max() > 1e-6


def test_a_grid_read_from_another_sentence_is_served_by_the_exact_engine(model: Model) -> None:
    other = corrupt(embed @ everywhere, OtherPrompt({PROMPT: SAME[0], GIVEN[1]: GIVEN[1]}))
    program = other | restore(mlp.window(2) @ every)
    exact, plain = (mi.trace(model, PROMPT, program, engine=engine, progress=False) for engine in ("exact", "plain"))
    assert exact.meta["plain"] == {}
    assert_same(exact, plain)


LONG = r"'the eve fay gus was in' has 6 tokens and 'the ada bo lives in the old town of' has 9, so their tokens"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ablate(mlp[1] @ subject, OtherPrompt(GIVEN[1])), LONG),
        (lambda: ablate(mlp[1] @ subject, Resample([GIVEN[1]])), LONG),
        (
            lambda: ablate(mlp[1] @ everywhere, OtherPrompt(GIVEN[1], by="role")),
            "'the eve fay gus was in' has 0 tokens with the role 'further' and 'the ada bo .*' has 4, so they",
        ),
        (lambda: ablate(mlp[1] @ subject, OtherPrompt({"x": "rome"})), "there is no other sentence for the prompt '"),
        (lambda: ablate(mlp[1] @ subject, OtherPrompt(3)), "OtherPrompt takes another sentence, or pairs"),
        (lambda: OtherPrompt("rome is", by="role"), "the roles of tokens need a subject, and 'rome is' is a text"),
        (lambda: Mean(["rome is"], by="role"), "the roles of tokens need a subject, and 'rome is' is a text; give"),
        (lambda: Resample("rome is"), "texts is one string; give Resample a list of texts or prompts"),
        (lambda: Resample([]), "Resample needs texts, and there are none"),
        (lambda: Resample(["rome is"], by="word"), "Resample matches tokens by position or role, not 'word'"),
        (lambda: Mean(["rome is"], by="word"), "a mean is taken by 'all', 'position' or 'role', not 'word'"),
        (lambda: ablate(mlp[1] @ last, Mean(["rome is"], by="position")), "no text of Mean.* has a token number 8"),
        (lambda: ablate(mlp[1] @ last, Resample([PROMPT])), "Resample has no sentence besides 'the ada bo"),
        (lambda: ablate(mlp[1] @ last, Clean()), "with the clean run leaves what is there; give Zero"),
        (lambda: ablate(mlp[1] @ last, Gaussian()), r"ablate\(\) puts a value in place and Gaussian"),
        (
            lambda: corrupt(embed @ subject, Gaussian()) | ablate(mlp[1] @ last, Zero()),
            "ablate.. takes something out of the clean run, and this program corrupts it: corrupt.*; write restore",
        ),
        (lambda: ablate(mlp[1] @ last, Zero()) | restore(mlp[1] @ last), "two sources for one site"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_cannot_be_done_is_said(model: Model, make: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(model, PROMPT, make())


def test_a_result_that_ablates_nothing_has_no_such_effect(model: Model) -> None:
    with pytest.raises(UsageError, match="this program ablates nothing, so there is no such effect: restore"):
        run(model, PROMPT, restore(mlp[1] @ last)).ablation_effect  # noqa: B018


@pytest.mark.parametrize(
    "program",
    [
        ablate(mlp.each @ every, Resample(SAME, draws=2)),
        ablate(attn.window(2) @ every, OtherPrompt(SAME[0])),
        ablate(z.each_head @ every, Mean(SAME, by="role")),
        ablate(resid.each @ subject, Mean(["the old town", "ada lives in rome"])),
        corrupt(embed @ subject, Gaussian(draws=2))
        | restore(mlp.window(2) @ every, Resample(SAME, draws=2, by="position")),
    ],
    ids=str,
)
def test_grids_of_what_no_run_gives_are_exact(model: Model, program: Program) -> None:
    exact, plain = (mi.trace(model, PROMPT, program, engine=engine, progress=False) for engine in ("exact", "plain"))
    assert exact.meta["plain"] == {}
    assert_same(exact, plain)
    scores = exact.frame.loc[exact.frame["run"].isin(["ablated", "patched"]), "log_prob"]
    assert scores.max() - scores.min() > 1e-4

"""The laws of the algebra, over random programs on random models, in float64 so that equal means equal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import noises, programs, prompts, several_sites, sites
from support.zoo import KINDS, LAYERS, small_model

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.patching import (
    METRICS,
    Gaussian,
    Given,
    Mean,
    OtherPrompt,
    Program,
    Result,
    Zero,
    ablate,
    at,
    attn,
    corrupt,
    embed,
    every,
    everywhere,
    last,
    mlp,
    nothing,
    read,
    resid,
    resid_mid,
    resid_pre,
    restore,
    run,
    sever,
    subject,
    trace,
    z,
)
from mechinterp.patching.plain.metrics import Scores

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")


kinds = st.sampled_from(KINDS)


def double(kind: str = "gpt2") -> Model:
    return small_model(kind, dtype=torch.float64)


def assert_same(found: Scores, wanted: Scores, tolerance: float = 1e-9) -> None:
    for metric in METRICS:
        a, b = np.broadcast_arrays(getattr(found, metric), getattr(wanted, metric))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=metric)


def differs(result: Result) -> bool:
    """Whether the noise did anything: a law that compares clean with clean would hold for nothing."""
    return bool(np.abs(result.clean.log_prob - result.corrupted.log_prob).min() > 1e-6)


@settings(max_examples=40)
@given(programs())
def test_nothing_is_the_identity(program: Program) -> None:
    assert program | nothing == program
    assert nothing | program == program


@settings(max_examples=40)
@given(programs())
def test_union_is_idempotent(program: Program) -> None:
    assert program | program == program
    assert hash(program | program) == hash(program)


@settings(max_examples=40)
@given(programs(), several_sites(), several_sites())
def test_union_commutes_and_associates(program: Program, some: list, others: list) -> None:
    a, b = restore(some[0]), sever(others[0], Zero())
    if some[0] == others[0]:
        return
    try:
        whole = program | a | b
    except UsageError:
        with pytest.raises(UsageError, match="two sources for one site"):
            b | (a | program)
        return
    assert whole == b | a | program == program | (b | a)
    assert str(whole) == str(b | (a | program))


@settings(max_examples=10)
@given(kinds, prompts(), programs())
def test_the_order_of_a_union_does_not_change_the_numbers(kind: str, prompt: Prompt, program: Program) -> None:
    model = double(kind)
    parts = [Program(frozenset({write})) for write in program.writes]
    backwards = nothing
    for part in reversed(parts):
        backwards |= part
    assert_same(run(model, prompt, backwards).patched, run(model, prompt, program).patched, 0)


@settings(max_examples=15)
@given(kinds, prompts(), several_sites())
def test_restoring_without_a_corruption_gives_the_clean_run(kind: str, prompt: Prompt, chosen: list) -> None:
    model = double(kind)
    program = nothing
    for site in chosen:
        program |= restore(site)
    result = run(model, prompt, program)
    assert_same(result.patched, result.clean)
    assert not result.changed


@settings(max_examples=12)
@given(kinds, several_sites(), noises(), st.sampled_from([slice(0, 1), slice(0, 2), slice(1, 2)]))
def test_restoring_before_the_first_corrupted_token_changes_nothing(
    kind: str, chosen: list, noise: Program, where: slice
) -> None:
    model = double(kind)
    program = noise
    for site in chosen:
        program |= restore(dataclasses.replace(site, position=everywhere[where]))
    prompt = Prompt("born with {} in the big red", "ada bo", "rome")
    result = run(model, prompt, program)
    assert differs(result)
    assert_same(result.patched, result.corrupted)
    assert not result.changed


WHOLE = [(kind, component) for kind in KINDS for component in (resid_pre, resid_mid, resid)]
WHOLE.remove(("neox", resid_mid))  # parallel blocks have none


@pytest.mark.parametrize(("kind", "component"), WHOLE, ids=lambda value: getattr(value, "name", value))
def test_restoring_the_whole_residual_of_a_layer_gives_the_clean_run(
    kind: str, component: mi.patching.Component
) -> None:
    model = double(kind)
    noise = corrupt(embed @ subject, Gaussian(draws=2))
    for layer in range(LAYERS):
        result = run(model, PROMPT, noise | restore(component[layer] @ everywhere))
        assert differs(result)
        assert_same(result.patched, result.clean)
        assert result.changed


@settings(max_examples=15)
@given(kinds, prompts(), several_sites(), noises())
def test_severing_with_nothing_restored_gives_the_corrupted_run(
    kind: str, prompt: Prompt, chosen: list, noise: Program
) -> None:
    model = double(kind)
    program = noise
    for site in chosen:
        program |= sever(site)
    result = run(model, prompt, program)
    assert differs(result)
    assert_same(result.patched, result.corrupted)
    assert not result.changed


@settings(max_examples=15)
@given(kinds, noises(), st.integers(0, LAYERS - 2), st.integers(0, 6))
def test_a_restored_mlp_whose_downstream_is_severed_has_no_effect(
    kind: str, noise: Program, layer: int, token: int
) -> None:
    model = double(kind)
    restored = noise | restore(mlp[layer] @ at(token))
    later = everywhere[token:]
    by_residual = run(model, PROMPT, restored | sever(resid[layer:] @ later))
    by_parts = run(model, PROMPT, restored | sever(attn[layer + 1 :] @ later) | sever(mlp[layer + 1 :] @ later))
    assert_same(by_residual.patched, by_residual.corrupted)
    assert_same(by_parts.patched, by_parts.corrupted)
    if token >= 1:  # from the first corrupted token on
        assert not np.allclose(run(model, PROMPT, restored).log_prob, by_parts.corrupted.log_prob, atol=1e-6, rtol=0)


@settings(max_examples=15)
@given(kinds, st.lists(prompts(), min_size=2, max_size=5, unique_by=lambda prompt: prompt.name), programs())
def test_many_prompts_at_once_are_as_many_single_runs(kind: str, several: list[Prompt], program: Program) -> None:
    model = double(kind)
    together = run(model, several, program)
    for prompt, one in zip(several, together, strict=True):
        alone = run(model, prompt, program)
        assert one.prompt == prompt
        assert (one.answer, one.foil, one.changed) == (alone.answer, alone.foil, alone.changed)
        for part in ("clean", "corrupted", "patched"):
            assert_same(getattr(one, part), getattr(alone, part))


@pytest.mark.parametrize("kind", KINDS)
def test_many_prompts_at_once_in_single_precision(kind: str) -> None:
    model = small_model(kind)
    several = [
        Prompt(t, s, "rome", id=f"{t} {s}") for t in ("{} works in", "the {} was near") for s in ("ada bo", "cy dee")
    ]
    program = corrupt(embed @ subject, Gaussian(draws=3)) | restore(mlp[0:2] @ subject[-1])
    for prompt, one in zip(several, run(model, several, program), strict=True):
        np.testing.assert_allclose(one.prob, run(model, prompt, program).prob, rtol=0, atol=1e-5)
    table = trace(model, several, window=2, draws=2, progress=False).frame
    for prompt in several:
        alone = trace(model, [prompt], window=2, draws=2, progress=False).frame
        mine = table[table["prompt"] == prompt.name].reset_index(drop=True)
        np.testing.assert_allclose(mine["prob"], alone["prob"], rtol=0, atol=1e-5)
        keys = ["run", "component", "severed", "position", "layer", "draw", "token", "role"]
        assert mine[keys].equals(alone[keys])


@settings(max_examples=10)
@given(kinds, st.lists(prompts(), min_size=2, max_size=4), st.integers(0, LAYERS - 1))
def test_reading_many_prompts_at_once_is_reading_each(kind: str, several: list[Prompt], layer: int) -> None:
    model = double(kind)
    site = mlp[layer] @ subject[-1]
    together = read(model, several, site)
    for prompt, one in zip(several, together, strict=True):
        torch.testing.assert_close(one, read(model, [prompt], site)[0], rtol=0, atol=1e-9)


@settings(max_examples=5)
@given(kinds, noises())
def test_all_cells_of_a_prompt_share_its_noise(kind: str, noise: Program) -> None:
    model = double(kind)
    table = trace(model, [PROMPT], noise | restore(mlp.each @ every), engine="plain", progress=False).frame
    corrupted = table[table["run"] == "corrupted"]["prob"].to_numpy()
    before = table[(table["run"] == "patched") & (table["position"] == 0)]
    assert len(before) == LAYERS * 2
    assert corrupted[0] != corrupted[1]
    for _, cell in before.groupby("layer"):
        np.testing.assert_allclose(cell["prob"], corrupted, rtol=0, atol=1e-12)


def test_noise_is_fresh_per_prompt_and_the_same_again_for_the_same_prompt() -> None:
    model = double()
    noise = corrupt(embed @ subject, Gaussian(draws=2))
    first, second, again = run(
        model, [dataclasses.replace(PROMPT, id="a"), dataclasses.replace(PROMPT, id="b")] + [PROMPT], noise
    )
    np.testing.assert_allclose(first.clean.prob, second.clean.prob, atol=1e-12)
    assert np.abs(first.corrupted.log_prob - second.corrupted.log_prob).min() > 1e-6
    np.testing.assert_allclose(again.corrupted.prob, run(model, PROMPT, noise).corrupted.prob, atol=1e-12)
    other = run(model, PROMPT, corrupt(embed @ subject, Gaussian(draws=2, seed=1)))
    assert np.abs(again.corrupted.log_prob - other.corrupted.log_prob).min() > 1e-6


@settings(max_examples=40)
@given(sites())
def test_two_absolute_sources_for_one_site_raise_in_either_order(site: mi.patching.Site) -> None:
    a, b = restore(site), restore(site, Zero())
    for first, second in ((a, b), (b, a)):
        with pytest.raises(UsageError, match="two sources for one site.*keep one of them"):
            first | second


CONFLICTS = {
    "overlapping tokens": (restore(mlp[1] @ subject), restore(mlp[1] @ subject[-1], Zero())),
    "overlapping layers": (restore(mlp[0:2] @ last), restore(mlp[1] @ last, Zero())),
    "restore and sever": (restore(attn[2] @ everywhere), sever(attn @ last)),
    "one head of all": (restore(z.heads(2)[1] @ last), restore(z[1] @ last, Zero())),
    "one head twice": (restore(z.heads(0, 2)[1] @ last), sever(z.heads(2)[1] @ last)),
    "out of one layer, into the next": (restore(resid[0] @ last), restore(resid_pre[1] @ last, Zero())),
    "resid_mid is set by attn": (restore(resid_mid[1] @ last), restore(attn[1] @ last, Zero())),
    "two given tensors": (
        restore(mlp[1] @ last, Given(torch.zeros(16))),
        restore(mlp[1] @ at(-1), Given(torch.ones(16))),
    ),
    "two corruptions": (corrupt(embed @ subject, Zero()), corrupt(embed @ at(1), Given(torch.ones(16)))),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_two_absolute_sources_for_one_address_raise_in_either_order(name: str) -> None:
    a, b = CONFLICTS[name]
    for program in (a | b, b | a):
        with pytest.raises(UsageError, match="two sources for one address.*keep one"):
            run(small_model(), PROMPT, program)


def test_sources_in_different_stages_or_at_different_heads_do_not_collide() -> None:
    model = double()
    replaced = corrupt(mlp[1] @ last, Zero())
    assert_same(run(model, PROMPT, replaced | restore(mlp[1] @ last)).patched, run(model, PROMPT, nothing).clean)
    assert run(model, PROMPT, restore(z.heads(0)[1] @ last) | restore(z.heads(1)[1] @ last, Zero())).changed


def test_noise_goes_on_top_of_a_replacement_and_under_a_restore_whatever_the_hook() -> None:
    """resid_pre of a layer is resid of the one before: the stages hold across the two names."""
    model = double()
    noise = corrupt(resid_pre[2] @ last, Gaussian(level=1.0, draws=2))
    result = run(model, PROMPT, noise | restore(resid[1] @ last))
    assert differs(result)
    assert_same(result.patched, result.clean)


@settings(max_examples=10)
@given(kinds, prompts(), several_sites(), st.sampled_from(["position", "role"]))
def test_ablating_with_the_prompts_own_sentence_gives_the_clean_run(
    kind: str, prompt: Prompt, chosen: list, by: str
) -> None:
    model = double(kind)
    for source in (OtherPrompt(prompt, by=by), Mean([prompt], by="position")):
        program = nothing
        for site in chosen:
            program |= ablate(site, source)
        result = run(model, prompt, program)
        assert_same(result.patched, result.clean)
        assert not result.changed


@settings(max_examples=10)
@given(kinds, prompts(), several_sites())
def test_an_ablation_is_a_write_into_the_clean_run(kind: str, prompt: Prompt, chosen: list) -> None:
    model = double(kind)
    ablated, restored = nothing, nothing
    for site in chosen:
        ablated |= ablate(site, Zero())
        restored |= restore(site, Zero())
    one, other = run(model, prompt, ablated), run(model, prompt, restored)
    assert_same(one.patched, other.patched, 0)
    assert_same(one.corrupted, one.clean, 0)
    assert one.ablation_effect == one.prob[0] - one.clean.prob[0] == other.indirect_effect


@settings(max_examples=6)
@given(kinds, prompts(), programs(), several_sites())
def test_a_program_that_is_on_is_the_program_that_is_run(
    kind: str, prompt: Prompt, program: Program, chosen: list
) -> None:
    model = double(kind)
    program = Program(frozenset(write for write in program.writes if write.source.draws is None))
    taken = {write.site.component.name for write in program.writes}
    for site in chosen:
        program |= nothing if site.component.name in taken else ablate(site, Zero())
    wanted = run(model, prompt, program).logits[0, 0]
    with program.on(model, prompt):
        found = model.logits(torch.tensor([model.tokenise(prompt).ids]), keep=1)[0, 0]
    # Two forwards of other widths: the norms of llama and gemma2 are single precision whatever the model is.
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)

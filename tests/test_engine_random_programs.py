"""The exact engine gives the plain executor's table of any programs, and says which of them it has run plainly."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import prompts
from support.tables import assert_same, spreads
from support.zoo import WIDTH, small_model

from mechinterp import Model, Prompt, trace
from mechinterp.patching import (
    Corrupted,
    Gaussian,
    Given,
    Mean,
    Place,
    Position,
    Program,
    PublishedNoise,
    Run,
    Uniform,
    Zero,
    at,
    attn,
    corrupt,
    embed,
    every,
    everywhere,
    here,
    k,
    last,
    mlp,
    mlp_key,
    nothing,
    q,
    resid,
    resid_mid,
    resid_pre,
    restore,
    sever,
    subject,
    v,
    z,
)
from mechinterp.patching.algebra.own import source_of
from mechinterp.patching.algebra.sources import Source

# Thousands of short calls: checking the types of each would take ten times as long as the calls.
pytestmark = pytest.mark.usefixtures("unchecked_types")

KINDS = ("gpt2", "llama")
DRAWS = 2
TIGHT = "500KB"
"""Memory for a part of a column at a time."""

WHERE: list[Position] = [subject, subject[0], subject[-1], last, at(0), at(1), at(-2), everywhere, everywhere[1:]]


class ByToken:
    """A source of the user's own: another value for each token."""

    def values(self, model: Model, prompt: Prompt, site: Place, draw: int) -> torch.Tensor:
        tokens = torch.tensor(site.positions).view(-1, *[1] * (len(site.shape) - 1))
        return torch.sin(tokens + 1.0).expand(site.shape)


NOISES: list[Source] = [
    Gaussian(draws=DRAWS),
    Gaussian(1.0, draws=DRAWS, seed=1),
    Uniform(level=0.5, draws=DRAWS),
    PublishedNoise(0.3, draws=DRAWS),
]
FIXED: list[Source] = [
    Zero(),
    Mean(("ada lives in rome", "the old town")),
    Given(torch.linspace(-1, 1, WIDTH)),
    source_of(ByToken(), ""),
    Mean(tuple(" ".join(["ada lives in rome"] * k) for k in (2, 3)), by="position"),
]

PLAIN = [
    restore(resid_mid.each @ every),
    restore(embed @ every),
    restore(resid_mid[1] @ last) | restore(mlp.each @ every),
]
"""What the engine cannot split."""

SPLIT = [
    restore(resid.window(2) @ every),
    restore(mlp.each @ every) | restore(attn.each @ every),
    restore(resid.each @ every) | sever(mlp[1:] @ here),
    restore(resid.each @ every) | sever(attn @ subject),
    restore(resid.each @ every) | sever(mlp @ here, Zero()),
    restore(attn.each @ every, Zero()),
    restore(mlp.window(2) @ subject),
    restore(resid[1] @ every),
    restore(resid_pre.each @ every),
    restore(z.each @ every),
    restore(q.window(2) @ every),
    restore(mlp_key.each @ every) | sever(attn @ here),
    restore(z.each_head @ last),
    restore(k.each_head @ subject),
    restore(v[1:].each_head @ every) | sever(mlp @ last),
    restore(mlp.window(3)[::2] @ subject[-1]) | restore(attn[0] @ last),
]
"""Roles, strides, heads and several sites at once."""

Grid = tuple[Program, bool]
"""Restores and severs with axes, and whether the engine can split them."""


@st.composite
def corruptions(draw: st.DrawFn, *, is_random: bool) -> Program:
    """Of the embeddings of some tokens: by noise and perhaps by fixed values, or by fixed values alone."""
    program = nothing
    if is_random:
        program |= corrupt(embed @ draw(st.sampled_from(WHERE)), draw(st.sampled_from(NOISES)))
    if not is_random or draw(st.booleans()):
        program |= corrupt(embed @ draw(st.sampled_from(WHERE)), draw(st.sampled_from(FIXED)))
    return program


@st.composite
def runs(draw: st.DrawFn, *, is_random: bool) -> Run:
    """Another run of the same prompt: corrupted elsewhere or otherwise, perhaps with something restored in it."""
    program = draw(corruptions(is_random=is_random and draw(st.booleans())))
    if draw(st.booleans()):
        site = draw(st.sampled_from([mlp[1:], attn[0], resid[1]])) @ draw(st.sampled_from([subject, last]))
        program |= draw(st.sampled_from([restore, sever]))(site)
    return Run(program)


def sources(*, is_random: bool) -> st.SearchStrategy[Source | None]:
    """None is what the verb reads unless told."""
    return st.one_of(st.none(), st.just(Corrupted()), runs(is_random=is_random))


@st.composite
def grids(draw: st.DrawFn, *, is_random: bool) -> Grid:
    """One component restored over both axes, and others severed at the same token."""
    kind = draw(st.sampled_from(["column", "column", "split", "split", "plain"]))
    if kind != "column":
        return draw(st.sampled_from(SPLIT if kind == "split" else PLAIN)), kind == "split"
    restored = draw(st.sampled_from([resid, mlp, attn]))
    width = 1 if restored is resid else draw(st.integers(1, 4))
    program = restore(restored.window(width) @ every, draw(sources(is_random=is_random)))
    for severed in draw(st.lists(st.sampled_from([mlp, attn]), unique=True)):
        if severed != restored:
            program |= sever(severed @ here, draw(sources(is_random=is_random)))
    return program, True


def name_in_table(grid: Grid) -> Hashable:
    """What the table tells programs apart by."""
    program, _ = grid
    return frozenset((write.verb, write.site.component.name) for write in program.writes), program.window or 1


@dataclass(frozen=True)
class Case:
    """One trace, and which of its programs the engine cannot split."""

    kind: str
    adds_bos: bool
    prompts: list[Prompt]
    programs: list[Program]
    unsplit: set[str]
    memory: str | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    corruption = draw(st.one_of(corruptions(is_random=True), corruptions(is_random=False), st.just(nothing)))
    # Values with draws of their own may also be put into a run without any.
    is_random = corruption.draws is not None or draw(st.integers(0, 7)) == 0
    found = draw(st.lists(grids(is_random=is_random), min_size=1, max_size=4, unique_by=name_in_table))
    in_embeddings = draw(st.sampled_from([True] * 7 + [False]))
    if not in_embeddings:
        corruption |= corrupt(mlp[0] @ subject, Zero())
    programs = {corruption | grid: is_split for grid, is_split in found}
    unsplit = {str(program) for program, is_split in programs.items() if not (is_split and in_embeddings)}
    return Case(
        draw(st.sampled_from(KINDS)),
        draw(st.booleans()),
        draw(st.lists(prompts(), min_size=1, max_size=3, unique_by=lambda prompt: prompt.name)),
        list(programs),
        unsplit,
        draw(st.sampled_from([None, TIGHT])),
    )


def test_it_equals_the_plain_executor_on_random_programs() -> None:
    changes: list[float] = []

    @given(cases())
    @settings(max_examples=20)
    def check(case: Case) -> None:
        model = small_model(case.kind, adds_bos=case.adds_bos)
        exact, plain = (
            trace(model, case.prompts, case.programs, engine=engine, memory=case.memory, progress=False)
            for engine in ("exact", "plain")
        )
        assert_same(exact, plain)
        assert set(exact.meta["plain"]) == case.unsplit
        assert all(exact.meta["plain"].values())
        if len(case.unsplit) < len(case.programs):
            changes.append(spreads(exact, "log_prob", ["component"]).max())

    check()
    assert len(changes) > 10
    assert np.mean(np.array(changes) > 1e-3) > 0.6

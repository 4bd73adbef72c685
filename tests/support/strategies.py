"""Hypothesis strategies: random prompts, sites and programs for the small models."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from mechinterp import Prompt
from mechinterp.patching import (
    Component,
    Gaussian,
    Position,
    Program,
    Site,
    at,
    attn,
    corrupt,
    embed,
    everywhere,
    k,
    last,
    mlp,
    mlp_key,
    mlp_value,
    nothing,
    q,
    resid,
    restore,
    sever,
    subject,
    v,
    z,
)

from .zoo import LAYERS

TEMPLATES = ("{} lives in the old town of", "the {} works near", "born with {} in the big red", "{} was near")
SUBJECTS = ("ada", "bo cy", "dee eve fay", "gus hal")
ANSWERS = ("rome", "paris", "oslo turku", "york bern lund", None)

WRITABLE: Sequence[Component] = (resid, attn, mlp, z, q, k, v, mlp_key, mlp_value)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    return Prompt(*(draw(st.sampled_from(choices)) for choices in (TEMPLATES, SUBJECTS, ANSWERS)))


def positions() -> st.SearchStrategy[Position]:
    fixed = [subject, subject[-1], subject[0], last, everywhere, everywhere[1:]]
    return st.one_of(st.sampled_from(fixed), st.integers(-3, 2).map(at))


def layers() -> st.SearchStrategy[int | slice]:
    ranges = [slice(0, 2), slice(1, None), slice(None)]
    return st.one_of(st.integers(0, LAYERS - 1), st.sampled_from(ranges))


@st.composite
def sites(draw: st.DrawFn, components: Sequence[Component] = WRITABLE) -> Site:
    return draw(st.sampled_from(components))[draw(layers())] @ draw(positions())


@st.composite
def several_sites(draw: st.DrawFn, components: Sequence[Component] = WRITABLE) -> list[Site]:
    """Sites of different components, so that no two can be one address."""
    chosen = draw(st.lists(st.sampled_from(components), min_size=1, max_size=3, unique=True))
    return [draw(sites([component])) for component in chosen]


@st.composite
def noises(draw: st.DrawFn) -> Program:
    sigmas = draw(st.sampled_from([0.5, 1.0, 3.0]))
    return corrupt(embed @ subject, Gaussian(sigmas, draws=2, seed=draw(st.integers(0, 3))))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Noise, then restores and severs of different components."""
    program = draw(st.one_of(st.just(nothing), noises()))
    for site in draw(several_sites()):
        program |= draw(st.sampled_from([restore, sever]))(site)
    return program

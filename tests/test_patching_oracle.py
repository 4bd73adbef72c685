"""The plain executor and both engines against an implementation of PyTorch hooks that shares no code with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.patching_oracle import COMPONENTS, Edit, Outcome, copied, forward, naive_scores, window
from support.zoo import HEADS, LAYERS, WIDTH, hf_model, small_model

from mechinterp import Model, Prompt
from mechinterp.models.layout import COMPONENTS as OURS
from mechinterp.patching import (
    METRICS,
    Component,
    Program,
    PublishedNoise,
    Run,
    at,
    attn,
    causal_tracing,
    corrupt,
    embed,
    last,
    mlp,
    nothing,
    resid,
    restore,
    run,
    sever,
    subject,
    trace,
    z,
)

LEVEL, DRAWS = 1.5, 2
PROMPTS = (
    Prompt("the {} lives in the old town of", "ada bo", "rome"),
    Prompt("born with {} in red", "dee eve fay", "oslo turku bern"),
    Prompt("{} works near", "gus", "york lund"),
)


@cache
def network() -> Any:
    """The same weights as the model under test, in plain transformers."""
    return hf_model("gpt2").double().eval()


def model() -> Model:
    return small_model("gpt2", dtype=torch.float64)


@dataclass
class Case:
    """A prompt taken apart by hand: the words are the tokens."""

    prompt: Prompt

    def __post_init__(self) -> None:
        words = model().tokenizer.convert_tokens_to_ids
        before = self.prompt.template.split("{}")[0].split()
        mentioned = self.prompt.subject.split()
        self.text = self.prompt.text.split()
        self.answer = words((self.prompt.answer or "").split())
        self.ids = words(self.text) + self.answer[:-1]
        self.subject = range(len(before), len(before) + len(mentioned))
        self.clean = forward(network(), self.ids)

    def noise(self, draw: int, block: int = 0) -> list[Edit]:
        """The published rule: one stream of numbers, block after block."""
        stream = np.random.RandomState(1)
        for _ in range(block + 1):
            numbers = LEVEL * stream.randn(DRAWS, len(self.subject), WIDTH)
        pairs = zip(self.subject, numbers[draw], strict=True)
        return [Edit("embed", 0, token, torch.tensor(vector), add=True) for token, vector in pairs]

    def scores(self, outcome: Outcome) -> dict[str, float]:
        ordinary = self.clean.logits[len(self.text) - 1].clone()
        ordinary[self.answer[0]] = -torch.inf
        return naive_scores(outcome.logits, self.clean.logits, self.answer, int(ordinary.argmax()))


NOISE = corrupt(embed @ subject, PublishedNoise(LEVEL, DRAWS))


def compare(case: Case, program: Program, edits: Sequence[Sequence[Edit]]) -> None:
    """Every metric of every draw."""
    found = run(model(), case.prompt, program)
    for draw, one in enumerate(edits):
        wanted = case.scores(forward(network(), case.ids, one))
        for metric in METRICS:
            assert getattr(found, metric)[draw] == pytest.approx(wanted[metric], abs=1e-9), metric


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.subject)
def test_clean_and_corrupted_runs(prompt: Prompt) -> None:
    case = Case(prompt)
    compare(case, nothing, [[]])
    compare(case, NOISE, [case.noise(draw) for draw in range(DRAWS)])


def test_the_oracle_knows_every_component() -> None:
    assert set(COMPONENTS) == set(OURS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_restored_at_one_token(name: str) -> None:
    case = Case(PROMPTS[1])
    layers = [0] if name == "embed" else range(LAYERS)
    for layer in layers:
        site = Component(name) if name == "embed" else Component(name)[layer]
        for token in (case.subject[-1], len(case.text) - 1):
            edits = [case.noise(draw) + copied(case.clean, name, layer, token) for draw in range(DRAWS)]
            compare(case, NOISE | restore(site @ at(token)), edits)


Spec = list[tuple[str, str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Verb, component, layers, tokens, heads; no two of one component, and resid_mid not beside attn."""
    chosen = st.lists(st.sampled_from([name for name in COMPONENTS if name not in ("embed", "resid_pre")]), unique=True)
    names = draw(chosen.filter(lambda names: 1 <= len(names) <= 3 and not {"attn", "resid_mid"} <= set(names)))

    def some(limit: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(0, limit - 1), min_size=1, max_size=2, unique=True)

    found = []
    for name in names:
        heads = draw(st.one_of(st.just([]), some(HEADS))) if name in "qkvz" else []
        verb = draw(st.sampled_from(["restore", "sever"]))
        found.append((verb, name, tuple(draw(some(LAYERS))), tuple(draw(some(5))), tuple(sorted(heads))))
    return found


@settings(max_examples=30)
@given(specs(), st.sampled_from(PROMPTS[:2]))
def test_random_programs(spec: Spec, prompt: Prompt) -> None:
    case, program = Case(prompt), NOISE
    edits = [case.noise(draw) for draw in range(DRAWS)]
    corrupted = [forward(network(), case.ids, one) for one in edits]
    for verb, name, layers, tokens, heads in spec:
        component = Component(name)[list(layers)]
        component = component.heads(*heads) if heads else component
        for token in tokens:
            program |= (restore if verb == "restore" else sever)(component @ at(token))
            for draw in range(DRAWS):
                source = case.clean if verb == "restore" else corrupted[draw]
                for layer in layers:
                    edits[draw] += copied(source, name, layer, token, heads)
    compare(case, program, edits)


def test_one_head_restored() -> None:
    case = Case(PROMPTS[0])
    for head in range(HEADS):
        edits = [case.noise(d) + copied(case.clean, "z", 1, len(case.text) - 1, [head]) for d in range(DRAWS)]
        compare(case, NOISE | restore(z.heads(head)[1] @ last), edits)


def test_path_patching_through_another_programs_run() -> None:
    """The direct path from one MLP to a later attention layer: what attention reads when only the MLP was restored."""
    case = Case(PROMPTS[0])
    end = len(case.text) - 1
    sender = NOISE | restore(mlp[0] @ subject[-1])
    program = NOISE | restore(attn[2] @ last, Run(sender | sever(mlp[1] @ last)))
    edits = []
    for draw in range(DRAWS):
        corrupted = forward(network(), case.ids, case.noise(draw))
        first = case.noise(draw) + copied(case.clean, "mlp", 0, case.subject[-1])
        inner = forward(network(), case.ids, first + copied(corrupted, "mlp", 1, end))
        edits.append(case.noise(draw) + copied(inner, "attn", 2, end))
    compare(case, program, edits)
    assert run(model(), case.prompt, program).changed


def test_a_run_with_noise_patched_into_the_clean_run() -> None:
    case = Case(PROMPTS[0])
    edits = [copied(forward(network(), case.ids, case.noise(d)), "resid", 1, case.subject[-1]) for d in range(DRAWS)]
    compare(case, restore(resid[1] @ subject[-1], Run(NOISE)), edits)


def grid(table: Any, prompt: Prompt, component: str, severed: str) -> np.ndarray:
    """[token, layer, draw] of one program's log-probabilities."""
    frame = table.frame.query("run == 'patched' and component == @component and severed == @severed")
    frame = frame[frame["prompt"] == prompt.name]
    assert not frame.duplicated(["position", "layer", "draw"]).any()
    return frame.set_index(["position", "layer", "draw"])["log_prob"].sort_index().to_numpy().reshape(-1, LAYERS, DRAWS)


def wanted_cell(case: Case, kind: str, severed: str, width: int, token: int, layer: int, draw: int) -> float:
    corrupted = forward(network(), case.ids, case.noise(draw))
    edits = case.noise(draw)
    for one in [layer] if kind == "resid" else window(layer, width, LAYERS):
        edits += copied(case.clean, kind, one, token)
    if severed != "none":
        for one in range(LAYERS):
            edits += copied(corrupted, severed, one, token)
    return case.scores(forward(network(), case.ids, edits))["log_prob"]


@pytest.mark.parametrize("width", [1, 2, 3, 10])
def test_grids_of_both_engines(width: int) -> None:
    """Every cell, for windows of the published clipping, with one answer token and with several."""
    prompts = PROMPTS[:2] if width == 2 else PROMPTS[1:2]
    programs = causal_tracing(PublishedNoise(LEVEL, DRAWS), width)
    tables = [trace(model(), prompts, programs, engine=engine, progress=False) for engine in ("plain", "exact")]
    assert tables[0].meta["plain"]
    assert not tables[1].meta["plain"]
    for prompt in prompts:
        case = Case(prompt)
        for kind, severed in (
            ("resid", "none"),
            ("mlp", "none"),
            ("attn", "none"),
            ("resid", "mlp"),
            ("resid", "attn"),
        ):
            wanted = [
                [[wanted_cell(case, kind, severed, width, t, m, d) for d in range(DRAWS)] for m in range(LAYERS)]
                for t in range(len(case.text))
            ]
            for table in tables:
                np.testing.assert_allclose(grid(table, prompt, kind, severed), wanted, rtol=0, atol=1e-9)


def test_values_severed_to_another_draw_as_published() -> None:
    case = Case(PROMPTS[0])
    other = PublishedNoise(LEVEL, DRAWS, block=1)
    programs = causal_tracing(PublishedNoise(LEVEL, DRAWS), 1, kinds=(), severed=("mlp",), severed_noise=other)
    wanted = np.zeros((len(case.text), LAYERS, DRAWS))
    for token, layer, draw in np.ndindex(wanted.shape):
        frozen = forward(network(), case.ids, case.noise(draw))
        edits = case.noise(draw, block=1) + copied(case.clean, "resid", layer, token)
        for one in range(LAYERS):
            edits += copied(frozen, "mlp", one, token)
        wanted[token, layer, draw] = case.scores(forward(network(), case.ids, edits))["log_prob"]
    for engine in ("plain", "exact"):
        table = trace(model(), [case.prompt], programs, engine=engine, progress=False)
        np.testing.assert_allclose(grid(table, case.prompt, "resid", "mlp"), wanted, rtol=0, atol=1e-9)
        assert table.meta["severed_within_draw"] is False

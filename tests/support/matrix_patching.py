"""What corrupt, restore and sever do at every component of a small model, all cells in a few forwards.

A cell is a component and a primitive; its figures are taken over all layers and heads of the component, one write each,
so that a hook which is dead in one layer or one head shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from mechinterp import MechinterpError, Prompt
from mechinterp.models.architectures import PRIMITIVES
from mechinterp.models.layout import COMPONENTS, EMBED, PER_HEAD, RESID, RESID_MID, RESID_PRE, K, Q, V
from mechinterp.models.model import Model
from mechinterp.patching import (
    Component,
    Gaussian,
    HookWrite,
    Program,
    Site,
    corrupt,
    embed,
    everywhere,
    forward,
    nothing,
    restore,
    run,
    sever,
    subject,
)
from mechinterp.patching.algebra.cells import place
from mechinterp.patching.plain.asked import ask
from mechinterp.patching.plain.jobs import run_jobs
from mechinterp.patching.plain.session import Session

from .zoo import small_model

WHOLE = (EMBED, RESID_PRE, RESID_MID, RESID)
"""Restored at every token, these alone bring the clean run back."""

PROMPTS = [
    Prompt("{} lives in the old town of", "ada", "oslo"),
    Prompt("the big red {} works in", "dee eve", "rome"),
    Prompt("born in the town {}", "gus hal ida", "bern"),
]
"""Of one length, so that they share forwards; the subject first, in the middle, last."""

NOISE = corrupt(embed @ subject, Gaussian(draws=2))
CLEAN_AGAIN = NOISE | restore(embed @ subject)


@dataclass
class Cell:
    """What one primitive does at one component.

    Args:
        refused: the sentence that says why it is not served; the rest is empty then.
        effects: by how much each single write changes a log-probability of the answer's vocabulary, at most (nats).
        broken: law -> by how much the log-probabilities miss it, at most (nats).
        apart: by how much a public `run` of one prompt differs from the same in a batch (nats).
    """

    refused: str = ""
    effects: list[float] = field(default_factory=list)
    broken: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    apart: float = 0.0


@dataclass(frozen=True)
class Probe:
    """A program, what it is compared with, and whether the two must be equal (a law) or must differ."""

    cell: tuple[str, str]
    program: Program
    reference: Program
    law: str = ""


Cells = dict[tuple[str, str], Cell]


def sites(model: Model, name: str) -> Iterator[Site]:
    """The component at every token of each layer, all heads at once and each by itself."""
    count = 0 if name not in PER_HEAD else model.layout.n_kv_heads if name in (K, V) else model.layout.n_heads
    chosen = [Component(name), *(Component(name).heads(head) for head in range(count))]
    for component in chosen:
        for layer in [None] if name == EMBED else range(model.n_layers):
            yield (component if layer is None else component[layer]) @ everywhere


def probes(model: Model, name: str) -> Iterator[Probe]:
    """All that is tried at one component."""
    for site in sites(model, name):
        own = corrupt(site, Gaussian(level=1.0, draws=2))
        yield Probe((name, "corrupt"), own, nothing)
        yield Probe((name, "corrupt"), own | restore(site), nothing, "corrupted and restored = clean")
        yield Probe((name, "restore"), NOISE | restore(site), NOISE)
        yield Probe((name, "restore"), restore(site), nothing, "restored without corruption = clean")
        if name in WHOLE:
            yield Probe((name, "restore"), NOISE | restore(site), nothing, "restored as a whole = clean")
        held = CLEAN_AGAIN | sever(site)
        if name == EMBED:  # restored and severed at one address would be two sources for it
            held = NOISE | sever(site)
            yield Probe((name, "sever"), held, nothing)
        else:
            yield Probe((name, "sever"), held, nothing)
        yield Probe((name, "sever"), NOISE | sever(site), NOISE, "severed without a restore = corrupted")


def batched(model: Model, programs: list[Program]) -> dict[Program, Tensor]:
    """Log-probabilities [prompt, draw, vocab] of each program, all prompts and programs as rows of shared forwards."""
    session = Session(model, ask(model, PROMPTS))
    placed = [[place(program, model.layout, asked.prompt) for asked in session.asked] for program in programs]
    session.run_sources((program, writes) for program, each in zip(programs, placed, strict=True) for writes in each)
    jobs = [
        session.job(index, program, writes, key=number)
        for number, (program, each) in enumerate(zip(programs, placed, strict=True))
        for index, writes in enumerate(each)
    ]
    rows: dict[int, list[Tensor]] = defaultdict(list)
    for job, result in zip(jobs, run_jobs(model, jobs), strict=True):
        rows[job.key[1]].append(result.logits[:, -1].log_softmax(-1))  # type: ignore[index]
    return {program: torch.stack(rows[number]) for number, program in enumerate(programs)}


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference; one draw is compared with each of several."""
    return float((a - b).abs().max())


@cache
def patching_cells(kind: str) -> Cells:
    """Every cell of one architecture."""
    model = small_model(kind)
    cells: Cells = {(name, verb): Cell() for name in COMPONENTS for verb in PRIMITIVES}
    tried: list[Probe] = []
    for name in COMPONENTS:
        try:
            model.layout.check(name)
        except MechinterpError as refusal:
            for verb in PRIMITIVES:
                cells[name, verb].refused = str(refusal)
            continue
        tried += probes(model, name)
    programs = list(dict.fromkeys([nothing, NOISE, *(probe.program for probe in tried)]))
    found = batched(model, programs)
    for probe in tried:
        cell, change = cells[probe.cell], found[probe.program] - found[probe.reference]
        if probe.law:
            cell.broken[probe.law] = max(cell.broken[probe.law], float(change.abs().max()))
        else:
            cell.effects.append(float(change.abs().max()))
    alone = {probe.cell: probe.program for probe in tried if not probe.law}
    for (name, verb), program in alone.items():  # the last head of the last layer
        result = run(model, PROMPTS[1], program)
        answer = model.answer_ids(PROMPTS[1].text, result.answer)[0]
        cells[name, verb].apart = gap(torch.from_numpy(result.log_prob), found[program][1, :, answer].double())
    return cells


def causal_gaps(model: Model) -> dict[str, tuple[float, float]]:
    """Of writes at each token and layer: the change before the token (none is right), the least from the token on."""
    ids = torch.tensor([model.encode(PROMPTS[1].text)])
    length = ids.shape[1]
    clean = model.logits(ids).log_softmax(-1)
    gaps = {}
    for name in COMPONENTS:
        if name in model.layout.refused:
            continue
        layers = [0] if name == EMBED else list(range(model.n_layers))
        hooks = [model.layout.write_hook(name, layer) for layer in layers]
        reads = list(dict.fromkeys(model.layout.read_hook(name, layer) for layer in layers))
        found = forward(model, ids, reads=reads).cache
        writes = [
            HookWrite(
                hook, torch.arange(length) + length * place_, torch.arange(length),
                found[read][0].roll(1, -1) + found[read].std(), minus=minus,
            )
            for place_, ((hook, minus), read) in enumerate(zip(hooks, reads, strict=True))
        ]  # fmt: skip
        rows = ids.expand(length * len(layers), -1)
        change = (forward(model, rows, writes, keep=length).logits.log_softmax(-1) - clean).abs().amax(-1)
        change = change.view(len(layers), length, length)  # [layer, written token, token]
        later = torch.ones(length, length).triu().bool()
        before, after = change[:, ~later], change.masked_fill(~later, 0).amax(-1)
        if name == Q:  # the first token attends to itself alone, whatever it asks for
            after = after[:, 1:]
        gaps[name] = float(before.max()), float(after.min())
    return gaps

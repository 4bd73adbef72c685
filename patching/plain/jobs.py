"""Many cells in one forward: jobs of equal token length are stacked as rows, so nothing is padded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ...forwards.unembedding import Logits
from ...models.asking import PromptEnds
from ...models.model import Model
from ..algebra.cells import Placed
from .executor import HookWrite, forward

Pair = tuple[Tensor, Tensor]
"""Keys and values of one layer, [row, head, pos, d_head]."""

DEFAULT_MAX_TOKENS = 4096
"""Tokens (rows times length) per forward; more does not run faster on a CPU and costs memory."""


@dataclass(frozen=True, eq=False)
class Valued:
    """A placed write with its values, [rows or 1, positions, ...]."""

    placed: Placed
    values: Tensor


@dataclass(frozen=True, eq=False)
class Job:
    """One run of one prompt: `rows` copies of its tokens (one per draw) with its writes.

    Args:
        key: whatever the caller needs to recognise the result.
        ids: token ids, answer tokens fed by teacher forcing included (but for an encoder's).
        rows: how many copies.
        writes: what to write, in order.
        keep: how many last positions get logits.
        decoder: what the decoder of an encoder-decoder is fed.
    """

    key: object
    ids: tuple[int, ...]
    rows: int
    writes: Sequence[Valued]
    keep: int
    decoder: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of each stack: jobs of one shape share forwards."""
        return len(self.ids), len(self.decoder)


@dataclass(frozen=True, eq=False)
class JobResult:
    """Logits [rows, kept, vocab] of a job, or what they are made of; the activations read; whether it changed anything.

    `pairs` has the keys and values of every layer where they were asked for.
    """

    job: Job
    logits: Logits
    cache: dict[str, Tensor]
    changed: bool
    pairs: list[Pair]


def run_jobs(
    model: Model,
    jobs: Sequence[Job],
    reads: Sequence[str] = (),
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    keep_pairs: bool = False,
) -> Iterator[JobResult]:
    """Run jobs in as few forwards as `max_tokens` allows, and give their results in the order of the jobs."""
    chunk: list[Job] = []
    size = 0
    for job in jobs:
        tokens = job.rows * len(job.ids)
        if chunk and (size + tokens > max_tokens or job.shape != chunk[0].shape):
            yield from _run_chunk(model, chunk, reads, keep_pairs)
            chunk, size = [], 0
        chunk.append(job)
        size += tokens
    if chunk:
        yield from _run_chunk(model, chunk, reads, keep_pairs)


def _run_chunk(model: Model, jobs: list[Job], reads: Sequence[str], keep_pairs: bool) -> Iterator[JobResult]:
    ids = torch.cat([torch.tensor(job.ids).expand(job.rows, -1) for job in jobs])
    starts = torch.tensor([0, *(job.rows for job in jobs)]).cumsum(0).tolist()
    writes, owners = _stack(model, jobs, starts)
    keep = max(job.keep for job in jobs)
    # Without a configuration the cache keeps every token, also in layers with a sliding window.
    cached = DynamicCache() if keep_pairs else None
    past = {} if cached is None else {"past_key_values": cached, "use_cache": True}
    past["decoder_ids"] = model.fed([job.decoder for job in jobs for _ in range(job.rows)])
    ends = torch.tensor([len(job.ids) - job.keep for job in jobs for _ in range(job.rows)])
    prompts = None if model.is_encoder_decoder else PromptEnds(ends)
    out = forward(model, ids, writes, reads, keep=keep, past=past, prompts=prompts)
    layers: list[Any] = [] if cached is None else list(cached.layers)
    changed = torch.zeros(len(jobs), dtype=torch.bool)
    for unchanged, owner in zip(out.unchanged, owners, strict=True):
        if owner is not None:
            changed[owner[~unchanged.cpu()]] = True
    for index, job in enumerate(jobs):
        rows = slice(starts[index], starts[index + 1])
        cache = {name: value[rows] for name, value in out.cache.items()}
        pairs = [(layer.keys[rows], layer.values[rows]) for layer in layers]
        yield JobResult(job, out.ends[rows, keep - job.keep :], cache, bool(changed[index]), pairs)


def _stack(model: Model, jobs: list[Job], starts: list[int]) -> tuple[list[HookWrite], list[Tensor | None]]:
    """Writes of all jobs gathered per hook, stage and turn (the k-th write of a job to that hook)."""
    groups: dict[tuple[int, bool, int, str, str | None, bool], list[tuple[int, int, Valued]]] = defaultdict(list)
    for index, job in enumerate(jobs):
        turns: dict[str, int] = defaultdict(int)
        for valued in job.writes:
            placed = valued.placed
            hook, minus = model.layout.write_hook(placed.component, placed.layer)
            write = placed.write
            key = (write.stage, write.source.additive, turns[hook], hook, minus, bool(placed.heads))
            turns[hook] += 1
            groups[key].append((index, starts[index], valued))
    writes: list[HookWrite] = []
    owners: list[Tensor | None] = []
    for key in sorted(groups, key=lambda key: (key[2], key[0], key[1], key[3])):
        stage, additive, _, hook, minus, _ = key
        stacked = [_expand(jobs[index].rows, start, valued) for index, start, valued in groups[key]]
        rows, positions, heads, values = (
            None if parts[0] is None else torch.cat(parts) for parts in zip(*stacked, strict=True)
        )
        assert rows is not None
        assert positions is not None
        assert values is not None
        device = model.device
        writes.append(
            HookWrite(
                hook,
                rows.to(device),
                positions.to(device),
                values.to(device),
                add=additive,
                heads=None if heads is None else heads.to(device),
                minus=None if additive else minus,
            )  # fmt: skip
        )
        counts = torch.tensor([part[0].numel() for part in stacked])
        owner = torch.tensor([index for index, _, _ in groups[key]]).repeat_interleave(counts)
        owners.append(owner if stage > 0 else None)
    return writes, owners


def _expand(rows: int, start: int, valued: Valued) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Row, position, head and value of every vector of one write: rows x positions (x heads), flattened."""
    positions, heads, values = valued.placed.positions, valued.placed.heads, valued.values
    row = torch.arange(start, start + rows)
    values = values.expand(rows, *values.shape[1:])
    if not heads:
        return (
            row.repeat_interleave(len(positions)),
            torch.tensor(positions).repeat(rows),
            None,
            values.flatten(0, 1),
        )
    grid = torch.cartesian_prod(row, torch.tensor(positions), torch.tensor(heads)).reshape(-1, 3)
    return grid[:, 0], grid[:, 1], grid[:, 2], values.flatten(0, 2)

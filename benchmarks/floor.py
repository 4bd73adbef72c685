"""The floor under the exact engine: its arithmetic at the speed at which this machine multiplies matrices.

Counted are the floating-point operations of the token-layers the engine ran (the four weight matrices of a GPT-2
block, attention's scores and values) and of the last positions it unembedded; norms, softmaxes, activation functions,
noise, tables and Python count nothing.  They are divided by the rate of `torch.mm` at the same shapes.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from contenders import DRAWS, KINDS, Cell, restored_layers
from shapes import Task

MOST_TOKENS = {"cpu": 4096}
"""Tokens of one forward at most; more do not multiply faster."""
GPU_TOKENS = 65536
SHAPES = 6
"""Numbers of tokens at which the rate is measured; between them it is interpolated."""
SECONDS = 0.2
"""Spent on each shape at least; the fastest run counts."""


@dataclass(frozen=True)
class Floor:
    """Seconds that the arithmetic alone takes.

    Args:
        seconds: of the token-layers the engine ran.
        flops: floating-point operations, a multiplication and its addition counted as two.
        token_layers: that the engine ran: the clean and corrupted runs, the cells, those run twice to be compared.
        cells_token_layers, cells_seconds: of the cells alone, each starting as late as it can; in the last layer the
            tokens that are not scored need only keys and values, and count a quarter.
    """

    seconds: float
    flops: float
    token_layers: int
    cells_token_layers: float
    cells_seconds: float


def floor(task: Task, token_layers: int, computed_cells: int) -> Floor:
    """The floor of a trace with so many token-layers and cells that are no no-ops.

    Args:
        task: what was traced.
        token_layers: rows x tokens x layers that the engine ran, from the table's metadata.
        computed_cells: cells whose logits were computed.
    """
    schedule = _schedule(task)
    own = sum(tokens * count for tokens, count in schedule.items())
    width, vocabulary = task.model.d_model, task.model.vocab_size
    length = sum(len(asked.ids) for asked in task.asked) / len(task.asked)
    per_token = 24.0 * width**2 + 4.0 * width * length
    most = MOST_TOKENS.get(task.model.device.type, GPU_TOKENS)
    sizes = np.unique(np.clip(list(schedule), 1, most))
    measured = np.unique(np.geomspace(sizes.min(), sizes.max(), SHAPES).astype(int))
    rates = [_block_rate(task, int(tokens)) for tokens in measured]
    blocks = sum(
        count * tokens * per_token / float(np.interp(np.log(min(tokens, most)), np.log(measured), rates))
        for tokens, count in schedule.items()
    )
    rows = computed_cells * DRAWS
    per_column = min(most, len(KINDS) * task.model.n_layers * DRAWS)
    unembedding = 2.0 * rows * width * vocabulary
    rate = _rate(task, per_column, width, vocabulary, transposed=True)
    return Floor(
        blocks * token_layers / own + unembedding / rate,
        per_token * token_layers + unembedding,
        token_layers,
        own,
        blocks + unembedding / rate,
    )


def _schedule(task: Task) -> dict[int, float]:
    """Tokens of a layer's forward -> how many such layers: one column per token from the subject on.

    A cell's rows join at the first layer whose input differs: the one after the first it restores, or that layer itself
    where attention is restored, because the layer's MLP sees it.
    """
    n_layers, found = task.model.n_layers, defaultdict[int, float](float)
    for asked in task.asked:
        length = len(asked.ids)
        for position in range(asked.subject[0], length):
            joins: Counter[int] = Counter()
            for kind in KINDS:
                for layer in range(n_layers):
                    start = restored_layers(Cell(kind, position, layer), task.size.window, n_layers)[0]
                    if start < n_layers - 1 or position == length - 1:  # else nothing reaches the last token
                        joins[start if kind == "attn" else start + 1] += 1
            for layer in range(n_layers):
                rows = DRAWS * sum(count for joined, count in joins.items() if joined <= layer)
                tokens = length - position
                if rows:
                    found[rows * tokens] += 1.0 if layer < n_layers - 1 else (1 + (tokens - 1) / 4) / tokens
    return found


def _block_rate(task: Task, tokens: int) -> float:
    """Floating-point operations per second of the four products of a GPT-2 block."""
    width = task.model.d_model
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    work = [2.0 * tokens * a * b for a, b in shapes]
    return sum(work) / sum(one / _rate(task, tokens, a, b) for one, (a, b) in zip(work, shapes, strict=True))


def _rate(task: Task, tokens: int, inner: int, outer: int, *, transposed: bool = False) -> float:
    """Floating-point operations per second of [tokens, inner] x [inner, outer], the fastest of several runs.

    Args:
        task: for its device and number format.
        tokens, inner, outer: the sizes.
        transposed: the second matrix lies in memory as [outer, inner], as an unembedding does.
    """
    options: dict[str, Any] = {"device": task.model.device, "dtype": task.model.dtype}
    left = torch.randn(tokens, inner, **options)
    right = torch.randn(outer, inner, **options).t() if transposed else torch.randn(inner, outer, **options)
    cuda = task.model.device.type == "cuda"
    best, began, runs = float("inf"), time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        torch.mm(left, right)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return 2.0 * tokens * inner * outer / best

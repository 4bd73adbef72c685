"""A map of layers and heads at the last subject token: mechinterp against TransformerLens' activation patching.

    python benchmarks/heads.py --size small-10 --draws 10

Both restore the output of each head in the run with a noised subject, on the same model, noise and cells, one after the
other in one process.  TransformerLens' `get_act_patch_attn_head_out_by_pos` does every token; here its
`generic_activation_patch` gets the cells of the one token alone, which is all that it would have to do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from shapes import Task, build
from torch import Tensor
from transformer_lens import patching as tl

import mechinterp as mi
from mechinterp.patching import PublishedNoise, corrupt, embed, restore, subject, z

Result = TypeVar("Result")


def ours(task: Task, draws: int) -> np.ndarray:
    """[layer, head]: the mean probability of the answer."""
    program = corrupt(embed @ subject, PublishedNoise(task.level, draws)) | restore(z.each_head @ subject[-1])
    frame = mi.trace(task.model, [task.asked[0].prompt], program, progress=False).frame
    patched = frame[frame["run"] == "patched"].groupby(["layer", "head"])["prob"].mean()
    return patched.to_numpy().reshape(task.model.n_layers, task.model.n_heads)


def theirs(task: Task, draws: int) -> np.ndarray:
    """The same by TransformerLens, one forward per cell."""
    bridge: Any = task.model.bridge
    asked = task.asked[0]
    start, end = asked.subject
    rows = asked.ids.expand(draws, -1)
    with torch.no_grad():
        logits, clean = bridge.run_with_cache(rows, names_filter=lambda name: name.endswith("hook_z"))
        answer = int(logits[0, -1].argmax())

        def noised(value: Tensor, hook: object) -> Tensor:
            value = value.clone()
            value[:, start:end] += asked.noise[:draws]
            return value

        cells = [(layer, end - 1, head) for layer in range(task.model.n_layers) for head in range(task.model.n_heads)]
        with bridge.hooks(fwd_hooks=[("hook_embed", noised)]):
            found: Any = tl.generic_activation_patch(
                bridge, rows, clean, lambda out: out[:, -1].softmax(-1)[:, answer].mean(),
                tl.layer_pos_head_vector_patch_setter, "z",
                index_df=pd.DataFrame(cells, columns=["layer", "pos", "head_index"]),
            )  # fmt: skip
    values: np.ndarray = found.double().numpy().reshape(task.model.n_layers, task.model.n_heads)
    return values


def timed(make: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """The shortest time of some."""
    best, result = float("inf"), make()  # warms up
    for _ in range(repeats):
        before = time.perf_counter()
        result = make()
        best = min(best, time.perf_counter() - before)
    return best, result


def main() -> None:
    """Time both and compare their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small-10")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task = build(given.size, draws=given.draws, seed=0, device="cpu")
    seconds, mine = timed(lambda: ours(task, given.draws), given.repeats)
    other, values = timed(lambda: theirs(task, given.draws), given.repeats)
    print(
        json.dumps(
            {
                "size": given.size, "cells": mine.size, "draws": given.draws, "mechinterp_s": round(seconds, 2),
                "transformer_lens_s": round(other, 2), "factor": round(other / seconds, 1),
                "largest_difference": float(np.abs(mine - values).max()),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

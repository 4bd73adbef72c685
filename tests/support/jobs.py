"""Small jobs of every kind that writes into a folder, for those who damage files and kill processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mechinterp import Fact, Model, Prompt, Question, trace
from mechinterp.analysis import edit_by_layer, leaderboard
from mechinterp.analysis.trials import plans
from mechinterp.editing import SecondMoment, collect_moments
from mechinterp.editing.editors.registry import EDITORS
from mechinterp.editing.moments import unfinished
from mechinterp.patching.traces import planning

from .fake_editors import FAKES
from .running_text import running_text

FACTS = [
    Fact(
        Prompt("{} was born in", name, "Warsaw", id=name, relation="born_in"),
        target_new="Paris",
        paraphrases=(Question(f"The people spoke about {name} in"),),
        neighbourhood=(Question("The capital of Poland is", "Warsaw"),),
    )
    for name in ("Marie Curie", "Ada Lovelace", "The writer", "The owner")
]
TEXTS = running_text(400)
MOST = 1e-12
"""How far two float64 sums of the same numbers in another order may be apart."""


@dataclass(frozen=True)
class Job:
    """Work in a folder, and whether two outcomes of it are the same.

    Args:
        run: does it, or goes on with it, and gives what came of it.
        same: whether the outcomes agree in every number.
        finished: whether the folder holds the outcome.
        ranks: whether several processes can share it.
    """

    run: Callable[[Model, Path], Any]
    same: Callable[[Any, Any], bool]
    finished: Callable[[Path], bool]
    ranks: bool = True


def _trace(model: Model, out: Path) -> pd.DataFrame:
    prompts = [fact.prompt for fact in FACTS]
    return trace(model, prompts, kinds=["mlp"], severed=[], draws=2, window=2, out=out, progress=False).frame


def _evaluate(mode: str) -> Callable[[Model, Path], dict[str, pd.DataFrame]]:
    def run(model: Model, out: Path) -> dict[str, pd.DataFrame]:
        board = leaderboard(
            model, FACTS, list(FAKES), edits=mode, sizes=[2], metrics=["ES", "PS"], out=out, progress=False
        )
        looked = board.retention.items()
        return {"records": board.records} | {f"{name} {part}": getattr(found, part)
                                             for name, found in looked for part in ("records", "before")}  # fmt: skip

    return run


def _sweep(model: Model, out: Path) -> pd.DataFrame:
    out.mkdir(parents=True, exist_ok=True)
    found = edit_by_layer(
        model, FACTS, [0, 1], lambda fact, layer: FAKES["small"](model, [fact]), out=out / "sweep.jsonl", progress=False
    )
    return found.drop(columns="seconds").sort_values(["layer", "record", "stage", "metric"], ignore_index=True)


def _moments(model: Model, out: Path) -> dict[int, SecondMoment]:
    return collect_moments(
        model, TEXTS, [0, 2], max_tokens=1200, batch_tokens=64, write_every=0.0, out=out, progress=False
    )


def _same_moments(one: dict[int, SecondMoment], other: dict[int, SecondMoment]) -> bool:
    return all(
        bool((a.matrix - b.matrix).abs().max() <= MOST * b.matrix.abs().max())
        and (a.tokens, a.documents, a.texts, a.complete) == (b.tokens, b.documents, b.texts, b.complete)
        for a, b in ((one[layer], other[layer]) for layer in other)
    )


def _same_frames(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> bool:
    return one.keys() == other.keys() and all(one[name].equals(other[name]) for name in other)


def _has(name: str) -> Callable[[Path], bool]:
    return lambda out: (out / name).exists()


def _trials(count: int) -> Callable[[Path], bool]:
    return lambda out: len(list((out / "parts").glob("*.trial.parquet"))) == count


JOBS = {
    "trace": Job(_trace, lambda a, b: bool(a.equals(b)), _has("table.parquet")),
    "evaluate single": Job(_evaluate("single"), _same_frames, _trials(2 * len(FACTS))),
    "evaluate batch": Job(_evaluate("batch"), _same_frames, _trials(len(FACTS) // 2)),
    "evaluate sequential": Job(_evaluate("sequential"), _same_frames, _trials(2 * len(FACTS) // 2)),
    "journal": Job(_sweep, lambda a, b: bool(a.equals(b)), lambda out: False, ranks=False),
    "moments": Job(_moments, _same_moments, _has("layer-2.safetensors")),
}


def many_parts(patch: Callable[[Any, str, Any], None]) -> None:
    """Have every job consist of many small parts, and the fake editors among the editors.

    Args:
        patch: sets an attribute (`setattr`, or a test's own that undoes it).
    """
    patch(planning, "GROUP", 1)
    patch(plans, "SINGLES_AT_ONCE", 1)
    patch(unfinished, "_SHARE", float("inf"))
    for name, editor in FAKES.items():
        EDITORS[name] = editor
    torch.set_num_threads(1)

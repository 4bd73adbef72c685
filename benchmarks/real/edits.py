"""What edits of a real model do: CounterFact scores beside the unedited ones.

    python -m benchmarks.real.edits --model smollm2-135m --facts 200
    python -m benchmarks.real.edits --model smollm2-135m --what single --facts 60

`single`: ROME, MEMIT, AlphaEdit and FT-L on `--facts` records of CounterFact, each alone, 20 at a time.  `layers`: ROME
at eight layers on `--layer-facts` of them.  `batch`: MEMIT and AlphaEdit on `--sizes` facts at once, with the
perplexity of held text.  `texts`: what the model writes about ten subjects before and after.  All of them start from
the second moments of `--tokens` tokens of wikitext, presets `default`.  A killed run goes on; facts may be added.

Writes `edits-records.parquet`, `edits-summary.parquet` (every metric before and after), `edits-changes.parquet` (after
minus before, paired), `edits-layers.parquet`, `edits-texts.json` and `edits.json` (layers, hyper-parameters, costs).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mechinterp import analysis
from mechinterp.analysis import Sampling
from mechinterp.editing import EDITORS
from mechinterp.errors import MechinterpError
from mechinterp.facts.prompts import Fact
from mechinterp.models.model import Model
from mechinterp.runs.frames import read_frame, write_frame

from .known import refusal
from .second_moments import layer_of, moments_at
from .setting import (
    COUNTERFACT,
    arguments,
    called,
    facts_of,
    load,
    parsed,
    read_json,
    results,
    rows,
    started,
    texts_of,
    write_json,
)

SINGLE = ("rome", "memit", "alphaedit", "ft-l")
BATCH = ("memit", "alphaedit")
AT_ONCE = 20
HELD = 20
"""Texts whose perplexity is measured."""
DEPTHS = (0.05, 0.1, 0.17, 0.25, 0.33, 0.4, 0.5, 0.6)
METRICS = ("ES", "PS", "NS", "EM", "PM", "NM", "ES_acc", "PS_acc", "S")


def chosen_layers(model: Model, args: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Editor -> layers: one for ROME and FT-L, three up to it for the others."""
    at = layer_of(model, args)
    several = tuple(range(max(0, at - 2), at + 1))
    return {"rome": (at,), "memit": several, "alphaedit": several, "ft-l": (at,)}


def editable(model: Model, args: argparse.Namespace, count: int) -> list[Fact]:
    """The first so many facts whose sentence and answers the tokenizer can do."""
    found = []
    for fact in facts_of(args, COUNTERFACT):
        if len(found) == count:
            break
        if not refusal(model, fact):
            found.append(fact)
    return found


def single(model: Model, args: argparse.Namespace) -> None:
    """Each fact alone, by each editor."""
    facts, layers = editable(model, args, args.facts), chosen_layers(model, args)
    needed = sorted({layer for name in SINGLE if EDITORS[name].needs_moments for layer in layers[name]})
    moments = moments_at(model, args, needed)
    for start in range(0, len(facts), AT_ONCE):
        some = facts[start : start + AT_ONCE]
        _contest(
            model, args, some, SINGLE, f"single-{start // AT_ONCE:04d}", edits="single", moments=moments, layers=layers
        )


def batch(model: Model, args: argparse.Namespace) -> None:
    """Many facts in one edit."""
    layers = {name: at for name, at in chosen_layers(model, args).items() if name in BATCH}
    moments = moments_at(model, args, layers["memit"])
    held = [text for text in texts_of(args) if not text.lstrip().startswith("=")][-HELD:]  # no headings
    for size in args.sizes:
        facts = editable(model, args, size)
        if len(facts) == size:
            _contest(
                model, args, facts, BATCH, f"batch-{size}", edits="batch", sizes=(size,), groups=1, moments=moments,
                layers=layers, held_texts=held, metrics=(*METRICS, "perplexity"), retention=False,
            )  # fmt: skip


def _contest(
    model: Model, args: argparse.Namespace, facts: Sequence[Fact], editors: Sequence[str], name: str, **options: Any
) -> None:
    """One leaderboard, unless it is there already."""
    folder = results(args) / "edits" / name
    settings = {
        "model": model.fingerprint(), "facts": [fact.id for fact in facts], "seed": args.seed,
        "hparams": {one: repr(EDITORS[one].presets["default"]) for one in editors},
        "layers": {one: list(options["layers"][one]) for one in editors},
        "moments": {str(layer): moment.fingerprint() for layer, moment in options["moments"].items()},
    }  # fmt: skip
    if (read_json(folder / "costs.json") or {}).get("settings") == settings:
        return
    if not args.quiet:
        print(f"{called(args)}: {name}, {len(facts)} facts by {', '.join(editors)}", flush=True)
    chosen = {"metrics": METRICS, "seed": args.seed, **options}
    board = analysis.leaderboard(model, facts, editors, out=folder / "trials", progress=not args.quiet, **chosen)
    write_frame(folder / "records.parquet", board.records, {})
    write_json(folder / "costs.json", {"costs": rows(board.costs), "notes": list(board.notes), "settings": settings})


def layers(model: Model, args: argparse.Namespace) -> None:
    """ROME at several layers."""
    wanted = sorted({round(depth * (model.n_layers - 1)) for depth in DEPTHS} | {layer_of(model, args)})
    at = wanted if args.layers is None else args.layers
    frame = analysis.rome_by_layer(
        model, editable(model, args, min(args.layer_facts, args.facts)), at, moments_at(model, args, at),
        out=results(args) / "edits" / "layers.jsonl", progress=not args.quiet,
    )  # fmt: skip
    write_frame(results(args) / "edits-layers.parquet", frame, {})


def texts(model: Model, args: argparse.Namespace) -> None:
    """What the model writes of ten subjects, before and after ROME, always by its most probable token."""
    at, found = layer_of(model, args), []
    moments, how = moments_at(model, args, [at]), Sampling(length=40, top_k=1)
    for fact in editable(model, args, min(10, args.facts)):
        entry = {"id": fact.id, "prompt": fact.prompt.text, "answer": fact.answer, "target": fact.target_new}
        entry["before"] = analysis.generate(model, [fact.prompt.text], how)[0]
        try:
            edit = EDITORS["rome"](model, [fact], [at], moments=moments, seed=args.seed, allow_disabling=True)
        except MechinterpError as error:
            entry["failed"] = str(error)
        else:
            with edit.on(model) as edited:
                entry["after"] = analysis.generate(edited, [fact.prompt.text], how)[0]
            entry["said"] = edit.report.success
        found.append(entry)
    write_json(results(args) / "edits-texts.json", found)


def changes(records: pd.DataFrame, seed: int) -> pd.DataFrame:
    """After minus before of every metric, paired within each record, with its interval."""
    found = []
    for (editor, edits, size, metric), part in records.groupby(["editor", "edits", "size", "metric"], sort=False):
        wide = part.pivot(index="record", columns="stage", values="value").dropna()
        if {"before", "after"} <= set(wide.columns) and len(wide):
            moved = analysis.bootstrap_mean((wide["after"] - wide["before"]).to_numpy()[:, None], seed=seed)
            ends = (moved.estimate[0], moved.low[0], moved.high[0], len(wide))
            found.append((editor, edits, size, metric, *map(float, ends)))
    return pd.DataFrame(found, columns=["editor", "edits", "size", "metric", "estimate", "low", "high", "n_records"])


def summarise(folder: Path, seed: int) -> None:
    """The tables of the page, of all that is there."""
    paths = sorted((folder / "edits").glob("*/records.parquet"))
    if not paths:
        return
    records = pd.concat([read_frame(path, "records of edits")[0] for path in paths], ignore_index=True)
    write_frame(folder / "edits-records.parquet", records, {})
    summary = analysis.summarise(records, ["editor", "edits", "size"], seed=seed)
    write_frame(folder / "edits-summary.parquet", summary, {})
    write_frame(folder / "edits-changes.parquet", changes(records, seed), {})
    kept = [read_json(path.parent / "costs.json") for path in paths]
    costs = pd.DataFrame([cost for one in kept for cost in one["costs"]])
    costs["seconds"] = costs["seconds_per_edit"] * costs["facts"]
    grouped = costs.groupby(["editor", "edits", "size"], sort=False)
    total = grouped[["facts", "failed", "seconds"]].sum().join(grouped["peak_memory_mb"].max()).reset_index()
    notes = sorted({note for one in kept for note in one["notes"]})
    write_json(folder / "edits.json", {"costs": rows(total), "notes": notes, "settings": kept[-1]["settings"]})


WHAT = {"single": single, "layers": layers, "batch": batch, "texts": texts}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the edits that are asked for, and the tables of all that are there."""
    parser = arguments(__doc__, 200)
    parser.add_argument("--what", nargs="+", choices=tuple(WHAT), default=list(WHAT))
    parser.add_argument("--layer", type=int, help="of ROME and FT-L; MEMIT and AlphaEdit take the two below, too")
    parser.add_argument("--layers", type=int, nargs="+", help="of the sweep")
    parser.add_argument("--layer-facts", type=int, default=40, help="of the sweep")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--tokens", type=int, default=100_000, help="of the second moments")
    args = parsed(parser, argv)
    model = load(args)
    for what in args.what:
        WHAT[what](model, args)
        summarise(results(args), args.seed)
    print(f"{called(args)}: scores are in {results(args)}")


if __name__ == "__main__":
    started(main)

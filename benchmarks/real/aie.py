"""Where a model keeps what it knows: average indirect effects on facts of known_1000 that it completes right.

    python -m benchmarks.real.aie --model gemma3-270m --facts 100
    python -m benchmarks.real.aie --model smollm2-135m --facts 100 --prepend eos

Restored are the residual state of one layer, MLPs and attention in a window of 5 layers, and the residual state with
the MLPs and with attention severed; then MLPs and attention in windows of 3 and of 10 layers; at every token (so in all
six roles), by the exact engine.  The noise is three times the standard deviation of the embeddings of all subjects of
known_1000, the published rule.

Ten facts at a time are traced into `aie/window-W/NNNN`, so that a killed run goes on and a larger `--facts` adds to it;
`--only 20` traces no more than the next 20 of those that are missing, `--summary` none.  Then the tables of the page
are made from what is there: `aie-effects.parquet`, `aie-differences.parquet` (paired) and `aie.json`, each for all
facts, for those that begin with their subject (whose first token is an attention sink, where there is no BOS) and for
the others; and `aie-prepended.parquet`, the paired difference to the same facts without `--prepend`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import mechinterp as mi
from mechinterp import Table, analysis
from mechinterp.facts.prompts import Fact
from mechinterp.models.model import Model
from mechinterp.patching import (
    Gaussian,
    Program,
    attn,
    corrupt,
    embed,
    embedding_sigma,
    every,
    here,
    mlp,
    resid,
    restore,
    sever,
    subject,
)
from mechinterp.runs.frames import write_frame

from .known import known_facts
from .setting import KNOWN, arguments, called, facts_of, load, parsed, read_json, results, rows, started, write_json

AT_ONCE = 10
"""Facts that are traced into one folder."""

METRICS = ("prob", "logit_diff")
SIGMAS = 3.0
EVERYTHING, SINK, ELSEWHERE = "all facts", "subject first", "subject later"

Site = dict[str, Hashable]


def programs(level: float, draws: int, seed: int, window: int, *, whole: bool = True) -> list[Program]:
    """MLPs and attention in a window; and the residual state, whole and with either of them severed."""
    noise = corrupt(embed @ subject, Gaussian(SIGMAS, draws=draws, seed=seed, level=level))
    found = [noise | restore(kind.window(window) @ every) for kind in (mlp, attn)]
    if whole:
        found.append(noise | restore(resid.each @ every))
        found += [noise | restore(resid.each @ every) | sever(kind @ here) for kind in (mlp, attn)]
    return found


def trace(model: Model, facts: Sequence[Fact], args: argparse.Namespace) -> None:
    """Trace what is missing, ten facts at a time: first the main window, then the others."""
    level = SIGMAS * embedding_sigma(model, [fact.subject for fact in facts_of(args, KNOWN)])
    done = 0
    for window in dict.fromkeys([args.window, *args.more_windows]):
        some_facts = facts if window == args.window else facts[: args.more_facts]
        asked_for = programs(level, args.draws, args.seed, window, whole=window == args.window)
        for start in range(0, len(some_facts), AT_ONCE):
            some = some_facts[start : start + AT_ONCE]
            folder = _folder(args, window) / f"{start // AT_ONCE:04d}"
            settings = {
                "names": [fact.prompt.name for fact in some], "draws": args.draws, "seed": args.seed,
                "programs": [str(one) for one in asked_for], "model": model.fingerprint(),
            }  # fmt: skip
            if (read_json(folder / "cost.json") or {}).get("settings") == settings:
                continue
            if args.only is not None and done >= args.only:
                return
            done += len(some)
            if not args.quiet:
                last = start + len(some)
                print(f"{called(args)}: window {window}, facts {start + 1} to {last} of {len(some_facts)}", flush=True)
            started, cpu = time.perf_counter(), time.process_time()
            mi.trace(model, some, asked_for, out=folder, progress=not args.quiet)
            spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
            first = [fact.prompt.name for fact in some if fact.prompt.template.startswith("{}")]
            write_json(
                folder / "cost.json", {"facts": len(some), **spent, "subject_first": first, "settings": settings}
            )


def _folder(args: argparse.Namespace, window: int) -> Path:
    return results(args) / "aie" / f"window-{window}"


def tables(folder: Path, window: int) -> tuple[Table | None, list[str], list[dict[str, Any]]]:
    """All that was traced, as one table; the prompts that begin with their subject; what each ten cost.

    Args:
        folder: of a model's results.
        window: the main one: of the others only the restored runs are taken, whose corrupted runs are the same.
    """
    main, frames, first, costs = None, list[pd.DataFrame](), list[str](), list[dict[str, Any]]()
    for path in sorted((folder / "aie" / f"window-{window}").glob("*/cost.json")):
        cost = read_json(path)
        main = Table.load(path.parent / "table.parquet")
        frames.append(main.frame)
        first += cost["subject_first"]
        costs.append(cost)
    if main is None:
        return None, [], []
    traced = {name for frame in frames for name in frame["prompt"]}
    for path in sorted((folder / "aie").glob("window-*/*/cost.json")):
        if path.parent.parent.name != f"window-{window}":
            frame = Table.load(path.parent / "table.parquet").frame
            frames.append(frame[(frame["run"] == "patched") & frame["prompt"].isin(traced)])
            costs.append({**read_json(path), "facts": 0})
    return Table(pd.concat(frames, ignore_index=True), main.meta), first, costs


def pairs(windows: Sequence[int]) -> list[tuple[str, Site, Site]]:
    """What is compared within each fact: a name, and the two sites."""
    found: list[tuple[str, Site, Site]] = [
        (
            f"MLP - attention, window {width}",
            {"component": "mlp", "window": width},
            {"component": "attn", "window": width},
        )
        for width in windows
    ]
    whole: Site = {"component": "resid"}
    cut = {name: {"component": "resid", "severed": name} for name in ("mlp", "attn")}
    return [
        *found,
        ("taken away by severing MLPs", whole, cut["mlp"]),
        ("taken away by severing attention", whole, cut["attn"]),
        ("severing MLPs - severing attention", cut["attn"], cut["mlp"]),
    ]


def summarise(table: Table, first: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """The tables of the page, for all facts and for the two kinds of subject apart."""
    subsets = {EVERYTHING: table.prompts}
    if 0 < len(first) < len(table.prompts):
        subsets[SINK] = [name for name in table.prompts if name in set(first)]
        subsets[ELSEWHERE] = [name for name in table.prompts if name not in set(first)]
    effects, differences, totals = [], [], []
    windows = sorted({int(width) for width in table.frame.loc[table.frame["component"] == "mlp", "window"].unique()})
    for name, prompts in subsets.items():
        part = Table(table.frame[table.frame["prompt"].isin(prompts)].reset_index(drop=True), table.meta)
        for metric in METRICS:
            place = {"subset": name, "metric": metric}
            effects.append(analysis.average_indirect_effects(part, metric, seed=args.seed).assign(**place))
            for what, one, other in pairs(windows):
                found = analysis.difference_of_effects(part, one, other, metric, seed=args.seed)
                differences.append(found.assign(what=what, **place))
            total = analysis.average_total_effect(part, metric, seed=args.seed).rename_axis("run").reset_index()
            totals.append(total.assign(**place))
    folder = results(args)
    write_frame(folder / "aie-effects.parquet", pd.concat(effects, ignore_index=True), {})
    write_frame(folder / "aie-differences.parquet", pd.concat(differences, ignore_index=True), {})
    return {
        "totals": rows(pd.concat(totals, ignore_index=True)),
        "windows": windows,
        "window": args.window,
        "subject_first": len(first),
    }


def against(table: Table, other: Table, seed: int) -> pd.DataFrame:
    """AIE of one table minus that of another on the facts they share, paired; columns as of a difference."""
    grids = []
    for one in (table, other):
        effects = analysis.role_effects(one)
        key = ["component", "severed", "window", "role", "layer"]
        grids.append(effects.pivot(index="prompt", columns=key, values="effect"))
    cells = grids[0].columns.intersection(grids[1].columns)
    shared = grids[0].index.intersection(grids[1].index)
    if not len(shared):
        return pd.DataFrame()
    found = analysis.bootstrap_mean((grids[0] - grids[1]).loc[shared, cells].to_numpy(float), seed=seed)
    ends = {"estimate": found.estimate, "low": found.low, "high": found.high, "n_prompts": found.n}
    return cells.to_frame(index=False).assign(**ends)


def main(argv: Sequence[str] | None = None) -> None:
    """Trace, and make the tables."""
    parser = arguments(__doc__, 100)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--window", type=int, default=5, help="layers restored at once")
    parser.add_argument("--more-windows", type=int, nargs="*", default=[3, 10], help="traced after it")
    parser.add_argument("--more-facts", type=int, help="of those windows; default: all")
    parser.add_argument("--only", type=int, help="trace no more than so many of the facts that are missing")
    parser.add_argument("--summary", action="store_true", help="trace nothing, make the tables of what is there")
    args = parsed(parser, argv)
    asked = (read_json(results(args) / "aie.json") or {}).get("asked")
    if not args.summary:
        model = load(args)
        facts, asked = known_facts(model, args, KNOWN, args.facts)
        trace(model, facts, args)
    table, first, costs = tables(results(args), args.window)
    if table is None:
        raise SystemExit(f"nothing is traced in {results(args)} yet; leave out --summary")
    found = summarise(table, first, args)
    spent = {name: sum(cost[name] for cost in costs) for name in ("facts", "seconds", "cpu_seconds")}
    kept = ("model", "draws", "noise_level", "n_layers", "token_layers", "versions")
    meta = {name: table.meta[name] for name in kept if name in table.meta}
    write_json(results(args) / "aie.json", {**spent, "asked": asked, "meta": meta, **found})
    if args.prepend is not None:
        bare = argparse.Namespace(**{**vars(args), "prepend": None})
        other, _, _ = tables(args.out / called(bare), args.window)
        if other is not None:
            write_frame(results(args) / "aie-prepended.parquet", against(table, other, args.seed), {})
    print(f"{called(args)}: effects of {spent['facts']} facts are in {results(args)}")


if __name__ == "__main__":
    started(main)

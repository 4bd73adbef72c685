"""Where a model keeps what it knows: average indirect effects on facts of known_1000 that it completes right.

    python -m benchmarks.real.aie --model gemma3-270m --facts 100
    python -m benchmarks.real.aie --model smollm2-135m --facts 100 --prepend eos

Restored are the residual state of one layer, MLPs and attention in windows of 3, 5 and 10 layers, and the residual
state with the MLPs and with attention severed, at every token (so in all six roles), by the exact engine; the noise is
three times the standard deviation of the embeddings of all subjects of known_1000, the published rule.

Ten facts at a time are traced into `aie/NNNN`, so that a killed run goes on and a larger `--facts` adds to it;
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


def programs(level: float, draws: int, windows: Sequence[int], seed: int) -> list[Program]:
    """What is restored and severed."""
    noise = corrupt(embed @ subject, Gaussian(SIGMAS, draws=draws, seed=seed, level=level))
    found = [noise | restore(resid.each @ every)]
    found += [noise | restore(kind.window(width) @ every) for width in windows for kind in (mlp, attn)]
    return found + [noise | restore(resid.each @ every) | sever(kind @ here) for kind in (mlp, attn)]


def trace(model: Model, facts: Sequence[Fact], args: argparse.Namespace) -> None:
    """Trace what is missing, ten facts at a time."""
    level = SIGMAS * embedding_sigma(model, [fact.subject for fact in facts_of(args, KNOWN)])
    asked_for = programs(level, args.draws, args.windows, args.seed)
    done = 0
    for start in range(0, len(facts), AT_ONCE):
        some = facts[start : start + AT_ONCE]
        folder = results(args) / "aie" / f"{start // AT_ONCE:04d}"
        settings = {
            "names": [fact.prompt.name for fact in some], "draws": args.draws, "windows": list(args.windows),
            "seed": args.seed, "model": model.fingerprint(),
        }  # fmt: skip
        if (read_json(folder / "cost.json") or {}).get("settings") == settings:
            continue
        if args.only is not None and done >= args.only:
            return
        done += len(some)
        if not args.quiet:
            print(f"{called(args)}: facts {start + 1} to {start + len(some)} of {len(facts)}", flush=True)
        started, cpu = time.perf_counter(), time.process_time()
        mi.trace(model, some, asked_for, out=folder, progress=not args.quiet)
        cost = {"facts": len(some), "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        first = [fact.prompt.name for fact in some if fact.prompt.template.startswith("{}")]
        write_json(folder / "cost.json", {**cost, "subject_first": first, "settings": settings})


def tables(folder: Path) -> tuple[Table | None, list[str], list[dict[str, Any]]]:
    """All that was traced, as one table; the prompts that begin with their subject; what each ten cost."""
    frames: list[Table] = []
    first, costs = list[str](), list[dict[str, Any]]()
    for path in sorted((folder / "aie").glob("*/cost.json")):
        cost = read_json(path)
        frames.append(Table.load(path.parent / "table.parquet"))
        first += cost["subject_first"]
        costs.append(cost)
    if not frames:
        return None, [], []
    meta = {**frames[0].meta, "prompts": sum(cost["facts"] for cost in costs)}
    return Table(pd.concat([one.frame for one in frames], ignore_index=True), meta), first, costs


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
    return {"totals": rows(pd.concat(totals, ignore_index=True)), "windows": windows, "subject_first": len(first)}


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
    parser.add_argument("--windows", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--only", type=int, help="trace no more than so many of the facts that are missing")
    parser.add_argument("--summary", action="store_true", help="trace nothing, make the tables of what is there")
    args = parsed(parser, argv)
    asked = (read_json(results(args) / "aie.json") or {}).get("asked")
    if not args.summary:
        model = load(args)
        facts, asked = known_facts(model, args, KNOWN, args.facts)
        trace(model, facts, args)
    table, first, costs = tables(results(args))
    if table is None:
        raise SystemExit(f"nothing is traced in {results(args)} yet; leave out --summary")
    found = summarise(table, first, args)
    spent = {name: sum(cost[name] for cost in costs) for name in ("facts", "seconds", "cpu_seconds")}
    kept = ("model", "draws", "noise_level", "n_layers", "token_layers", "versions")
    meta = {name: table.meta[name] for name in kept if name in table.meta}
    write_json(results(args) / "aie.json", {**spent, "asked": asked, "meta": meta, **found})
    if args.prepend is not None:
        bare = argparse.Namespace(**{**vars(args), "prepend": None})
        other, _, _ = tables(args.out / called(bare))
        if other is not None:
            write_frame(results(args) / "aie-prepended.parquet", against(table, other, args.seed), {})
    print(f"{called(args)}: effects of {spent['facts']} facts are in {results(args)}")


if __name__ == "__main__":
    started(main)

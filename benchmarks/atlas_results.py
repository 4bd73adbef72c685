"""The figures of the README: where the bundled models keep their facts, and what ROME does to them by layer.

    python benchmarks/atlas_results.py trace --model atlas --facts 300 --out results
    python benchmarks/atlas_results.py rome  --model atlas --variant default --facts 200 --out results

Each call writes one file and can be run beside others, one process per core; an interrupted `rome` goes on where it
stopped.  `essence` measures the drift of the subject; `summary` prints the tables from whatever files are there.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pandas as pd
import torch

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.editing import EDITORS, Options, RomeReport, SecondMoment, collect_moments, r_rome, sample_contexts
from mechinterp.facts.prompts import Fact

MOMENT_TOKENS = 60_000
CONTEXT_SEED = 0
MEAN_KEYS = r_rome.presets["default"].with_(keys="mean", value_contexts=())
"""What the tables of the README were made with: the mean key over sampled contexts."""
VARIANTS = {
    "default": {"editor": r_rome},
    "mean-keys": {"editor": r_rome, "hparams": MEAN_KEYS},
    "no-kl": {"editor": r_rome, "hparams": MEAN_KEYS.with_(kl_factor=0.0)},
    "identity": {"editor": r_rome, "hparams": MEAN_KEYS},
    "code": {"editor": EDITORS["rome"], "hparams": EDITORS["rome"].presets["code"]},
}


def facts_known_to_both(count: int, seed: int) -> list[Fact]:
    """A seeded sample of facts that both bundled models know."""
    known = {fact.id for fact in atlas.known_facts("atlas-plain")}
    return random.Random(seed).sample([fact for fact in atlas.known_facts("atlas") if fact.id in known], count)


def run_trace(args: argparse.Namespace) -> None:
    """Causal tracing of one model."""
    model = mi.load(args.model)
    facts = facts_known_to_both(args.facts, args.seed)
    table = mi.trace(model, facts, seed=args.seed, window=args.window, out=args.out / f"trace-{args.model}")
    figure = analysis.plot_aie(table)
    figure.savefig(args.out / f"aie-{args.model}.png", dpi=110)


def run_rome(args: argparse.Namespace) -> None:
    """ROME at every layer, each edit undone before the next."""
    model = mi.load(args.model)
    layers = list(range(model.n_layers)) if args.layers is None else args.layers
    if args.variant == "identity":
        moments = {layer: SecondMoment.identity(model, layer) for layer in layers}
    else:
        texts = atlas.corpus(name=args.model)
        moments = collect_moments(model, texts, layers, max_tokens=MOMENT_TOKENS, progress=False)
    analysis.rome_by_layer(
        model,
        facts_known_to_both(args.facts, args.seed),
        layers,
        moments,
        options=Options(seed=CONTEXT_SEED, allow_disabling=True),
        out=args.out / f"rome-{args.model}-{args.variant}-{'-'.join(map(str, layers))}.jsonl",
        progress=args.progress,
        **VARIANTS[args.variant],
    )


def run_essence(args: argparse.Namespace) -> None:
    """How far the subject's own next-token distribution drifts, with and without the KL term."""
    model = mi.load(args.model)
    layer = 3 if args.layers is None else args.layers[0]
    moment = SecondMoment.collect(model, atlas.corpus(name=args.model), layer, max_tokens=MOMENT_TOKENS, progress=False)
    hparams = MEAN_KEYS
    contexts = sample_contexts(model, hparams.context_lengths, seed=CONTEXT_SEED)
    rows = []
    for fact in facts_known_to_both(args.facts, args.seed):
        for kl in (True, False):
            own = hparams if kl else hparams.with_(kl_factor=0.0)
            edit = r_rome(model, [fact], [layer], moments=moment, contexts=contexts, hparams=own, allow_disabling=True)
            report = edit.report
            assert isinstance(report, RomeReport)
            rows += [
                {"kl": kl, "after": drift.text.split(fact.subject)[-1], "nats": drift.applied}
                for drift in report.essence
            ]
    frame = pd.DataFrame(rows)
    print(f"\n## essence drift on {args.model}, layer {layer}, {args.facts} facts: KL(edited || original), nats")
    for (kl, after), part in frame.groupby(["kl", "after"]):
        found = analysis.bootstrap_mean(part["nats"].to_numpy()[:, None])
        where = f"{found.estimate[0]:.3f} [{found.low[0]:.3f}, {found.high[0]:.3f}]"
        print(f"| {'with' if kl else 'without'} KL | after '{{}}{after}' | {where} |")


def summary(args: argparse.Namespace) -> None:
    """Print the tables of the README from the files of earlier runs."""
    for path in sorted(args.out.glob("*/table.parquet")):
        print_trace(mi.Table.load(path))
    for model in atlas.names():
        for variant in VARIANTS:
            records = [
                json.loads(line)
                for path in sorted(args.out.glob(f"rome-{model}-{variant}-*.jsonl"))
                for line in path.read_text(encoding="utf-8").splitlines()
            ]
            rows = [
                {"layer": r["layer"], "record": r["record"], "relation": r["relation"], **value}
                for r in records
                if "values" in r
                for value in r["values"]
            ]
            if rows:
                print_rome(model, variant, pd.DataFrame(rows))


def print_trace(table: mi.Table) -> None:
    """Average indirect effects at the two sites, in points of probability."""
    meta = table.meta
    print(
        f"\n## {meta['model']}: {meta['prompts']} facts, {meta['draws']} draws, window {meta['window']}; "
        "estimate ± half of the 95 % interval (± half of the simultaneous band)"
    )
    totals = analysis.average_total_effect(table)
    print("total effect", points(totals.loc["total_effect"]), "clean", points(totals.loc["clean"]))
    print({key: meta[key] for key in ("cells", "no_op_cells", "checked_cells", "largest_difference")})
    effects = analysis.average_indirect_effects(table)
    for role in ("last subject", "last"):
        for (component, severed), line in effects[effects["role"] == role].groupby(
            ["component", "severed"], sort=False
        ):
            cells = " | ".join(with_band(row) for _, row in line.sort_values("layer").iterrows())
            print(f"| {role} | {component} | {severed} | {cells} |")
    pairs = [
        ({"component": "mlp"}, {"component": "attn"}),
        ({"component": "resid"}, {"component": "resid", "severed": "mlp"}),
        ({"component": "resid"}, {"component": "resid", "severed": "attn"}),
    ]
    for first, second in pairs:
        difference = analysis.difference_of_effects(table, first, second)
        part = difference[difference["role"] == "last subject"].sort_values("layer")
        print(
            f"| last subject | {first} - {second} | " + " | ".join(with_band(row) for _, row in part.iterrows()) + " |"
        )


def print_rome(model: str, variant: str, frame: pd.DataFrame) -> None:
    """Scores after the edit by layer, in points."""
    found = analysis.layer_summary(frame.assign(value=frame["value"].astype(float), seconds=0.0, failed=""))
    after = found[found["stage"] == "after"]
    print(f"\n## ROME on {model}, {variant}: {frame['record'].nunique()} facts")
    wanted = ["ES", "PS", "NS", "S", "same_subject_kept"]
    print("| layer | " + " | ".join(wanted) + " |")
    for layer, part in after.groupby("layer"):
        by_metric = part.set_index("metric")
        print(f"| {layer} | " + " | ".join(points(by_metric.loc[m]) for m in wanted if m in by_metric.index) + " |")


def with_band(row: pd.Series) -> str:
    """Estimate, half of its interval and half of its simultaneous band, times 100."""
    interval, band = 50 * (row["high"] - row["low"]), 50 * (row["band_high"] - row["band_low"])
    return f"{100 * row['estimate']:.1f} ± {interval:.1f} ({band:.1f})"


def points(row: pd.Series) -> str:
    """Estimate and interval times 100."""
    return f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trace", "rome", "essence", "summary"))
    parser.add_argument("--model", default="atlas", choices=atlas.names())
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--variant", default="default", choices=tuple(VARIANTS))
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--window", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    {"trace": run_trace, "rome": run_rome, "essence": run_essence, "summary": summary}[args.what](args)


if __name__ == "__main__":
    main()

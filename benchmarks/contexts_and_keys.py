"""Under which contexts a value is sought, and at which key it is written: the same facts by every rule.

    python benchmarks/contexts_and_keys.py --model atlas --facts 100 --layer 3
    python benchmarks/contexts_and_keys.py --model FOLDER --records counterfact.json --text wiki.txt --layer 12

Prints a table: ES, PS, NS and their harmonic mean S with 95 % intervals over facts (bootstrap), the share of edits
after which the target is the model's own answer ("said"), the median and the largest error at the bare prompt's key,
how many edits the key ratio refuses, and seconds an edit.  `--editor memit` writes all facts at once.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from statistics import median

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.editing import EDITORS, collect_moments, edit_each, sample_contexts
from mechinterp.editing.rows.contexts import BARE, PLAIN_CONTEXTS
from mechinterp.facts.prompts import Fact

METRICS = ("ES", "PS", "NS", "S")
SINGLE = [
    ("bare prompt alone", "bare", "bare"),
    ("plain sentences", "plain", "bare"),
    ("plain sentences", "plain", "mean"),
    ("plain sentences", "plain", "half"),
    ("plain sentences", "plain", "mixed"),
    ("sampled", "sampled", "bare"),
    ("sampled (r-rome before)", "sampled", "mean"),
    ("sampled (rome before)", "sampled", "mixed"),
]
TOGETHER = [
    ("plain sentences", "plain", "bare"),
    ("plain sentences", "plain", "half"),
    ("sampled", "sampled", "bare"),
    ("sampled (before)", "sampled", "half"),
]


def facts_of(args: argparse.Namespace) -> list[Fact]:
    """Known facts of a bundled model, or records of a file, no two of one subject; the same ones each time."""
    if args.records is None:
        known = atlas.known_facts(args.model)
    else:
        known = mi.read_facts(args.records)
    chosen = {fact.subject: fact for fact in random.Random(args.seed).sample(known, len(known)) if fact.target_new}
    return list(chosen.values())[: args.facts]


def main() -> None:
    """Run every variant and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--prepend")
    parser.add_argument("--records", type=Path, help="facts of another model, as CounterFact has them")
    parser.add_argument("--text", type=Path, help="what its keys are collected from, a paragraph a line")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--layer", type=int, nargs="+", default=[3])
    parser.add_argument("--editor", default="rome")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--variants", type=int, nargs="*", help="only those with these numbers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = mi.load(args.model, prepend=args.prepend)
    facts = facts_of(args)
    if args.text is None:
        texts = atlas.corpus(name=args.model)
    else:
        texts = [line.strip() for line in args.text.read_text(encoding="utf-8").splitlines() if len(line) > 200]
    moments = collect_moments(model, texts, args.layer, max_tokens=args.tokens, progress=False)
    for layer, moment in moments.items():
        print(f"{moment}, effective rank {moment.effective_rank:.0f}", flush=True)
        moments[layer] = moment.repaired("shrinkage") if moment.is_singular else moment
    method = EDITORS[args.editor]
    default = method.presets["default"]
    sampled = sample_contexts(model, default.context_lengths, starts=default.context_starts, seed=0)
    contexts = {"bare": (BARE,), "plain": PLAIN_CONTEXTS, "sampled": sampled}
    print("| contexts of v* | written at | said | " + " | ".join(METRICS) + " | error at the bare key | refused | s |")
    before = analysis.evaluate_edits(model, [analysis.Failed("none")] * len(facts), facts, progress=False)
    print(line("unedited", "", "", before, "before", "", "", 0), flush=True)
    for number, (name, templates, keys) in enumerate(SINGLE if args.editor in ("rome", "r-rome") else TOGETHER):
        if args.variants and number not in args.variants:
            continue
        hparams = default.with_(keys=keys)
        started = time.perf_counter()
        given = {"moments": moments, "contexts": contexts[templates], "hparams": hparams, "allow_disabling": True}
        if method.batch:
            edit = method(model, facts, args.layer, **given)
            said = [outcome.success for outcome in edit.report.outcomes]
            seconds, made, errors, refused = time.perf_counter() - started, edit, "", ""
        else:
            edits = edit_each(model, method, facts, args.layer, progress=False, **given)
            seconds, made = time.perf_counter() - started, edits
            reports = [edit.report for edit in edits if isinstance(edit, mi.Edit)]
            said = [report.success for report in reports]
            found = [report.error_at_bare_key for report in reports]
            errors = f"{median(found):.2f} ({max(found):.2f})"
            low, high = hparams.key_ratio_band
            refused = str(sum(not low <= report.key_ratio <= high for report in reports))
        judged = analysis.evaluate_edits(model, made, facts, progress=False)
        share = f"{100 * sum(said) / len(facts):.0f}"
        print(line(name, keys, share, judged, "after", errors, refused, seconds / len(facts)), flush=True)


def line(
    name: str, keys: str, said: str, judged: analysis.Evaluation, stage: str, errors: str, refused: str, seconds: float
) -> str:
    """A row of the table."""
    summary = judged.summary()
    rows = summary[summary["stage"] == stage].set_index("metric")
    figures = [
        f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        for row in (rows.loc[metric] for metric in METRICS)
    ]
    return f"| {name} | {keys} | {said} | {' | '.join(figures)} | {errors} | {refused} | {seconds:.2f} |"


if __name__ == "__main__":
    main()

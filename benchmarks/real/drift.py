"""How far an edit moves what its subject is, with and without the KL term; and how much text C needs.

    python -m benchmarks.real.drift --model gemma3-270m --facts 30

`essence`: ROME on `--facts` records of CounterFact with the default KL factor, without any, and with a factor of 1: KL
of the next token after a neutral sentence about the subject, edited against unedited, in nats.  `text`: cosine of C⁻¹k*
of the same facts with its direction after all of the text, by tokens per unit of the layer.

Writes `drift.jsonl` (a line for each fact and factor), `drift.json` and `moments-convergence.parquet`; a killed run
goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from mechinterp import analysis
from mechinterp.editing import EDITORS, Convergence, EditRequest, RomeReport, collect_moments
from mechinterp.editing.rows.subjects import read_at_subjects
from mechinterp.errors import MechinterpError
from mechinterp.facts.prompts import Fact
from mechinterp.models.model import Model
from mechinterp.runs.frames import write_frame
from mechinterp.runs.identity import Identity
from mechinterp.runs.journal import Journal
from mechinterp.runs.progress import progress_bar

from .edits import editable
from .second_moments import layer_of, moments_at
from .setting import arguments, called, load, parsed, results, started, texts_of, write_json


def factors() -> dict[str, float]:
    """What stands before the KL term."""
    return {"default": EDITORS["rome"].presets["default"].kl_factor, "none": 0.0, "one": 1.0}


def essence(model: Model, args: argparse.Namespace) -> None:
    """Edit each fact with each factor, and measure."""
    at, facts = layer_of(model, args), editable(model, args, args.facts)
    moments = moments_at(model, args, [at])
    fields = {
        "model": model.fingerprint(), "layer": at, "seed": args.seed, "moment": moments[at].fingerprint(),
        "hparams": repr(EDITORS["rome"].presets["default"]),
    }  # fmt: skip
    journal = Journal(results(args) / "drift.jsonl", Identity.of("measuring of drift", fields))
    total = len(facts) * len(factors())
    with journal.opened(), progress_bar("edits", total, shown=not args.quiet) as advance:
        done = {(record["fact"], record["kl"]) for record in journal.records}
        for fact in facts:
            for name, factor in factors().items():
                if (fact.id, name) not in done:
                    journal.add(
                        {"fact": fact.id, "kl": name, "factor": factor, **_edited(model, fact, at, factor, moments)}
                    )
                advance(1)
        names = {fact.id for fact in facts}
        found = [record for record in journal.records if record["fact"] in names]
    write_json(
        results(args) / "drift.json", {"layer": at, "facts": len(facts), **_summary(pd.DataFrame(found), args.seed)}
    )


def _edited(model: Model, fact: Fact, at: int, factor: float, moments: Any) -> dict[str, Any]:
    hparams = EDITORS["rome"].presets["default"].with_(kl_factor=factor)
    try:
        edit = EDITORS["rome"](model, [fact], [at], moments=moments, hparams=hparams, allow_disabling=True)
    except MechinterpError as error:
        return {"failed": str(error)}
    report = edit.report
    assert isinstance(report, RomeReport)
    drift = {one.text.rpartition(fact.subject)[2]: one.applied for one in report.essence}
    return {"failed": "", "drift": drift, "said": report.success, "target_after": report.target_after}


def _summary(records: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Means with intervals by factor and sentence; and the paired difference to the default factor."""
    made = records[records["failed"] == ""]
    rows = [
        {"fact": row["fact"], "kl": row["kl"], "after": after, "nats": nats}
        for row in made.to_dict("records")
        for after, nats in row["drift"].items()
    ]
    wide = pd.DataFrame(rows).pivot(index="fact", columns=["after", "kl"], values="nats")
    said = made.pivot(index="fact", columns="kl", values="said").astype(float)
    found: list[dict[str, Any]] = []
    for after, kl in wide.columns:
        own = wide[after, kl].dropna()
        entry = {"after": after, "kl": kl, "n": len(own), "nats": _interval(own, seed)}
        if kl != "default" and (after, "default") in wide.columns:
            entry["more_than_default"] = _interval((wide[after, kl] - wide[after, "default"]).dropna(), seed)
        found.append(entry)
    return {"drift": found, "said": {str(kl): _interval(said[kl].dropna(), seed) for kl in said.columns}}


def _interval(values: pd.Series, seed: int) -> list[float]:
    found = analysis.bootstrap_mean(values.to_numpy(float)[:, None], seed=seed)
    return [float(found.estimate[0]), float(found.low[0]), float(found.high[0])]


def text(model: Model, args: argparse.Namespace) -> None:
    """Collect the second moment of one layer, and look as it grows."""
    at = layer_of(model, args)
    keys = {at: _keys(model, editable(model, args, args.facts), at)}
    watch = Convergence(keys=keys)
    out = results(args) / "moments" / "convergence"
    collect_moments(
        model, texts_of(args), [at], max_tokens=args.text_tokens, watch=watch, out=out, progress=not args.quiet
    )
    frame = watch.table().assign(units=model.d_mlp, per_unit=lambda table: table["tokens"] / model.d_mlp)
    write_frame(results(args) / "moments-convergence.parquet", frame, {"layer": at, "keys": len(keys[at])})


def _keys(model: Model, facts: Sequence[Fact], at: int) -> Tensor:
    """Those of the bare prompts at the last token of the subject."""
    hook = model.layout.key_hook(at)
    found = read_at_subjects(model, [EditRequest.of(fact) for fact in facts], ["{}"], (hook,))[hook]
    return found.reshape(len(facts), -1)


WHAT = {"essence": essence, "text": text}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = arguments(__doc__, 30)
    parser.add_argument("--what", nargs="+", choices=tuple(WHAT), default=list(WHAT))
    parser.add_argument("--layer", type=int)
    parser.add_argument("--tokens", type=int, default=100_000, help="of the second moment that edits start from")
    parser.add_argument("--text-tokens", type=int, help="of `text`; default: all there are")
    args = parsed(parser, argv)
    model = load(args)
    for what in args.what:
        WHAT[what](model, args)
    print(f"{called(args)}: drift and convergence are in {results(args)}")


if __name__ == "__main__":
    started(main)

"""Which facts of known_1000 and CounterFact does a model complete right by itself?

    python -m benchmarks.real.known --model smollm2-135m

Writes `known-known_1000.jsonl` and `known-counterfact.jsonl` (a line per hundred facts as they are asked: known or not,
probabilities, what was said instead) and `known.json` (shares, time).  Known is a fact whose whole answer is the greedy
continuation of its prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd

from mechinterp import analysis
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact
from mechinterp.models.model import Model
from mechinterp.runs.identity import Identity
from mechinterp.runs.journal import Journal
from mechinterp.runs.progress import progress_bar

from .setting import COUNTERFACT, KNOWN, arguments, called, facts_of, load, parsed, results, rows, started, write_json

AT_ONCE = 100
"""Facts between one line of the journal and the next."""


@contextmanager
def _journal(model: Model, args: argparse.Namespace, name: str) -> Iterator[Journal]:
    identity = Identity.of("asking of facts", {"model": model.fingerprint(), "prepend": args.prepend, "facts": name})
    journal = Journal(results(args) / f"known-{name}.jsonl", identity)
    with journal.opened():
        yield journal


def asked(model: Model, args: argparse.Namespace, name: str, *, known: int | None = None) -> pd.DataFrame:
    """Ask the first facts of a set, and go on from what was asked before.

    Args:
        model: the model.
        args: of the command line; `facts` is how many are asked.
        name: of the set.
        known: ask as far as it takes to find that many known ones, instead.

    Returns:
        A row per fact in order: id, text, answer, known, prob, said, prob_new (of the false object, where there is
        one), refused (why it cannot be asked).
    """
    facts = facts_of(args, name)
    facts = facts if known is not None else facts[: args.facts]
    found: list[dict[str, Any]] = []
    with _journal(model, args, name) as journal, progress_bar(name, len(facts), shown=not args.quiet) as advance:
        done = {row["id"]: row for record in journal.records for row in record["rows"]}
        for start in range(0, len(facts), AT_ONCE):
            some = facts[start : start + AT_ONCE]
            missing = [fact for fact in some if fact.id not in done]
            if missing:
                started, cpu = time.perf_counter(), time.process_time()
                new = _ask(model, missing)
                seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
                journal.add({"rows": new, "seconds": seconds, "cpu_seconds": cpu})
                done |= {row["id"]: row for row in new}
            found += [done[fact.id] for fact in some]
            advance(len(some))
            if known is not None and sum(row["known"] for row in found) >= known:
                break
    return pd.DataFrame(found)


def _ask(model: Model, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Those that the tokenizer cannot do are kept with the reason, so that n stays stated."""
    refused = {fact.id: reason for fact in facts if (reason := refusal(model, fact))}
    able = [fact for fact in facts if fact.id not in refused]
    frame = analysis.known(model, able, progress=False)
    other = [replace(fact, prompt=fact.prompt.with_answer(fact.target_new)) for fact in able if fact.target_new]
    new = analysis.known(model, other, progress=False)
    frame["prob_new"] = frame["id"].map(dict(zip(new["id"], new["prob"], strict=True)))
    asked = {row["id"]: {**row, "refused": ""} for row in rows(frame)}
    nothing = {"known": False, "prob": None, "said": "", "prob_new": None}
    for fact in facts:
        if fact.id in refused:
            place = {"id": fact.id, "text": fact.prompt.text, "answer": fact.answer}
            asked[fact.id] = {**place, **nothing, "refused": refused[fact.id]}
    return [asked[fact.id] for fact in facts]


def refusal(model: Model, fact: Fact) -> str:
    """Why the tokenizer cannot do a fact's sentence with its answers; empty where it can."""
    try:
        model.tokenise(fact.prompt)
        if fact.target_new is not None:
            model.tokenise(fact.prompt.with_answer(fact.target_new))
    except UsageError as error:
        return str(error)
    return ""


def known_facts(model: Model, args: argparse.Namespace, name: str, count: int) -> tuple[list[Fact], int]:
    """The first so many known facts of a set, and how many were asked for them."""
    frame = asked(model, args, name, known=count)
    right = set(frame.loc[frame["known"].astype(bool), "id"])
    return [fact for fact in facts_of(args, name) if fact.id in right][:count], len(frame)


def summary(frame: pd.DataFrame) -> dict[str, Any]:
    """Shares of the facts that could be asked, with intervals."""
    able = frame[frame["refused"] == ""]
    columns = {"known": able["known"].astype(float)}
    both = able.dropna(subset=["prob_new"])
    if len(both):
        columns["true_above_new"] = (both["prob"] > both["prob_new"]).astype(float)
    found: dict[str, Any] = {"given": len(frame), "asked": len(able), "right": int(able["known"].sum())}
    for name, values in columns.items():
        share = analysis.bootstrap_share(values.to_numpy()[:, None])
        found[name] = {"estimate": share.estimate[0], "low": share.low[0], "high": share.high[0], "n": len(values)}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Ask both sets."""
    args = parsed(arguments(__doc__, 2000), argv)
    model = load(args)
    found: dict[str, Any] = {"model": called(args), "prepend": args.prepend}
    for name in (KNOWN, COUNTERFACT):
        frame = asked(model, args, name)
        with _journal(model, args, name) as journal:
            cpu = sum(record["cpu_seconds"] for record in journal.records)
            per_fact = cpu / sum(len(record["rows"]) for record in journal.records)
        found[name] = {**summary(frame), "cpu_seconds_per_fact": per_fact}
        print(f"{called(args)}: {found[name]['right']} of {found[name]['asked']} facts of {name} are known")
        write_json(results(args) / "known.json", found)


if __name__ == "__main__":
    started(main)

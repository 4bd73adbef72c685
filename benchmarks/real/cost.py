"""What work on a real model costs: seconds and memory, and what the estimate of a trace is worth.

    python -m benchmarks.real.cost --model gemma3-270m --facts 5

Loading; the trace of `aie.py` (its main window) on `--facts` facts, estimated by `plan` and taken; a ROME edit; tokens
per second of a second moment.  Writes `cost.json`, part by part.  Wall-clock seconds mean something on a machine that
does nothing else; CPU-seconds nearly always.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import mechinterp as mi
from mechinterp.editing import EDITORS, collect_moments
from mechinterp.errors import MechinterpError
from mechinterp.models.model import Model
from mechinterp.patching import embedding_sigma, run_plan
from mechinterp.runs.peak_memory import peak_memory

from .aie import SIGMAS, programs
from .edits import editable
from .known import known_facts
from .second_moments import layer_of, moments_at
from .setting import KNOWN, arguments, called, facts_of, load, parsed, read_json, results, started, texts_of, write_json


@contextmanager
def measured(found: dict[str, Any]) -> Iterator[None]:
    """Seconds, CPU-seconds and peak memory of a block, added to a dictionary."""
    begun, cpu = time.perf_counter(), time.process_time()
    with peak_memory(torch.device("cpu")) as peak:
        yield
    found |= {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    found |= {"peak_memory_mb": peak.megabytes, "memory_is": peak.kind}


def traced(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """The trace of `aie.py`."""
    level = SIGMAS * embedding_sigma(model, [fact.subject for fact in facts_of(args, KNOWN)])
    facts, _ = known_facts(model, args, KNOWN, args.facts)
    found: dict[str, Any] = {"facts": len(facts), "draws": args.draws, "window": args.window}
    plan = mi.plan(model, facts, programs(level, args.draws, args.seed, args.window)).timed()
    found["estimated_seconds"] = plan.seconds
    found["token_layers"] = plan.price.token_layers
    found["naive_token_layers"] = plan.price.naive_token_layers
    with measured(found):
        run_plan(plan, progress=not args.quiet)
    return found


def edited(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """ROME on each of the facts, one at a time."""
    at, facts = layer_of(model, args), editable(model, args, args.facts)
    moments, failed = moments_at(model, args, [at]), 0
    found: dict[str, Any] = {"facts": len(facts), "layer": at}
    with measured(found):
        for fact in facts:
            try:
                EDITORS["rome"](model, [fact], [at], moments=moments, allow_disabling=True)
            except MechinterpError:
                failed += 1
    return {**found, "failed": failed}


def collected(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """A second moment of a few thousand tokens."""
    at = layer_of(model, args)
    found: dict[str, Any] = {"layer": at}
    with measured(found):
        moment = collect_moments(model, texts_of(args), [at], max_tokens=4000, progress=False)[at]
    return {**found, "tokens": moment.tokens}


WHAT = {"trace": traced, "edit": edited, "moment": collected}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = arguments(__doc__, 5)
    parser.add_argument("--what", nargs="+", choices=tuple(WHAT), default=list(WHAT))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--tokens", type=int, default=100_000, help="of the second moment that edits start from")
    args = parsed(parser, argv)
    path = results(args) / "cost.json"
    found = read_json(path) or {}
    found["load"] = {}
    with measured(found["load"]):
        model = load(args)
    found["machine"] = {"cores": os.cpu_count(), "threads": args.threads, "torch": torch.__version__}
    for what in args.what:
        found[what] = WHAT[what](model, args)
        write_json(path, found)
    print(f"{called(args)}: costs are in {path}")


if __name__ == "__main__":
    started(main)

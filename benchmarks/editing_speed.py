"""Many edits at once against the plain loops of this project: value optimisation, and evaluation of single edits.

    python benchmarks/editing_speed.py --edits 500 --threads 1

All ways run on the same facts in one run, in turns of 250 facts, and must give the same numbers.  Values are found in
three ways: together; one by one; and one by one in whole forwards, every token and layer each time, as the published
implementation does (on a tenth of the facts, and scaled).
"""

from __future__ import annotations

import argparse
import random
import time
from unittest import mock

import pandas as pd
import torch

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.editing import EDITORS, EditRequest, SecondMoment, rome, sample_contexts
from mechinterp.editing.value.value import values_of

LAYER = 3
TURN = 250
PLAIN_SHARE = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = mi.load("atlas")
    moments = SecondMoment.collect(model, atlas.corpus(), LAYER, max_tokens=60_000, progress=False)
    hparams = EDITORS["rome"].presets["default"]
    contexts = sample_contexts(model, hparams.context_lengths)
    facts = random.Random(0).sample([fact for fact in mi.atlas.known_facts() if fact.target_new], args.edits)
    seconds = {
        "values, whole forwards": 0.0,
        "values, one by one": 0.0,
        "values, together": 0.0,
        "judged, one by one": 0.0,
        "judged, together": 0.0,
    }
    worst = {"values": 0.0, "metrics": 0.0}
    for start in range(0, len(facts), TURN):
        some = facts[start : start + TURN]
        requests = [EditRequest.of(fact) for fact in some]
        with mock.patch("mechinterp.editing.value.value.best_way", return_value="whole"):
            began = time.perf_counter()
            for request in requests[::PLAIN_SHARE]:
                values_of(model, [request], LAYER, contexts=contexts, hparams=hparams, progress=False)
            seconds["values, whole forwards"] += (time.perf_counter() - began) * PLAIN_SHARE
        began = time.perf_counter()
        alone = [
            values_of(model, [request], LAYER, contexts=contexts, hparams=hparams, progress=False)[0]
            for request in requests
        ]
        seconds["values, one by one"] += time.perf_counter() - began
        began = time.perf_counter()
        together = values_of(model, requests, LAYER, contexts=contexts, hparams=hparams, progress=False)
        seconds["values, together"] += time.perf_counter() - began
        for one, other in zip(alone, together, strict=True):
            worst["values"] = max(worst["values"], float((one.v_star - other.v_star).norm() / one.v_star.norm()))
        edits = [
            rome(model, fact, LAYER, moments=moments, contexts=contexts, values=[value], allow_disabling=True)
            for fact, value in zip(some, together, strict=True)
        ]
        began = time.perf_counter()
        loop = [analysis.evaluate_edit(model, edit, fact) for edit, fact in zip(edits, some, strict=True)]
        seconds["judged, one by one"] += time.perf_counter() - began
        began = time.perf_counter()
        batched = analysis.evaluate_edits(model, edits, some, progress=False)
        seconds["judged, together"] += time.perf_counter() - began
        worst["metrics"] = max(worst["metrics"], _difference(loop, batched.records))
        done = start + len(some)
        print(f"{done} edits: " + ", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items()), flush=True)
    for way in ("values, whole forwards", "values, one by one", "judged, one by one"):
        together = f"{way.split(',')[0]}, together"
        print(f"{way}: {seconds[way] / seconds[together]:.1f} times as long as together")
    print(f"largest relative difference of a value {worst['values']:.1e}, of a record's metric {worst['metrics']:.1e}")


def _difference(loop: list[dict[str, object]], records: pd.DataFrame) -> float:
    """Largest difference between what both ways say of a record."""
    wide = records.set_index(["record", "stage", "metric"])["value"]
    gaps = [
        abs(wide[(found["record"], stage, metric)] - value)
        for found in loop
        for stage in ("before", "after")
        for metric, value in found[stage].items()  # type: ignore[attr-defined]
    ]
    return float(max(gaps))


if __name__ == "__main__":
    main()

"""Does the damage come where the forecast says?  Risk of other facts from keys alone, and what single edits then did.

python benchmarks/forecasts.py --edits 150 --facts 200 --editors r-rome,memit,ft-l
"""

from __future__ import annotations

import argparse
import random
import time

import pandas as pd
import torch

import mechinterp as mi
from mechinterp import analysis, atlas
from mechinterp.editing import EDITORS, collect_moments, edit_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=150)
    parser.add_argument("--facts", type=int, default=200, help="other facts asked per edit, sampled anew for each")
    parser.add_argument("--editors", default="r-rome,memit,ft-l")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = mi.load("atlas")
    known = mi.atlas.known_facts()
    edited = random.Random(2).sample([fact for fact in known if fact.target_new], args.edits)
    moments = collect_moments(model, atlas.corpus(), list(range(model.n_layers)), max_tokens=60_000, progress=False)
    pd.set_option("display.width", 160)
    for name in args.editors.split(","):
        began = time.perf_counter()
        edits = edit_each(model, EDITORS[name], edited, moments=moments, allow_disabling=True, progress=False)
        made = time.perf_counter()
        risk = analysis.forecast(model, edits, known, moments=moments, sample=args.facts)
        foreseen = time.perf_counter()
        damage = analysis.diff(model, edits, known, sample=args.facts)
        print(
            f"\n{name}: {args.edits} edits in {made - began:.0f} s, forecast in {foreseen - made:.1f} s, "
            f"measured in {time.perf_counter() - foreseen:.1f} s; {damage['changed'].mean():.1%} of the facts changed"
        )
        for predictor in ("risk", "overlap"):
            table = analysis.forecast_correlation(risk, damage, predictor=predictor)
            print(f"by {predictor}:\n{table.round(3).to_string(index=False)}", flush=True)


if __name__ == "__main__":
    main()

"""How many tokens does a second moment need?  The direction C⁻¹k* of facts, against tokens per unit.

    python benchmarks/moments_convergence.py --shape atlas --out results
    MECHINTERP_DATA=... python benchmarks/moments_convergence.py --shape gpt2-small --out results
    python benchmarks/moments_convergence.py --figure docs/moments-convergence.png --out results

`atlas`: layer 3 of the bundled model, text of its own kind, the truth from other text.  `gpt2-small`: a random model
of that shape (768, 3,072 units) on wikitext's words; there is no truth to be had from 280,000 tokens: shown is the
estimate that `mechinterp moments` shows, one look against the look before, which for independent tokens is the cosine
with the truth.  Each call writes one table; `--figure` draws those that are there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Tokenizer

import mechinterp as mi
from mechinterp import atlas
from mechinterp.editing import Convergence, EditRequest, SecondMoment, collect_moments, sample_contexts
from mechinterp.editing.moments.spectrum import cholesky_solver
from mechinterp.editing.rows.subjects import over_contexts, read_at_subjects
from mechinterp.models.model import Model

FACTS = 64
PUBLISHED = 10
"""Tokens per unit that are said to be enough (Gupta et al. 2025)."""


def fact_keys(model: Model, layer: int) -> torch.Tensor:
    """k* of facts: averaged over contexts, as an edit takes it."""
    requests = [EditRequest.of(fact) for fact in mi.atlas.known_facts() if fact.target_new][: FACTS * 7 : 7]
    hook = model.layout.key_hook(layer)
    return over_contexts(read_at_subjects(model, requests, sample_contexts(model), (hook,))[hook])


def of_atlas() -> pd.DataFrame:
    """Against a truth from other text: 612,000 tokens, 1,200 per unit."""
    model, layer = mi.load("atlas"), 3
    truth = SecondMoment.collect(model, _corpora(100, 112), layer, progress=False)
    text = _corpora(200, 208)
    keys = fact_keys(model, layer)
    wanted = truth.solve(keys)
    rows = []
    for per_unit in (2, 4, 6, 10, 20, 45, 91, 183, 366):
        moment = SecondMoment.collect(model, text, layer, max_tokens=per_unit * model.d_mlp, progress=False)
        found = _directions(moment, keys)
        if found is None or moment.tokens < per_unit * model.d_mlp:
            continue
        cosine = torch.nn.functional.cosine_similarity(found, wanted)
        rows.append(("atlas, layer 3", per_unit, float(cosine.median()), float(cosine.quantile(0.1)), truth.tokens))
    return pd.DataFrame(rows, columns=["model", "tokens_per_unit", "cosine", "low", "truth_tokens"])


def _corpora(first: int, last: int) -> list[str]:
    return [text for seed in range(first, last) for text in atlas.corpus(seed)]


def of_gpt2_small() -> pd.DataFrame:
    """The live estimate on GPT-2's shape and vocabulary."""
    data = Path(os.environ["MECHINTERP_DATA"])
    tokenizer = GPT2Tokenizer(str(data / "gpt2" / "vocab.json"), str(data / "gpt2" / "merges.txt"))
    torch.manual_seed(0)
    model = mi.load(
        AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2")), tokenizer=tokenizer, name="gpt2-small"
    )
    layer = 1
    watch = Convergence(until=None)
    collect_moments(model, _paragraphs(data / "wikitext2_valid.txt"), [layer], watch=watch)
    looks = watch.table()
    return pd.DataFrame(
        {
            "model": "GPT-2-small shape, random",
            "tokens_per_unit": looks["tokens"] / model.d_mlp,
            "cosine": looks["cosine"],
            "low": looks["low"],
            "truth_tokens": 0,
        }
    )


def _paragraphs(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line


def _directions(moment: SecondMoment, keys: torch.Tensor) -> torch.Tensor | None:
    """C⁻¹k, None while C is singular."""
    solve = None if moment.is_singular else cholesky_solver(moment.matrix)
    return None if solve is None else solve(keys.T).T


def draw(tables: list[pd.DataFrame]) -> Figure:
    """Median and lower decile over the keys, against tokens per unit."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for colour, table in zip(("#0072B2", "#D55E00"), tables, strict=False):
        shown = table.dropna(subset=["cosine"])
        name = shown["model"].iloc[0]
        axes.plot(shown["tokens_per_unit"], shown["cosine"], "o-", color=colour, label=f"{name}: median key")
        axes.plot(shown["tokens_per_unit"], shown["low"], "--", color=colour, label="nine keys in ten above")
    axes.axhline(0.99, color="black", lw=0.8)
    axes.axvline(PUBLISHED, color="black", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("tokens per unit of the MLP (dotted: said to be enough)")
    axes.set_ylabel("cosine of C⁻¹k with its final direction")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("atlas", "gpt2-small"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.shape:
        table = of_atlas() if args.shape == "atlas" else of_gpt2_small()
        table.to_csv(args.out / f"convergence-{args.shape}.csv", index=False)
        print(table.to_string(index=False))
    if args.figure:
        paths = [args.out / f"convergence-{shape}.csv" for shape in ("atlas", "gpt2-small")]
        draw([pd.read_csv(path) for path in paths if path.is_file()]).savefig(args.figure, dpi=110)


if __name__ == "__main__":
    main()

"""The demonstration: trace facts on two models, edit one, and count what editing breaks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pandas as pd
import torch

from .. import analysis, atlas
from ..analysis.intervals import why_no_interval, with_interval
from ..analysis.plots.style import save_figure
from ..editing import Edit, RomeReport, SecondMoment, r_rome
from ..errors import MechinterpError
from ..facts.prompts import Fact
from ..models.loading import load
from ..models.model import Model
from ..patching import Table, trace
from ..patching.algebra.recipes import default_window
from ..runs.files import write_text
from ..runs.folder import OutFolder
from .screen import Console

EDIT_LAYER = 3
EARLY_LAYER, LATE_LAYER, SEVERED_LAYER = 3, 6, 2
"""Where atlas has its sites (docs/atlas.md), fixed beforehand so that the intervals mean what they say."""
MOMENT_TOKENS = 60_000
_FIGURES = [f"{what}-{name}.png" for what in ("aie", "prompt") for name in atlas.names()]
CARD = "both models are synthetic, and atlas was trained to have its early site: see docs/atlas.md"


def run_demo(out: Path, *, facts: int, edits: int, seed: int, progress: bool = True) -> None:
    """Run the whole demonstration and write its figures and tables.

    Args:
        out: folder for the results.
        facts: how many facts to trace on each model.
        edits: how many facts to edit, each edit undone.
        seed: of the choice of facts, the noise and the contexts.
        progress: show bars.
    """
    started = time.perf_counter()
    console = Console()
    OutFolder(out).claim(*_FIGURES, "edit.safetensors", "edits.json")
    console.print("mechinterp demo", style="bold")
    console.print(CARD)
    models = {name: load(name) for name in atlas.names()}
    both = {fact.id for fact in atlas.known_facts("atlas-plain")}
    known = [fact for fact in atlas.known_facts("atlas") if fact.id in both]
    chosen = random.Random(seed).sample(known, min(max(facts, edits), len(known)))
    edits = min(edits, len(chosen))
    for line in choices(len(chosen[:facts]), edits, len(known), models["atlas"], seed, out):
        console.print(line)
    console.print()
    for number, (name, model) in enumerate(models.items(), start=1):
        console.print(f"{number}. Where does {name} keep its facts?", style="bold")
        _trace(console, model, chosen[:facts], out, seed, progress)
    model = models["atlas"]
    console.print(f"3. Change one fact of atlas, at layer {EDIT_LAYER}", style="bold")
    texts = atlas.corpus()
    moment = SecondMoment.collect(model, texts, EDIT_LAYER, max_tokens=MOMENT_TOKENS, progress=progress)
    if not moment.complete:
        raise MechinterpError(f"interrupted while keys were collected; the traces are in {out}")
    _edit_one(console, model, moment, chosen[0], out, seed)
    console.print(f"4. Change {edits} facts, one at a time, and count what else changes", style="bold")
    _edit_many(console, model, moment, chosen[:edits], out, seed, progress)
    console.print(f"done in {time.perf_counter() - started:.0f} s; written to {out}/")


def choices(facts: int, edits: int, known: int, model: Model, seed: int, out: Path) -> list[str]:
    """What was chosen for the user, and how to choose otherwise."""
    threads = torch.get_num_threads()
    return [
        "chosen for you, where nothing else is asked for:",
        f"   {facts} facts to trace (--facts), {edits} to edit (--edits), of the {known} that both models know",
        f"   seed {seed} (--seed)",
        f"   noise of 3 sigma, 10 draws, windows of {default_window(model.n_layers)} layers",
        f"   r-ROME at layer {EDIT_LAYER}, with a second moment from {MOMENT_TOKENS:,} tokens of the models' own text",
        f"   PyTorch {torch.__version__} on {model.device}, {threads} thread{'' if threads == 1 else 's'} (--threads)",
        f"   results in {out}/ (--out)",
    ]


def _trace(console: Console, model: Model, facts: list[Fact], out: Path, seed: int, progress: bool) -> None:
    table = trace(model, facts, seed=seed, out=out / f"trace-{model.name}", progress=progress)
    save_figure(analysis.plot_aie(table, seed=seed), out / f"aie-{model.name}.png")
    save_figure(analysis.plot_prompt(table), out / f"prompt-{model.name}.png")
    for sentence in site_sentences(table, seed):
        console.print(f"   {sentence}")
    console.print(f"   figures: aie-{model.name}.png, prompt-{model.name}.png\n")


def site_sentences(table: Table, seed: int) -> list[str]:
    """What a trace says about the early and the late site, in words with intervals (probability x 100)."""
    effects = analysis.average_indirect_effects(table, seed=seed)
    totals = analysis.average_total_effect(table, seed=seed)
    total = totals.loc["total_effect"]
    found = [
        f"{len(table.prompts)} facts: corrupting the subject takes away {_points(total)} points of probability",
    ]
    for role, layer, label in (("last subject", EARLY_LAYER, "early"), ("last", LATE_LAYER, "late")):
        for component in ("mlp", "attn"):
            part = effects[
                (effects["role"] == role)
                & (effects["component"] == component)
                & (effects["severed"] == "none")
                & (effects["layer"] == layer)
            ].iloc[0]
            found.append(
                f"{label} site? restoring {component.upper() if component == 'mlp' else 'attention'} around layer "
                f"{layer} at the {role} token gives back {_points(part)}"
            )
    resid = effects[(effects["component"] == "resid") & (effects["role"] == "last subject")]
    for severed in ("none", "mlp", "attn"):
        line = resid[(resid["severed"] == severed) & (resid["layer"] == SEVERED_LAYER)]
        if len(line):
            what = {"none": "nothing", "mlp": "the MLPs", "attn": "attention"}[severed]
            found.append(
                f"residual of layer {SEVERED_LAYER} restored at the last subject token, {what} severed: "
                f"{_points(line.iloc[0])}"
            )
    return [*found, *filter(None, [why_no_interval(len(table.prompts), "fact")])]


def _points(row: pd.Series) -> str:
    return with_interval(row, ".1f", 100)


def _edit_one(console: Console, model: Model, moment: SecondMoment, fact: Fact, out: Path, seed: int) -> None:
    edit = r_rome(model, fact, EDIT_LAYER, moments=moment, seed=seed)
    edit.save(out / "edit.safetensors")
    report = edit.report
    assert isinstance(report, RomeReport)
    console.print(
        f"   {fact.prompt.text!r}: {fact.answer!r} -> {fact.target_new!r}   P(new) {report.target_before:.4f} -> "
        f"{report.target_after:.4f}",
    )
    for line in _before_and_after(model, edit, fact):
        console.print(f"   {line}")
    size = (out / "edit.safetensors").stat().st_size
    console.print(f"   the edit: edit.safetensors, {size / 1000:.1f} KB\n")


def _before_and_after(model: Model, edit: Edit, fact: Fact) -> list[str]:
    """The model's own next token before and after, on questions of every kind."""
    asked = [("paraphrase", question.text) for question in fact.paraphrases[:2]]
    asked += [("neighbour", question.text) for question in fact.neighbourhood[:2]]
    asked += [("same subject", prompt.text) for prompt in fact.same_subject[:2]]
    before = [model.complete(text) for _, text in asked]
    with edit.on(model):
        after = [model.complete(text) for _, text in asked]
    return [
        f"{kind:13} {text!r}: {old!r} -> {new!r}{'' if old == new else '   (changed)'}"
        for (kind, text), old, new in zip(asked, before, after, strict=True)
    ]


def _edit_many(
    console: Console, model: Model, moment: SecondMoment, facts: list[Fact], out: Path, seed: int, progress: bool
) -> None:
    frame = analysis.edit_by_layer(
        model,
        facts,
        [EDIT_LAYER],
        lambda fact, layer: r_rome(model, fact, layer, moments=moment, seed=seed, allow_disabling=True),
        progress=progress,
    )
    summary = analysis.layer_summary(frame, seed=seed)
    write_text(out / "edits.json", summary.to_json(orient="records", indent=1))
    after = summary[summary["stage"] == "after"].set_index("metric")
    names = {
        "ES": "efficacy", "PS": "paraphrase", "NS": "neighbourhood", "S": "harmonic mean",
        "same_subject_kept": "same subject's other facts kept",
    }  # fmt: skip
    for metric, words in names.items():
        if metric in after.index:
            console.print(f"   {words} ({metric}): {_points(after.loc[metric])}")
    if why := why_no_interval(len(facts), "fact"):
        console.print(f"   {why}")
    console.print("   scores: edits.json\n")

"""`mechinterp evaluate`: a leaderboard of editors, with intervals."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from . import options
from .evaluate_words import (
    GROUPS,
    layers_given,
    layers_needed,
    metrics_of,
    numbers_of,
    presets_given,
    ways_of,
    words_of,
)
from .screen import Console

if TYPE_CHECKING:
    from ..analysis import Leaderboard, Portability, References
    from ..facts.prompts import Fact


def evaluate(
    model: options.ModelName,
    facts: Annotated[str, typer.Argument(help="`atlas`, `atlas-plain`, or a CounterFact, zsRE or JSON-lines file.")],
    editors: Annotated[str, typer.Option(help="Names of editors, comma-separated; or `all`.")] = "rome,memit",
    edits: Annotated[
        str,
        typer.Option(
            help="How: `single` or `1` (each fact alone), `batch` (one edit of several facts), `sequential` (one after "
            "the other, judged after the last); or several, comma-separated."
        ),
    ] = "single",
    sizes: Annotated[str, typer.Option(help="Facts in a batch or sequence, comma-separated.")] = "1,10,100",
    groups: Annotated[
        int | None, typer.Option(min=1, help="At most so many batches or sequences of a size; default: all.")
    ] = None,
    per_step: Annotated[int, typer.Option(min=1, help="Facts edited together in each step of a sequence.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="A seeded sample of this many facts.")] = 100,
    relation: Annotated[str | None, typer.Option(help="Only facts of this relation.")] = None,
    metrics: Annotated[
        str,
        typer.Option(help=f"`{'`, `'.join(GROUPS)}` (GE and RS), `all`, or names of metrics; comma-separated."),
    ] = "counterfact",
    moments: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders of `mechinterp moments`; the bundled models collect what is missing."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="EDITOR=LAYERS, such as memit=3,4,5; repeat it. Default: the published layers."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="EDITOR=NAME, such as memit=code; repeat it. Default: each editor's `default`."),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of reference texts (.jsonl) for RS; bundled facts have their own.")
    ] = None,
    held_text: Annotated[
        str | None, typer.Option(help="Text (.txt, .jsonl, or `atlas`) whose perplexity is measured after each edit.")
    ] = None,
    held_limit: Annotated[int, typer.Option(min=1, help="How many documents of it.")] = 20,
    allow_conflicts: Annotated[
        bool, typer.Option("--allow-conflicts", help="Accept batches that contradict themselves.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward when judging.")] = 128,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: options.Out = Path("evaluation"),
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Edit facts with several editors and judge all of them in the same way, every number with its 95 % interval.

    Writes `table.md`, `summary.parquet` (every metric before and after), `records.parquet` (every fact), `costs.csv`
    (seconds and memory), `comparisons.csv` (paired differences) and figures into the folder given with `--out`.  What
    is finished is kept there: after Ctrl-C, a crash or a kill the same command goes on.

    Examples:

        mechinterp evaluate atlas atlas --editors rome,r-rome,memit --limit 50 --out runs/editors

        mechinterp evaluate atlas atlas --editors rome,memit --edits batch,sequential --sizes 1,10,100 --held-text atlas

        mechinterp evaluate gpt2-xl counterfact.json --editors rome,memit --moments moments --metrics all
            --references attributes --device cuda --out runs/xl
    """
    from .. import analysis
    from ..analysis.evaluation.questions import questions
    from ..analysis.trials.plans import check_plan
    from ..editing.editors.registry import EDITORS, editor
    from ..facts.readers import read_facts
    from ..facts.texts import read_texts
    from .layer_moments import check_moments, layer_moments

    names = list(EDITORS) if editors == "all" else [editor(name).name for name in words_of(editors)]
    if not names:
        raise UsageError(f"--editors is {editors!r}; give names of editors, comma-separated, or `all`")
    ways = ways_of(edits)
    wanted, numbers = metrics_of(metrics, held_text is not None), numbers_of(sizes)
    own_layers = layers_given(layers or [], names)
    for its_layers in own_layers.values():
        options.check_layers(model, its_layers, "--layers")
    presets_given(None, preset or [], names)
    check_moments(moments or [])
    every = read_facts(facts, skip_bad=skip_bad)
    given = options.with_objects(options.choose(every, facts, None, relation, seed), facts, ("target_new",))
    chosen = options.sample(given, limit, seed)
    check_plan(chosen, ways, numbers, groups, per_step)
    questions(chosen, wanted)
    held = (
        []
        if held_text is None
        else list(islice(read_texts(held_text, skip_bad=skip_bad), min(held_limit, sys.maxsize)))
    )
    compared_with = _references(facts, references, wanted, skip_bad=skip_bad)
    loaded = options.load_model(model, device, dtype, threads)
    hparams = presets_given(loaded, preset or [], names)
    needed = layers_needed(loaded, names, own_layers)
    board = analysis.leaderboard(
        loaded, chosen, names, edits=ways, sizes=numbers, groups=groups, per_step=per_step,
        moments=layer_moments(loaded, needed, moments or [], quiet=quiet), layers=own_layers,
        hparams=hparams, metrics=wanted,
        portability=_portability(every, chosen, wanted), references=compared_with,
        held_texts=held, allow_conflicts=allow_conflicts, seed=seed, batch_size=batch_size, out=out,
        progress=not quiet,
    )  # fmt: skip
    report(board, out, loaded.name, seed=seed)


def report(board: Leaderboard, out: Path, name: str, *, seed: int = 0) -> None:
    """Write the tables and figures of a leaderboard, and print the short table."""
    from .. import analysis
    from .printing import print_table

    console = Console(soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    summary = board.summary(seed=seed)
    files = ["table.md", "summary.parquet", "records.parquet", "costs.csv"]
    (out / "table.md").write_text(board.markdown(summary=summary), encoding="utf-8")
    summary.to_parquet(out / "summary.parquet", index=False)
    board.records.to_parquet(out / "records.parquet", index=False)
    board.costs.to_csv(out / "costs.csv", index=False)
    compared = board.comparisons(seed=seed)
    if len(compared):
        compared.to_csv(out / "comparisons.csv", index=False)
        files.append("comparisons.csv")
    for edits in dict.fromkeys(board.records["edits"]):
        figure = analysis.plot_leaderboard(board, str(edits), summary=summary, meta={"model": name})
        figure.savefig(out / f"leaderboard-{edits}.png", dpi=150)
        files.append(f"leaderboard-{edits}.png")
    for editor, found in board.retention.items():
        metric = "ES_acc" if "ES_acc" in set(found.records["metric"]) else str(found.records["metric"].iloc[0])
        analysis.plot_retention(found, metric, meta={"model": name, "method": editor}).savefig(
            out / f"retention-{editor}.png", dpi=150
        )
        files.append(f"retention-{editor}.png")
    facts = board.records["record"].nunique()
    intervals = ", with 95 % intervals" if summary["low"].notna().any() else ""
    title = f"{facts} facts on {name}; shares in per cent{intervals}"
    print_table(console, title, *_fitting(*board.rows(summary=summary, decimals=0), console.width))
    for note in board.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"written to {out}: {', '.join(files)}", highlight=False)


def _fitting(headings: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """As many metrics as the terminal has room for; table.md has all of them."""
    widths = [3 + max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    metrics = range(3, len(headings) - 3)  # between the names and the costs
    while metrics and 1 + sum(widths[i] for i in (0, 1, 2, *metrics, len(headings) - 3, len(headings) - 1)) > width:
        metrics = metrics[:-1]
    kept = [0, 1, 2, *(metrics or range(3, 4)), len(headings) - 3, len(headings) - 1]
    return [headings[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _portability(every: list[Fact], chosen: list[Fact], metrics: list[str]) -> dict[str, Portability] | None:
    from ..analysis import portability_of

    if not any(metric.startswith("portability") for metric in metrics):
        return None
    return portability_of(chosen, every)


def _references(source: str, folder: Path | None, metrics: list[str], *, skip_bad: bool) -> References | None:
    from .. import atlas
    from ..analysis import References, atlas_references, read_references

    if folder is not None and "RS" not in metrics:
        raise UsageError("--references are what RS compares with, and --metrics has no RS; add it, or leave them out")
    if folder is not None:
        return References(read_references(folder, skip_bad=skip_bad))
    if source in atlas.names() and "RS" in metrics:
        return atlas_references(atlas.facts(source), source)
    return None

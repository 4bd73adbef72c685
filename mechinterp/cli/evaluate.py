"""`mechinterp evaluate`: a leaderboard of editors, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..runs.files import write_text
from ..runs.folder import OutFolder
from . import choosing, options
from .running import DEFAULT, Running, expanded, kept
from .screen import Console
from .words import (
    GROUPS,
    layers_given,
    layers_needed,
    metrics_of,
    numbers_of,
    presets_given,
    ways_of,
    words_of,
)

if TYPE_CHECKING:
    from ..analysis import Leaderboard, Portability, References
    from ..facts.prompts import Fact


@expanded
def evaluate(
    model: options.ModelName,
    facts: Annotated[str, typer.Argument(help="`atlas`, `atlas-plain`, or a file: CounterFact, zsRE, JSON lines, ...")],
    editors: Annotated[str, typer.Option(help="Names; or `all` that need no training first.")] = "rome,memit",
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
    chat: options.Chat = False,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: options.Out = Path("evaluation"),
    running: Running = DEFAULT,
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
    from ..analysis.trials.contest import Contest
    from ..analysis.trials.plans import check_plan
    from ..analysis.trials.store import NAMES
    from ..editing.editors.registry import EDITORS, editor
    from ..reading.facts import read_facts
    from ..reading.texts import read_texts
    from ..runs.ranks import ranks
    from .layer_moments import check_moments, layer_moments

    ready = [name for name, one in EDITORS.items() if one.ready]
    names = ready if editors == "all" else [editor(name).name for name in words_of(editors)]
    for name in names:
        if name not in ready:
            raise UsageError(
                f"{name} must be trained first, and `evaluate` takes no trained network; edit with it: "
                f"mechinterp edit --editor {name} --trained FOLDER"
            )
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
    given = choosing.with_objects(choosing.choose(every, facts, None, relation, seed), facts, ("target_new",))
    chosen = choosing.sample(given, limit, seed)
    check_plan(chosen, Contest(edits=ways, sizes=numbers, groups=groups, per_step=per_step))
    questions(chosen, wanted)
    held: list[str] = []
    if held_text is not None:
        held = list(islice(read_texts(held_text, skip_bad=skip_bad), min(held_limit, sys.maxsize)))
    compared_with = _references(facts, references, wanted, skip_bad=skip_bad)
    OutFolder(out).check(*NAMES, *_files(ways, names))
    with ranks(running.device or "cpu") as me:
        quiet = running.quiet or not me.is_first
        loaded = running.load(model, me)
        asked = [loaded.chat(fact) for fact in chosen] if chat else chosen
        portability = _portability(every, chosen, wanted)
        if chat and portability is not None:
            portability = {name: one.each(loaded.chat) for name, one in portability.items()}
        hparams = presets_given(loaded, preset or [], names)
        needed = layers_needed(loaded, names, own_layers)
        board = analysis.leaderboard(
            loaded, asked, names, edits=ways, sizes=numbers, groups=groups, per_step=per_step,
            moments=layer_moments(loaded, needed, moments or [], quiet=quiet), layers=own_layers,
            hparams=hparams, metrics=wanted, portability=portability, references=compared_with,
            held_texts=held, allow_conflicts=allow_conflicts, seed=seed, batch_size=batch_size, out=out,
            progress=not quiet,
        )  # fmt: skip
        if me.is_first:
            with kept(f"all trials are in {out}: start the same evaluation again for the rest"):
                report(board, out, loaded.name, seed=seed)


def _files(ways: Sequence[str], editors: Sequence[str]) -> list[str]:
    """What a report can consist of."""
    figures = [*(f"leaderboard-{way}.png" for way in ways), *(f"retention-{editor}.png" for editor in editors)]
    return ["table.md", "summary.parquet", "records.parquet", "costs.csv", "comparisons.csv", *figures]


def report(board: Leaderboard, out: Path, name: str, *, seed: int = 0) -> None:
    """Write the tables and figures of a leaderboard, and print the short table."""
    from .. import analysis
    from ..analysis.plots.style import save_figure
    from ..runs.frames import write_frame
    from .printing import print_table

    console, folder = Console(), OutFolder(out)
    ways = [str(edits) for edits in dict.fromkeys(board.records["edits"])]
    folder.claim(*_files(ways, list(board.retention)))
    summary = board.summary(seed=seed)
    files = ["table.md", "summary.parquet", "records.parquet", "costs.csv"]
    write_text(folder / "table.md", board.markdown(summary=summary))
    write_frame(folder / "summary.parquet", summary, {})
    write_frame(folder / "records.parquet", board.records, {})
    write_text(folder / "costs.csv", board.costs.to_csv(index=False))
    compared = board.comparisons(seed=seed)
    if len(compared):
        write_text(folder / "comparisons.csv", compared.to_csv(index=False))
        files.append("comparisons.csv")
    for edits in ways:
        figure = analysis.plot_leaderboard(board, edits, summary=summary, meta={"model": name})
        save_figure(figure, folder / f"leaderboard-{edits}.png")
        files.append(f"leaderboard-{edits}.png")
    for editor, found in board.retention.items():
        metric = "ES_acc" if "ES_acc" in set(found.records["metric"]) else str(found.records["metric"].iloc[0])
        figure = analysis.plot_retention(found, metric, meta={"model": name, "method": editor})
        save_figure(figure, folder / f"retention-{editor}.png")
        files.append(f"retention-{editor}.png")
    facts = board.records["record"].nunique()
    intervals = ", with 95 % intervals" if summary["low"].notna().any() else ""
    title = f"{facts} facts on {name}; shares in per cent{intervals}"
    print_table(console, title, *_fitting(*board.rows(summary=summary, decimals=0), console.width))
    for note in board.notes:
        console.print(f"note: {note}")
    console.print(f"written to {out}: {', '.join(files)}")


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

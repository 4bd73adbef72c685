"""`mechinterp trace`: where a model keeps what it says about some subjects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..runs.files import write_text
from ..runs.folder import OutFolder
from . import choosing, options
from .running import DEFAULT, Running, expanded, kept
from .screen import Console

MOST_LAYERS, MOST_SIGMAS, MOST_DRAWS = 1000, 1000.0, 100_000

if TYPE_CHECKING:
    from ..facts.prompts import Fact
    from ..patching import Table

_EFFECTS, _AIE, _PROMPT = _FILES = ("effects.json", "aie.png", "prompt.png")


@expanded
def trace(
    model: options.ModelName,
    facts: Annotated[
        str | None,
        typer.Argument(help="A file of facts (in any published shape, JSON lines, CSV) or `atlas`; or give --prompt."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="One template with {} where the subject goes.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject of --prompt.")] = None,
    answer: Annotated[str | None, typer.Option(help="The answer; default: the model's own next token.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Trace a seeded sample of this many facts.")] = None,
    relation: Annotated[str | None, typer.Option(help="Only facts of this relation.")] = None,
    known: Annotated[
        bool, typer.Option("--known", help="Ask the model first, and trace facts whose whole answer it says itself.")
    ] = False,
    kinds: Annotated[str, typer.Option(help="What to restore, comma-separated: resid,mlp,attn.")] = "resid,mlp,attn",
    severed: Annotated[str, typer.Option(help="What to sever while the residual is restored: mlp,attn.")] = "mlp,attn",
    window: Annotated[
        int | None, typer.Option(min=1, max=MOST_LAYERS, help="Layers restored at once; default by depth.")
    ] = None,
    sigmas: Annotated[
        float,
        typer.Option(
            min=0.0, max=MOST_SIGMAS, callback=options.finite, help="Noise in standard deviations of token embeddings."
        ),
    ] = 3.0,
    draws: Annotated[
        int, typer.Option(min=1, max=MOST_DRAWS, help="Noise draws per prompt; fewer than 10 are few.")
    ] = 10,
    reference: Annotated[
        bool, typer.Option("--reference", help="Reproduce the published implementation, with its own noise.")
    ] = False,
    seed: options.Seed = 0,
    out: options.Out = Path("trace"),
    memory: options.Memory = None,
    engine: Annotated[
        str, typer.Option(help="exact: only what a patch can change; plain: every cell in full; auto: exact if it can.")
    ] = "auto",
    chat: options.Chat = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what the run costs, and stop.")] = False,
    skip_bad: options.SkipBad = False,
    running: Running = DEFAULT,
) -> None:
    """Causal tracing: corrupt the subject, restore one site at a time, see what brings the answer back.

    Writes `table.parquet` (one row per cell and draw), `effects.json` (average indirect effects with intervals) and
    figures into the folder given with `--out`.  Finished facts are kept there as they come: after Ctrl-C, a crash or a
    kill the same command goes on.  Under torchrun the processes share the facts.

    Examples:

        mechinterp trace atlas atlas --limit 50 --out runs/atlas

        mechinterp trace gpt2-xl known_1000.json --limit 200 --explain

        mechinterp trace gpt2-xl known_1000.json --limit 200 --device cuda --out runs/xl

        torchrun --nproc-per-node 2 -m mechinterp trace atlas atlas --out runs/all

        mechinterp trace atlas --prompt "{} was born in" --subject "Marta Halberg" --out runs/one
    """
    from .. import patching
    from ..patching.traces.run_directory import NAMES
    from ..runs.ranks import Ranks

    _check(engine, kinds=_words(kinds), severed=_words(severed), out=out)
    if not explain:
        OutFolder(out).check(*NAMES, *_FILES)
    if known and facts is None:
        raise UsageError("--known belongs to a fact file, and there is none; leave it out")
    sampled = None if known else limit  # of the known ones, once they are
    prompts = _prompts(facts, prompt, subject, answer, sampled, relation, seed, skip_bad=skip_bad)
    prompts = choosing.with_objects(prompts, facts or "", ("answer",)) if known else prompts
    loaded = running.load(model)
    prompts = [loaded.chat(fact) for fact in prompts] if chat else prompts
    prompts = choosing.known_to(loaded, prompts, limit, seed, quiet=running.quiet) if known else prompts
    plan = patching.plan(
        loaded, prompts, kinds=_words(kinds), severed=_words(severed), window=window, sigmas=sigmas, draws=draws,
        seed=0 if reference else seed, reference=reference, engine=engine, memory=memory,
    )  # fmt: skip
    if explain:
        Console().print(str(plan.timed()))
        return
    table = patching.run_plan(plan, out=out, progress=not running.quiet)
    if Ranks.current().is_first:
        with kept(f"the table is in {out}: start the same run again for the rest"):
            report(table, out, seed=seed)


def report(table: Table, out: Path, *, seed: int = 0) -> None:
    """Write the effects and figures of a trace, and print what matters of them."""
    from .. import analysis
    from ..analysis.plots.style import save_figure
    from .printing import print_effects

    console = Console()
    folder, files = OutFolder(out), ["table.parquet"]
    folder.claim(*_FILES)
    if len(table.prompts) > 1:
        effects = analysis.average_indirect_effects(table, seed=seed)
        totals = analysis.average_total_effect(table, seed=seed)
        content = {
            "meta": table.meta,
            "total_effect": json.loads(totals.reset_index(names="what").to_json(orient="records")),
            "average_indirect_effects": json.loads(effects.to_json(orient="records")),
        }
        write_text(folder / _EFFECTS, json.dumps(content, indent=1))
        save_figure(analysis.plot_aie(table, seed=seed), folder / _AIE)
        files += [_EFFECTS, _AIE]
        print_effects(console, effects, totals)
    save_figure(analysis.plot_prompt(table), folder / _PROMPT)
    for finding in analysis.diagnose(table):
        console.print(f"note: {finding.sentence}")
    console.print(f"written to {out}: {', '.join([*files, _PROMPT])}")


def _prompts(
    facts: str | None,
    prompt: str | None,
    subject: str | None,
    answer: str | None,
    limit: int | None,
    relation: str | None,
    seed: int,
    *,
    skip_bad: bool,
) -> list[Fact]:
    from ..facts.prompts import Fact, Prompt

    if (facts is None) == (prompt is None):
        raise UsageError("give either a fact file (or `atlas`) or --prompt with --subject, and not both")
    one = {"--subject": subject, "--answer": answer}
    many = {"--limit": limit, "--relation": relation, "--skip-bad": skip_bad or None}
    given = [option for option, value in (one if prompt is None else many).items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} belongs to {'--prompt' if prompt is None else 'a fact file'}, and there is none; leave it out"
        )
    if facts is not None:
        return choosing.choose_facts(facts, limit, relation, seed, skip_bad=skip_bad)
    if subject is None or prompt is None:
        raise UsageError("--prompt needs --subject: the words that fill its {}")
    return [Fact(Prompt(prompt, subject, answer))]


def _check(engine: str, *, kinds: list[str], severed: list[str], out: Path) -> None:
    """Look at what is to be traced, and how, before anything is read."""
    from ..patching.algebra.recipes import check_words
    from ..patching.traces.options import ENGINES

    check_words(kinds, severed)
    if not kinds and not severed:
        raise UsageError("there is nothing to trace: --kinds and --severed are both empty")
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}; choose {', '.join(ENGINES)}")
    if out.suffix == ".parquet":
        raise UsageError(f"--out is the folder of a run, not a file; give a folder in place of {str(out)!r}")


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))

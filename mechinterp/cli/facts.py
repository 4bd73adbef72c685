"""`mechinterp facts`: look at fact files, and convert them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..runs.files import write_text
from . import choosing, options
from .running import Running, check_new
from .screen import Console

if TYPE_CHECKING:
    from ..facts.prompts import Fact
    from ..models.model import Model


def facts(
    source: Annotated[
        str,
        typer.Argument(
            help="`atlas`, `atlas-plain`, or a file of facts: JSON, JSON lines or CSV in any of the published shapes."
        ),
    ],
    relation: Annotated[str | None, typer.Option(help="Only facts of this relation.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    model: Annotated[
        str | None,
        typer.Option(
            callback=options.model_name, help="Check that each subject is found under this model's tokenizer."
        ),
    ] = None,
    known: Annotated[
        bool,
        typer.Option("--known", help="With --model: ask it, and keep the facts whose whole answer it says itself."),
    ] = False,
    jsonl: Annotated[Path | None, typer.Option(help="Write all of them as JSON lines to this file.")] = None,
    counterfact: Annotated[
        Path | None, typer.Option(help="Write the bundled facts in the CounterFact shape to this file.")
    ] = None,
    skip_bad: options.SkipBad = False,
    prepend: options.Prepend = None,
) -> None:
    """List the facts of a file or of a bundled world, check them against a tokenizer, or convert them.

    Examples:

        mechinterp facts atlas --relation born_in

        mechinterp facts known_1000.json --model gpt2

        mechinterp facts known_1000.json --model gpt2 --known --jsonl known.jsonl

        mechinterp facts atlas --counterfact atlas.json
    """
    from .. import atlas
    from ..formats.readers import name_of_shape, write_jsonl
    from ..reading.facts import read_facts
    from .printing import print_table

    if counterfact is not None and relation is not None:
        raise UsageError("--counterfact writes every fact of a bundled model; leave --relation out, or use --jsonl")
    if known and model is None:
        raise UsageError("--known asks a model; give it with --model")
    if prepend is not None and model is None:
        raise UsageError("--prepend is of a model; give it with --model")
    for written in (jsonl, counterfact):
        if written is not None:
            check_new(written)
    if counterfact is not None and source not in atlas.names():
        raise UsageError(f"--counterfact writes the facts of the bundled models, and {source!r} is none of them")
    console = Console()
    found = choosing.of_relation(read_facts(source, skip_bad=skip_bad), relation, source)
    loaded = None if model is None else Running(prepend=prepend).load(model)
    if known and loaded is not None:
        found = _known(console, loaded, found)
    rows = [(fact.prompt.text, fact.answer or "", fact.target_new or "", fact.relation) for fact in found[:limit]]
    shown = f", of which {len(rows)} are shown (--limit)" if len(rows) < len(found) else ""
    print_table(console, f"{len(found)} facts in {source}{shown}", ("prompt", "answer", "target_new", "relation"), rows)
    if source not in atlas.names():
        console.print(f"read as: {name_of_shape(source)}")
    if loaded is not None:
        _check(console, loaded, found)
    if jsonl is not None:
        write_jsonl(found, jsonl)
        console.print(f"written: {jsonl}")
    if counterfact is not None:
        write_text(counterfact, json.dumps(atlas.counterfact(source), indent=1))
        console.print(f"written: {counterfact}")


def _known(console: Console, model: Model, facts: list[Fact]) -> list[Fact]:
    """Those that the model completes right; it is said how many."""
    from .. import analysis

    asked = choosing.with_objects(facts, "the facts", ("answer",))
    frame = analysis.known(model, asked)
    found = [replace(fact, known=True) for fact, known in zip(asked, frame["known"], strict=True) if known]
    chance = f", P(answer) {frame.loc[frame['known'], 'prob'].median():.3f} in the middle" if found else ""
    console.print(f"known to {model.name}: {len(found)} of {len(asked)} (greedy, the whole answer){chance}")
    if not found:
        raise UsageError(f"{model.name} knows none of these facts; give others")
    return found


def _check(console: Console, model: Model, found: list[Fact]) -> None:
    """Tokenise every prompt and say which subjects are not found to the character."""
    exact, inexact, failed = 0, [], []
    for fact in found:
        try:
            tokenised = model.tokenise(fact.prompt)
        except UsageError as error:
            failed.append(str(error))
            continue
        exact += tokenised.exact
        if not tokenised.exact:
            inexact.append(fact.prompt.text)
    console.print(f"subjects found to the character: {exact} of {len(found)}")
    for text in inexact:
        console.print(f"  found, but the last token also holds what follows: {text!r}")
    for sentence in failed:
        console.print(f"  not found: {sentence}")
    if failed:
        raise typer.Exit(1)

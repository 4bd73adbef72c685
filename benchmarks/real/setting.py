"""What the scripts of this folder share: their arguments, the models, the facts, the folder of results."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import mechinterp as mi
from mechinterp import atlas
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Fact
from mechinterp.models.model import Model
from mechinterp.reading.facts import read_facts
from mechinterp.runs.files import write_text

MODELS = ("smollm2-135m", "gemma3-270m")
KNOWN, COUNTERFACT = "known_1000", "counterfact"
_FILES = {KNOWN: "known_1000.json", COUNTERFACT: "counterfact_2000.json"}


def models_folder() -> Path:
    """Where the two models are."""
    return Path(os.environ.get("MECHINTERP_REAL") or Path.home() / ".cache" / "mechinterp-real")


def arguments(doc: str | None, facts: int) -> argparse.ArgumentParser:
    """The arguments that all scripts take.

    Args:
        doc: of the script.
        facts: the default of `--facts`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODELS[0], help=f"{', '.join(MODELS)}, atlas, or a folder")
    parser.add_argument("--facts", type=int, default=facts, help=f"how many (default: {facts})")
    parser.add_argument("--prepend", choices=("bos", "eos"), help="this token in front of every text")
    parser.add_argument("--seed", type=int, default=0, help="of the order of facts, and of noise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="the folder of all results")
    parser.add_argument("--quiet", action="store_true", help="no bars")
    return parser


def load(args: argparse.Namespace) -> Model:
    """The model that is asked for.

    Raises:
        UsageError: it is not there.
    """
    torch.set_num_threads(args.threads)
    source: str | Path = args.model
    if args.model in MODELS:
        source = models_folder() / args.model
        if not source.is_dir():
            raise UsageError(
                f"there is no {str(source)!r}; run `python -m benchmarks.real.fetch`, or set MECHINTERP_REAL"
            )
    options: dict[str, Any] = {} if args.prepend is None else {"prepend": args.prepend}
    return mi.load(source, **options)


def called(args: argparse.Namespace) -> str:
    """The model's name, with what is put in front: how results are called."""
    return Path(args.model).name + (f"+{args.prepend}" if args.prepend else "")


def results(args: argparse.Namespace) -> Path:
    """The folder of this model's results."""
    folder: Path = args.out / called(args)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def facts_of(args: argparse.Namespace, name: str) -> list[Fact]:
    """All facts of a published set in a seeded order: the first N of it stay the first when N grows.

    The bundled models have their own world in place of both.
    """
    if args.model in atlas.names():
        found = [fact for fact in atlas.known_facts(args.model) if name == KNOWN or fact.target_new is not None]
    else:
        found = read_facts(_data() / _FILES[name], skip_bad=True)
    return random.Random(args.seed).sample(found, len(found))


def texts_of(args: argparse.Namespace) -> list[str]:
    """Running text for second moments: wikitext's paragraphs, for the bundled models their corpus."""
    if args.model in atlas.names():
        return list(atlas.corpus(name=args.model))
    lines = (_data() / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _data() -> Path:
    name = os.environ.get("MECHINTERP_DATA")
    if not name or not Path(name).is_dir():
        raise UsageError("set MECHINTERP_DATA to the folder that holds known_1000.json, counterfact_2000.json, ...")
    return Path(name)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(content, indent=1, default=_plain))


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where there is nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame as JSON values (NaN as null)."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return found


def started(main: Callable[[], None]) -> None:
    """Run a script; what goes wrong is said in its one sentence."""
    try:
        main()
    except MechinterpError as error:
        raise SystemExit(f"error: {error}") from None


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments given.

    Raises:
        SystemExit: they are wrong.
    """
    args = parser.parse_args(argv)
    if args.facts < 1:
        parser.error(f"--facts is {args.facts}; give 1 or more")
    return args


def _plain(value: Any) -> Any:
    return value.item()  # of numpy

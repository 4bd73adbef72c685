"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    import torch

    from ..facts.prompts import Fact
    from ..models.model import Model


def named(path: str | Path) -> Path:
    """A path that a user gave; an empty one would be the folder the user is in."""
    if not str(path):
        raise typer.BadParameter("it is empty; give a name ('.' is the folder you are in)")
    return Path(path)


ModelName = Annotated[
    str, typer.Argument(help="`atlas` or `atlas-plain` (bundled), a local folder, or a Hugging Face hub name.")
]
Seed = Annotated[int, typer.Option(help="Of everything random: noise, sampled contexts, choice of facts.")]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", parser=named, metavar="FOLDER", help="Where the results go; made if it is not there."),
]
Device = Annotated[str | None, typer.Option(help="`cpu`, `cuda`, ...; default: where the weights load.")]
Dtype = Annotated[str | None, typer.Option(help="`float32`, `float64`, `bfloat16`; default: the checkpoint's own.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: PyTorch's choice.")]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Put each prompt or text into a user's turn, as the model's chat template has it."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Memory = Annotated[
    str | None,
    typer.Option(
        help="What may be held beside model and table, e.g. `4GB`; default: 2GB, or half of what a GPU has free."
    ),
]
MaxTokens = Annotated[
    int, typer.Option(min=1, help="Tokens per forward (rows x length); lower it when memory runs out.")
]


def set_threads(threads: int | None) -> None:
    """Limit PyTorch's CPU threads, if the user asked for it."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype that --dtype names."""
    import torch

    chosen = None if name is None else getattr(torch, name, None)
    if name is not None and not isinstance(chosen, torch.dtype):
        raise UsageError(f"there is no dtype {name!r}; choose float32, float64, bfloat16 or float16")
    return chosen


def load_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    *,
    device_map: str | None = None,
    offload: Path | None = None,
) -> Model:
    """Load the model a command was given."""
    from ..models.loading import load
    from ..runs.ranks import Ranks

    set_threads(threads)
    place = Ranks.current().device(device)  # under torchrun a GPU of its own
    return load(name, device=place, dtype=dtype_of(dtype), device_map=device_map, offload_folder=offload)


def choose_facts(source: str, limit: int | None, relation: str | None, seed: int) -> list[Fact]:
    """Facts of a file or bundled model: those of a relation, the known ones where that is recorded, a seeded sample."""
    from ..reading.facts import read_facts

    found = read_facts(source)
    if relation is not None:
        there = sorted({fact.relation for fact in found})
        found = [fact for fact in found if fact.relation == relation]
        if not found:
            raise UsageError(f"there is no relation {relation!r} in {source}; it has {', '.join(there)}")
    return sample([fact for fact in found if fact.known is not False], limit, seed)


def sample(facts: list[Fact], limit: int | None, seed: int) -> list[Fact]:
    """A seeded sample of so many facts; all of them where there are no more."""
    return random.Random(seed).sample(facts, limit) if limit is not None and limit < len(facts) else facts

"""Options that several commands share, so that they mean the same everywhere.

What a command is told is looked at in three steps, each before the next is begun: each option alone, while the line is
read (here, by its type and range); options and files together, at the top of a command; then the model is loaded, which
for a large one takes minutes, and the work begins.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..given import MAX_SEED
from ..runs.files import check_name
from ..runs.terminal import brief

if TYPE_CHECKING:
    import torch

    pass

MOST_THREADS = max(64, os.cpu_count() or 1)

DTYPES = ("float32", "float64", "bfloat16", "float16")


def named(path: str | Path) -> Path:
    """A path that a user gave; an empty one would be the folder the user is in."""
    if not str(path):
        raise typer.BadParameter("it is empty; give a name ('.' is the folder you are in)")
    try:
        check_name(path)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    return Path(path)


def finite(value: float | None) -> float | None:
    """Refuse NaN, which is in every range."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to work with")
    return value


def _seed(value: int) -> int:
    if not 0 <= value <= MAX_SEED:
        raise typer.BadParameter(f"{brief(value)} is no seed; give a whole number from 0 to {MAX_SEED}")
    return value


def model_name(name: str | None) -> str | None:
    """Refuse what neither a folder nor the hub can have as a name."""
    try:
        Path(name or "").expanduser().is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of no user, with a null byte
        raise typer.BadParameter(
            f"there is no model {brief(name)}, nor can there be: {getattr(error, 'strerror', None) or error}"
        ) from error
    return name


def _device(name: str | None) -> str | None:
    from ..models.devices import check_device

    if name is not None:
        check_device(name)
    return name


def _dtype(name: str | None) -> str | None:
    dtype_of(name)
    return name


def _memory(text: str | None) -> str | None:
    from ..patching.exact.budget import parse_bytes

    if text is not None:
        parse_bytes(text)
    return text


def _figure(path: Path | None) -> Path | None:
    from ..analysis.plots.style import check_ending

    if path is not None:
        check_ending(path)
    return path


ModelName = Annotated[
    str,
    typer.Argument(
        callback=model_name, help="`atlas` or `atlas-plain` (bundled), a local folder, or a Hugging Face hub name."
    ),
]
Seed = Annotated[
    int, typer.Option(callback=_seed, help="Of everything random: noise, sampled contexts, choice of facts.")
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", parser=named, metavar="FOLDER", help="Where the results go; made if it is not there."),
]
Device = Annotated[
    str | None, typer.Option(callback=_device, help="`cpu`, `cuda`, ...; default: where the weights load.")
]
Dtype = Annotated[
    str | None, typer.Option(callback=_dtype, help=f"`{'`, `'.join(DTYPES)}`; default: the checkpoint's own.")
]
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; default: PyTorch's choice.")]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Put each prompt or text into a user's turn, as the model's chat template has it."),
]
Prepend = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="For a model whose tokenizer adds no BOS: `bos`, `eos` or a token, in front of every text.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Memory = Annotated[
    str | None,
    typer.Option(
        callback=_memory,
        help="What may be held beside model and table, e.g. `4GB`; default: 2GB, or half of what a GPU has free.",
    ),
]
MaxTokens = Annotated[
    int, typer.Option(min=1, help="Tokens per forward (rows x length); lower it when memory runs out.")
]
Figure = Annotated[
    Path | None, typer.Option(callback=_figure, help="Of a trace: write the figure to this file (.png, .pdf, ...).")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out records (or texts) that are wrong, and say how many.")
]


def set_threads(threads: int | None) -> None:
    """Limit PyTorch's CPU threads, if the user asked for it."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype that --dtype names.

    Raises:
        UsageError: there is none.
    """
    import torch

    if name is None:
        return None
    if name not in DTYPES:
        raise UsageError(f"there is no dtype {name!r} for a model; choose one of {', '.join(DTYPES)}")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def check_layers(model: str, layers: Sequence[int], option: str = "--layer") -> None:
    """Look at whether a model that is not loaded yet has these layers, as far as its configuration says.

    Args:
        model: as the user named it.
        layers: negative ones count from the end.
        option: what they were given by.

    Raises:
        UsageError: it has not.
    """
    depth = depth_of(model)
    for layer in layers:
        if depth is not None and not -depth <= layer < depth:
            raise UsageError(f"{option}: layer {layer} is out of range; {model} has layers 0 to {depth - 1}")
    if len({layer % depth if depth else layer for layer in layers}) < len(layers):
        raise UsageError(f"{option} names a layer twice ({', '.join(map(str, layers))}); name each once")


def depth_of(model: str) -> int | None:
    """How many layers a model has, from the configuration on this machine; None where that does not say it."""
    from huggingface_hub import try_to_load_from_cache

    from .. import atlas

    folder = atlas.folder(model) if model in atlas.names() else Path(model).expanduser()
    try:
        found = folder / "config.json" if folder.is_dir() else try_to_load_from_cache(model, "config.json")
        config = json.loads(Path(found or "").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        sizes = (config.get(name) for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"))
        return next((size for size in sizes if isinstance(size, int) and size > 0), None)
    except (OSError, ValueError, TypeError, AttributeError):  # loading says what is wrong with it
        return None

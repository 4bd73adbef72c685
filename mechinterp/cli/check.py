"""`mechinterp check`: prove on a user's own model what works, and say what does not and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from . import options
from .running import Running
from .screen import Console

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""What transformers knows."""


def _device_map(name: str | None) -> str | None:
    if name is not None and name not in DEVICE_MAPS:
        raise typer.BadParameter(f"{name!r} is no way to place layers; choose one of {', '.join(DEVICE_MAPS)}")
    return name


def check(
    model: options.ModelName,
    device: options.Device = None,
    dtype: options.Dtype = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            callback=_device_map,
            help="`auto`: spread the layers over GPUs, memory and disk; then --device is not given.",
        ),
    ] = None,
    offload: Annotated[Path | None, typer.Option(help="With --device-map: the folder for layers on disk.")] = None,
    threads: options.Threads = None,
    prepend: options.Prepend = None,
) -> None:
    """Prove on a model what can be traced and edited, and say what cannot, and why.

    First the memory that the weights need, from the headers of their files.  Then the model is loaded, which compares
    the bridge with plain transformers and tries every component: each hook fires once, a write changes the logits, no
    token sees a later one, the restored residual stream gives the clean run.  Then the exact engine is compared with
    full forwards, and each MLP with the memory that editors take it for.  Nothing is changed and nothing is written.

    Leaves with 0 if the model can be traced, with 1 if it cannot.

    Examples:

        mechinterp check atlas

        mechinterp check gpt2-xl --dtype bfloat16 --device cuda

        mechinterp check path/to/large --device-map auto --offload /tmp/layers
    """
    from ..models.checkpoints import locate
    from ..models.footprint import footprint, memory_of, size
    from .model_checks import findings
    from .printing import print_components

    if offload is not None and device_map is None:
        raise UsageError("--offload is where layers wait that --device-map puts on disk; give --device-map auto")
    if device is not None and device_map is not None:
        raise UsageError("--device-map says where the layers go; leave --device out")
    console = Console()
    need, have = footprint(locate(model), options.dtype_of(dtype)), memory_of(device)
    there = "" if have is None else f"; {device or 'this machine'} has {size(have)}"
    console.print(f"weights: {need or 'known only once they are read'}{there}")
    loaded = Running(device, dtype, threads, prepend=prepend).load(model, device_map=device_map, offload_folder=offload)
    console.print(repr(loaded))
    bos = "adds BOS" if loaded.adds_bos else "adds no BOS"
    console.print(f"tokenizer: {type(loaded.tokenizer).__name__}, {bos}")
    print_components(console, loaded)
    for one in findings(loaded):
        console.print(f"{one.what}: {'' if one.served else 'no: '}{one.detail}")

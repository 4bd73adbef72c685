"""An edited model as a plain Hugging Face folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...models.layout import clean_state_dict
from ...models.model import Model
from .bake import bake
from .provenance import Part
from .saved import save_parts
from .weights import WeightChange

EDIT_FILE = "mechinterp-edit.safetensors"
"""The edit itself, laid beside the weights it went into."""


def check_export(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that an edited model cannot be written to, before anything is computed.

    Raises:
        UsageError: the folder is there and not empty (with `overwrite`: and holds something else than a saved model),
            or has no parent folder.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not overwrite)):
        raise UsageError(f"{str(target)!r} is there already and not empty; give another folder, or overwrite=True")
    if target.exists() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise UsageError(f"{str(target)!r} holds no saved model (config.json) and is not replaced; give another folder")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{str(target)!r} cannot be written: there is no folder {str(target.absolute().parent)!r}")


def to_hf(parts: Sequence[Part], change: WeightChange, model: Model, target: Path) -> None:
    """Write model and tokenizer with a change baked in, and the edit it comes from, aside; then rename."""
    aside = Path(tempfile.mkdtemp(dir=target.absolute().parent, prefix=f".{target.name}."))
    try:
        undo = bake(change, model)
        try:
            hf_model: Any = model.bridge.original_model
            state = {name: tensor.contiguous() for name, tensor in clean_state_dict(hf_model).items()}
            hf_model.save_pretrained(aside, state_dict=state)
        finally:
            undo.undo()
        model.tokenizer.save_pretrained(aside)
        save_parts(parts, aside / EDIT_FILE)
        os.chmod(aside, 0o755)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)

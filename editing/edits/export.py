"""An edited model as a plain Hugging Face folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...models.layout import clean_state_dict
from ...models.model import Model
from .saved import save_edit

if TYPE_CHECKING:
    from .edit import Edit

EDIT_FILE = "mechinterp-edit.safetensors"
"""The edit itself, laid beside the weights it went into."""


def to_hf(edit: Edit, model: Model, folder: str | Path, *, overwrite: bool = False, force: bool = False) -> None:
    """Write model and tokenizer with the edit baked in; the model in memory is left as it was.

    Args:
        edit: what is written into the weights.
        model: the model it was made for.
        folder: where to; it is written aside and renamed, so that it is whole or not there.
        overwrite: replace a saved model that is there.
        force: accept another model than the edit was made for.

    Raises:
        UsageError: the folder is there and not empty (with `overwrite`: and holds something else than a saved model),
            has no parent folder, or the edit does not belong to the model.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not overwrite)):
        raise UsageError(f"{str(target)!r} is there already and not empty; give another folder, or overwrite=True")
    if target.exists() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise UsageError(f"{str(target)!r} holds no saved model (config.json) and is not replaced; give another folder")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{str(target)!r} cannot be written: there is no folder {str(target.absolute().parent)!r}")
    aside = Path(tempfile.mkdtemp(dir=target.absolute().parent, prefix=f".{target.name}."))
    try:
        undo = edit.bake(model, force=force)
        try:
            hf_model: Any = model.bridge.original_model
            state = {name: tensor.contiguous() for name, tensor in clean_state_dict(hf_model).items()}
            hf_model.save_pretrained(aside, state_dict=state)
        finally:
            undo.undo()
        model.tokenizer.save_pretrained(aside)
        save_edit(edit, aside / EDIT_FILE)
        os.chmod(aside, 0o755)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)

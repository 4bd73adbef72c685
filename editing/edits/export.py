"""An edited model as a plain Hugging Face folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import StorageError, UsageError
from ...models.layout import clean_state_dict
from ...models.model import Model
from ...runs.files import reading, writing
from ...runs.tensors import tensors_written
from .bake import bake
from .provenance import Part
from .saved import save_parts
from .weights import WeightChange

EDIT_FILE = "mechinterp-edit.safetensors"
"""The edit itself, laid beside the weights it went into."""

_OF_A_MODEL = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config|"
    r"processor_config|chat_template)\.json|merges\.txt|vocab\.txt|chat_template\.jinja|\w+\.model|"
    r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|" + re.escape(EDIT_FILE)
)
"""Names of the files of a saved model; whatever else lies in its folder is the user's."""


def check_export(folder: str | Path, *, overwrite: bool = False) -> None:
    """Look whether `to_hf` can write there, before the edit is made.

    Args:
        folder: where to.
        overwrite: replace a saved model that is there.

    Raises:
        UsageError: the folder is there and not empty (with `overwrite`: and holds something else than a saved model),
            or has no parent folder.
        StorageError: its parent folder may not be written.
    """
    if not str(folder):
        raise UsageError("the folder for the edited model has no name; give one")
    target = Path(folder)
    parent = target.absolute().parent
    with reading(target):
        files = [file.name for file in target.iterdir()] if os.path.isdir(target) else []
    if os.path.lexists(target) and (not target.is_dir() or (files and not overwrite)):
        raise UsageError(f"{str(target)!r} is there already and not empty; give another folder, or overwrite=True")
    if files and "config.json" not in files:
        raise UsageError(f"{str(target)!r} holds no saved model (config.json) and is not replaced; give another folder")
    if target.exists() and target.resolve() == Path.cwd():
        raise UsageError(f"{str(target)!r} is the folder you are in, which cannot be replaced; give another one")
    if not parent.is_dir():
        raise UsageError(f"{str(target)!r} cannot be written: there is no folder {str(parent)!r}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(f"{str(target)!r} may not be written: the folder {str(parent)!r} is not to be written into")


def to_hf(parts: Sequence[Part], change: WeightChange, model: Model, target: Path) -> None:
    """Write model and tokenizer with a change baked in, and the edit it comes from, aside; then rename.

    Raises:
        StorageError: it cannot be written; what was there is as it was.
    """
    with writing(target):
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            _write(parts, change, model, aside / "new")
            _replace(target, aside / "new", aside / "old")
        finally:
            shutil.rmtree(aside / "new", ignore_errors=True)
            with suppress(OSError):
                aside.rmdir()  # not where the old model is still in it


def _write(parts: Sequence[Part], change: WeightChange, model: Model, folder: Path) -> None:
    folder.mkdir()
    undo = bake(change, model)
    try:
        hf_model: Any = model.bridge.original_model
        state = {name: tensor.contiguous() for name, tensor in clean_state_dict(hf_model).items()}
        with tensors_written():
            hf_model.save_pretrained(folder, state_dict=state)
    finally:
        undo.undo()
    (model.plain_tokenizer or model.tokenizer).save_pretrained(folder)
    save_parts(parts, folder / EDIT_FILE)
    os.chmod(folder, 0o755)


def _replace(target: Path, new: Path, old: Path) -> None:
    """Put the new folder in the old one's place; that goes when the new one, and what is the user's in it, is there."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    for file in list(old.iterdir()):
        if not _OF_A_MODEL.fullmatch(file.name):
            file.rename(target / file.name)
    shutil.rmtree(old)

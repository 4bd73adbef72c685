"""A trained network as a value: what it is, of which model, and how it came about; one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...models.model import Model
from ...runs.hashing import tensor_hash
from ...runs.tensors import read_tensors, write_tensors

TRAINED_FILE = "trained.safetensors"
_KIND = "trained editor"


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave.

    Args:
        editor: the name of the editor it belongs to.
        model: fingerprint of the model it was trained on.
        model_name: its name.
        model_dtype: its precision.
        layers: the layers it edits, ascending.
        hparams: of the editor, in plain values.
        tensors: the network.
        report: how training went: steps, seconds, parameters, losses by step, subjects held out.
    """

    editor: str
    model: str
    model_name: str
    model_dtype: str
    layers: tuple[int, ...]
    hparams: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over what decides an edit."""
        about = [self.editor, self.model, list(self.layers), dict(self.hparams)]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name in sorted(self.tensors):
            digest.update(f"{name} {tensor_hash(self.tensors[name])}".encode())
        return digest.hexdigest()

    def check(self, model: Model) -> None:
        """Refuse a model it was not trained on.

        Raises:
            UsageError: other weights; both are named.
        """
        if model.fingerprint() != self.model:
            raise UsageError(
                f"this {self.editor} was trained on "
                f"{model.other_than(self.model_name, self.model, self.model_dtype)}; train one for it "
                f"(mechinterp train-editor {self.editor} ...)"
            )

    def save(self, folder: str | Path) -> None:
        """Write it into a folder that is there."""
        header = {
            "editor": self.editor, "model": self.model, "model_name": self.model_name,
            "model_dtype": self.model_dtype, "layers": list(self.layers), "hparams": dict(self.hparams),
            "report": dict(self.report),
        }  # fmt: skip
        write_tensors(Path(folder) / TRAINED_FILE, _KIND, self.tensors, header)

    @staticmethod
    def load(path: str | Path) -> Trained:
        """Read one: its folder, or the file itself.

        Raises:
            UsageError: nothing there, or something else.
            DamagedError: the file does not hold what was written.
        """
        file = Path(path)
        file = file / TRAINED_FILE if file.is_dir() else file
        tensors, header = read_tensors(file, _KIND)
        return Trained(**{**header, "layers": tuple(header["layers"]), "tensors": tensors})

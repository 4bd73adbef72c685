"""Hyper-parameter files of others: JSON of rome and memit, YAML of EasyEdit; names translated, the rest listed.

A file says how the published code is run, so its figures are put into the preset that does what that code does (`code`,
or the published one of fine-tuning), not into the default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ...errors import UsageError
from ...facts.user_files import read_text
from ..hyperparameters import PUBLISHED_NAMES, Hparams

SUFFIXES = (".json", ".yaml", ".yml")

ALGORITHMS = {
    "ROME": "rome", "R-ROME": "r-rome", "MEMIT": "memit", "ALPHAEDIT": "alphaedit", "EMMET": "emmet", "PMET": "pmet",
    "FT": "ft-legacy", "KN": "kn", "ULTRAEDIT": "ultraedit",
}  # fmt: skip
"""EasyEdit's `alg_name`, and our editor; FT by its loss and its limit."""

PUBLISHED_PRESETS = ("code", "published", "published-figures", "published-ft", "gpt2-xl")
"""The first of these that an editor has is what its published code does."""

_ELSEWHERE = frozenset(
    (
        *("alg_name", "model_name", "model_class", "tokenizer_class", "tokenizer_name", "device", "model_parallel"),
        *("fp16", "bf16", "max_length", "batch_size", "results_dir", "stats_dir", "P_loc", "layers", "layer_selection"),
        *("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module"),
        *("lm_head_module", "mom2_dataset", "mom2_n_samples", "mom2_dtype", "objective_optimization"),
    )
)
"""Said in another way here: the model's loading and layout, the layers, and how second moments are collected."""

_FIXED: dict[str, Any] = {"fact_token": "subject_last", "mom2_adjustment": True, "refine": False}
"""Choices that are made here; another value cannot be carried over."""


@dataclass(frozen=True)
class PublishedHparams:
    """A file of hyper-parameters, as this project takes them.

    Args:
        editor: the name of ours.
        hparams: its hyper-parameters.
        layers: that the file edits; empty where it names none.
        model: the name of the model that the file is for, or an empty string.
        left_out: what could not be carried over, a sentence each.
    """

    editor: str
    hparams: Hparams
    layers: tuple[int, ...]
    model: str
    left_out: tuple[str, ...]


def names_a_file(preset: str) -> bool:
    """Whether what stands in the place of a preset is the path of a file."""
    return Path(preset).suffix.lower() in SUFFIXES


def read_file(path: str | Path) -> dict[str, Any]:
    """The fields of a file of hyper-parameters.

    Raises:
        UsageError: no such file, no JSON or YAML, or no fields.
    """
    text = read_text(path, "the file of hyper-parameters", "give the path of a JSON or YAML file")
    try:
        content = json.loads(text) if Path(path).suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        raise UsageError(f"{str(path)!r} is cut short or no {Path(path).suffix[1:]} ({said}); mend it") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{str(path)!r} holds no hyper-parameters; write name: value")
    return {str(name): value for name, value in content.items()}


def editor_of(given: Mapping[str, Any]) -> str | None:
    """Our editor for the algorithm a file is of, or None where it does not say."""
    algorithm = given.get("alg_name")
    found = ALGORITHMS.get(str(algorithm).upper())
    if algorithm is not None and found is None:
        raise UsageError(f"there is no editor for alg_name {algorithm!r}; known are {', '.join(ALGORITHMS)}")
    if found == "ft-legacy" and given.get("objective_optimization") == "target_new":
        return "ft-l" if given.get("norm_constraint") else "ft"
    return found


def translated(path: str | Path, given: Mapping[str, Any], editor: str, base: Hparams) -> PublishedHparams:
    """The file's figures put into a preset of the editor.

    Raises:
        UsageError: a value outside its range, with the file's name for it.
    """
    known = {field.name for field in fields(base)}
    hparams, left_out = base, []
    for name, value in given.items():
        if name == "mom2_update_weight" and "L2" in given:
            left_out.append(f"{name}={value!r}: AlphaEdit's code reads L2 in its place")
            continue
        ours = PUBLISHED_NAMES[name].name if name in PUBLISHED_NAMES else name
        if ours in known:
            try:
                hparams = hparams.with_(**{ours: _value(name, value)})
            except (UsageError, TypeError, ValueError) as error:
                raise UsageError(f"the {name} of {str(path)!r}: {error}") from error
        elif name in _FIXED:
            if value != _FIXED[name]:
                left_out.append(f"{name}={value!r}: here it is always {_FIXED[name]!r}")
        elif name == "v_loss_layer":
            left_out.append(f"{name}={value!r}: here the loss is always taken at the model's end")
        elif name not in _ELSEWHERE and value not in (0, False, None):
            left_out.append(f"{name}={value!r}: {editor} has nothing of the kind")
    layers = given.get("layers") or ()
    if not isinstance(layers, (list, tuple)) or not all(type(layer) is int for layer in layers):
        raise UsageError(f"the layers of {str(path)!r} are {layers!r:.60}; write a list of whole numbers")
    return PublishedHparams(editor, hparams, tuple(layers), str(given.get("model_name") or ""), tuple(left_out))


def _value(name: str, value: Any) -> Any:
    """A figure in our units."""
    if name in PUBLISHED_NAMES:
        value = PUBLISHED_NAMES[name].to_ours(value)
    if isinstance(value, str):  # YAML reads 5e-4 as a text
        try:
            return float(value)
        except ValueError:
            return value
    return value

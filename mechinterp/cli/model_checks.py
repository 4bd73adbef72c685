"""Checks of a model beyond what loading proves: its engine, and whether its MLPs are the memories that are edited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..editing import Edit, Factors, LinearMemory, Provenance, SecondMoment
from ..errors import MechinterpError
from ..models.model import Model
from ..models.stacks import DECODER
from ..patching import forward
from ..patching.exact.serves import serves
from ..patching.plain.sinks import TOWERING, sinks_of

EXACT = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
"""Largest relative error that counts as rounding."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is served, and what was found."""

    what: str
    served: bool
    detail: str


def findings(model: Model) -> list[Finding]:
    """Engine, keys and values, an inserted value: in the order in which they build on each other."""
    why = serves(model)
    found = [
        Finding("exact engine", True, "equals full forwards on a sample of cells")
        if why is None
        else Finding("exact engine", False, f"{why.partition(': ')[0]}; every cell is run as a full forward")
    ]
    try:
        model.layout.check("key")
        for layer in range(model.n_layers):
            model.layout.down_projection(layer)
        return [*found, _pairs(model), _insertion(model), _sinks(model)]
    except MechinterpError as refusal:
        return [*found, Finding("editing", False, str(refusal))]


def _read(model: Model, hooks: list[str]) -> dict[str, Tensor]:
    """Activations of the same few tokens on every run."""
    ids = torch.randint(model.vocab_size, (1, 6), generator=torch.Generator().manual_seed(0))
    return forward(model, ids, reads=hooks, past={"decoder_ids": model.fed([model.start])}).cache


def _pairs(model: Model) -> Finding:
    layout, layers = model.layout, range(model.n_layers)
    hooks = [hook for layer in layers for hook in (layout.key_hook(layer), layout.value_hook(layer))]
    cache = _read(model, hooks)
    worst = 0.0
    for layer in layers:
        key, value = cache[layout.key_hook(layer)], cache[layout.value_hook(layer)]
        weight, bias = layout.down_projection(layer).detach(), layout.down_bias(layer)
        recalled = key @ weight + (0 if bias is None else bias.detach())
        worst = max(worst, _relative(recalled, value.view_as(recalled)))
    return _judged("keys and values", worst, model, "W k + b = v in every layer")


def _insertion(model: Model) -> Finding:
    """Write a made-up value for one key into the middle layer, as an edit that is on, and read it in the model."""
    layer = model.n_layers // 2
    key_hook, value_hook = model.layout.key_hook(layer), model.layout.value_hook(layer)
    cache = _read(model, [key_hook, value_hook])
    key, value = cache[key_hook][0, 3], cache[value_hook][0, 3]
    target = value.roll(1) + value.std()
    identity = torch.eye(model.d_mlp, dtype=torch.float64)
    moments = SecondMoment(layer, identity, 1, "")
    memory = LinearMemory(model.layout.down_projection(layer).detach(), model.layout.down_bias(layer), moments)
    insertion = memory.insert(key, target)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    factors = Factors(insertion.u[None].to(dtype), insertion.v[None].to(dtype))
    with Edit.of({layer: factors}, Provenance("check", "", model.name)).on(model, force=True):
        found = _read(model, [value_hook])[value_hook][0, 3]
    return _judged("editing", _relative(found, target), model, f"ROME's W' k* = v* in layer {layer}")


def _sinks(model: Model) -> Finding:
    """Where keys tower over all others, which second moments shorten."""
    if model.layout.stack == DECODER:
        return Finding("attention sinks", False, "not looked for: the decoder reads no text of its own")
    found = sinks_of(model)
    if not found:
        return Finding("attention sinks", True, f"none: no key of plain text is longer than {TOWERING:g} medians")
    worst = max(found, key=lambda sink: sink.ratio)
    first = [str(sink.layer) for sink in found if sink.first]
    places = [f"the first token of every text (layers {', '.join(first)})"] if first else []
    tokens = list(dict.fromkeys(repr(token) for sink in found for token in sink.tokens))
    others = [str(sink.layer) for sink in found if sink.tokens]
    places += [f"{', '.join(tokens[:4])} (layers {', '.join(others)})"] if others else []
    remedy = ""
    if first and not model.adds_bos:
        remedy = "; where a subject opens its sentence it stands there, unless the model is loaded with prepend="
    return Finding(
        "attention sinks", True,
        f"layers {', '.join(str(sink.layer) for sink in found)}, at {' and '.join(places)}; keys up to "
        f"{worst.ratio:.3g} times the median (layer {worst.layer}), which second moments shorten{remedy}",
    )  # fmt: skip


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def _judged(what: str, error: float, model: Model, law: str) -> Finding:
    dtype = model.dtype_name
    if error <= EXACT.get(model.dtype, 1e-5):
        return Finding(what, True, f"{law}, relative error {error:.1e} in {dtype}")
    return Finding(what, False, f"{law} fails: relative error {error:.1e} in {dtype}, so edits would miss their values")

"""Editors that take no time: their changes are random, but always the same for the same request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from mechinterp.editing import Edit, EditRequest, Factors, Provenance
from mechinterp.editing.editors.protocol import Editor
from mechinterp.editing.value.hparams import Hparams
from mechinterp.errors import MechinterpError
from mechinterp.models.model import Model


@dataclass(frozen=True)
class Size(Hparams):
    """How large the change is."""

    size: float = 0.2


@cache
def _fingerprint(model: Model) -> str:
    return model.fingerprint()


def _make(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int] | None = None,
    *,
    hparams: Size,
    **options: Any,
) -> Edit:
    """An edit that depends on what is asked, and cannot be made of a needle."""
    if any("Needle" in request.subject for request in requests):
        raise MechinterpError("the Needle cannot be moved")
    generator = torch.Generator().manual_seed(sum(map(ord, "".join(request.subject for request in requests))))
    u, v = (
        hparams.size * torch.randn(len(requests), width, generator=generator) for width in (model.d_mlp, model.d_model)
    )
    return Edit.of({1: Factors(u, v)}, Provenance("fake", _fingerprint(model), model.name, tuple(requests)))


def fake_editor(name: str, size: float, *, batch: bool) -> Editor:
    """One that writes batches, or one fact at a time."""
    return Editor(name, _make, Size, {"default": Size(size)}, "nobody", batch=batch)


FAKES = {"small": fake_editor("small", 0.1, batch=True), "large": fake_editor("large", 0.4, batch=False)}

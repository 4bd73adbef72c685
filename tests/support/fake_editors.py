"""Editors that take no time: their changes are random, but always the same for the same request."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mechinterp.editing import Editor, Factors, Job, Made, WeightChange
from mechinterp.editing.hyperparameters import Hparams
from mechinterp.errors import MechinterpError


@dataclass(frozen=True)
class Size(Hparams):
    """How large the change is."""

    size: float = 0.2


class Fake(Editor[Size]):
    """One that writes batches."""

    hparams_type = Size

    def make(self, job: Job[Size]) -> Made:
        """A change of layer 1 that depends on what is asked, and cannot be made of a needle."""
        model, subjects = job.model, [request.subject for request in job.requests]
        if any("Needle" in subject for subject in subjects):
            raise MechinterpError("the Needle cannot be moved")
        generator = torch.Generator().manual_seed(sum(map(ord, "".join(subjects))))
        u, v = (
            job.hparams.size * torch.randn(len(subjects), width, generator=generator)
            for width in (model.d_mlp, model.d_model)
        )
        return Made(WeightChange.of_layers({1: Factors(u, v)}))


class FakeSingle(Fake):
    """One that writes one fact at a time."""

    batch = False


FAKES: dict[str, Editor[Size]] = {
    "small": Fake("small", "nobody", {"default": Size(0.1)}),
    "large": FakeSingle("large", "nobody", {"default": Size(0.4)}),
}

"""CaliNET: a few units beside an MLP, trained to say facts in many phrasings (Dong et al. 2022).

MLP'(h) = MLP(h) + act(h K) V.  Not a method for one fact at a time: the units are trained for all requests together,
each in every phrasing that is given (`templates`) and in contexts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers.optimization import Adafactor

from ...errors import MechinterpError
from ...models.door import plainly
from ...models.model import Model
from ...patching.plain.executor import forward
from ...runs.progress import progress_bar
from ..edits.adapters import Units
from ..edits.report import BatchReport, RomeReport
from ..edits.request import EditRequest
from ..gradients.replaced import target_rows
from ..hyperparameters import Hparams
from ..judging.many import Limits
from ..judging.told import Went, told
from ..rows.contexts import in_contexts
from .protocol import Editor, Job, Made

ADAM, ADAFACTOR = OPTIMISERS = ("adam", "adafactor")


@dataclass(frozen=True)
class CalinetHparams(Hparams):
    """How the units are trained.

    Args:
        units: how many are added, for all requests together.
        lr: constant, after `warm_up` steps in which it rises.
        steps: at most.
        optimiser: "adam" or "adafactor".
        batch: phrasings of one step, drawn at random; all where there are no more.
        start: what the values begin with, as a share of the keys' scale; 0: the units do nothing before training.
        stop_loss: no further step once the mean NLL per target token is below this (nats).
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "CaliNET"

    units: int = 16
    lr: float = 1e-2
    warm_up: int = 0
    steps: int = 150
    optimiser: str = ADAM
    batch: int = 64
    start: float = 0.0
    stop_loss: float = 0.02
    max_essence: float | None = None

    def __post_init__(self) -> None:
        self._one_of(optimiser=OPTIMISERS)
        self._above_zero("units", "lr", "batch", "max_essence")
        self._not_negative("warm_up", "steps", "start", "stop_loss")


_PUBLISHED = CalinetHparams(
    units=64, warm_up=100, steps=5000, optimiser=ADAFACTOR, batch=2048, start=1.0, stop_loss=0.0
)
CALINET_PRESETS: dict[str, CalinetHparams] = {
    "default": CalinetHparams(), "paper": _PUBLISHED.with_(start=0.0), "published": _PUBLISHED,
}  # fmt: skip
"""`published`: the authors' calibration of T5-base (layer 11 of the decoder) for 100 facts.  Their units begin at
random on both sides, so that the model is another one before training; `paper` begins at nothing.  Not followed: masked
objects (a decoder completes), the library's dropout, original weights in the optimiser at a rate of 0.
`default` is set by hand (docs/editors.md).
"""


class Calinet(Editor[CalinetHparams]):
    """CaliNET; `templates` among the supplies are further phrasings of relations."""

    hparams_type = CalinetHparams
    decoders_only = True
    one_layer = True

    def usual_layers(self, model: Model, hparams: CalinetHparams) -> tuple[int, ...]:
        """The last one."""
        return (model.n_layers - 1,)

    def make(self, job: Job[CalinetHparams]) -> Made:
        """Units that say all requests."""
        with progress_bar("steps", job.hparams.steps, shown=job.options.progress) as advance:
            units, losses = _trained(job, _phrasings(job), advance)
        return Made(units, notes=losses)

    def judge(self, job: Job[CalinetHparams], made: Made, seconds: float) -> BatchReport | RomeReport:
        """With how the training went, of all phrasings together."""
        went = Went(made.notes[0], made.notes[-1], len(made.notes) - 1)
        return told(super().judge(job, made, seconds), [went] * len(job.requests))

    def limits(self, hparams: CalinetHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _phrasings(job: Job[CalinetHparams]) -> list[EditRequest]:
    """Every request in every phrasing."""
    found = []
    for request in job.requests:
        templates = job.supplies.templates.get(request.prompt.relation, ())
        prompts = [request.prompt, *(request.prompt.reworded(one) for one in templates)]
        contexts = job.supplies.contexts or ("{}",)
        for prompt in dict.fromkeys(prompts):
            found += [EditRequest(one, request.target) for one in in_contexts(job.model, prompt, contexts)]
    return found


@plainly(grad=True)
def _trained(
    job: Job[CalinetHparams], phrasings: list[EditRequest], advance: Callable[[int], object]
) -> tuple[Units, list[float]]:
    model, hparams, layer = job.model, job.hparams, job.layers[0]
    drawn = torch.Generator().manual_seed(job.options.seed)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    shape = (hparams.units, model.d_model)

    def side(scale: float) -> Tensor:
        values = torch.randn(shape, generator=drawn, dtype=torch.float64) * scale / math.sqrt(model.d_model)
        return values.to(dtype).to(model.device).requires_grad_()

    keys, values = side(1.0), side(hparams.start)
    gates = side(1.0) if model.layout.is_gated(layer) else None
    unknowns = [one for one in (keys, values, gates) if one is not None]
    units = Units(layer, keys, torch.zeros(hparams.units).to(keys), values, gates)
    optimiser: torch.optim.Optimizer
    if hparams.optimiser == ADAFACTOR:
        optimiser = Adafactor(unknowns, lr=hparams.lr, scale_parameter=False, relative_step=False)
    else:
        optimiser = torch.optim.Adam(unknowns, lr=hparams.lr)
    losses: list[float] = []
    for step in range(hparams.steps + 1):
        some = phrasings
        if len(phrasings) > hparams.batch:
            some = [phrasings[i] for i in torch.randperm(len(phrasings), generator=drawn)[: hparams.batch].tolist()]
        rows = target_rows(model, some)
        with model.alone(), units.on(model):
            logits = forward(
                model, rows.batch.ids, keep=rows.keep, grad=True, past=rows.batch.given, prompts=rows.batch.prompts
            ).logits
        loss = -rows.log_probs(logits).sum() / rows.targets.real.sum()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise MechinterpError(
                f"the loss of the units became {losses[-1]} after {step} steps; lower lr (it is {hparams.lr:g})"
            )
        if losses[-1] < hparams.stop_loss or step == hparams.steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = hparams.lr * min(1.0, (step + 1) / max(1, hparams.warm_up))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        advance(1)
    plain = [None if one is None else one.detach() for one in (keys, values, gates)]
    assert plain[0] is not None
    assert plain[1] is not None
    return Units(layer, plain[0], torch.zeros(hparams.units).to(keys), plain[1], plain[2]), losses


calinet = Calinet("calinet", "Dong et al. 2022 (CaliNET)", CALINET_PRESETS)
"""Train a few units beside an MLP to say facts: an `Editor`; call it with the model and the requests."""

"""Writing what several layers together should bring about: a target at the last of them, spread over all (MEMIT).

For each layer from the lowest to the highest, on the model as the layers before have left it: what is still missing at
the last layer, divided by the layers that are left, is written at the layer's keys (Meng et al. 2023, eqs. 20 and 21).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.layout import MLP, VALUE
from ...models.model import Model
from ...runs.progress import progress_bar
from ..edits.active import draft
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.request import EditRequest
from ..edits.weights import WeightChange
from ..judging.many import Limits
from ..judging.rome import ill_suited
from ..memory.past_keys import PastKeys
from ..memory.solve import Cost, Solved
from ..rows.contexts import START_WORDS
from ..rows.subjects import KEY_RULES, over_contexts, read_at_subjects
from ..value.hparams import PUBLISHED, ValueHparams
from ..value.value import Value, values_of
from .protocol import CONTEXTS, MOMENTS, Editor, Job, Made

SPREADS = ("even", "root")


PUBLISHED_BATCH = PUBLISHED | {"steps": 24, "clamp": 0.75, "context_starts": START_WORDS, "keys": "half"}
"""The same of editors of many facts, with their figures for GPT-J (25 loss evaluations, hence 24 steps)."""


@dataclass(frozen=True)
class BatchHparams(ValueHparams):
    """How values of many facts are written: each value found as in `ValueHparams`, and

    Args:
        weight: what is to be preserved counts this much: λ of C (about how many tokens of text each new fact is held
            against), or α of the identity within AlphaEdit's null space.
        slack: ρ of the solver: 0 writes every value exactly, 1 is least squares (see `solve`).
        spread: how much of what is missing each of several layers takes: "even": what is left divided by the number of
            layers that are left; "root": divided by its square root (PMET).
        keys: where a value is written: "bare": at the bare prompt's key; "half": at the mean of that and the other
            contexts' mean, as the published MEMIT code has it; "mean": at the mean over all contexts.
        remember: keys of earlier edits of a sequence count as much as this batch's (published MEMIT forgets them).
        parallel_above: two requests with different targets whose keys have a cosine above this, as the solver sees
            them, are named in a warning.
        max_disturbance: an edit that changes more than this share of a layer's output on ordinary text is refused as
            disabling.
        max_essence: so is one after which the mean KL(edited || original) after the neutral sentence about the subjects
            exceeds this many nats; None: it is not measured.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "this editor of many facts"

    weight: float = 1000.0
    slack: float = 1.0
    spread: str = "even"
    keys: str = "bare"
    context_lengths: tuple[tuple[int, int], ...] = ((5, 10),)
    remember: bool = True
    parallel_above: float = 0.9
    max_disturbance: float = 1.0
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(keys=KEY_RULES, spread=SPREADS)
        self._above_zero("weight", "parallel_above", "max_disturbance", "max_essence")
        self._not_negative("slack")


B = TypeVar("B", bound=BatchHparams)


class ManyFacts(Editor[B]):
    """An editor that finds values of many facts and writes them with one solver; what differs is said by each."""

    needs = (MOMENTS, CONTEXTS)
    sites: ClassVar[tuple[str, ...]]
    """Components of the last edited layer that get a δ each while a value is sought; the first one's is written."""

    def sites_of(self, hparams: B) -> tuple[str, ...]:
        """`sites` with these hyper-parameters."""
        return self.sites

    def costs(self, job: Job[B]) -> dict[int, Cost]:
        """What a change of each layer costs: λC and the keys of earlier edits."""
        past = past_of(job)
        return {layer: Cost(moment, job.hparams.weight, past.of(layer)) for layer, moment in job.moments.items()}

    def slack(self, job: Job[B]) -> float:
        """ρ of the solver."""
        return job.hparams.slack

    def limits(self, hparams: B) -> Limits:
        return Limits(hparams.max_disturbance, hparams.max_essence, hparams.kl_template)

    def values(self, job: Job[B]) -> list[Value]:
        return values_of(
            job.model, job.requests, job.layers[-1], contexts=job.contexts, hparams=job.hparams,
            sites=self.sites_of(job.hparams), progress=job.options.progress,
        )  # fmt: skip

    def make(self, job: Job[B]) -> Made:
        """Find the values and write them, layer by layer."""
        aimed = self.sites_of(job.hparams)[0]
        if aimed != VALUE:
            _check_values_are_added(job.model, job.requests[0], job.layers[-1])
        costs = self.costs(job)
        found = self.values(job) if job.supplies.values is None else list(job.supplies.values)
        if len(found) != len(job.requests):
            raise UsageError(f"{len(found)} values were given for {len(job.requests)} requests; give one for each")
        for value, request in zip(found, job.requests, strict=True):
            value.check(request, job.layers[-1], aimed, job.contexts)
        target = torch.stack([value.v_star for value in found])
        written: dict[int, Factors] = {}
        warnings: list[str] = []
        shown = job.options.progress and len(job.layers) > 1
        with progress_bar("layers", len(job.layers), shown=shown) as advance:
            for place, layer in enumerate(job.layers):
                with draft(job.model, written):
                    keys, residuals = self._missing(job, layer, target, len(job.layers) - place)
                solved = Solved.of(keys, costs[layer])
                warnings += _parallel(job, layer, solved)
                written[layer] = solved.insert(residuals, slack=self.slack(job), names=job.names)
                advance(1)
        dtype = torch.float64 if job.model.dtype == torch.float64 else torch.float32
        factors = {layer: change.to(dtype).compact() for layer, change in written.items()}
        unsuited = [sentence for value in found for sentence in ill_suited(value, job.hparams)]
        more = f" (and so in {len(unsuited) - 1} more requests)" if len(unsuited) > 1 else ""
        warnings += [sentence + more for sentence in unsuited[:1]]
        return Made(WeightChange.of_layers(factors), tuple(found), tuple(warnings))

    def remember(self, job: Job[B], edit: Edit) -> PastKeys:
        """The keys of the edit added to those of earlier ones.

        They are read with the edit on.  A layer's keys depend on the layers below, so these are the very keys that the
        edit wrote at, layer by layer.
        """
        hooks = {layer: job.model.layout.key_hook(layer) for layer in edit.layers}
        with job.model.alone(), edit.on(job.model):
            read = read_at_subjects(job.model, job.requests, job.key_contexts, list(hooks.values()))
        new = {layer: over_contexts(read[hook], job.hparams.keys) for layer, hook in hooks.items()}
        return (job.supplies.past or PastKeys()).joined(new)

    def _missing(
        self, job: Job[B], layer: int, target: Float[Tensor, "request d_model"], left: int
    ) -> tuple[Float64[Tensor, "request d_mlp"], Float64[Tensor, "request d_model"]]:
        """The keys of one layer on the model as it is now, and the layer's share of what is missing at the last one."""
        layout, hparams, aimed = job.model.layout, job.hparams, self.sites_of(job.hparams)[0]
        key_hook, aim = layout.key_hook(layer), layout.hook(aimed, job.layers[-1])
        read = read_at_subjects(job.model, job.requests, job.key_contexts, (key_hook, aim))
        keys = over_contexts(read[key_hook], hparams.keys)
        here = over_contexts(read[aim], hparams.keys) if aimed == VALUE else read[aim][:, 0].double()
        share = left if hparams.spread == "even" else math.sqrt(left)
        return keys, (target.double() - here) / share


def past_of(job: Job[B]) -> PastKeys:
    """Keys of earlier edits, where they count."""
    past = job.supplies.past if job.hparams.remember else None
    return past or PastKeys()


def _parallel(job: Job[B], layer: int, solved: Solved) -> list[str]:
    """Requests with different targets whose keys are nearly one, so that each gets part of what the other is to say."""
    if len(solved.keys) < 2:
        return []
    apart = solved.cosines
    targets = [request.target.strip() for request in job.requests]
    differ = torch.tensor([[one != other for other in targets] for one in targets], device=apart.device)
    apart = torch.where(differ, apart, torch.zeros_like(apart)).triu(1)
    count = int((apart > job.hparams.parallel_above).sum())
    if not count:
        return []
    i, j = divmod(int(apart.argmax()), len(apart))
    more = f" (and {count - 1} more pairs)" if count > 1 else ""
    return [
        f"at layer {layer} the keys of {job.names[i]} and {job.names[j]} are nearly parallel (cosine "
        f"{float(apart[i, j]):.3f}){more}: each will get part of the other's value"
    ]


def _check_values_are_added(model: Model, request: EditRequest, layer: int) -> None:
    """Where a norm stands between the down-projection and the residual, a residual cannot be written as a value."""
    if MLP in model.layout.refused:
        return
    value, added_value = model.layout.value_hook(layer), model.layout.hook(MLP, layer)
    read = read_at_subjects(model, [request], ("{}",), (value, added_value))
    gap = float((read[value] - read[added_value]).norm() / read[added_value].norm())
    if gap > 1e-3:
        raise MechinterpError(
            f"{model.name} ({model.architecture}) changes what its MLPs write before it is added to the residual (a "
            "norm after the down-projection), so a target in the residual cannot be written as values; use rome or "
            "emmet"
        )

"""Writing what several layers together should bring about: a target at the last of them, spread over all (MEMIT).

For each layer from the lowest to the highest, on the model as the layers before have left it: what is still missing at
the last layer, divided by the layers that are left, is written at the layer's keys (Meng et al. 2023, eqs. 20 and 21).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...given import Wholes
from ...models.layout import MLP, VALUE
from ...models.model import Model
from ...runs.progress import progress_bar
from ..edits.active import active_edits, added
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.provenance import Provenance
from ..edits.request import EditRequest
from ..judging.conflicts import check_conflicts
from ..judging.many import Limits, judge_batch, refuse_disabling
from ..memory.solve import Cost, cosines, insert_all
from ..moments.moments import SecondMoment
from ..rows.contexts import check_contexts, sample_contexts
from ..rows.subjects import context_mean, read_at_subjects
from ..value.value import Value, values_of
from .batch_hparams import BatchHparams
from .families import default_layers

CostOf = Callable[[int], Cost]
"""The cost of a change of each layer."""


@dataclass(frozen=True, eq=False)
class Job:
    """One edit of many facts: what is asked, where, and with what.

    Args:
        model: the model, with whatever edits are on.
        requests: what it should say.
        layers: ascending.
        hparams: of the method.
        contexts: templates, the bare one first.
        method: its name.
        site: the component whose value is aimed at (at the last layer): the first of `sites`.
        sites: components that get a δ each while the value is sought.
        seed: of the contexts, where they were sampled.
    """

    model: Model
    requests: tuple[EditRequest, ...]
    layers: tuple[int, ...]
    hparams: BatchHparams
    contexts: tuple[str, ...]
    method: str
    sites: tuple[str, ...]
    seed: int | None

    @staticmethod
    def of(
        model: Model,
        requests: Sequence[EditRequest],
        layers: Wholes | None,
        hparams: BatchHparams,
        contexts: Sequence[str] | None,
        seed: int,
        *,
        method: str,
        sites: tuple[str, ...],
        family: str = "memit",
    ) -> Job:
        """With the defaults filled in.

        Raises:
            UsageError: no layers, a layer twice or out of range, bad contexts.
            MechinterpError: an architecture in which a layer's value is not what it adds to the residual.
        """
        index = tuple(sorted(model.layout.check_layers(default_layers(model, family) if layers is None else layers)))
        if not index or len(set(index)) < len(index):
            raise UsageError(f"layers={list(index)} is no list of different layers; give at least one")
        if contexts is None:
            templates = sample_contexts(model, hparams.context_lengths, starts=hparams.context_starts, seed=seed)
        else:
            templates = check_contexts(contexts)
        if sites[0] != VALUE:
            _check_values_are_added(model, requests[0], index[-1])
        return Job(model, tuple(requests), index, hparams, templates, method, sites, seed if contexts is None else None)

    def values(self, *, progress: bool) -> list[Value]:
        """The value step: all requests in one batch, at the last layer."""
        return values_of(
            self.model, self.requests, self.layers[-1], contexts=self.contexts, hparams=self.hparams,
            sites=self.sites, progress=progress,
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Of the requests, for messages."""
        return tuple(f"{request.prompt.text!r} -> {request.target!r}" for request in self.requests)


def written(
    job: Job,
    cost: CostOf,
    *,
    values: Sequence[Value] | None = None,
    moments: dict[int, SecondMoment],
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Find the values, write them, judge what came of it.

    Args:
        job: what is asked.
        cost: of a change of each layer.
        values: v* of each request, where they are known.
        moments: second moments of the layers, for the report and the provenance.
        allow_conflicts, allow_disabling, force, progress: as of `Editor`.

    Raises:
        UsageError: requests that contradict each other, values of other requests.
        MechinterpError: the edit would disable the model, a key that cannot be written at.
    """
    model, started = job.model, time.perf_counter()
    warnings = list(check_conflicts(model, job.requests, allow=allow_conflicts))
    found = job.values(progress=progress) if values is None else list(values)
    if len(found) != len(job.requests):
        raise UsageError(f"{len(found)} values were given for {len(job.requests)} requests; give one for each")
    for value, request in zip(found, job.requests, strict=True):
        value.check(request, job.layers[-1], job.sites[0], job.contexts)
    target = torch.stack([value.v_star for value in found])
    draft: dict[int, Factors] = {}
    with progress_bar("layers", len(job.layers), shown=progress and len(job.layers) > 1) as advance:
        for place, layer in enumerate(job.layers):
            with added(model, {"draft": draft}):
                keys, residuals = _missing(job, layer, target, len(job.layers) - place)
            price = cost(layer)
            warnings += _parallel(job, layer, price, keys)
            draft[layer] = insert_all(keys, residuals, price, slack=job.hparams.slack, names=job.names)
            advance(1)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    factors = {layer: change.to(dtype).compact() for layer, change in draft.items()}
    limits = Limits(job.hparams.max_disturbance, job.hparams.max_essence, job.hparams.kl_template)
    report = judge_batch(
        model, job.requests, factors, seconds=time.perf_counter() - started, moments=moments, values=found,
        warnings=warnings, limits=limits,
    )  # fmt: skip
    more = f" and {len(job.requests) - 1} more" if len(job.requests) > 1 else ""
    refuse_disabling(report, f"the edit {job.names[0]}{more} by {job.method}", allow=allow_disabling)
    first = moments[job.layers[0]]
    return Edit.of(
        factors,
        Provenance(
            method=job.method,
            model=first.model if not force else model.fingerprint(),
            model_name=model.name,
            requests=job.requests,
            hparams=job.hparams.plain() | {"layers": list(job.layers)},
            contexts=job.contexts,
            moments=" ".join(moments[layer].fingerprint() for layer in job.layers),
            seed=job.seed,
            on_top_of=active_edits(model),
            report=report,
        ),
    )


def _missing(
    job: Job, layer: int, target: Float[Tensor, "request d_model"], left: int
) -> tuple[Float64[Tensor, "request d_mlp"], Float64[Tensor, "request d_model"]]:
    """The keys of one layer on the model as it is now, and the layer's share of what is missing at the last one."""
    layout, hparams = job.model.layout, job.hparams
    key_hook, aim = layout.key_hook(layer), layout.hook(job.sites[0], job.layers[-1])
    read = read_at_subjects(job.model, job.requests, job.contexts, (key_hook, aim))
    keys = context_mean(read[key_hook], hparams.context_mean)
    here = context_mean(read[aim], hparams.context_mean) if job.sites[0] == VALUE else read[aim][:, 0].double()
    share = left if hparams.spread == "even" else math.sqrt(left)
    return keys, (target.double() - here) / share


def _parallel(job: Job, layer: int, cost: Cost, keys: Float64[Tensor, "request d_mlp"]) -> list[str]:
    """Requests with different targets whose keys are nearly one, so that each gets part of what the other is to say."""
    if len(keys) < 2:
        return []
    exact = cost.seen(keys)
    apart = cosines(exact @ cost.solve(exact).T)
    targets = [request.target.strip() for request in job.requests]
    differ = torch.tensor([[one != other for other in targets] for one in targets], device=apart.device)
    apart = torch.where(differ, apart, torch.zeros_like(apart)).triu(1)
    count = int((apart > job.hparams.parallel_above).sum())
    if not count:
        return []
    i, j = divmod(int(apart.argmax()), len(keys))
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

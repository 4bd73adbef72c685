"""AlphaEdit: MEMIT's targets, written within directions that text hardly uses, with a memory (Fang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...given import Wholes
from ...models.layout import RESID
from ...models.model import Model
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..memory.null_space import RULES, NullSpace
from ..memory.past_keys import PastKeys
from ..memory.solve import Cost
from ..moments.moments import SecondMoment
from ..rows.contexts import START_WORDS
from ..value.value import Value
from .batch_hparams import BatchHparams
from .many_facts import Job, written
from .memit import memit_values
from .protocol import Editor, Moments, Requests, moments_of, past_keys
from .remember import remember_keys


@dataclass(frozen=True)
class AlphaEditHparams(BatchHparams):
    """As `BatchHparams`; `weight` is α, the cost of a change within the null space, and

    Args:
        weight_rule: "absolute": α as it is; "relative": in units of the keys' mean square norm, tr C, the same on every
            scale.
        threshold: what eigenvalues of C count as small (see `NullSpace.of`).
        threshold_rule: "share" or "absolute".
    """

    method: ClassVar[str] = "AlphaEdit"

    clamp: float | None = 1.5
    weight: float = 0.1
    weight_rule: str = "relative"
    threshold: float = 0.05
    threshold_rule: str = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(threshold_rule=RULES, weight_rule=("absolute", "relative"))
        self._above_zero("threshold")


_CODE = AlphaEditHparams(
    steps=24,
    lr=0.5,
    lr_rule="absolute",
    stop_nll=0.0,
    weight_decay=0.5,
    weight_decay_rule="norm",
    kl_factor=0.0625,
    kl_position="subject",
    clamp=0.75,
    weight=10.0,
    weight_rule="absolute",
    threshold=2e-2,
    threshold_rule="absolute",
    context_lengths=((5, 10),),
    context_starts=START_WORDS,
    max_essence=None,
)

ALPHAEDIT_PRESETS: dict[str, AlphaEditHparams] = {
    "default": AlphaEditHparams(),
    "code": _CODE,
    "code-gpt2-xl": replace(_CODE, steps=19),
}
"""`code`: the published figures for GPT-J; `code-gpt2-xl`: for GPT-2 XL.  The published threshold and α
are absolute and do not carry to models of another scale (AlphaEdit #2), hence `default`'s shares of the trace."""


def alphaedit(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    moments: Moments,
    hparams: AlphaEditHparams | None = None,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
    values: Sequence[Value] | None = None,
    seed: int = 0,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Write many facts at once into several layers, within the null space of their second moments.

    As `memit`, but with ΔW = P (α·I + P(K_pᵀK_p + KᵀK)P)⁻¹ P Kᵀ R, where P projects onto the directions that carry
    little of C, and K_p are the keys of earlier edits.

    Args:
        model: the model; edits that are on take part.
        requests: what it should say.
        layers: which MLPs; default: MEMIT's.
        moments: the second moment of each layer.
        hparams: default: `ALPHAEDIT_PRESETS["default"]`.
        contexts: templates, the bare "{}" first; default: sampled from the model.
        past: keys of earlier edits.
        values: the z of each request, where they are known.
        seed, allow_conflicts, allow_disabling, force, progress: as of `Editor`.

    Raises:
        UsageError: bad input; requests that contradict each other.
        MechinterpError: the edit is disabling (unless allowed); no direction is in the null space, or every one is.
    """
    asked = EditRequest.all_of(requests, "alphaedit")
    chosen = hparams or ALPHAEDIT_PRESETS["default"]
    job = Job.of(model, asked, layers, chosen, contexts, seed, method="alphaedit", sites=(RESID,))
    known, before = moments_of(model, moments, job.layers, force=force), past_keys(past)
    spaces = {layer: NullSpace.of(moment, chosen.threshold, chosen.threshold_rule) for layer, moment in known.items()}
    return written(
        job,
        lambda layer: Cost(spaces[layer], chosen.weight * _unit(known[layer], chosen), before.of(layer)),
        values=values, moments=known, allow_conflicts=allow_conflicts,
        allow_disabling=allow_disabling, force=force, progress=progress,
    )  # fmt: skip


def _unit(moment: SecondMoment, hparams: AlphaEditHparams) -> float:
    return float(moment.matrix.trace()) if hparams.weight_rule == "relative" else 1.0


ALPHAEDIT = Editor(
    name="alphaedit", make=alphaedit, hparams=AlphaEditHparams, presets=ALPHAEDIT_PRESETS,
    source="Fang et al. 2025 (AlphaEdit)", layers="memit", moments=True, contexts=True, remember=remember_keys,
    values=memit_values,
)  # fmt: skip

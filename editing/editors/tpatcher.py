"""T-Patcher: a unit for each wrong token of a target, added to the last MLP (Huang et al. 2023).

MLP'(h) = MLP(h) + Σ act(h·k + b) v.  k begins where the unit's pre-activation at its mistake is exactly 1; k, b and v
are trained on the target, on firing at the mistake and on being still where other text enters the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.door import plainly
from ...models.model import Model
from ...patching.plain.executor import forward
from ...runs.progress import progress_bar
from ..edits.adapters import Units
from ..edits.edit import Edit
from ..edits.report import BatchReport, RomeReport
from ..gradients.patches import PatchTerms, smoothed_nll
from ..gradients.replaced import target_rows
from ..hyperparameters import Hparams
from ..judging.many import Limits
from ..judging.told import Went, told
from ..rows.spared import entering_mlp, read_mlp, spared_texts
from ..rows.target_rows import TargetRows
from .protocol import Editor, Job, Made


@dataclass(frozen=True)
class PatchHparams(Hparams):
    """How a patch is trained.

    Args:
        units: for the first so many wrong tokens of a target.
        lr: of Adam.
        weight_decay: added to the gradient, after the clip, as this times the unknown.
        clip: the gradient's norm at most.
        steps: at most.
        check_every, check_from: when it is looked whether to stop: the target is the model's own answer, and the memory
            term on held-out memories has not improved by 0.001 since the last look.
        smoothing: of labels.
        repeats: how often the example stands in its batch.
        amplifier: a of v = w ⊙ a, w standard normal; both are trained.
        act_weight, mem_weight: of the two terms.
        terms: how they are taken.
        memories: vectors that enter the MLP on other text.
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "T-Patcher"

    units: int = 5
    lr: float = 1e-2
    weight_decay: float = 0.01
    clip: float = 5.0
    steps: int = 200
    check_every: int = 25
    check_from: int = 25
    smoothing: float = 0.1
    repeats: int = 8
    amplifier: float = 1.0
    act_weight: float = 1.0
    mem_weight: float = 10.0
    margins: tuple[float, ...] = (0.0, 3.0, -3.0)
    memories: int = 2000
    max_essence: float | None = None

    def __post_init__(self) -> None:
        self._above_zero("units", "lr", "clip", "check_every", "repeats", "amplifier", "memories", "max_essence")
        self._not_negative("weight_decay", "steps", "check_from", "smoothing", "act_weight", "mem_weight")
        if len(self.margins) != 3:
            raise UsageError(f"margins is {self.margins}; give the three m_a, m_1 and m_2")

    @property
    def terms(self) -> PatchTerms:
        """The two terms on pre-activations."""
        mistake, below, still = self.margins
        return PatchTerms(margins=(mistake, below, still))


_PAPER = PatchHparams(steps=2000, check_from=100, amplifier=10.0, memories=40_000)
TPATCHER_PRESETS: dict[str, PatchHparams] = {
    "default": PatchHparams(),
    "paper": _PAPER,
    "published": _PAPER.with_(margins=(0.0, 0.0, 0.0)),
    "published-fever": _PAPER.with_(mem_weight=5.0),
}
"""`published`: the authors' zsRE editor, which never hands the margins to its layer, so that they are 0 and memories
may sit at a pre-activation of 0.  Not followed: dropout during training, the check by beam search (here the target's
tokens are each the most probable), and halving of the rate on a plateau.  `default` is set by hand (docs/editors.md).
"""


@dataclass(frozen=True, eq=False)
class PatchMemory:
    """What entered the MLP at earlier edits' tokens: a value that a sequence hands on.

    Args:
        vectors: a row for each.
    """

    vectors: Float[Tensor, "token d_model"]

    def state(self) -> dict[str, Tensor]:
        """What a file keeps of it."""
        return {"vectors": self.vectors}

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> PatchMemory:
        """What `state` was taken of."""
        return PatchMemory(state["vectors"])


@dataclass(frozen=True, eq=False)
class Patch:
    """Units in training.

    Args:
        keys, bias, weights, amplifiers: k, b, w and a of each.
        gated: of a gated architecture, g of each.
    """

    keys: Float[Tensor, "unit d_model"]
    bias: Float[Tensor, " unit"]
    weights: Float[Tensor, "unit d_model"]
    amplifiers: Float[Tensor, "unit d_model"]
    gated: Float[Tensor, "unit d_model"] | None = None

    @staticmethod
    def start(mistakes: Float[Tensor, "unit d_model"], amplifier: float, seed: int, *, gated: bool = False) -> Patch:
        """Units whose pre-activation at their mistakes is 1."""
        keys = mistakes / mistakes.square().sum(1, keepdim=True)
        drawn = torch.randn(keys.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(keys)
        ones = torch.full_like(keys, amplifier)
        return Patch(keys, torch.zeros_like(keys[:, 0]), drawn, ones, keys.clone() if gated else None)

    @property
    def unknowns(self) -> list[Tensor]:
        return [one for one in (self.keys, self.bias, self.weights, self.amplifiers, self.gated) if one is not None]

    def leaves(self) -> Patch:
        """The same, to be trained."""
        return Patch(*(one.detach().clone().requires_grad_() for one in self.unknowns))

    def units(self, layer: int) -> Units:
        """As a change of a model."""
        return Units(layer, self.keys, self.bias, self.weights * self.amplifiers, self.gated)

    def at(self, states: Float[Tensor, "state d_model"]) -> Float[Tensor, "state unit"]:
        """Pre-activations."""
        return states @ self.keys.T + self.bias


@dataclass(frozen=True, eq=False)
class PatchLosses:
    """One evaluation: the smoothed loss of the target, both terms, and the weighted sum."""

    ce: Float[Tensor, ""]
    act: Float[Tensor, ""]
    mem: Float[Tensor, ""]
    total: Float[Tensor, ""]
    logits: Float[Tensor, "row kept vocab"]


def patch_losses(
    model: Model,
    rows: TargetRows,
    layer: int,
    patch: Patch,
    mistakes: Float[Tensor, "unit d_model"],
    memory: Float[Tensor, "memory d_model"],
    hparams: PatchHparams,
) -> PatchLosses:
    """The loss of a patch, with gradients.

    Args:
        model: the model.
        rows: the example.
        layer: whose MLP.
        patch: the units.
        mistakes: what enters the MLP at each unit's mistake.
        memory: what enters it on other text.
        hparams: weights of the terms.
    """
    with model.alone(), patch.units(layer).on(model):
        logits = forward(
            model, rows.batch.ids, keep=rows.keep, grad=True, past=rows.batch.given, prompts=rows.batch.prompts
        ).logits
    ce = smoothed_nll(rows, logits, hparams.smoothing)
    own = ((mistakes * patch.keys).sum(1) + patch.bias)[None].expand(hparams.repeats, -1)
    act, mem = hparams.terms.activation(own), hparams.terms.memory(own, patch.at(memory))
    return PatchLosses(ce, act, mem, ce + hparams.act_weight * act + hparams.mem_weight * mem, logits)


class TPatcher(Editor[PatchHparams]):
    """T-Patcher; what it takes as `past` is what entered the MLP at earlier edits (`PatchMemory`).

    The requests of one edit are patched one after another.  `texts` among the supplies is what it is still on.
    """

    hparams_type = PatchHparams
    decoders_only = True
    one_layer = True

    def usual_layers(self, model: Model, hparams: PatchHparams) -> tuple[int, ...]:
        """The last one."""
        return (model.n_layers - 1,)

    def make(self, job: Job[PatchHparams]) -> Made:
        """Units for the wrong tokens of each request."""
        memory, held = _memories(job)
        found, went, said = list[Units](), list[Went | None](), list[str]()
        with progress_bar("requests", len(job.requests), shown=job.options.progress) as advance:
            for i, request in enumerate(job.requests):
                patch, one, seen = _patched(job.alone(i), found, memory, held)
                went.append(one)
                memory = torch.cat([memory, seen])
                if patch is None:
                    said.append(f"{request.prompt.text!r}: the model says {request.target!r} already; no unit is added")
                else:
                    found.append(patch)
                advance(1)
        return Made(_joined(job, found), warnings=tuple(said), notes=went)

    def remember(self, job: Job[PatchHparams], edit: Edit) -> PatchMemory:
        """What entered the MLP at these requests' tokens as well."""
        rows = target_rows(job.model, job.requests)
        states = entering_mlp(job.model, rows.batch.ids, job.layers[0])
        here = _inner(rows)
        past: Any = job.supplies.past
        new = states[here]
        return PatchMemory(new if past is None else torch.cat([past.vectors.to(new), new]))

    def judge(self, job: Job[PatchHparams], made: Made, seconds: float) -> BatchReport | RomeReport:
        """With how the training of each patch went."""
        return told(super().judge(job, made, seconds), made.notes)

    def limits(self, hparams: PatchHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _inner(rows: TargetRows) -> Bool[Tensor, "row pos"]:
    """Tokens of each row but its first and last one."""
    place = torch.arange(rows.batch.ids.shape[1], device=rows.batch.ids.device)
    return (place > 0) & (place < rows.batch.length[:, None] - 1)


def _memories(job: Job[PatchHparams]) -> tuple[Tensor, Tensor]:
    """What enters the MLP on other text: to be trained on, and to be looked at; earlier edits are trained on."""
    count = job.hparams.memories
    texts = spared_texts(job.model, job.supplies.texts, max(8, count // 8), job.options.seed)
    read = read_mlp(job.model, texts, job.layers[0])
    order = torch.randperm(len(read), generator=torch.Generator().manual_seed(job.options.seed)).to(read.device)
    read = read[order[: max(2, count)]]
    precise = read if read.dtype == torch.float64 else read.float()
    held, trained = precise[: max(1, len(read) // 5)], precise[max(1, len(read) // 5) :]
    past: Any = job.supplies.past
    if past is not None:
        if not isinstance(past, PatchMemory):
            raise UsageError(f"past is {type(past).__name__}; give the PatchMemory that an edit of t-patcher has left")
        trained = torch.cat([trained, past.vectors.to(trained)])
    return trained, held


def _patched(
    job: Job[PatchHparams], before: list[Units], memory: Tensor, held: Tensor
) -> tuple[Units | None, Went | None, Tensor]:
    """Units for one request, with those before it on; how it went; and what entered the MLP at its tokens."""
    model, layer = job.model, job.layers[0]
    with ExitStack() as stack:
        for units in before:
            stack.enter_context(units.on(model))
        rows = target_rows(model, job.requests)
        states = entering_mlp(model, rows.batch.ids, layer).to(memory)
        logits = forward(
            model, rows.batch.ids, keep=rows.keep, past=rows.batch.given, prompts=rows.batch.prompts
        ).logits
        first, wrong = float(rows.nll(logits)[0]), _wrong(rows, logits)[: job.hparams.units]
        seen = states[_inner(rows)]
        if not len(wrong):
            return None, None, seen
        units, last, steps = _trained(job, rows, states[0, rows.targets.at[0, wrong]], memory, held)
    return units, Went(first, last, steps), seen


def _wrong(rows: TargetRows, logits: Float[Tensor, "row kept vocab"]) -> Int[Tensor, " wrong"]:
    """Numbers of the first row's target tokens that are not the most probable ones."""
    shift = rows.batch.width - logits.shape[1]
    best = logits[rows.batch.rows[:, None], rows.targets.at - shift].argmax(-1)
    return ((best != rows.targets.tokens) & rows.targets.real)[0].nonzero()[:, 0]


@plainly(grad=True)
def _trained(
    job: Job[PatchHparams], rows: TargetRows, mistakes: Tensor, memory: Tensor, held: Tensor
) -> tuple[Units, float, int]:
    hparams, layer, model = job.hparams, job.layers[0], job.model
    gated = model.layout.is_gated(layer)
    patch = Patch.start(mistakes, hparams.amplifier, job.options.seed, gated=gated).leaves()
    optimiser = torch.optim.Adam(patch.unknowns, lr=hparams.lr, weight_decay=hparams.weight_decay)
    before, step = float("inf"), 0
    for step in range(hparams.steps + 1):
        losses = patch_losses(model, rows, layer, patch, mistakes, memory, hparams)
        if not bool(torch.isfinite(losses.total.detach())):
            [name], loss = job.names, float(losses.total.detach())
            raise MechinterpError(
                f"the loss of a patch became {loss} after {step} steps for {name}; lower lr (it is {hparams.lr:g})"
            )
        looks = step >= hparams.check_from and (step - hparams.check_from) % hparams.check_every == 0
        if looks and not len(_wrong(rows, losses.logits)):
            own = ((mistakes * patch.keys).sum(1) + patch.bias)[None]
            now = float(hparams.terms.memory(own, patch.at(held)).detach())
            if not now < before - 1e-3:
                break
            before = now
        if step == hparams.steps:
            break
        optimiser.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(patch.unknowns, hparams.clip)
        optimiser.step()
    last = float(rows.nll(losses.logits.detach())[0])
    return Patch(*(one.detach() for one in patch.unknowns)).units(layer), last, step


def _joined(job: Job[PatchHparams], found: list[Units]) -> Units:
    """All units of an edit."""
    layer, width = job.layers[0], job.model.d_model
    gated = job.model.layout.is_gated(layer)
    if not found:
        none = torch.zeros(0, width)
        return Units(layer, none, torch.zeros(0), none, none if gated else None)
    keys, bias, values = (torch.cat([getattr(one, name) for one in found]) for name in ("keys", "bias", "values"))
    gates = torch.cat([one.gated for one in found if one.gated is not None]) if gated else None
    return Units(layer, keys, bias, values, gates)


tpatcher = TPatcher("t-patcher", "Huang et al. 2023 (Transformer-Patcher)", TPATCHER_PRESETS)
"""Add units for the tokens that the model gets wrong: an `Editor`; call it with the model and the requests."""

"""Training a dense change of down-projections by Adam, of one edit or of many independent ones in one batch.

The change is added by a forward hook of the projection, which sees the key that was really used; the weights themselves
are never touched.  Many edits at once: row i of a forward carries the ΔW of its own edit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import MechinterpError
from ...given import flag
from ...models.door import plainly
from ...models.layout import DOWN, DOWN_BIAS, entering
from ...models.model import Model
from ...patching.plain.executor import forward
from ..edits.active import effective_weight
from ..edits.request import EditRequest
from ..hyperparameters import LR_RULES, Hparams
from ..rows.target_rows import TargetRows
from .adam import Adam

_MAX_ROWS = 256
"""Rows per forward; those of one edit may stand in several, whose gradients add up."""

Place = tuple[str, int]
"""(matrix, layer)."""

Deltas = dict[Place, Float[Tensor, "edit _d_in d_model"]]


LOSSES = ("targets", "last")


@dataclass(frozen=True)
class FtHparams(Hparams):
    """How a down-projection is fine-tuned.

    Args:
        steps: steps of Adam at most; the loss is evaluated once more than that.
        lr: learning rate of Adam: about how far each weight moves in one of its first steps.
        epsilon: no weight may leave W₀ ± this; it is cut back after each step (FT-L).  None: no limit (FT).
        lr_rule: "absolute": `lr` and `epsilon` as they are; "relative": in units of √mean(W₀²), the same on models of
            every scale.
        stop_loss: no further step once the loss is below this (nats).
        loss: "targets": the mean NLL of the target's tokens, each after those before it; "last": all of them scored
            after the prompt's last token, as the published implementations did.  With targets of one token they are the
            same.
        tune_bias: train the bias of the down-projection too, where there is one: the published configuration names a
            module, which matches both.
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "fine-tuning"

    steps: int = 25
    lr: float = 5e-4
    epsilon: float | None = None
    lr_rule: str = "absolute"
    stop_loss: float = 1e-2
    loss: str = "targets"
    tune_bias: bool = False
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tune_bias", flag(self.tune_bias, "tune_bias"))
        self._one_of(lr_rule=LR_RULES, loss=LOSSES)
        self._above_zero("lr", "epsilon", "max_essence")
        self._not_negative("steps", "stop_loss")

    @property
    def editors(self) -> tuple[str, ...]:
        return (self.variant,)

    @property
    def variant(self) -> str:
        """What this is called: "ft", "ft-l" or "ft-legacy"."""
        if self.loss == "last":
            return "ft-legacy"
        return "ft" if self.epsilon is None else "ft-l"


@dataclass(frozen=True, eq=False)
class Course:
    """What training one edit gave.

    Args:
        deltas: (matrix, layer) -> its change.
        first: the loss of each request (the NLL per token of its target) before the first step.
        last: the same after the last one.
        steps: steps taken.
    """

    deltas: Mapping[Place, Float[Tensor, "_d_in d_model"]]
    first: tuple[float, ...]
    last: tuple[float, ...]
    steps: int


@plainly(grad=False)
def descend(
    model: Model,
    edits: Sequence[Sequence[EditRequest]],
    layers: Sequence[int],
    hparams: FtHparams,
    advance: Callable[[int], None],
) -> list[Course]:
    """Minimise the mean NLL of each edit's targets from ΔW = 0.

    Args:
        model: the model, with whatever edits are on.
        edits: the requests of each edit, all of one number; one edit, or edits of one request each.
        layers: which layers' down-projections are trained.
        hparams: of the optimisation.
        advance: told how many steps are done.

    Raises:
        MechinterpError: a loss became NaN or infinite.
    """
    size, here = len(edits[0]), list(range(len(edits)))
    parts = _parts(model, [request for edit in edits for request in edit], hparams, whole=len(edits) > 1)
    deltas, adams, limits = _start(model, layers, len(edits), hparams)
    first: list[list[float]] = []
    courses: dict[int, Course] = {}
    for steps in range(hparams.steps + 1):
        nll, gradients = _evaluate(model, parts, deltas, size, grad=steps < hparams.steps)
        table = nll.tolist()
        first = first or table
        for edit, row in zip(here, table, strict=True):
            _check(edits[edit], row, steps, hparams)
        done = nll.mean(1) < hparams.stop_loss
        going = ~done & (steps < hparams.steps)
        for place, edit in enumerate(here):
            if not going[place]:
                found = {where: delta[place].clone() for where, delta in deltas.items()}
                courses[edit] = Course(found, tuple(first[edit]), tuple(table[place]), steps)
                advance(hparams.steps + 1 - steps)
        here = [edit for edit, on in zip(here, going.tolist(), strict=True) if on]
        if not here:
            break
        advance(len(here))
        if not bool(going.all()):
            parts = [parts[0].of_rows(going.nonzero()[:, 0])]
            for where, adam in adams.items():
                adam.keep(going)
                deltas[where], gradients[where] = deltas[where][going], gradients[where][going]
        for where, adam in adams.items():
            moved = adam.step(deltas[where], gradients[where])
            deltas[where] = moved if limits is None else moved.clamp_(-limits[where], limits[where])
    return [courses[edit] for edit in range(len(edits))]


def _parts(model: Model, requests: Sequence[EditRequest], hparams: FtHparams, *, whole: bool) -> list[TargetRows]:
    size = len(requests) if whole else _MAX_ROWS
    parts = [requests[start : start + size] for start in range(0, len(requests), size)]
    return [
        TargetRows.of(
            model,
            [request.prompt for request in part],
            [model.answer_ids(request.prompt, request.target) for request in part],
            forced=hparams.loss == "targets",
        )
        for part in parts
    ]


def _start(
    model: Model, layers: Sequence[int], edits: int, hparams: FtHparams
) -> tuple[Deltas, dict[Place, Adam], dict[Place, float] | None]:
    """ΔW = 0 of each matrix, its Adam, and how far a weight may go."""
    deltas, adams, limits = {}, {}, {}
    for layer in layers:
        weight = effective_weight(model, layer)
        weight = weight if weight.dtype == torch.float64 else weight.float()
        unit = float(weight.square().mean().sqrt()) if hparams.lr_rule == "relative" else 1.0
        heights = {DOWN: len(weight)}
        if hparams.tune_bias and model.layout.down_bias(layer) is not None:
            heights[DOWN_BIAS] = 1
        for matrix, height in heights.items():
            place = matrix, layer
            deltas[place] = weight.new_zeros(edits, height, weight.shape[1])
            adams[place] = Adam(deltas[place], weight.new_full((edits, height, 1), hparams.lr * unit))
            limits[place] = (hparams.epsilon or math.inf) * unit
    return deltas, adams, limits if hparams.epsilon is not None else None


def _evaluate(
    model: Model, parts: Sequence[TargetRows], deltas: Deltas, size: int, *, grad: bool
) -> tuple[Float[Tensor, "edit request"], Deltas]:
    """The NLL of every request, and the gradient of each edit's mean."""
    leaves = {place: delta.detach().requires_grad_(grad) for place, delta in deltas.items()}
    sums = {place: torch.zeros_like(delta) for place, delta in deltas.items()} if grad else {}
    found = []
    for rows in parts:
        with model.alone(), _carried(model, leaves), plainly(grad=grad):
            nll = rows.nll(forward(model, rows.batch.ids, keep=rows.keep, grad=grad, past=rows.batch.given).logits)
            found.append(nll.detach())
            if grad:
                gradients = torch.autograd.grad(nll.sum() / size, list(leaves.values()))
                for place, gradient in zip(leaves, gradients, strict=True):
                    sums[place] += gradient
    return torch.cat(found).view(-1, size), sums


@contextmanager
def _carried(model: Model, deltas: Deltas) -> Iterator[None]:
    """Let the rows of every forward carry these changes, each edit's rows standing together."""
    with ExitStack() as stack:
        for (matrix, layer), delta in deltas.items():
            projection = model.layout.mlp_projection(matrix, layer)
            stack.callback(projection.register_forward_hook(_adder(matrix, delta)).remove)
        yield


def _adder(
    matrix: str,
    delta: Float[Tensor, "edit _d_in d_model"],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = entering(matrix, args[0]).reshape(len(delta), -1, delta.shape[1]).to(delta.dtype)
        return output + (keys @ delta).reshape(output.shape).to(output.dtype)

    return add


def _check(requests: Sequence[EditRequest], nll: Sequence[float], steps: int, hparams: FtHparams) -> None:
    for request, loss in zip(requests, nll, strict=True):
        if not math.isfinite(loss):
            raise MechinterpError(
                f"the loss became {loss} after {steps} steps for {request.prompt.text!r} -> {request.target!r}; lower "
                f"lr (it is {hparams.lr:g})"
            )

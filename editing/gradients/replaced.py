"""Values that are put in the place of a matrix' output, found by Adam: what a codebook answers with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import MechinterpError
from ...models.door import plainly
from ...models.model import Model
from ...patching.plain.executor import forward
from ..edits.codebook import ALL, BEFORE
from ..edits.request import EditRequest
from ..edits.where import Rows
from ..rows.target_rows import TargetRows
from .adam import Adam


@dataclass(frozen=True)
class Replacing:
    """What is replaced.

    Args:
        layer: of which layer.
        matrix: the output of which matrix.
        replaces: where (`edits.codebook.REPLACED`).
    """

    layer: int
    matrix: str
    replaces: str


@dataclass(frozen=True, eq=False)
class FoundValues:
    """What training gave.

    Args:
        values: of each request.
        losses: of each request, the mean NLL per target token before each step and after the last, in nats.
    """

    values: Float[Tensor, "request d_out"]
    losses: tuple[tuple[float, ...], ...]


def target_rows(model: Model, requests: Sequence[EditRequest]) -> TargetRows:
    """One row per request: its prompt with its target fed."""
    targets = [model.answer_ids(request.prompt, request.target) for request in requests]
    return TargetRows.of(model, [request.prompt for request in requests], targets)


def at_ends(
    model: Model, rows: TargetRows, layer: int, matrix: str
) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_out"]]:
    """What enters and what leaves a matrix at each prompt's last token."""
    ends, kept = rows.batch.end, list[Tensor]()
    with ExitStack() as stack:
        watched = Rows(model, layer, None, stack)

        def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            kept[:] = [watched.apart(side)[torch.arange(len(ends)), ends] for side in (args[0], output)]

        stack.enter_context(model.alone())
        stack.callback(model.layout.mlp_projection(matrix, layer).register_forward_hook(see).remove)
        forward(model, rows.batch.ids, past=rows.batch.given, prompts=rows.batch.prompts)
    return kept[0], kept[1]


@plainly(grad=True)
def find_values(
    model: Model,
    requests: Sequence[EditRequest],
    where: Replacing,
    start: Float[Tensor, "request d_out"],
    *,
    lr: Sequence[float],
    steps: int,
    stop_loss: float = 0.0,
    advance: Callable[[int], object] = lambda steps: None,
) -> FoundValues:
    """For each request, alone, the value that makes the model say its target.

    Args:
        model: the model, with whatever edits are on.
        requests: what it should say.
        where: what the values replace.
        start: where each begins.
        lr: learning rate of each, of Adam.
        steps: steps at most.
        stop_loss: a request whose loss is below takes no further step.
        advance: told how many steps are done.

    Raises:
        MechinterpError: a loss became NaN or infinite.
    """
    rows = target_rows(model, requests)
    values = start.detach().clone()
    rates = values.new_tensor(list(lr))[:, None, None]
    adam, losses = Adam(values[:, None], rates), list[list[float]]()
    for step in range(steps + 1):
        leaf = values.detach().requires_grad_(step < steps)
        with model.alone(), _replaced(model, where, leaf, rows.batch.end):
            logits = forward(
                model, rows.batch.ids, keep=rows.keep, grad=step < steps, past=rows.batch.given,
                prompts=rows.batch.prompts,
            ).logits  # fmt: skip
        nll = rows.nll(logits)
        losses.append(nll.detach().tolist())
        _check(requests, losses[-1], step, lr)
        going = nll.detach() >= stop_loss
        if step == steps or not bool(going.any()):
            break
        gradient = torch.autograd.grad(nll.sum(), leaf)[0]
        values = torch.where(going[:, None], adam.step(values[:, None], gradient[:, None])[:, 0], values)
        advance(1)
    return FoundValues(values, tuple(zip(*losses, strict=True)))


@contextmanager
def _replaced(
    model: Model, where: Replacing, values: Float[Tensor, "row d_out"], ends: Int[Tensor, " row"]
) -> Iterator[None]:
    """Row i of every forward has the i-th value in the place of the output."""
    with ExitStack() as stack:
        rows = Rows(model, where.layer, None, stack)

        def put(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            leaving = rows.apart(output)
            position, end = torch.arange(leaving.shape[1], device=leaving.device), ends[:, None]
            reached = {BEFORE: position < end, ALL: (position >= 0).expand(len(ends), -1)}
            here = reached.get(where.replaces, position == end)
            return torch.where(here[..., None], values[:, None].to(leaving), leaving).reshape(output.shape)

        stack.callback(model.layout.mlp_projection(where.matrix, where.layer).register_forward_hook(put).remove)
        yield


def _check(requests: Sequence[EditRequest], losses: Sequence[float], step: int, lr: Sequence[float]) -> None:
    for request, loss, rate in zip(requests, losses, lr, strict=True):
        if not math.isfinite(loss):
            raise MechinterpError(
                f"the loss became {loss} after {step} steps for {request.prompt.text!r} -> {request.target!r}; lower "
                f"lr (it is {rate:g})"
            )

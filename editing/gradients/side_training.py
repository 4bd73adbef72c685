"""Training a side memory: it says the target, and changes edited prompts more than others (WISE, eq. 5–8).

Δ of a token is how much what leaves the matrix changes.  With "in" tokens (of the edit) and "out" tokens (of an
irrelevant prompt),

    relu(Δ_out − α) + relu(β − Δ_in) + relu(Δ_out − Δ_in + γ)

each averaged over its positive entries, keeps them apart.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...forwards.readout import log_softmax
from ...models.door import plainly
from ...models.model import Model
from ...patching.plain.executor import forward
from ..edits.side_memories import changed
from ..edits.where import Rows

IGNORED = -100


@dataclass(frozen=True, eq=False)
class SideRows:
    """Texts of an edit, and as the last row an irrelevant one.

    Args:
        ids: tokens.
        mask: which are no padding; None: padding stands on the right, where it changes nothing.
        labels: each answer token at its own place, `IGNORED` elsewhere.
        inside: which tokens count for Δ_in, of every row but the last.
        outside: which count for Δ_out: of the last row, or of every row but the last.
        extra: how many answer tokens more than there are the loss is divided by (published: 1).
    """

    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"] | None
    labels: Int[Tensor, "row pos"]
    inside: Bool[Tensor, "edit pos"]
    outside: Bool[Tensor, "some pos"]
    extra: int = 0


@dataclass(frozen=True)
class SideRules:
    """How a side memory is trained.

    Args:
        layer, matrix: which matrix.
        steps: at most.
        lr: of gradient descent.
        decay: share of every entry of W + ΔW that each step takes off (published; 0 keeps what is not trained).
        limit: no entry of ΔW exceeds it.
        margins: α, β, γ.
        activated: as of `SideMemories`.
        stop_loss, stop_gap: no further step once the loss is below, and has moved by less.
    """

    layer: int
    matrix: str
    steps: int
    lr: float
    decay: float
    limit: float
    margins: tuple[float, float, float]
    activated: bool
    stop_loss: float = 0.02
    stop_gap: float = 1e-4


@dataclass(frozen=True, eq=False)
class SideCourse:
    """What training gave.

    Args:
        delta: ΔW.
        answers: the loss of the answer before each step.
        margins: that of the margins.
        inside: Δ_in of each row when it was last looked at, over all tokens of `whole`.
    """

    delta: Float[Tensor, "d_in d_out"]
    answers: tuple[float, ...]
    margins: tuple[float, ...]
    inside: Float[Tensor, " edit"]


def margin_loss(
    inside: Float[Tensor, " edit"], outside: Float[Tensor, " some"], margins: tuple[float, float, float]
) -> Float[Tensor, ""]:
    """The three terms; the third over all pairs."""
    alpha, beta, gamma = margins
    terms = (outside - alpha, beta - inside, outside[:, None] - inside[None] + gamma)
    return torch.stack([_positive_mean(term) for term in terms]).sum()


def _positive_mean(values: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    above = values[values > 0]
    return above.mean() if above.numel() else values.sum() * 0


@plainly(grad=True)
def train_side(
    model: Model,
    rows: SideRows,
    rules: SideRules,
    start: Float[Tensor, "d_in d_out"],
    trained: Bool[Tensor, "d_in d_out"],
    whole: Bool[Tensor, "edit pos"] | None = None,
) -> SideCourse:
    """Train ΔW from `start`.

    Args:
        model: the model, with whatever edits are on.
        rows: the texts.
        rules: how.
        start: ΔW so far.
        trained: which entries may move.
        whole: over which tokens Δ_in is given at the end; None: over `rows.inside`.
    """
    weight = model.layout.mlp_matrix(rules.matrix, rules.layer).detach().to(start)
    delta, answers, margins = start.clone(), list[float](), list[float]()
    sizes = torch.zeros(0)
    for _ in range(rules.steps):
        leaf = delta.detach().requires_grad_()
        answer, sizes = _looked(model, rows, rules, leaf)
        apart = margin_loss(*_averages(rows, sizes), rules.margins)
        loss = answer + apart
        now = float(loss.detach())
        moved = abs(now - (answers[-1] + margins[-1])) if answers else float("inf")
        answers.append(float(answer.detach()))
        margins.append(float(apart.detach()))
        if moved <= rules.stop_gap and now <= rules.stop_loss:
            break
        [gradient] = torch.autograd.grad(loss, [leaf])
        delta = delta - rules.lr * (gradient * trained + rules.decay * (weight + delta))
        delta = delta.clamp(-rules.limit, rules.limit)
    counted = rows.inside if whole is None else whole
    edits = sizes[: len(counted)].detach()
    return SideCourse(delta, tuple(answers), tuple(margins), (edits * counted).sum(1) / counted.sum(1))


def _averages(rows: SideRows, sizes: Float[Tensor, "row pos"]) -> tuple[Tensor, Tensor]:
    """Δ_in and Δ_out."""
    edits = len(rows.inside)
    out = sizes[edits:] if len(rows.outside) == 1 else sizes[:edits]
    inside = (sizes[:edits] * rows.inside).sum(1) / rows.inside.sum(1)
    return inside, (out * rows.outside).sum(1) / rows.outside.sum(1)


def _looked(
    model: Model, rows: SideRows, rules: SideRules, delta: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, "row pos"]]:
    """The loss of the answer through W + ΔW, and Δ of every token."""
    acting = model.layout.activation(rules.layer) if rules.activated else None
    kept: list[Tensor] = []
    with ExitStack() as stack:
        watched = Rows(model, rules.layer, None, stack)

        def answer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            change, leaving = watched.apart(args[0]).to(delta) @ delta, watched.apart(output)
            kept[:] = [changed(change, leaving.to(delta), acting)]
            return (leaving + change).to(output.dtype).reshape(output.shape)

        stack.enter_context(model.alone())
        stack.callback(model.layout.mlp_projection(rules.matrix, rules.layer).register_forward_hook(answer).remove)
        places = torch.arange(rows.ids.shape[1], device=rows.ids.device).expand(len(rows.ids), -1)
        # The published code counts positions from the padding on.
        past = {} if rows.mask is None else {"attention_mask": rows.mask, "position_ids": places}
        logits = forward(model, rows.ids, keep=rows.ids.shape[1], grad=True, past=past).logits
    edits = len(rows.inside)
    labels = rows.labels[:edits, 1:]
    real = labels != IGNORED
    log_probs = log_softmax(logits[:edits, :-1]).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    nll = -(log_probs * real).sum(1) / (real.sum(1) + rows.extra)
    return nll.mean(), kept[0]

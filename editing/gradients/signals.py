"""What UltraEdit reads and remembers: keys and gradients at the answers' tokens, and their running mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError
from ...models.door import plainly
from ...models.layout import KEY, VALUE
from ...models.model import Model
from ...patching.plain.executor import HookWrite, forward
from ..edits.request import EditRequest
from ..rows.target_rows import TargetRows

_ROWS = 128
"""Requests per forward and backward."""


@dataclass(frozen=True, eq=False)
class Signals:
    """Of one layer, at each token that predicts one of a target.

    Args:
        keys: the input of the down-projection.
        gradients: of the targets' NLL, summed over their tokens, by the down-projection's output.
    """

    keys: Float[Tensor, "token d_mlp"]
    gradients: Float[Tensor, "token d_model"]

    @property
    def joint(self) -> Float64[Tensor, "token both"]:
        """Both side by side."""
        return torch.cat([self.keys, self.gradients], 1).double()


@plainly(grad=True)
def signals_of(model: Model, requests: Sequence[EditRequest], layers: Sequence[int]) -> list[dict[int, Signals]]:
    """The signals of each request, all layers from one forward and one backward over many requests.

    Args:
        model: the model, with whatever edits are on.
        requests: what it should say.
        layers: which layers.
    """
    found: list[dict[int, Signals]] = []
    for start in range(0, len(requests), _ROWS):
        some = requests[start : start + _ROWS]
        targets = [model.answer_ids(request.prompt, request.target) for request in some]
        rows = TargetRows.of(model, [request.prompt for request in some], targets)
        row, token = rows.targets.real.nonzero(as_tuple=True)
        places = rows.targets.at[row, token]
        # A vector of zeros is added at each of these tokens: its gradient is that of the output.
        zeros = torch.zeros(len(layers), len(row), model.d_model, dtype=_precise(model), device=model.device)
        zeros.requires_grad_()
        hooks = [model.layout.hook(VALUE, layer) for layer in layers]
        writes = [HookWrite(hook, row, places, zeros[i], add=True) for i, hook in enumerate(hooks)]
        reads = [model.layout.hook(KEY, layer) for layer in layers]
        out = forward(model, rows.batch.ids, writes, reads, keep=rows.keep, grad=True)
        gradients = torch.autograd.grad(-rows.log_probs(out.logits).sum(), zeros)[0]
        keys = torch.stack([out.cache[read][row, places].detach().to(zeros.dtype) for read in reads])
        for i in range(len(some)):
            here = row == i
            found.append({layer: Signals(keys[n, here], gradients[n, here]) for n, layer in enumerate(layers)})
    return found


def _precise(model: Model) -> torch.dtype:
    return torch.float64 if model.dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Spread:
    """Running mean and variance of vectors (Chan et al. 1979: exact, whatever the order of the batches).

    Args:
        count: how many vectors.
        mean: of each coordinate.
        squares: of each coordinate, the sum of squared distances from the mean.

    The published code of MALMEN, RLEdit and UltraEdit adds n times the *unbiased* variance of each batch of n vectors,
    n/(n − 1) times too much (`published`): of a batch of one vector it makes NaN.
    """

    count: int
    mean: Float64[Tensor, " both"]
    squares: Float64[Tensor, " both"]

    @staticmethod
    def empty(like: Float64[Tensor, "*token both"]) -> Spread:
        """Of nothing yet."""
        zero = like.new_zeros(like.shape[-1])
        return Spread(0, zero, zero)

    def joined(self, vectors: Float64[Tensor, "token both"], *, published: bool = False) -> Spread:
        """These and more.

        Raises:
            MechinterpError: `published`, and a batch of one vector.
        """
        new, count = len(vectors), self.count + len(vectors)
        if published and new == 1:
            raise MechinterpError(
                "the published statistics become NaN by a batch of one token, and stay so; give it together with "
                "others, or use a preset with exact statistics"
            )
        mean = vectors.mean(0)
        apart = mean - self.mean
        own = (vectors - mean).square().sum(0) * (new / (new - 1) if published else 1.0)
        squares = self.squares + own + apart.square() * (self.count * new / count)
        return Spread(count, self.mean + apart * (new / count), squares)

    @property
    def std(self) -> Float64[Tensor, " both"]:
        """Of each coordinate (n − 1 below the line)."""
        return self.std_with(0.0)

    def std_with(self, eps: float) -> Float64[Tensor, " both"]:
        """The same with something added to n − 1, as the published code has it."""
        return (self.squares / (self.count - 1 + eps)).sqrt()


POOLED = -1
"""In the place of a layer: all layers."""


@dataclass(frozen=True, eq=False)
class LifelongStatistics:
    """The statistics of everything edited so far, by layer: a value that a sequence of edits hands on.

    Args:
        spreads: layer -> of keys and gradients side by side; `POOLED` -> of all layers together.
    """

    spreads: Mapping[int, Spread] = field(default_factory=dict)

    def joined(self, more: Mapping[int, Signals], *, published: bool = False) -> LifelongStatistics:
        """These statistics and more.

        Args:
            more: the signals of one batch, by layer.
            published: as the published code counts: all layers in one pool, since their matrices are of one shape.
        """
        spreads = dict(self.spreads)
        for layer, signals in more.items():
            where, joint = POOLED if published else layer, signals.joint
            spreads[where] = spreads.get(where, Spread.empty(joint)).joined(joint, published=published)
        return LifelongStatistics(spreads)

    def of(self, layer: int, *, published: bool = False) -> Spread:
        """What vectors of a layer are normalised by."""
        return self.spreads[POOLED if published else layer]

    def state(self) -> dict[str, Tensor]:
        """What a file keeps of it."""
        found: dict[str, Tensor] = {}
        for layer, spread in self.spreads.items():
            found |= {f"{layer} count": torch.tensor(spread.count), f"{layer} mean": spread.mean}
            found |= {f"{layer} squares": spread.squares}
        return found

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> LifelongStatistics:
        """What `state` was taken of."""
        layers = {name.split()[0] for name in state}
        return LifelongStatistics(
            {
                int(layer): Spread(int(state[f"{layer} count"]), state[f"{layer} mean"], state[f"{layer} squares"])
                for layer in layers
            }
        )


def mean_batches(
    signals: Sequence[Mapping[int, Signals]], lengths: Sequence[int], size: int
) -> list[dict[int, Signals]]:
    """The signals of inner batches, the gradient of each being that of the *mean* NLL over its tokens.

    Args:
        signals: of each request.
        lengths: tokens of each request's prompt and target; the published code sorts by them, the longest first.
        size: requests in a batch.
    """
    order = sorted(range(len(signals)), key=lambda i: lengths[i], reverse=True)
    found = []
    for start in range(0, len(order), size):
        batch = together([signals[i] for i in order[start : start + size]])
        found.append({layer: Signals(own.keys, own.gradients / len(own.keys)) for layer, own in batch.items()})
    return found


def together(signals: Sequence[Mapping[int, Signals]]) -> dict[int, Signals]:
    """The signals of several requests as those of one batch."""
    return {
        layer: Signals(
            torch.cat([each[layer].keys for each in signals]), torch.cat([each[layer].gradients for each in signals])
        )
        for layer in signals[0]
    }

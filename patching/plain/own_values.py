"""What a source of the user's own gives, looked at before it is written."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...models.model import Model
from ..algebra.own import Own, Place


def own_values(source: Own, model: Model, prompt: Prompt, place: Place) -> Float[Tensor, draws * shape]:
    """Its values for every draw.

    Raises:
        UsageError: no tensor of real numbers, another shape, or values that are not finite in the model's precision.
    """
    return torch.stack([_checked(source, model, prompt, place, draw) for draw in range(source.draws or 1)])


def _checked(source: Own, model: Model, prompt: Prompt, place: Place, draw: int) -> Tensor:
    found = source.given.values(model, prompt, place, draw)
    name = f"{type(source.given).__name__}.values, asked for {place.component}[{place.layer}] of {prompt.name!r},"
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = found.dtype if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UsageError(f"{name} gives {what}; a tensor of real numbers is needed (torch.float32)")
    shape = place.shape
    if tuple(found.shape) not in (shape, shape[1:]):
        raise UsageError(f"{name} gives the shape {list(found.shape)}; {list(shape)} or {list(shape[1:])} is needed")
    found = found.detach().to(model.device)
    if not bool(torch.isfinite(found.to(model.dtype)).all()):
        raise UsageError(f"{name} gives NaN or infinite values in {model.dtype_name}")
    return found.expand(shape)

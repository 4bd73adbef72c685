"""The last step of a forward, from the final states to logits, in parts: for vocabularies too large to write out.

The logits of one position of Gemma 3 are 262,144 numbers, a megabyte, made of 640.  Most of what is asked of them (how
probable these tokens are, how many are more probable) needs no more than a few numbers per position.  So a forward
may stop at the states that enter the unembedding, and whoever asks makes the logits, some rows of the vocabulary at a
time (`readout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from ..errors import MechinterpError
from ..models.asking import decides_by_prompt
from ..models.door import Hook, plainly
from ..models.layout import UNEMBED_IN
from ..models.model import Model
from .tolerances import IN_PARTS, same_logits

LARGE = 32_768
"""Tokens of a vocabulary beyond which logits are made in parts."""

PART = 8192
"""Tokens whose logits are made together: with those of a few hundred positions they stay in a processor's cache."""


@dataclass(frozen=True, eq=False)
class Unembedding:
    """What turns final states into logits: a matrix and a bias, then for some architectures a factor or a soft cap.

    Args:
        module: the linear layer, whose weights are read when they are needed.
        scale: what logits are multiplied with (Cohere, Granite).
        cap: c of c tanh(logit / c) (Gemma 2); 0: none.
    """

    module: torch.nn.Linear
    scale: float
    cap: float

    @property
    def vocab_size(self) -> int:
        """How many logits there are."""
        return int(self.module.weight.shape[0])

    def logits(
        self, states: Float[Tensor, "*position d_model"], start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "*position some"]:
        """Logits of the tokens from `start` to `stop`, in the model's precision."""
        bias: Tensor | None = self.module.bias
        bias = None if bias is None else bias[start:stop]
        if bias is not None and not bool(bias.any()):  # TransformerLens makes one of zeros where there is none
            bias = None
        with plainly(grad=False):
            found = functional.linear(states, self.module.weight[start:stop], bias)
            if self.scale != 1:
                found = found * self.scale
            return torch.tanh(found / self.cap) * self.cap if self.cap else found

    def parts(self) -> Iterator[tuple[int, int]]:
        """Where each part of the vocabulary starts and stops."""
        for start in range(0, self.vocab_size, PART):
            yield start, min(start + PART, self.vocab_size)


@dataclass(frozen=True, eq=False)
class FinalStates:
    """The states that enter the unembedding, in the place of the logits that they give.

    Args:
        states: of some rows and positions, or of positions one after another.
        unembedding: what makes logits of them.
    """

    states: Float[Tensor, "*position d_model"]
    unembedding: Unembedding

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits."""
        return (*self.states.shape[:-1], self.unembedding.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self.states.device

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, where: Any) -> FinalStates:
        """Those of some rows and positions."""
        return FinalStates(self.states[where], self.unembedding)

    def flatten(self, start: int, stop: int) -> FinalStates:
        """Rows and positions one after another, as a tensor's."""
        return FinalStates(self.states.flatten(start, stop), self.unembedding)

    def expand(self, *shape: int) -> FinalStates:
        """One row in the place of several, as a tensor's; -1: what is there."""
        return FinalStates(self.states.expand(*shape), self.unembedding)

    def whole(self) -> Float[Tensor, "*position vocab"]:
        """All logits."""
        return self.unembedding.logits(self.states)


Logits = Tensor | FinalStates
"""Logits [row, kept, vocab], or what they are made of."""


def whole(logits: Logits) -> Float[Tensor, "*position vocab"]:
    """All of them, for what needs the whole distribution."""
    return logits.whole() if isinstance(logits, FinalStates) else logits


def joined(parts: Sequence[Logits]) -> Logits:
    """Logits of several forwards of one model, one below the other."""
    states = [part.states for part in parts if isinstance(part, FinalStates)]
    if isinstance(parts[0], FinalStates) and len(states) == len(parts):
        return FinalStates(torch.cat(states), parts[0].unembedding)
    return torch.cat([whole(part) for part in parts])


class _Reached(Exception):
    """The final states are there; the forward that raises this is over."""


def run(model: Model, given: Tensor, hooks: Sequence[Hook] = (), **arguments: Any) -> Logits:
    """A forward without gradients that makes no logits where the vocabulary is large and the model allows it.

    Args:
        model: the model.
        given: see `Model.forward`, like the rest.
        hooks: hook points, and what is done there.
        arguments: others.

    Raises:
        MechinterpError: as `Model.forward`.
    """
    unembedding = _unembedding(model)
    if unembedding is None:
        return model.forward(given, hooks, **arguments)
    return FinalStates(_final_states(model, given, hooks, **arguments), unembedding)


def _final_states(model: Model, given: Tensor, hooks: Sequence[Hook], **arguments: Any) -> Tensor:
    kept: list[Tensor] = []

    def stop(value: Tensor, hook: object) -> None:
        kept.append(value)
        raise _Reached

    with suppress(_Reached):
        model.forward(given, [*hooks, (UNEMBED_IN, stop)], **arguments)
    model.check_finite(kept[0], given, arguments.get("stands_for"), patched=bool(hooks))
    return kept[0]


_known: WeakKeyDictionary[TransformerBridge, Unembedding | None] = WeakKeyDictionary()


def _unembedding(model: Model) -> Unembedding | None:
    """What makes logits of the final states; None where they are to be left to the model.

    That is so for small vocabularies, for an encoder-decoder, where somebody hooks what comes after the final states,
    and for a model whose logits are made in another way than is known here: it is tried once.
    """
    if model.is_encoder_decoder or model.vocab_size <= LARGE or decides_by_prompt(model) or _is_hooked_behind(model):
        return None
    if model.bridge not in _known:
        try:
            _known[model.bridge] = _tried(model)
        except (MechinterpError, RuntimeError):  # edits that are on expect other rows than those of the trial
            return None
    return _known[model.bridge]


def _is_hooked_behind(model: Model) -> bool:
    """Whether somebody's hook may change or read what comes after the final states."""
    unembed = getattr(model.bridge, "unembed", None)
    places = [model.bridge, model.bridge.original_model, unembed]
    places += [getattr(unembed, name, None) for name in ("hook_in", "hook_out", "original_component")]
    return any(getattr(place, hooks, None) for place in places for hooks in ("_forward_hooks", "_forward_pre_hooks"))


def _tried(model: Model) -> Unembedding | None:
    """The unembedding, if on a few tokens it gives the model's own logits."""
    found = model.layout.unembedding
    if found is None or not model.layout.has_hook(UNEMBED_IN):
        return None
    made = Unembedding(*found)
    ids = torch.arange(1, 4)[None]
    kept: list[Tensor] = []
    expected = model.forward(
        ids, [(UNEMBED_IN, lambda value, hook: kept.append(value))], use_cache=False, logits_to_keep=2
    )
    if len(kept) != 1 or kept[0].shape[:2] != (1, 2) or made.vocab_size != expected.shape[-1]:
        return None
    parts = [made.logits(kept[0], start, stop) for start, stop in made.parts()]
    return made if same_logits(torch.cat(parts, -1), expected, dtype=expected.dtype, steps=IN_PARTS) else None

"""One hooked forward: the plain executor that everything else is built on and checked against.

A `HookWrite` is fully resolved: these rows and positions of this hook get these values.  Hooks clone, edit and return
(an in-place edit would leak into cached activations and the skip connection), and each one is counted: a hook that did
not fire exactly once is an error, never a silent zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import MechinterpError
from ...forwards import unembedding
from ...forwards.unembedding import Logits, whole
from ...models.asking import PromptEnds, asking
from ...models.door import Hook
from ...models.model import Model
from ...public import public


@dataclass(frozen=True, eq=False)
class HookWrite:
    """Values for some rows and positions of one hook.

    Args:
        hook: name of the hook point (from `Layout`).
        rows: batch row of each value.
        positions: token position of each value.
        values: one vector per (row, position).
        add: add to what is there instead of replacing it.
        heads: head of each value, for hooks with a head axis; None writes all heads at once.
        minus: write `values` minus the live activation of this earlier hook (how resid_mid is set: as a change of the
            attention contribution).
    """

    hook: str
    rows: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    values: Float[Tensor, " n *width"]
    add: bool = False
    heads: Int[Tensor, " n"] | None = None
    minus: str | None = None


@dataclass(frozen=True, eq=False)
class Forward:
    """What a hooked forward gave.

    Of a large vocabulary the logits are made when they are asked for; `ends` is what they are made of
    (`forwards.unembedding`).  `unchanged[i]` marks the values of the i-th write that were already there: writes that
    had no effect.
    """

    ends: Logits
    cache: dict[str, Tensor] = field(default_factory=dict)
    unchanged: tuple[Tensor, ...] = ()

    @cached_property
    def logits(self) -> Float[Tensor, "batch kept vocab"]:
        """All of them."""
        return whole(self.ends)


class _Tape:
    """The hooks of one forward, in the order they must act, with their counts."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self.live: dict[str, Tensor] = {}
        self.unchanged: dict[int, Tensor] = {}

    def writer(self, index: int, write: HookWrite) -> Callable[..., Tensor]:
        def act(value: Tensor, hook: object) -> Tensor:
            self.fired[write.hook] += 1
            there = value.device  # of this layer, which a device_map may have put elsewhere than the first one
            rows, positions = write.rows.to(there), write.positions.to(there)
            where: tuple[Tensor, ...] = (rows, positions)
            if write.heads is not None:
                where = (*where, write.heads.to(there))
            old = value[where]
            new = write.values.to(there, value.dtype).reshape(old.shape)
            if write.minus is not None:
                new = new - self.live[write.minus][rows, positions]
            if write.add:
                new = old + new
            out = value.clone()
            out[where] = new
            self.unchanged[index] = _same(old, new)
            return out

        return act

    def recorder(self, name: str, into: dict[str, Tensor], copy: bool) -> Callable[..., None]:
        def act(value: Tensor, hook: object) -> None:
            self.fired[name] += 1
            into[name] = value.clone() if copy else value

        return act


def _same(old: Tensor, new: Tensor) -> Tensor:
    """Which vectors were already there, up to the rounding that a batch of another size brings.

    Each is measured by its own size; half precision would call everything rounding if its own step decided.
    """
    before, after = old.detach().flatten(1), new.detach().flatten(1)
    tolerance = min(256 * torch.finfo(old.dtype).eps, 0.02) * before.abs().amax(1, keepdim=True)
    return ((before - after).abs() <= tolerance).all(1)


@public
def forward(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    writes: Sequence[HookWrite] = (),
    reads: Sequence[str] = (),
    *,
    keep: int = 1,
    grad: bool = False,
    past: Mapping[str, Any] | None = None,
    prompts: PromptEnds | None = None,
) -> Forward:
    """Run token ids through the model with values written and activations read at hook points.

    Args:
        model: the model; its parameters never receive gradients.
        ids: token ids; rows shorter than others may be padded on the right (exact at the real positions of a causal
            model), and their logits then be taken where they end.
        writes: applied in order; several writes to one hook compose.
        reads: hook points whose values (after the writes) are kept.
        keep: how many last positions get logits.
        grad: let gradients flow to the written values.
        past: what the model is given besides, as keyword arguments: what came before these tokens (a cache of keys and
            values, and the mask and positions that go with it); for an encoder-decoder, whose `ids`
            are the encoder's and whose logits the decoder's, `decoder_ids` (and an `attention_mask` if `ids` are
            padded, because an encoder sees all tokens).
        prompts: where each row's prompt ends, for changes that answer prompts; None: all of a row is its prompt.

    Raises:
        MechinterpError: a hook point that is unknown or did not fire exactly once; an encoder-decoder without
            `decoder_ids`.
    """
    tape, cache = _Tape(), {}  # type: tuple[_Tape, dict[str, Tensor]]
    subtracted = dict.fromkeys(write.minus for write in writes if write.minus is not None)
    hooks: list[Hook] = []
    expected: Counter[str] = Counter()
    for index, write in enumerate(writes):
        hooks.append((write.hook, tape.writer(index, write)))
        expected[write.hook] += 1
    for name in subtracted:
        assert name is not None
        hooks.append((name, tape.recorder(name, tape.live, copy=False)))
        expected[name] += 1
    for name in dict.fromkeys(reads):
        hooks.append((name, tape.recorder(name, cache, copy=not grad)))
        expected[name] += 1
    for name in expected:
        if not model.layout.has_hook(name):
            raise MechinterpError(f"{model.name} ({model.architecture}) has no hook point {name!r}")
    arguments = model.arguments(keep, **(past or {}))
    try:
        with model.alone(), asking(model, prompts):
            run = partial(model.forward, grad=True) if grad else partial(unembedding.run, model)
            ends = run(ids, hooks, **arguments)[:, -keep:]
    except torch.OutOfMemoryError as error:
        raise MechinterpError(
            f"out of memory in a forward of {ids.shape[0]} rows x {ids.shape[1]} tokens; "
            "lower max_tokens (--max-tokens)"
        ) from error
    for name, count in expected.items():
        if tape.fired[name] != count:
            raise MechinterpError(
                f"the hook point {name!r} of {model.name} fired {tape.fired[name]} times instead of {count}; what it "
                "was to write or read is missing, so no result is given"
            )
    return Forward(ends, cache, tuple(tape.unchanged[index] for index in range(len(writes))))

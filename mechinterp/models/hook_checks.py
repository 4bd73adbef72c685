"""Whether hook points fire, have the axes that are written, and make a difference.

All writes are rows of one forward, so that a model which takes seconds per forward is checked in a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import layout as names
from .door import Hook, settled
from .layout import Layout
from .stacks import DECODER, ENCODER

_MIN_EFFECT = 1e-5
"""Smallest change of a log-probability that counts as an effect; no-ops found so far change exactly nothing, or what
rounding costs in a mixture of experts, where rows share an expert's batch."""
_NO_PROJECTION = "its MLP has no single down-projection (mixture of experts?)"


def run(layout: Layout, ids: Tensor, hooks: Sequence[Hook], *, keep: int = 0) -> Tensor:
    """Logits [row, pos, vocab] of one forward; `keep` > 0 keeps only the last positions.

    The stack that is not patched gets the same tokens whatever `ids` are: a decoder one, an encoder as many.
    """
    fixed = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) % layout.d_vocab
    more: dict[str, Any] = {"logits_to_keep": keep}
    if layout.stack:
        given = {ENCODER: (ids, fixed[:, :1]), DECODER: (fixed, ids)}[layout.stack]
        ids, more = given[0], {"decoder_input_ids": given[1]}
    with settled(layout.bridge):
        logits: Tensor = layout.bridge.run_with_hooks(ids, fwd_hooks=[*hooks], use_cache=False, **more)
    return logits[:, -keep:]


def checked_layers(layout: Layout) -> list[int]:
    """The first, the middle and the last layer: where writes are tried."""
    return sorted({0, layout.n_layers // 2, layout.n_layers - 1})


def _hooks(layout: Layout, component: str, layers: Sequence[int]) -> list[str]:
    return [layout.hook(component, layer) for layer in ([0] if component == names.EMBED else layers)]


def dead(layout: Layout, ids: Tensor) -> dict[str, str]:
    """Components with a hook point that is not there, does not fire, or has other axes than tokens (and heads)."""
    problems: dict[str, str] = {}
    fired: Counter[str] = Counter()
    shapes: dict[str, list[int]] = {}

    def record(hook_name: str) -> Callable[..., None]:
        def act(value: Tensor, hook: object) -> None:
            fired[hook_name] += 1
            shapes[hook_name] = list(value.shape)

        return act

    hooks: dict[str, list[str]] = {}
    for component in layout.hooked:
        wanted = _hooks(layout, component, range(layout.n_layers))
        missing = next((hook for hook in wanted if not layout.has_hook(hook)), None)
        if missing is None:
            hooks[component] = wanted
        else:
            problems[component] = (
                _NO_PROJECTION if component in (names.KEY, names.VALUE) else f"there is no hook point {missing}"
            )
    distinct = dict.fromkeys(hook for wanted in hooks.values() for hook in wanted)  # an encoder is entered at `embed`
    run(layout, ids, [(hook, record(hook)) for hook in distinct])
    for component, wanted in hooks.items():
        wrong = next((hook for hook in wanted if fired[hook] != 1), None)
        if wrong is not None:
            problems[component] = f"its hook point {wrong} fires {fired[wrong]} times per forward instead of once"
        elif component == names.KEY and all(shapes[hook][-1] == layout.d_model for hook in wanted):
            problems[component] = _NO_PROJECTION
        else:
            expected = _shape(layout, component, ids.shape[1])
            odd = next((hook for hook in wanted if not _fits(shapes[hook], expected)), None)
            if odd is not None:
                problems[component] = f"its hook point {odd} has the shape {shapes[odd]} where {expected} is expected"
    return problems


def _shape(layout: Layout, component: str, length: int) -> list[int | str]:
    """Of a component's activation for one row of tokens: anything else would be written to other tokens or heads."""
    wide: dict[str, int | str] = {names.KEY: "d_mlp", names.EMBED: layout.d_embed}
    if component not in names.PER_HEAD:
        return [1, length, wide.get(component, layout.d_model)]
    return [1, length, layout.n_kv_heads if component in (names.K, names.V) else layout.n_heads, layout.d_head]


def _fits(shape: list[int], expected: list[int | str]) -> bool:
    return len(shape) == len(expected) and all(e in (n, "d_mlp") for n, e in zip(shape, expected, strict=True))


def without_effect(layout: Layout, ids: Tensor, components: Sequence[str]) -> dict[str, str]:
    """Components with a hook point where a write changes nothing: each write is a row, compared with the same row."""
    writes = [
        (component, hook) for component in components for hook in _hooks(layout, component, checked_layers(layout))
    ]
    rows = ids.expand(len(writes), -1)
    hooks = [(hook, in_row(row, _shifted)) for row, (_, hook) in enumerate(writes)]
    before, after = (run(layout, rows, found, keep=1).float().log_softmax(-1) for found in ([], hooks))
    effects = (after - before).abs().flatten(1).amax(1)
    problems: dict[str, str] = {}
    for (component, hook), effect in zip(writes, effects.tolist(), strict=True):
        if not effect > _MIN_EFFECT:
            problems.setdefault(component, f"writing to its hook point {hook} changes nothing")
    return problems


def in_row(row: int, change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A hook that changes one row of an activation."""

    def act(value: Tensor, hook: object) -> Tensor:
        out = value.clone()
        out[row] = change(value[row])
        return out

    return act


def _shifted(value: Tensor) -> Tensor:
    """Another value of the same scale: the activation with its last axis rolled and a constant put on top."""
    return value.roll(1, dims=-1) + value.std() + 0.1

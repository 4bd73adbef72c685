"""Guests: what takes part in a model's forwards besides its weights, such as edits that are on and hooks of the user's.

Numbers that were computed with guests are others than those without, so whoever keeps numbers keeps their names too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from .door import modules_of

_HOUSE = ("mechinterp", "transformer_lens", "transformers", "torch", "accelerate")
"""Packages whose hooks make the model what it is."""

_announced: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


@contextmanager
def announced(bridge: TransformerBridge, names: Sequence[str]) -> Iterator[None]:
    """Let guests of this project's own count as taking part for the length of the block."""
    here = _announced.setdefault(bridge.original_model, [])
    here.extend(names)
    try:
        yield
    finally:
        for name in names:
            here.remove(name)


def guests_of(bridge: TransformerBridge) -> tuple[str, ...]:
    """What takes part now: edits that are on, outermost first, and hooks by their function's name and place."""
    return (*_announced.get(bridge.original_model, ()), *dict.fromkeys(_hooks(bridge)))


def _hooks(bridge: TransformerBridge) -> Iterator[str]:
    named = {module: name for name, module in (*bridge.original_model.named_modules(), *bridge.named_modules())}
    for module in modules_of(bridge):
        if isinstance(module, HookPoint):
            hooks = [handle.user_hook for handle in (*module.fwd_hooks, *module.bwd_hooks)]
        else:
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        place = (module.name if isinstance(module, HookPoint) else None) or named.get(module, type(module).__name__)
        yield from (f"hook {_called(hook)} at {place}" for hook in hooks if not _is_of_the_house(hook))


def _is_of_the_house(hook: Any) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] in _HOUSE


def _called(hook: Any) -> str:
    function = hook.func if isinstance(hook, partial) else hook
    return getattr(function, "__qualname__", type(function).__name__)

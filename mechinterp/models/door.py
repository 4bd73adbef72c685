"""The one door through which every forward goes: the model as it was loaded, whatever the caller's surroundings are.

Within it no module is in train mode (dropout would draw anew at every forward), autocast is off (it would compute in
another precision than the model's), gradients are recorded only where they are asked for, and one thread at a time is
inside (hook points belong to the model, so the hooks of two threads would act on each other's tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

Hook = tuple[str | Callable[..., Any], Callable[..., Any]]
"""The name of a hook point, or what chooses some by name, and what is done there."""

_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_making = RLock()


def lock_of(module: nn.Module) -> Any:
    """The lock of a model, shared by everything that wraps it; a thread that has it may take it again."""
    original = getattr(module, "original_model", module)
    with _making:
        return _locks.setdefault(original, RLock())


def modules_of(module: nn.Module) -> tuple[nn.Module, ...]:
    """Every module of a bridge, and of the model that it wraps (which is no child of it)."""
    original = getattr(module, "original_model", module)
    return tuple(dict.fromkeys([*module.modules(), *original.modules()]))


@contextmanager
def settled(module: nn.Module, modules: Sequence[nn.Module] | None = None, *, grad: bool = False) -> Iterator[None]:
    """Inside the block the model is as it was loaded, for this thread alone; afterwards everything is as it was.

    Args:
        module: a bridge, or a Hugging Face model.
        modules: all of its modules, if they are known already.
        grad: whether gradients are recorded; those of parameters never are.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_of(module))
        training = [one for one in (modules_of(module) if modules is None else modules) if one.training]
        if training:
            stack.callback(_set_training, training, True)
            _set_training(training, False)
        stack.enter_context(plainly(grad=grad))
        if grad:
            parameters = [one for one in getattr(module, "original_model", module).parameters() if one.requires_grad]
            stack.callback(_set_requires_grad, parameters, True)
            _set_requires_grad(parameters, False)
        yield


@contextmanager
def plainly(*, grad: bool) -> Iterator[None]:
    """Inside the block gradients are recorded or not as is said, and autocast and inference mode are off.

    What is made in inference mode could never again take part in a gradient, an edit for instance.
    """
    with ExitStack() as stack:
        stack.enter_context(in_own_precision())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        yield


@contextmanager
def in_own_precision() -> Iterator[None]:
    """Inside the block autocast is off: what is computed has the precision of what it is computed from."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _set_training(modules: Sequence[nn.Module], mode: bool) -> None:
    for one in modules:
        one.training = mode


def _set_requires_grad(parameters: Sequence[nn.Parameter], needed: bool) -> None:
    for one in parameters:
        one.requires_grad_(needed)

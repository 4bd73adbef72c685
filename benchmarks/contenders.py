"""Contenders with one forward per cell, as users of PyTorch hooks and of TransformerLens write them.

A cell restores one token's residual stream at one layer, or what the MLPs or attention add there in a window of layers,
in ten runs whose subject is corrupted; a contender gives the probability of the answer in each of the ten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from shapes import Asked, Task
from torch import Tensor

KINDS = ("resid", "mlp", "attn")
DRAWS = 10


class Cell(NamedTuple):
    """What is restored where."""

    kind: str
    position: int
    layer: int


class Loop(Protocol):
    """A contender with one forward per cell.

    Made once per task, which is not timed; `start` and `cell` are.
    """

    def __init__(self, task: Task) -> None: ...

    def start(self, asked: Asked) -> None:
        """Whatever is done once per prompt: the clean run, mostly."""

    def cell(self, cell: Cell) -> Tensor:
        """Probability of the answer, [draw]."""


def restored_layers(cell: Cell, window: int, n_layers: int) -> range:
    """Layers that a cell restores; odd windows are symmetric."""
    if cell.kind == "resid":
        return range(cell.layer, cell.layer + 1)
    return range(max(0, cell.layer - window // 2), min(n_layers, cell.layer + (window + 1) // 2))


def module(network: Any, kind: str, layer: int) -> Any:
    """The submodule of a GPT-2 whose output is restored."""
    block = network.transformer.h[layer]
    return {"resid": block, "mlp": block.mlp, "attn": block.attn}[kind]


def first(output: Any) -> Tensor:
    """What a module gives to the residual stream; attention returns its pattern beside it."""
    return output[0] if isinstance(output, tuple) else output


def hooked(network: Any, ids: Tensor, hooks: list[tuple[Any, Callable[..., None]]], **arguments: Any) -> Tensor:
    """Logits of a forward with PyTorch hooks that change outputs in place."""
    handles = [where.register_forward_hook(act) for where, act in hooks]
    try:
        return network(ids, use_cache=False, **arguments).logits
    finally:
        for handle in handles:
            handle.remove()


def clean_values(network: Any, ids: Tensor) -> tuple[dict[tuple[str, int], Tensor], int]:
    """Every value that a cell may restore, [pos, d], and the answer: the clean run's most probable next token."""
    kept: dict[tuple[str, int], Tensor] = {}

    def keeper(key: tuple[str, int]) -> Callable[..., None]:
        def act(_: Any, __: Any, output: Any) -> None:
            kept[key] = first(output)[0].clone()

        return act

    keys = [(kind, layer) for kind in KINDS for layer in range(network.config.n_layer)]
    logits = hooked(network, ids[None], [(module(network, *key), keeper(key)) for key in keys], logits_to_keep=1)
    return kept, int(logits[0, -1].argmax())


class PublishedLoop:
    """The published implementation's batching: the clean row and the corrupted ones in one forward, all logits."""

    def __init__(self, task: Task) -> None:
        self.network, self.window = task.network, task.size.window

    def start(self, asked: Asked) -> None:
        self.asked = asked
        self.answer = int(self.network(asked.ids[None]).logits[0, -1].argmax())

    def cell(self, cell: Cell) -> Tensor:
        begin, end = self.asked.subject

        def corrupt(_: Any, __: Any, output: Tensor) -> None:
            output[1:, begin:end] += self.asked.noise

        def restore(_: Any, __: Any, output: Any) -> None:
            value = first(output)
            value[1:, cell.position] = value[0, cell.position]

        network = self.network
        layers = restored_layers(cell, self.window, network.config.n_layer)
        hooks: list[tuple[Any, Callable[..., None]]] = [(network.transformer.wte, corrupt)]
        hooks += [(module(network, cell.kind, layer), restore) for layer in layers]
        logits = hooked(network, self.asked.ids.expand(DRAWS + 1, -1), hooks)
        return logits[1:, -1].softmax(-1)[:, self.answer]


class LeanLoop(PublishedLoop):
    """The same by somebody who counts: clean values from one clean run, only the last position's logits."""

    def start(self, asked: Asked) -> None:
        self.asked = asked
        self.clean, self.answer = clean_values(self.network, asked.ids)

    def cell(self, cell: Cell) -> Tensor:
        begin, end = self.asked.subject

        def corrupt(_: Any, __: Any, output: Tensor) -> None:
            output[:, begin:end] += self.asked.noise

        def restorer(layer: int) -> Callable[..., None]:
            def act(_: Any, __: Any, output: Any) -> None:
                first(output)[:, cell.position] = self.clean[cell.kind, layer][cell.position]

            return act

        network = self.network
        layers = restored_layers(cell, self.window, network.config.n_layer)
        hooks: list[tuple[Any, Callable[..., None]]] = [(network.transformer.wte, corrupt)]
        hooks += [(module(network, cell.kind, layer), restorer(layer)) for layer in layers]
        logits = hooked(network, self.asked.ids.expand(DRAWS, -1), hooks, logits_to_keep=1)
        return logits[:, -1].softmax(-1)[:, self.answer]


class TransformerLensLoop:
    """`run_with_hooks` on the bridge, clean values from `run_with_cache`, only the last position's logits."""

    NAMES = {"resid": "blocks.{}.hook_out", "mlp": "blocks.{}.hook_mlp_out", "attn": "blocks.{}.hook_attn_out"}

    def __init__(self, task: Task) -> None:
        self.bridge, self.window, self.n_layers = task.model.bridge, task.size.window, task.model.n_layers

    def start(self, asked: Asked) -> None:
        self.asked = asked
        names = [name.format(layer) for name in self.NAMES.values() for layer in range(self.n_layers)]
        logits, self.clean = self.bridge.run_with_cache(asked.ids[None], names_filter=names)
        self.answer = int(logits[0, -1].argmax())

    def cell(self, cell: Cell) -> Tensor:
        begin, end = self.asked.subject

        def corrupt(value: Tensor, hook: Any) -> Tensor:
            value[:, begin:end] += self.asked.noise
            return value

        def restore(value: Tensor, hook: Any) -> Tensor:
            value[:, cell.position] = self.clean[hook.name][0, cell.position]
            return value

        layers = restored_layers(cell, self.window, self.n_layers)
        hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [("hook_embed", corrupt)]
        hooks += [(self.NAMES[cell.kind].format(layer), restore) for layer in layers]
        logits = self.bridge.run_with_hooks(self.asked.ids.expand(DRAWS, -1), fwd_hooks=hooks, logits_to_keep=1)
        return logits[:, -1].softmax(-1)[:, self.answer]

"""Sites: a component of the model, its layers, and the tokens where it is read or written.

mlp[3:8] @ subject[-1]        the MLP output of layers 3 to 7 at the last subject token
mlp.window(10) @ every        an axis: one cell per token and centre layer, ten layers restored at once
mlp.each[::4] @ subject[-1]   an axis over every fourth layer
z.heads(2, 5)[7] @ last       two attention heads of layer 7
z.each_head @ last            two axes: one cell per layer and head; z[7].each_head for those of layer 7
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import SupportsIndex

from ...errors import UsageError
from ...given import Borders, Wholes, borders, one_or_more, whole, wholes
from ...models import layout as names
from ...models.layout import Layout
from .documented import component_text, documented
from .positions import NAMED, Position


@dataclass(frozen=True)
class Layers:
    """Which layers: all, some (by index or slice), or an axis of windows, around all layers or some."""

    chosen: tuple[int, ...] | None = None
    slice: Borders | None = None
    window: int | None = None

    def axis(self, n_layers: int) -> tuple[int, ...]:
        """The centre layers of the axis."""
        return self._picked(n_layers)

    def resolve(self, n_layers: int, centre: int | None = None) -> tuple[int, ...]:
        """Layer indices; `centre` is where the window axis stands.

        Raises:
            UsageError: out of range, empty, or an axis where one cell is run.
        """
        if self.window is not None:
            if centre is None:
                raise UsageError(
                    f"a window of {self.window} layers is an axis; use trace(), or name layers such as mlp[3:8]"
                )
            return window_layers(centre, self.window, n_layers)
        return self._picked(n_layers)

    def _picked(self, n_layers: int) -> tuple[int, ...]:
        if self.chosen is not None:
            for layer in self.chosen:
                _check(layer, n_layers)
            picked = tuple(sorted({layer % n_layers for layer in self.chosen}))
        elif self.slice is not None:
            start, stop, step = self.slice
            for end, limit in ((start, n_layers - 1), (stop, n_layers)):
                if end is not None and not -n_layers <= end <= limit:
                    _check(end, n_layers)
            picked = tuple(range(n_layers)[slice(start, stop, step)])
        else:
            return tuple(range(n_layers))
        if not picked:
            raise UsageError(f"the layers {self} are empty: this model has layers 0 to {n_layers - 1}")
        return picked

    def __str__(self) -> str:
        if self.window is not None:
            return (f".window({self.window})" if self.window > 1 else ".each") + self.choice
        return self.choice

    @property
    def choice(self) -> str:
        """The index alone, as it is written; empty for all layers."""
        if self.chosen is not None:
            return "[" + ", ".join(map(str, self.chosen)) + "]"
        if self.slice is not None:
            start, stop, step = ("" if part is None else str(part) for part in self.slice)
            return f"[{start}:{stop}{':' + step if step else ''}]"
        return ""


def _check(layer: int, n_layers: int) -> None:
    if not -n_layers <= layer < n_layers:
        raise UsageError(f"layer {layer} is out of range: this model has layers 0 to {n_layers - 1}")


def window_layers(centre: int, width: int, n_layers: int) -> tuple[int, ...]:
    """Layers of a window, clipped as published: max(0, l - w//2) up to min(L, l + ceil(w/2)), end excluded."""
    return tuple(range(max(0, centre - width // 2), min(n_layers, centre + math.ceil(width / 2))))


@dataclass(frozen=True)
class Component:
    """A part of the model that can be read and written.

    Args:
        name: one of `mechinterp.models.layout.COMPONENTS`.
        layers: which layers; all of them unless indexed.
        head_indices: which heads, for components with a head axis; all of them when empty.
        head_axis: one cell per head, instead of all heads at once.
    """

    name: str
    layers: Layers = Layers()
    head_indices: tuple[int, ...] = ()
    head_axis: bool = False

    def __getitem__(self, index: Wholes | slice) -> Component:
        """Some of the layers, or of an axis: a number, a slice, or several numbers (a list, a range, an array).

        Raises:
            UsageError: layers are named already; z[3, 5], which is two layers to some and a head to others.
        """
        if self.layers.chosen is not None or self.layers.slice is not None:
            raise UsageError(f"{self} already names its layers; index a component once")
        if self.name == names.EMBED:
            raise UsageError("the embedding has no layers; write embed @ subject")
        if isinstance(index, slice):
            return replace(self, layers=replace(self.layers, slice=borders(index, self.name)))
        if isinstance(index, tuple) and len(index) > 1 and self.name in names.PER_HEAD:
            inside = ", ".join(map(str, index))
            raise UsageError(
                f"{self.name}[{inside}] may mean layers or heads; write {self.name}[[{inside}]] for these layers, or "
                f"{self.name}[{index[0]}].heads({', '.join(map(str, index[1:]))}) for a head of layer {index[0]}"
            )
        return replace(self, layers=replace(self.layers, chosen=wholes(index, f"a layer of {self.name}")))

    @property
    def pattern(self) -> Component:
        """Attention patterns, to be read with `cache`: attn.pattern[3] @ last, attn.pattern.each @ every.

        Raises:
            UsageError: of anything but attention.
        """
        if self.name != names.ATTN:
            raise UsageError(f"{self.name!r} has no attention pattern; write attn.pattern")
        return replace(self, name=names.PATTERN)

    def window(self, width: SupportsIndex) -> Component:
        """An axis over centre layers, with `width` layers written at once (clipped at both ends)."""
        width = whole(width, "a window")
        if width < 1:
            raise UsageError(f"a window of {width} layers holds nothing; give at least 1")
        if self.name == names.EMBED or self.layers != Layers():
            raise UsageError(f"{self} cannot be given a window; write, for example, mlp.window(10)")
        return replace(self, layers=Layers(window=width))

    @property
    def each(self) -> Component:
        """An axis over single layers."""
        return self.window(1)

    @property
    def each_head(self) -> Component:
        """An axis over single heads of single layers: of all layers, or of those that are named.

        Raises:
            UsageError: the component has no heads; a window of layers, across which heads have nothing in common.
        """
        if self.name not in names.PER_HEAD:
            raise UsageError(f"{self.name!r} has no heads; components with heads are {', '.join(names.PER_HEAD)}")
        if self.layers.window not in (None, 1):
            raise UsageError(f"heads of different layers have nothing in common; write {self.name}.each_head")
        return replace(self, layers=replace(self.layers, window=1), head_axis=True)

    def heads(self, *indices: Wholes) -> Component:
        """Only these attention heads; negative numbers count from the end.

        Args:
            indices: heads(2), heads(2, 5) or heads([2, 5]).

        Raises:
            UsageError: the component has no head axis, or no head is named.
        """
        found = wholes(one_or_more(indices), f"a head of {self.name}")
        if not found:
            raise UsageError(f"heads() names no head; write {self} for all of them, or {self.name}.heads(0, 3)")
        if self.name not in names.PER_HEAD:
            raise UsageError(f"{self.name!r} has no heads; components with heads are {', '.join(names.PER_HEAD)}")
        return replace(self, head_indices=tuple(sorted(set(found))))

    def __matmul__(self, position: Position) -> Site:
        if not isinstance(position, Position):
            raise UsageError(f"{position!r:.60} is no position; write {self} @ {_position_meant(position)}")
        return Site(self, position)

    def __str__(self) -> str:
        heads = f".heads({', '.join(map(str, self.head_indices))})" if self.head_indices else ""
        if self.head_axis:
            return f"{self.name}{heads}{self._brackets(self.layers.choice)}.each_head"
        return f"{self.name}{heads}{self._brackets(str(self.layers))}"

    def _brackets(self, layers: str) -> str:
        """Layers as they can be written again: z[3, 5] could be a head."""
        return f"[{layers}]" if self.name in names.PER_HEAD and ", " in layers and layers[0] == "[" else layers

    def axis_of_heads(self, layout: Layout) -> tuple[int, ...]:
        """The heads that an axis over them has one cell for."""
        return self._named_heads(layout) or tuple(range(layout.heads_of(self.name)))

    def resolve_heads(self, layout: Layout, head: int | None = None) -> tuple[int, ...]:
        """Head indices from 0 on, empty for "all of them"; `head` is where the head axis stands.

        Raises:
            UsageError: a head out of range, or an axis where one cell is run.
        """
        if not self.head_axis:
            return self._named_heads(layout)
        if head is None:
            raise UsageError(f"{self} is an axis of heads; use trace(), or name heads such as {self.name}.heads(3)")
        return (head,)

    def _named_heads(self, layout: Layout) -> tuple[int, ...]:
        count = layout.heads_of(self.name)
        for head in self.head_indices:
            if not -count <= head < count:
                raise UsageError(f"head {head} is out of range: {self.name!r} has heads 0 to {count - 1} in this model")
        return tuple(sorted({head % count for head in self.head_indices}))


def _position_meant(given: object) -> str:
    """What to write for something that is no position."""
    if isinstance(given, str):
        return given if given in NAMED else "subject[-1]"
    try:
        return f"at({', '.join(map(str, wholes(given, 'a token')))})"
    except UsageError:
        return "subject[-1]"


@dataclass(frozen=True)
class Site:
    """A component at a position: an address, once a prompt and a model are given."""

    component: Component
    position: Position

    def __str__(self) -> str:
        return f"{self.component} @ {self.position}"

    @property
    def window(self) -> int | None:
        """Width of the layer axis, None if there is none."""
        return self.component.layers.window

    @property
    def has_axis(self) -> bool:
        """Whether it stands for one cell per token, layer or head rather than for one place."""
        return self.position.is_axis or self.window is not None


def _word(name: str, what: str, shape: str) -> Component:
    return documented(Component(name), component_text(what, name, shape))


embed = _word(names.EMBED, "Token embeddings, before positions are added: where noise goes.", "pos d_model")
resid_pre = _word(names.RESID_PRE, "The residual stream entering a layer.", "pos d_model")
resid_mid = _word(
    names.RESID_MID, "The residual stream between attention and MLP (sequential blocks only).", "pos d_model"
)
resid = _word(names.RESID, "The residual stream leaving a layer.", "pos d_model")
attn = _word(names.ATTN, "What attention adds to the residual stream.", "pos d_model")
cross_attn = _word(
    names.CROSS_ATTN, "What cross-attention adds to the residual stream (the decoder of an encoder-decoder only).",
    "pos d_model",
)  # fmt: skip
mlp = _word(names.MLP, "What the MLP adds to the residual stream.", "pos d_model")
z = _word(names.Z, "Outputs of the attention heads before the output projection.", "pos head d_head")
q = _word(names.Q, "Queries of the attention heads, before rotary embedding.", "pos head d_head")
k = _word(names.K, "Keys of the attention heads (fewer under grouped queries), before rotary.", "pos head d_head")
v = _word(names.V, "Values of the attention heads (fewer under grouped queries).", "pos head d_head")
mlp_key = _word(names.KEY, "The input of the MLP's down-projection: ROME's key.", "pos d_mlp")
mlp_value = _word(names.VALUE, "The output of the MLP's down-projection: ROME's value.", "pos d_model")

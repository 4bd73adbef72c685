"""Activations of the clean run as named arrays, prompt by prompt into memory or onto disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...errors import UsageError
from ...facts.prompts import Prompts, prompts_of
from ...given import several
from ...models.layout import EMBED, PATTERN, PER_HEAD
from ...models.model import Model
from ...public import public
from ..algebra.cells import tokens_of
from ..algebra.sites import Site
from .asked import Asked, buckets
from .executor import forward
from .running import GROUP

_KEY = "key"


@dataclass(frozen=True, eq=False)
class Activations:
    """One site's activations.

    Args:
        values: the array.
        axes: a name for each of its axes: "token", then "layer", then "head" where there are heads, then "width" (or,
            of attention patterns, "key").
        tokens: of each entry of the axis "token": prompt, position, token, role.
        layers, heads: numbers along those axes.
    """

    values: np.ndarray
    axes: tuple[str, ...]
    tokens: pd.DataFrame
    layers: tuple[int, ...]
    heads: tuple[int, ...] = ()

    def __repr__(self) -> str:
        shape = ", ".join(f"{name} {size}" for name, size in zip(self.axes, self.values.shape, strict=True))
        return f"Activations({shape}; {self.tokens['prompt'].nunique()} prompts)"


class Cache(Mapping[str, Activations]):
    """Activations by site: `cache["resid.each @ last"]`, or `cache[resid.each @ last]`."""

    def __init__(self, found: Mapping[str, Activations]) -> None:
        self._found = dict(found)

    def __getitem__(self, site: str | Site) -> Activations:
        if str(site) not in self._found:
            raise UsageError(f"{site} is not in this cache; it has {', '.join(self._found)}")
        return self._found[str(site)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return "\n".join(f"{site}: {one}" for site, one in self._found.items())


@public
def cache(model: Model, prompts: Prompts, sites: Site | Iterable[Site], *, out: str | Path | None = None) -> Cache:
    """Read activations of the clean run at some sites.

    Args:
        model: the model.
        prompts: one or several, or facts; batched by token length and never padded.
        sites: such as resid.each @ last, z.each_head @ every, mlp[3:5] @ subject, attn.pattern.each @ last; a window is
            no site to read.
        out: a folder for arrays that memory does not hold: each site's is written there as it comes (`0.npy`, ...), and
            what is returned is read from there on demand.

    Returns:
        Each site's array with its axes named; tokens of all prompts stand one after another on the first.  Attention
        patterns have "key" last: the tokens that are looked at, 0 beyond the prompt's own.

    Raises:
        UsageError: no prompts, no site, a window, a layer, token or head that does not exist.
        MechinterpError: a component that this architecture cannot serve.
    """
    given, chosen = prompts_of(prompts), several(sites, Site, "sites", "sites such as resid.each @ last")
    if not given or not chosen:
        raise UsageError("there is nothing to read: give at least one prompt and one site")
    asked = [Asked(model.tokenise(prompt.with_answer(None)), (0,)) for prompt in given]
    readers = [_Reader(model, site, asked) for site in chosen]
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    arrays = [reader.array(None if folder is None else folder / f"{i}.npy") for i, reader in enumerate(readers)]
    hooks = list(dict.fromkeys(hook for reader in readers for hook in reader.hooks))
    for group in buckets(asked, GROUP):
        ids, decoder = zip(*(model.inputs(asked[index].prompt.ids) for index in group), strict=True)
        past = {"decoder_ids": model.fed(list(decoder))}
        found = forward(model, torch.tensor(ids), reads=hooks, past=past).cache
        for row, index in enumerate(group):
            for reader, array in zip(readers, arrays, strict=True):
                array[reader.rows(index)] = reader.values(found, row, index)
    return Cache(
        {
            str(reader.site): Activations(array, reader.axes, reader.tokens(), reader.layers, reader.heads)
            for reader, array in zip(readers, arrays, strict=True)
        }
    )


class _Reader:
    """One site of all prompts: its hook points, its tokens, the shape of its array."""

    def __init__(self, model: Model, site: Site, asked: list[Asked]) -> None:
        self.model, self.site, self.asked = model, site, asked
        component, layout = site.component, model.layout
        if component.layers.window not in (None, 1):
            raise UsageError(f"{site} is a window, which is restored as a whole; read {component.name}.each")
        name = component.name
        self.is_pattern = name == PATTERN
        self.layers = (0,) if name == EMBED else component.layers.axis(layout.n_layers)
        self.heads: tuple[int, ...] = component.axis_of_heads(layout) if name in (*PER_HEAD, PATTERN) else ()
        self.hooks = [
            layout.pattern_hook(layer) if self.is_pattern else layout.read_hook(name, layer) for layer in self.layers
        ]
        self.positions = []
        for one in asked:
            tokens = tokens_of(name, one.prompt)
            everywhere = site.position.follows_axis
            self.positions.append(tuple(range(len(tokens))) if everywhere else site.position.resolve(tokens))
        self.starts = np.cumsum([0, *map(len, self.positions)])

    @property
    def axes(self) -> tuple[str, ...]:
        """Their names."""
        heads = ("head",) if self.heads else ()
        return ("token", "layer", *heads, _KEY if self.is_pattern else "width")

    def array(self, path: Path | None) -> np.ndarray:
        """An empty array of the right shape, in memory or in a file."""
        layout, name = self.model.layout, self.site.component.name
        width = {
            PATTERN: max(len(one.prompt.patched) for one in self.asked), EMBED: layout.d_embed,
            **dict.fromkeys(PER_HEAD, layout.d_head), "key": layout.d_mlp if name == "key" else 0,
        }.get(name, layout.d_model)  # fmt: skip
        shape = (int(self.starts[-1]), len(self.layers), *((len(self.heads),) if self.heads else ()), width)
        kind = np.float64 if self.model.dtype == torch.float64 else np.float32
        if path is None:
            return np.zeros(shape, kind)
        return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)

    def rows(self, index: int) -> slice:
        """Where a prompt's tokens stand."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def values(self, found: Mapping[str, torch.Tensor], row: int, index: int) -> np.ndarray:
        """One prompt's, [token, layer, (head,) ...]."""
        parts = []
        for hook in self.hooks:
            value = found[hook][row]
            value = value.transpose(0, 1) if self.is_pattern else value  # [query, head, key]
            value = value[list(self.positions[index])]
            parts.append(value[:, list(self.heads)] if self.heads else value)
        wide = torch.stack(parts, 1)
        wide = wide.double() if wide.dtype == torch.float64 else wide.float()
        read: np.ndarray = wide.cpu().numpy()
        if self.is_pattern:
            missing = max(len(one.prompt.patched) for one in self.asked) - read.shape[-1]
            read = np.pad(read, [(0, 0)] * (read.ndim - 1) + [(0, missing)])
        return read

    def tokens(self) -> pd.DataFrame:
        """Of each entry of the first axis."""
        entries = [
            (one.prompt.prompt.name, at, one.prompt.patched.tokens[at], one.prompt.patched.role(at))
            for one, positions in zip(self.asked, self.positions, strict=True)
            for at in positions
        ]
        return pd.DataFrame(entries, columns=["prompt", "position", "token", "role"])

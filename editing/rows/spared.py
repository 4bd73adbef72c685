"""Running text that an edit is to leave alone, and what enters an MLP on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...atlas import corpus
from ...errors import UsageError
from ...given import texts_of
from ...models.layout import UP
from ...models.model import Model
from ...patching.plain.executor import forward
from ..edits.where import Rows
from .contexts import sample_contexts

_SAMPLED = 30
"""Tokens of a text that the model writes itself."""
_ROWS = 64


def spared_texts(model: Model, given: Sequence[str] | None, count: int, seed: int) -> tuple[str, ...]:
    """Running text for an edit to leave alone.

    Args:
        model: the model.
        given: by the caller; None: of a bundled model some of its own corpus, of another one texts it writes itself.
        count: how many at most.
        seed: of the choice.

    Raises:
        UsageError: none were given, or one string in place of texts.
    """
    if given is not None:
        found = tuple(texts_of(given, "texts"))[:count]
        if not found:
            raise UsageError("texts holds no text; give running text that the edit is to leave alone, or leave it out")
        return found
    if model.bundled:
        texts = corpus(name=model.bundled)
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:count]
        return tuple(texts[i] for i in order.tolist())
    written = sample_contexts(model, ((count, min(_SAMPLED, model.n_ctx)),), top_k=50, seed=seed)
    return tuple(text.removesuffix(". {}") for text in written if text != "{}")


def entering_mlp(
    model: Model, ids: Int[Tensor, "row pos"], layer: int, matrix: str = UP
) -> Float[Tensor, "row pos d_in"]:
    """What enters the MLP of a layer (or another matrix of it), as the model stands."""
    kept: list[Tensor] = []
    with ExitStack() as stack:
        rows = Rows(model, layer, None, stack)

        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[:] = [rows.apart(args[0]).detach()]

        stack.enter_context(model.alone())
        stack.callback(model.layout.mlp_projection(matrix, layer).register_forward_pre_hook(see).remove)
        forward(model, ids)
    return kept[0]


def read_mlp(model: Model, texts: Sequence[str], layer: int, matrix: str = UP) -> Float[Tensor, "token d_in"]:
    """What enters an MLP (or another matrix of it) at every token of some texts but the first, which sees nothing."""
    rows, found = [model.encode(text)[: model.n_ctx] for text in texts], list[Tensor]()
    rows = [row for row in rows if len(row) > 1]
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        ids = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
        for i, row in enumerate(some):
            ids[i, : len(row)] = torch.tensor(row)
        states = entering_mlp(model, ids, layer, matrix)
        found += [states[i, 1 : len(row)] for i, row in enumerate(some)]
    if not found:
        raise UsageError("the texts that an edit is to leave alone have no two tokens; give running text")
    return torch.cat(found)

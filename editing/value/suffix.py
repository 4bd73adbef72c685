"""The part of a forward that a change at the subject's last token can reach, run again and again.

In a causal decoder such a change reaches the subject's last token and those after it, in the layers from the changed
one on.  Everything else is computed once: the keys and values of the tokens before, and the residual that enters those
layers.  Not every architecture allows to leave it out, so what is left out is tried first, against the whole forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ...errors import MechinterpError
from ...forwards.readout import log_softmax
from ...forwards.tolerances import SINGLE_INSIDE, same_logits
from ...models.layout import RESID_PRE
from ...models.model import Model
from ...patching.exact.prefix import PrefixLayer
from ...patching.plain.executor import Forward, HookWrite, forward
from ..rows.padded import Batch
from .shared_prefix import pairs_before, past_of

WAYS = ("next", "upper", "tail", "whole")
"""What is run, from little to all: the layers after the changed one, where the change is a change of the residual that
enters the next; the layers from the changed one on; all layers, at the tokens that see the change; everything."""


@dataclass(frozen=True, eq=False)
class Suffix:
    """What a change at the subject's last token in one layer can reach, for some rows.

    Args:
        batch: the rows from each subject's last token on (the way "whole": from their beginning).
        hooks: where changes are written.
        past: keys and values of the tokens before (or the decoder's tokens of an encoder-decoder), as keyword arguments
            of a forward; None: nothing was left out.
        start: the first layer that is run.
        entering: the residual that enters it; None: the layers below are run too.
        as_tuple: whether the model's blocks return their residual as the first of several things.
    """

    batch: Batch
    hooks: tuple[str, ...]
    past: Mapping[str, Any] | None = None
    start: int = 0
    entering: Float[Tensor, "row pos d_model"] | None = None
    as_tuple: bool = False

    @staticmethod
    def of(model: Model, batch: Batch, hooks: tuple[str, ...], way: str, group: int) -> Suffix:
        """The rows without the tokens before the subject's last one, unless the way is "whole".

        Args:
            model: the model.
            batch: whole rows; those of a fact stand together.
            hooks: where changes are written.
            way: one of `WAYS`.
            group: how many rows each fact has.
        """
        if way == "whole":
            return Suffix(batch, hooks, batch.given or None)
        start, row = batch.subject, batch.rows[:, None]
        width = int((batch.length - start).max())
        after = start[:, None] + torch.arange(width, device=start.device)
        ids = batch.ids[row, after.clamp(max=batch.ids.shape[1] - 1)]
        short = Batch(ids, torch.zeros_like(start), batch.end - start, batch.length - start)
        pairs = pairs_before(model, batch.ids, start, group)
        return Suffix(short, hooks, past_of(pairs, start, width, model.n_ctx))

    def first_run(
        self, model: Model, layer: int, way: str, reads: Sequence[str], *, keep: int
    ) -> tuple[Suffix, Forward]:
        """One forward without any change, and the suffix that from then on leaves out the layers below `layer`."""
        start = layer + 1 if way == "next" else layer
        if way not in ("next", "upper") or start == 0:
            return self, self.run(model, reads=reads, keep=keep)
        hook, tuples = model.layout.hook(RESID_PRE, start), []
        with _watching(model.layout.blocks[0], lambda output: tuples.append(isinstance(output, tuple))):
            out = self.run(model, reads=(*reads, hook), keep=keep)
        hooks = (hook,) if way == "next" else self.hooks
        return replace(self, hooks=hooks, start=start, entering=out.cache[hook], as_tuple=tuples[0]), out

    def run(
        self,
        model: Model,
        changes: Float[Tensor, "row hook d_model"] | None = None,
        reads: Sequence[str] = (),
        *,
        keep: int = 1,
        grad: bool = False,
    ) -> Forward:
        """One forward of what is left, with something added at each hook at the subject's last token."""
        writes: list[HookWrite] = []
        if changes is not None:
            writes = [self.batch.add_at_subject(hook, changes[:, i]) for i, hook in enumerate(self.hooks)]
        entering = (self.entering, None) if self.as_tuple else self.entering
        with model.alone(), _stepped_over(model, 0 if self.entering is None else self.start, entering):
            return forward(model, self.batch.ids, writes, reads, keep=keep, grad=grad, past=self.past)

    def of_rows(self, rows: Int[Tensor, " kept"]) -> Suffix:
        """Some of the rows."""
        entering = None if self.entering is None else self.entering[rows]
        return replace(self, batch=self.batch.of_rows(rows), past=_past_of_rows(self.past, rows), entering=entering)

    def keep_from(self, first: Int[Tensor, " row"]) -> tuple[int, int]:
        """How many last positions must get logits for these to be among them, and what this takes off their numbers."""
        return self.batch.keep_from(int(first.min())), int(first.min())


def best_way(model: Model, batch: Batch, layer: int, hooks: tuple[str, ...]) -> str:
    """The way that leaves out most and still gives, on these rows, what a changed whole forward gives at their ends."""
    if model.is_encoder_decoder:  # every token of an encoder sees the change
        return "whole"
    expected = _at_ends(model, batch, layer, hooks, "whole")
    last = layer + 1 == model.n_layers
    for way in WAYS[1 if last or len(hooks) > 1 else 0 : -1]:
        try:
            found = _at_ends(model, batch, layer, hooks, way)
        except (MechinterpError, RuntimeError, ValueError, IndexError, TypeError):
            continue  # whatever a model does not allow, it refuses with one of these
        if same_logits(found, expected, dtype=model.dtype, at_least=SINGLE_INSIDE):
            return way
    return "whole"


def _at_ends(model: Model, batch: Batch, layer: int, hooks: tuple[str, ...], way: str) -> Float[Tensor, "row vocab"]:
    """Next-token log-probabilities at the end of each row, with a random change as large as what it changes."""
    suffix = Suffix.of(model, batch, hooks, way, group=len(batch.ids))
    keep, shift = suffix.keep_from(suffix.batch.end)
    suffix, out = suffix.first_run(model, layer, way, hooks, keep=1)
    found = torch.stack([suffix.batch.at_subject(out.cache[hook]) for hook in hooks], 1)
    random = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).to(found)
    logits = suffix.run(model, random * found.square().mean(-1, keepdim=True).sqrt(), keep=keep).logits
    return log_softmax(logits[suffix.batch.rows, suffix.batch.end - shift])


def _past_of_rows(past: Mapping[str, Any] | None, rows: Int[Tensor, " kept"]) -> dict[str, Any] | None:
    if past is None:
        return None
    layers: list[Any] = [
        PrefixLayer(layer.keys[rows], layer.values[rows], layer.get_seq_length())
        for layer in past["past_key_values"].layers
    ]
    return {name: Cache(layers=layers) if name == "past_key_values" else value[rows] for name, value in past.items()}


@contextmanager
def _watching(block: nn.Module, see: Callable[[Any], None]) -> Iterator[None]:
    """Show what a block returns."""
    handle = block.register_forward_hook(lambda module, args, output: see(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _stepped_over(model: Model, layer: int, entering: Any) -> Iterator[None]:
    """Within the block the layers below `layer` do nothing but hand on what enters it.

    TransformerLens' `start_at_layer` runs the layers below and throws their output away; here they have a `forward` of
    their own for a while.
    """
    with ExitStack() as stack:
        for index in range(layer):
            block: nn.Module = model.layout.blocks[index]
            block.__dict__["forward"] = lambda *args, **kwargs: entering
            stack.callback(block.__dict__.pop, "forward")
        yield

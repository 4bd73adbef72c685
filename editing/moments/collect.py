"""Collecting second moments from running text, several layers in one pass, by one process or by several.

Every text is a sequence of its own from position 0, cut at the model's context length; every token counts and
padding never does.  Under torchrun each process adds up the keys of its share of the batches.  The batches are the
same as in one process, so the result is too, but for the order in which float64 sums are added.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from ...errors import UsageError
from ...given import Wholes, texts_of, whole
from ...models.model import Model
from ...runs.ranks import ranks
from .collection import Collection, one_model
from .convergence import Convergence
from .moments import SecondMoment
from .sums import Sums
from .unfinished import Partial


def collect_moments(
    model: Model,
    texts: Iterable[str],
    layers: Wholes,
    *,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    watch: Convergence | None = None,
    out: str | Path | None = None,
    write_every: float = 60.0,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moments of several layers' keys, in one pass over the texts.

    How many tokens are enough?  Ten per unit of the layer, it is said (Gupta et al. 2025, arXiv 2506.04226); on the
    bundled model C⁻¹k* then has a cosine of 0.86 with where it settles, and 0.98, 0.99 and 0.996 with 45, 91 and 183
    tokens per unit (benchmarks/moments_convergence.py).  `watch` shows how far it is.  Ctrl-C ends the collection and
    keeps what there is, with a warning.

    Args:
        model: the model, as it stands (an edited model has other keys).
        texts: any iterable of strings; empty ones are skipped, long ones cut at the model's context length.  Under
            torchrun every process gets all of them.
        layers: which layers.
        max_tokens: stop there, in the middle of a text if need be; default: all of it.
        batch_tokens: tokens per forward, padding included.
        watch: looks at the moments as they grow, and may end the collection once they are settled.
        out: a folder.  The unfinished sums are kept there (`collecting.safetensors`), so that the same call goes on
            after a kill; in the end each moment is written to `layer-N.safetensors`.
        write_every: seconds between one writing of the unfinished sums and the next, more where writing is slow.
        progress: show a bar with the tokens seen.

    Returns:
        The moments by layer, the same in each process.

    Raises:
        UsageError: no layer, a layer out of range, texts that hold no token, a single string instead of
            texts, a folder that holds the unfinished sums of another collection, processes whose models or texts
            differ.
    """
    documents = texts_of(texts, "texts")
    indices = sorted(set(model.layout.check_layers(layers)))
    if not indices:
        raise UsageError("no layer was named whose keys should be collected")
    max_tokens = None if max_tokens is None else whole(max_tokens, "max_tokens")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; give a positive number, or None for all of the text")
    batch_tokens = whole(batch_tokens, "batch_tokens", least=1)
    with ranks(model.device) as me:
        fingerprint = one_model(model, me)
        partial = None
        if out is not None:
            asked = {"layers": indices, "max_tokens": max_tokens, "batch_tokens": batch_tokens}
            identity = {"model": fingerprint, **asked, "torch": torch.__version__}
            partial = Partial(Path(out) / "collecting.safetensors", identity, every=write_every)
        sums = Sums.zero(model, indices)
        collection = Collection(model, sums, watch, partial, me, max_tokens, batch_tokens)
        complete = collection.run(documents, progress=progress and me.is_first)
        if sums.tokens == 0:
            raise UsageError("the texts hold no token at all, so there is no second moment; give some text")
        if not complete and me.is_first:
            warnings.warn(
                f"interrupted: the second moment averages the {sums.tokens:,} tokens seen so far "
                f"({sums.documents:,} texts)",
                stacklevel=2,
            )
        found = sums.moments(model, fingerprint, complete=complete)
        if out is not None and me.is_first:
            for layer, moment in found.items():
                moment.save(Path(out) / f"layer-{layer}.safetensors")
        if partial is not None and complete and me.is_first:
            partial.remove()
        me.barrier()  # the files are there
    return found

"""How large "k sigma" of noise is: the spread of embedding activations, measured and not read from a weight matrix.

Some architectures scale their embeddings on the way into the residual stream (Gemma by sqrt(d_model)), so the spread is
taken at the embedding *activation*; nothing behind it is run.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from ... import atlas
from ...errors import MechinterpError, UsageError
from ...facts.words import check_subject
from ...given import texts_of
from ...models.layout import EMBED
from ...models.model import Model
from ...public import public
from .precision import exact

_MEASURED: weakref.WeakKeyDictionary[object, tuple[tuple[int, float], float]] = weakref.WeakKeyDictionary()
"""Bridge -> what its embedding was like, and the sigma of its own panel."""


@public
def embedding_sigma(model: Model, subjects: Iterable[str] | None = None) -> float:
    """Standard deviation (unbiased) over all scalars of the token-embedding activations of some subjects.

    Args:
        model: the model.
        subjects: each is tokenised alone, without a space in front, and tokens count as often as they occur: the
            published rule, which takes all subjects of the dataset.  None: the model's own panel, which does not depend
            on what is traced: every subject of the bundled world for the bundled models, all tokens of the tokenizer
            for others (an embedding may have more rows, which no text reaches).

    Returns:
        Sigma, in units of the residual stream.

    Raises:
        UsageError: no subjects, or one string in their place.
    """
    if subjects is None:
        network: Any = model.bridge.original_model
        weight = network.get_input_embeddings().weight.detach()
        now = (weight._version, float(weight.double().sum()))  # training may have moved it since
        known = _MEASURED.get(model.bridge)
        if known is None or known[0] != now:
            known = _MEASURED[model.bridge] = now, _sigma(model, _panel(model))
        return known[1]
    given = list(texts_of(subjects, "subjects"))
    for subject in given:
        check_subject(subject, "{}")
    ids = [token for subject in given for token in model.pieces(subject)]
    if not ids:
        raise UsageError("the spread of the embeddings of no subjects does not exist; give at least one subject")
    return _sigma(model, ids)


def _panel(model: Model) -> list[int]:
    if model.bundled:
        subjects = dict.fromkeys(fact.subject for fact in atlas.facts())
        return [token for one in subjects for token in model.pieces(one)]
    return sorted({token for token in model.tokenizer.get_vocab().values() if token < model.vocab_size})


class _Embedded(Exception):
    """The tokens are embedded; the forward that raises this is over."""


def _sigma(model: Model, ids: list[int]) -> float:
    """Streamed in float64, because a whole vocabulary of activations need not fit in memory twice."""
    hook = model.layout.hook(EMBED)
    length = min(model.n_ctx, 256)
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(ids), length):
        piece = torch.tensor([ids[start : start + length]])
        kept: list[torch.Tensor] = []

        def keep(value: torch.Tensor, hook: object, kept: list[torch.Tensor] = kept) -> None:
            kept.append(exact(value))
            raise _Embedded

        with suppress(_Embedded):
            model.forward(piece, [(hook, keep)], **model.arguments(decoder_ids=model.fed([model.start])))
        (values,) = kept
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
    found = float(((squares - total * total / count) / (count - 1)) ** 0.5)
    if not math.isfinite(found):
        raise MechinterpError(f"the embeddings of {model.name} hold NaN or infinite values; its weights are broken")
    return found

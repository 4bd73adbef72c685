"""How large "k sigma" of noise is: the spread of embedding activations, measured and not read from a weight matrix.

Some architectures scale their embeddings on the way into the residual stream (Gemma by sqrt(d_model)), so the spread is
taken at the embedding *activation*.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch

from ... import atlas
from ...errors import UsageError
from ...given import texts_of
from ...models.layout import EMBED
from ...models.model import Model
from .precision import exact

_MEASURED: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()


def embedding_sigma(model: Model, subjects: Iterable[str] | None = None) -> float:
    """Standard deviation (unbiased) over all scalars of the token-embedding activations of some subjects.

    Args:
        model: the model.
        subjects: each is tokenised alone, without a space in front, and tokens count as often as they occur: the
            published rule, which takes all subjects of the dataset.  None: the model's own panel, which does not depend
            on what is traced: every subject of the bundled world for the bundled models, the whole vocabulary for
            others.

    Returns:
        Sigma, in units of the residual stream.

    Raises:
        UsageError: no subjects, or one string in their place.
    """
    if subjects is None:
        if model.bridge not in _MEASURED:
            _MEASURED[model.bridge] = _sigma(model, _panel(model))
        return _MEASURED[model.bridge]
    ids = [token for subject in texts_of(subjects, "subjects") for token in model.pieces(subject)]
    if not ids:
        raise UsageError("the spread of the embeddings of no subjects does not exist; give at least one subject")
    return _sigma(model, ids)


def _panel(model: Model) -> list[int]:
    if model.bundled:
        subjects = dict.fromkeys(fact.subject for fact in atlas.facts())
        return [token for one in subjects for token in model.pieces(one)]
    return list(range(model.vocab_size))


def _sigma(model: Model, ids: list[int]) -> float:
    """Streamed in float64, because a whole vocabulary of activations need not fit in memory twice.

    Only the first layer runs after the embedding: a whole forward over a vocabulary would take a large model minutes.
    An encoder-decoder cannot be stopped, and runs whole.
    """
    hook = model.layout.hook(EMBED)
    length, stop = min(model.n_ctx, 256), None if model.is_encoder_decoder else 1
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(ids), length):
        piece = torch.tensor([ids[start : start + length]])
        kept: list[torch.Tensor] = []
        with torch.no_grad():
            model.bridge.run_with_hooks(
                piece.to(model.device),
                fwd_hooks=[(hook, lambda value, hook, kept=kept: kept.append(exact(value)))],
                **model.arguments(decoder_ids=model.fed([model.start]), stop_at_layer=stop),
            )
        (values,) = kept
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
    return float(((squares - total * total / count) / (count - 1)) ** 0.5)

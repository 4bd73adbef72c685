"""Running text as batches of similar length, the same ones however many processes read it and wherever they begin.

A batch decides the last digits of its keys (another shape, another order of adding in a matrix product), so batches
never depend on who computes them.  Processes read the same texts, share the tokenising of each chunk and are handed
every batch; a collection that was broken off goes on behind a `Place`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from ...errors import UsageError
from ...models.model import Model
from ...runs.ranks import Ranks

_CHUNK = 256
"""Texts that are sorted by length together before they are batched: little padding, bounded look-ahead."""

TextBatch = list[tuple[str, list[int]]]
"""Texts with their token ids, cut at the model's context length and at the last token that was asked for."""


@dataclass(frozen=True)
class Place:
    """How far into the texts a collection has come.

    Args:
        chunk: chunks that are used up.
        batch: batches used of the chunk that follows them.
        tokens: tokens in the chunks that are used up.
        read: digest over all texts read so far, in their order; "" before the first.
    """

    chunk: int = 0
    batch: int = 0
    tokens: int = 0
    read: str = ""


def text_batches(
    model: Model,
    texts: Iterable[str],
    *,
    max_tokens: int | None,
    batch_tokens: int,
    start: Place,
    me: Ranks,
) -> Iterator[tuple[Place, TextBatch]]:
    """Batches of at most `batch_tokens` padded tokens (or one long text), each with the place behind it.

    Raises:
        UsageError: the texts are not those that `start` was come to by, or not the same in all processes.
    """
    stream = iter(texts)
    read, tokens = "", start.tokens
    for number in count():
        chunk = list(islice(stream, _CHUNK))
        read = _chained(read, chunk)
        if chunk and number < start.chunk:
            continue
        if start.read and number <= start.chunk and read != start.read:
            raise UsageError(
                "the texts are not those with which this collection was begun; give the same ones in the same order, "
                "or another folder"
            )
        found = _encoded(model, chunk, read, me)
        if not chunk:
            return
        left = None if max_tokens is None else max_tokens - tokens
        documents: TextBatch = []
        for text, ids in zip(chunk, found, strict=True):
            kept = ids if left is None else ids[:left]
            if kept:
                documents.append((text, kept))
                left = None if left is None else left - len(kept)
        for index, batch in enumerate(_packed(documents, batch_tokens)):
            if number > start.chunk or index >= start.batch:
                yield Place(number, index + 1, tokens, read), batch
        if left == 0:
            return
        tokens += sum(len(ids) for _, ids in documents)


def _packed(documents: TextBatch, batch_tokens: int) -> Iterator[TextBatch]:
    batch: TextBatch = []
    for text, ids in sorted(documents, key=lambda document: len(document[1])):
        if batch and (len(batch) + 1) * len(ids) > batch_tokens:
            yield batch
            batch = []
        batch.append((text, ids))
    if batch:
        yield batch


def _encoded(model: Model, chunk: list[str], read: str, me: Ranks) -> list[list[int]]:
    """Token ids of each text, no more than the model's context; the processes share the work."""
    mine = [model.encode(chunk[i])[: model.n_ctx] if chunk[i] else [] for i in me.share(len(chunk))]
    gathered = me.gather((read, mine))
    if any(theirs != read for theirs, _ in gathered):
        raise UsageError("the processes were given different texts; give each of them all of the texts, in one order")
    found: list[list[int]] = [[] for _ in chunk]
    for rank, (_, ids) in enumerate(gathered):
        found[rank :: me.world] = ids
    return found


def _chained(read: str, chunk: list[str]) -> str:
    digest = hashlib.sha256(read.encode())
    for text in chunk:
        digest.update(hashlib.sha256(text.encode(errors="surrogatepass")).digest())
    return digest.hexdigest()

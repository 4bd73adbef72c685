"""The loop behind `collect_moments`: batches are shared out, looked at and written down until there are no more."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import torch

from ...errors import UsageError
from ...given import texts_of, whole
from ...models.model import Model
from ...patching.plain.sinks import TOWERING
from ...runs.interrupt import hold_interrupt
from ...runs.progress import progress_bar
from ...runs.ranks import Ranks
from .convergence import Convergence
from .running_text import Place, TextBatch, text_batches
from .sums import Sums
from .text_keys import panel_keys, text_keys
from .towering import check_towering, key_bounds
from .unfinished import Partial

_HEAD = 256
"""The panel of keys is taken from so many texts."""


@dataclass(frozen=True)
class Collecting:
    """How a collection goes about it.

    Args:
        max_tokens: stop there, in the middle of a text if need be; None: all of the text.
        batch_tokens: tokens per forward, padding included.
        watch: looks at the moments as they grow, and may end the collection once they are settled.
        progress: show a bar with the tokens seen.
        towering: keys longer than this multiple of the median are shortened to it; None: all count as they are.

    Raises:
        UsageError: no positive whole numbers, or a multiple that is none.
    """

    max_tokens: int | None = None
    batch_tokens: int = 4096
    watch: Convergence | None = None
    progress: bool = True
    towering: float | None = TOWERING

    def __post_init__(self) -> None:
        if self.max_tokens is not None and whole(self.max_tokens, "max_tokens") < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}; give a positive number, or None for all of the text")
        whole(self.batch_tokens, "batch_tokens", least=1)
        check_towering(self.towering)


def collected(
    model: Model,
    texts: Iterable[str],
    layers: Sequence[int],
    asked: Collecting,
    me: Ranks,
    partial: Partial | None = None,
) -> tuple[Sums, bool]:
    """Add up the keys of texts, in all processes; and whether it came to the end, or was interrupted (with a warning).

    Args:
        model: the model.
        texts: see `collect_moments`.
        layers: which.
        asked: how.
        me: this process.
        partial: where unfinished sums are kept.

    Raises:
        UsageError: one string in place of texts, or texts that hold no token.
    """
    documents = texts_of(texts, "texts")
    bounds = me.gather(key_bounds(model, layers, asked.towering))[0]
    sums = Sums.zero(model, layers, bounds, asked.towering)
    work = Collection(model, sums, asked.watch, partial, me, asked.max_tokens, asked.batch_tokens)
    complete = work.run(documents, progress=asked.progress and me.is_first)
    if sums.tokens == 0:
        raise UsageError("the texts hold no token at all, so there is no second moment; give some text")
    if not complete and me.is_first:
        warnings.warn(
            f"interrupted: the second moment averages the {sums.tokens:,} tokens seen so far "
            f"({sums.documents:,} texts)",
            stacklevel=3,
        )
    return sums, complete


@dataclass
class Collection:
    """A collection under way.

    All processes go through all batches together, and each adds every world-th.  What depends on the tokens alone (a
    look) happens in all of them at the same batch; on what depends on a clock or a key press they agree first.

    Args:
        model: the model.
        sums: what is added up.
        watch: who looks; it is told of things in the first process only.
        partial: where unfinished sums are kept, by the first process.
        me: this process.
        max_tokens, batch_tokens: see `collect_moments`.
    """

    model: Model
    sums: Sums
    watch: Convergence | None
    partial: Partial | None
    me: Ranks
    max_tokens: int | None
    batch_tokens: int
    _broken_off: bool = field(default=False, init=False)

    def run(self, texts: Iterable[str], *, progress: bool) -> bool:
        """Add everything up, at last in all processes; False when interrupted."""
        layers = list(self.sums.products)
        start = self._restored()
        label = f"tokens at layer {', '.join(map(str, layers))}"
        with progress_bar(label, self.max_tokens, shown=progress) as advance, hold_interrupt() as interrupted:
            advance(self.sums.tokens)
            place, stopped = start, False
            for turn, (place, batch) in enumerate(self._batches(texts, start)):
                if turn % self.me.world == self.me.rank:
                    self.sums.add(text_keys(self.model, [ids for _, ids in batch], layers))
                self.sums.count(batch)
                advance(sum(len(ids) for _, ids in batch))
                if self._settled():
                    break
                if (turn + 1) % self.me.world == 0 and self._stopped(interrupted(), place):
                    stopped = True
                    break
        complete = not (stopped or self._broken_off)
        if not complete:
            self._write(place)
        self.sums.fold(self.me, into_all=True)
        if self.watch is not None and self.me.is_first and self.sums.tokens:
            self.watch.end(self.sums.tokens, self.sums.products)
        return complete

    def _restored(self) -> Place:
        """The place to begin at, with the counts of the processes before; the sums are in the first one."""
        place = Place()
        if self.partial is not None and self.me.is_first:
            place = self.partial.restore(self.sums, self.watch)
        mine = self.sums
        first = self.me.gather((place, mine.tokens, mine.documents, mine.texts))[0]
        place, mine.tokens, mine.documents, mine.texts = first
        if self.watch is not None:
            self.watch.looks = self.me.gather(self.watch.looks)[0]
        return place

    def _batches(self, texts: Iterable[str], start: Place) -> Iterator[tuple[Place, TextBatch]]:
        stream = iter(texts)
        if self.watch is not None and not self.watch.keys and self.me.is_first:
            head = list(islice(stream, _HEAD))
            self.watch.keys = panel_keys(self.model, head, list(self.sums.products))
            stream = chain(head, stream)
        try:
            yield from text_batches(
                self.model, stream, max_tokens=self.max_tokens, batch_tokens=self.batch_tokens, start=start, me=self.me
            )
        except KeyboardInterrupt:  # out of the texts themselves, or a second Ctrl-C: nothing is half counted here
            if not self.me.alone:
                raise
            self._broken_off = True

    def _settled(self) -> bool:
        """Look, if it is time to; whether that was enough text."""
        if self.watch is None or not self.watch.due(self.sums.tokens, self.model.d_mlp):
            return False
        self.sums.fold(self.me)
        if self.me.is_first:
            self.watch.look(self.sums.tokens, self.sums.products)
        self.watch.looks = self.me.gather(self.watch.looks)[0]
        return self.watch.settled

    def _stopped(self, interrupted: bool, place: Place) -> bool:
        """Write down the unfinished sums, if it is time to; whether any process was interrupted."""
        due = self.partial is not None and self.me.is_first and self.partial.due
        votes = torch.tensor([interrupted, due], dtype=torch.int64)
        self.me.sum_(votes)
        stop, write = (bool(vote) for vote in votes)
        if write and not stop:
            self._write(place)
        return stop

    def _write(self, place: Place) -> None:
        if self.partial is not None:
            self.sums.fold(self.me)
            if self.me.is_first:
                self.partial.write(self.sums, place, self.watch)


def one_model(model: Model, me: Ranks) -> str:
    """The model's fingerprint as it acts, which must be the same in all processes."""
    found = me.gather(model.acting_fingerprint())
    if len(set(found)) > 1:
        raise UsageError("the processes hold different models, so their sums cannot be added; load one and the same")
    return found[0]

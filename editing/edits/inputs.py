"""Changes of what the model is asked: words put around a prompt, its subject where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from ...errors import UsageError
from ...facts.words import check_spelling
from ...models.model import Model
from ..stores.embedding import OWN, embedder
from ..stores.retrieval import Near, Retriever, plain_of, retriever_of
from ..stores.store import Store
from .active import active_edits
from .change import INPUT, Change, check_width
from .scopes import Scope, read_scope


@dataclass(frozen=True, eq=False)
class Demonstrations(Change):
    """Words that are put around every prompt that is asked (Zheng et al. 2023 put demonstrations of the fact there).

    Args:
        frame: the words, with `{}` where the prompt goes: "New fact: Rome is in Spain. {}".
        scope: which prompts; None: all.

    Raises:
        UsageError: a frame without exactly one `{}`.
    """

    kind = "demonstrations"
    acts_on = INPUT

    frame: str
    scope: Scope | None = None

    def __post_init__(self) -> None:
        check_spelling(self.frame, "the frame")
        if self.frame.count("{}") != 1:
            raise UsageError(f"the frame {self.frame!r:.80} must hold exactly one '{{}}', where the prompt goes")
        if self.frame != self.frame.strip():
            raise UsageError(f"the frame {self.frame!r:.80} has blanks around it, which would be read; leave them out")

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {} if self.scope is None else self.scope.tensors

    @property
    def header(self) -> dict[str, Any]:
        scope = None if self.scope is None else {"kind": self.scope.kind, "header": self.scope.header}
        return {"frame": self.frame, "scope": scope}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        scope = header["scope"]
        return cls(header["frame"], None if scope is None else read_scope(tensors, scope))

    @contextmanager
    def on(self, model: Model) -> Iterator[Model]:
        yield replace(model, framings=(*model.framings, self._around))

    def _around(self, words: str) -> str:
        return self.frame if self.scope is None or self.scope.holds([words])[0] else "{}"


@dataclass(frozen=True, eq=False)
class Recalled(Change):
    """Words that a memory puts around a prompt: those of the entry that is found for it (Madaan et al. 2022, Zhong et
    al. 2023).

    Args:
        store: what is known.
        retriever: who finds an entry.
        hit: the words, with `{}` where the prompt goes and `{text}` where the entry's text goes.
        miss: the words where no entry answers; "{}" leaves the prompt as it is.

    Raises:
        UsageError: words without exactly one `{}`, or a hit without exactly one `{text}`.
    """

    kind = "recalled"
    acts_on = INPUT

    store: Store
    retriever: Retriever
    hit: str = "{text} {}"
    miss: str = "{}"

    def __post_init__(self) -> None:
        if self.hit.count(TEXT) != 1:
            raise UsageError(
                f"the words {self.hit!r:.80} must hold exactly one '{{text}}', where the entry's text goes"
            )
        for frame in (self.hit.replace(TEXT, "a"), self.miss):
            Demonstrations(frame)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.store.tensors

    @property
    def header(self) -> dict[str, Any]:
        plain = {"hit": self.hit, "miss": self.miss, "retriever": plain_of(self.retriever)}
        return {"entries": self.store.plain, **plain}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        store = Store.of_plain(header["entries"], tensors)
        return cls(store, retriever_of(header["retriever"]), header["hit"], header["miss"])

    def check(self, model: Model, made_for: str = "") -> None:
        vectors, own = self.store.vectors, isinstance(self.retriever, Near) and self.retriever.encoder == OWN
        if vectors is not None and own:
            check_width("memory", vectors.shape[1], model.d_model, made_for)

    @contextmanager
    def on(self, model: Model) -> Iterator[Model]:
        framings = list(model.framings)
        for i, framing in enumerate(framings):
            if isinstance(framing, _Around) and framing.change.asks_as(self):
                both = replace(framing.change, store=framing.change.store.joined(self.store))
                framings[i] = _Around(model, both)
                break
        else:
            framings.append(_Around(model, self))
        yield replace(model, framings=tuple(framings))

    def asks_as(self, other: Recalled) -> bool:
        """Whether both ask in the same way, so that together they are one memory: the nearest entry of all answers."""
        mine, its = ((one.retriever, one.hit, one.miss) for one in (self, other))
        return mine == its and (self.store.vectors is None) == (other.store.vectors is None)


class _Around:
    """What a memory puts around words, each looked up once."""

    def __init__(self, model: Model, change: Recalled) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}
        near = change.retriever if isinstance(change.retriever, Near) else Near()
        self.model, self.change, self._embed = model, change, embedder(model, near.encoder, near.layer)

    def __call__(self, words: str) -> str:
        change, asked = self.change, (words, active_edits(self.model))  # edits of weights may embed words otherwise
        if asked not in self._known:
            found = change.retriever.find(change.store, words, self._embed)
            text = None if found is None else change.store.entries[found.entry].text
            self._known[asked] = change.miss if text is None else change.hit.replace(TEXT, text)
        return self._known[asked]


TEXT = "{text}"
"""Where the text of an entry goes."""

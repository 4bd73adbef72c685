"""Batches of running text: every token once, the same batches from wherever a reader begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechinterp.editing.moments import running_text as module
from mechinterp.editing.moments.running_text import Place, text_batches
from mechinterp.errors import UsageError
from mechinterp.runs.ranks import Ranks

MODEL: Any = SimpleNamespace(n_ctx=12, encode=lambda text: [ord(character) for character in text])
"""One token per character."""

TEXTS = st.lists(st.text("abc", max_size=15), max_size=20)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 4)


@pytest.fixture(autouse=True)
def unchecked(unchecked_types: None) -> None:
    """The model is a stand-in."""


def batches(texts: list[str], limit: int | None = None, size: int = 20, start: Place | None = None) -> list:
    return list(text_batches(
        MODEL, texts, max_tokens=limit, batch_tokens=size, start=start or Place(), me=Ranks()
    ))  # fmt: skip


@given(texts=TEXTS, limit=st.none() | st.integers(1, 80), size=st.integers(1, 40))
def test_every_token_is_there_once_until_the_limit(texts: list[str], limit: int | None, size: int) -> None:
    found = batches(texts, limit, size)
    got = sorted((text, "".join(map(chr, ids))) for _, batch in found for text, ids in batch)
    wanted, left = [], limit
    for text in texts:
        cut = text[:12] if left is None else text[: min(12, left)]
        if cut:
            wanted.append((text, cut))
            left = None if left is None else left - len(cut)
    assert got == sorted(wanted)
    for _, batch in found:
        assert len(batch) == 1 or len(batch) * max(len(ids) for _, ids in batch) <= size


@given(texts=TEXTS, limit=st.none() | st.integers(1, 80), size=st.integers(1, 40))
def test_it_goes_on_behind_any_place(texts: list[str], limit: int | None, size: int) -> None:
    whole = batches(texts, limit, size)
    for done, (place, _) in enumerate(whole, start=1):
        assert batches(texts, limit, size, place) == whole[done:]


def test_it_does_not_read_ahead_of_a_chunk() -> None:
    read = []
    texts = (read.append(i) or "abc" for i in range(100))
    assert sum(len(batch) for _, batch in batches(texts, limit=13)) == 5
    assert len(read) == 8


def test_other_texts_are_refused() -> None:
    texts = ["abc", "bca", "cab", "aaa", "bbb", "ccc"]
    place, _ = batches(texts)[-1]
    for other in (texts[::-1], ["x", *texts[1:]], texts[:3], [], [*texts, "new"]):
        with pytest.raises(UsageError, match="the texts are not those with which this collection was begun"):
            batches(other, start=place)

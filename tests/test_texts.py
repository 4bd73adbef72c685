"""Texts of a user's own: what counts as a document, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechinterp import atlas
from mechinterp.errors import UsageError
from mechinterp.reading.texts import read_texts


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", "one\n", ["one"]),
        ("a.txt", "one\ntwo\n\n \t\n\nthree", ["one\ntwo", "three"]),
        ("a.txt", "\n\n  one\r\ntwo \r\n\r\nthree\r\n", ["  one\ntwo ", "three"]),
        ("a.txt", "\ufeffone \u2028 two\x0c", ["one \u2028 two\x0c"]),
        ("a", '{"text": "no JSON here"}', ['{"text": "no JSON here"}']),
        ("a.jsonl", '{"text": "one\\n\\ntwo"}\n\n{"id": 3, "text": "dreißig"}', ["one\n\ntwo", "dreißig"]),
        ("a.jsonl", '\ufeff{"text": "one"}\n{"text": " "}\n{"text": ""}\n', ["one"]),
    ],
)
def test_documents_of_a_file(tmp_path: Path, name: str, content: str, documents: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert list(read_texts(path)) == list(read_texts(str(path))) == documents


def test_the_bundled_text() -> None:
    assert list(read_texts("atlas")) == atlas.corpus()
    assert list(read_texts("atlas-plain")) == atlas.corpus(name="atlas-plain")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "there is no text in .*a.txt"),
        ("a.txt", b" \n\n", "there is no text in"),
        ("a.jsonl", b'{"text": ""}', "there is no text in"),
        ("a.txt", b"fine\nna\xefve\n", r"line 2 of .*a.txt' is not UTF-8 text \(byte 2\); convert it first"),
        ("a.txt", "one".encode("utf-16"), "line 1 of .*a.txt' is not UTF-8 text"),
        ("a.jsonl", b'{"text": "one"}\n\nno JSON', "line 3 of .*a.jsonl' is cut short or no JSON"),
        ("a.jsonl", b'{"texts": "one"}', "line 1 of"),
        ("a.jsonl", b'["text"]', "line 1 of"),
        ("a.jsonl", b'{"text": ["one"]}', "line 1 of"),
        ("a.jsonl", b'{"text": null}', "line 1 of"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        list(read_texts(tmp_path / name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, wrong in ((tmp_path / "nothing.txt", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=f"the text file .* {wrong}; give a .txt or .jsonl file, or 'atlas'"):
            list(read_texts(path))


def test_a_large_file_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"one\n\n" * 10 + b"\xff")
    found = read_texts(path)
    assert [next(found) for _ in range(10)] == ["one"] * 10
    with pytest.raises(UsageError, match="line 21 "):
        next(found)

"""Records that are wrong: every one named in one message, or left out with a count; never a stack trace."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mechinterp.analysis import read_references
from mechinterp.errors import UsageError
from mechinterp.facts.faults import NAMED
from mechinterp.facts.prompts import Fact
from mechinterp.facts.strict_json import DECODER, end_of
from mechinterp.formats.readers import read_counterfact, read_jsonl, read_known
from mechinterp.reading.facts import read_facts
from mechinterp.reading.texts import read_texts
from mechinterp.runs.terminal import brief, visible

GOOD = '{"template": "{} is in", "subject": "NAME", "answer": "Italy"}'
DEEP = '{"template": ' + "[" * 100_000 + "]" * 100_000 + "}"

BAD = {
    "blank subject": ('{"template": "{} is in", "subject": "  "}', "holds '  ', which is no text; write words"),
    "unseen subject": ('{"template": "{} is in", "subject": "\\u200b\\u2060"}', "which is no text"),
    "blank record": ("{}", 'has no "subject"'),
    "subject a number": ('{"template": "{} is in", "subject": 7}', 'the "subject" of PLACE holds 7, which is no text'),
    "subject a list": ('{"template": "{} is in", "subject": ["a"]}', "holds ['a'], which is no text"),
    "no object": ("[1, 2]", "PLACE is no JSON object; write {...}"),
    "a bare number": ("7", "PLACE is no JSON object"),
    "deeply nested": (DEEP, "PLACE is nested too deeply to be read"),
    "huge number": ('{"template": "{} is in", "subject": "a", "id": ' + "9" * 5000 + "}", "holds a number of 5000 dig"),
    "huge float": ('{"template": "{} is in", "subject": "a", "known": 1e999}', "holds the number 1e999, which is too"),
    "not a number": ('{"template": "{} is in", "subject": "a", "known": NaN}', "holds NaN, which is no JSON"),
    "infinity": ('{"template": "{} is in", "subject": "a", "known": -Infinity}', "holds -Infinity, which is no JSON"),
    "half a character": ('{"template": "{} is in", "subject": "Ro\\ud800me"}', "holds half a character"),
    "half a key": ('{"template": "{} is in", "subject": "a", "\\udc00": 1}', "holds half a character"),
    "a field twice": ('{"template": "{} is in", "subject": "a", "subject": "b"}', "has the field 'subject' twice"),
    "a field twice below": (
        '{"template": "{} is in", "subject": "a", "same_subject": [{"answer": "x", "answer": "y"}]}',
        "has the field 'answer' twice",
    ),
    "an escape sequence": ('{"template": "{} is in", "subject": "Ro\\u001b[31mme"}', r"the control character '\x1b'"),
    "a bell in an answer": ('{"template": "{} is in", "subject": "a", "answer": "It\\u0007"}', r"character '\x07'"),
    "an eight-bit escape": ('{"template": "{} is in", "subject": "a", "id": "\\u009b31m"}', r"character '\x9b'"),
    "a null in a question": (
        '{"template": "{} is in", "subject": "a", "paraphrases": ["a\\u0000b is in"]}', r"character '\x00'",
    ),
    "an unknown field with an escape": ('{"template": "{}", "subject": "a", "\\u001b[2J": 1}', r'field "\x1b[2J"'),
    "cut short": ('{"template": "{} is in", "subj', "PLACE is cut short or no JSON"),
}  # fmt: skip

Read = Callable[[Path], Any]


def sentence(read: Read, path: Path) -> str:
    """What is said of a file that is refused."""
    with pytest.raises(UsageError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path, kind: str) -> None:
    line, said = BAD[kind]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join([GOOD.replace("NAME", "Rome"), line, GOOD.replace("NAME", "Pisa")]) + "\n")
    found = sentence(read_facts, path)
    assert said.replace("PLACE", f"line 2 of {str(path)!r}") in found
    assert "line 2" in found
    assert len(found) < 500
    assert visible(found) == found
    with pytest.warns(UserWarning, match=r"left out: 1 of 3 records of .*\n  .*line 2"):
        assert [fact.subject for fact in read_facts(path, skip_bad=True)] == ["Rome", "Pisa"]


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "cut short"])
def test_a_bad_record_of_an_array_is_named_and_can_be_left_out(tmp_path: Path, kind: str) -> None:
    line, said = BAD[kind]
    path = tmp_path / "facts.json"
    path.write_text(f"[{GOOD.replace('NAME', 'Rome')},\n{line},\n{GOOD.replace('NAME', 'Pisa')}]")
    assert said.replace("PLACE", f"record 2 of {str(path)!r}") in sentence(read_facts, path)
    with pytest.warns(UserWarning, match=r"left out: 1 of 3 records of .*\n  .*record 2"):
        assert [fact.subject for fact in read_facts(path, skip_bad=True)] == ["Rome", "Pisa"]


def test_all_bad_records_are_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    lines = [line for line, _ in BAD.values()]
    path.write_text("\n".join([GOOD.replace("NAME", "Rome"), *lines, GOOD.replace("NAME", "Rome")]))
    found = sentence(read_facts, path)
    bad = len(lines) + 1  # the last one has the name of the first
    assert found.startswith(f"{bad} of {bad + 1} records of {str(path)!r} cannot be used:\n")
    named = found.splitlines()
    assert [f"line {number}" in line for number, line in enumerate(named[1 : NAMED + 1], start=2)] == [True] * NAMED
    assert named[NAMED + 1] == f"  and {bad - NAMED} more"
    assert named[-1] == "Mend them, or leave them out with skip_bad=True (--skip-bad)."
    with pytest.warns(UserWarning, match=f"left out: {bad} of {bad + 1} records"):
        assert len(read_facts(path, skip_bad=True)) == 1


def test_nothing_left_is_refused_even_where_the_bad_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("{}\n{}\n")
    assert "2 of 2 records" in sentence(lambda path: read_jsonl(path, skip_bad=True), path)
    path.write_text('{"template": "{} is", "subject": 3}')
    assert "line 1" in sentence(lambda path: read_jsonl(path, skip_bad=True), path)


@pytest.mark.parametrize("read", [read_facts, read_counterfact, read_known])
def test_published_files_are_looked_at_in_the_same_way(tmp_path: Path, read: Callable[..., list[Fact]]) -> None:
    if read is read_known:
        good: dict[str, Any] = {"known_id": 1, "subject": "Rome", "template": "{} is in", "prompt": "Rome is in",
                                "attribute": "Italy"}  # fmt: skip
        bad = [{**good, "known_id": i, "attribute": value} for i, value in ((2, ""), (3, 5), (4, "a\x1b[1m"))]
    else:
        rewrite = {
            "prompt": "{} is in",
            "subject": "Rome",
            "target_true": {"str": "Italy"},
            "target_new": {"str": "Spain"},
        }
        good = {"case_id": 1, "requested_rewrite": rewrite}
        bad = [
            {"case_id": i, "requested_rewrite": {**rewrite, "target_new": new}}
            for i, new in ((2, {"str": ""}), (3, "Spain"), (4, {"str": "a\x1b[1m"}))
        ]
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([bad[0], good, *bad[1:]]))
    found = sentence(read, path)
    assert found.startswith("3 of 4 records")
    assert [name in found for name in ("record 1 (", "record 3 (", "record 4 (", "record 2 (")] == [True] * 3 + [False]
    with pytest.warns(UserWarning, match="left out: 3 of 4 records"):
        assert [fact.subject for fact in read(path, skip_bad=True)] == ["Rome"]


@pytest.mark.parametrize("kind", ["Prompt", "Question", "Fact"])
def test_what_a_value_refuses_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever prompts, questions and facts come to refuse of their own, the reader says where it stands."""

    def refusing(*given: object, **named: object) -> None:
        raise UsageError("no blanks, please")

    path = tmp_path / "facts.jsonl"
    path.write_text('{"template": "{} is in", "subject": "Rome", "paraphrases": ["Rome lies in"]}\n' * 2)
    assert "like line 1" in sentence(read_facts, path)
    monkeypatch.setattr(f"mechinterp.formats.jsonl.{kind}", refusing)
    assert "line 1: no blanks, please\n  line 2: no blanks, please" in sentence(read_facts, path)


def test_a_deep_record_does_not_hide_that_an_array_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(f"[{DEEP}, {GOOD}")
    assert "is cut short after record 2" in sentence(read_facts, path)


def test_the_end_of_an_object_by_its_brackets() -> None:
    for text in ('{"a": "]}\\"}"}', '[[{}, "\\\\"], []]', "[]", '{"é": ["{"]}'):
        assert end_of(f"{text}, more]", 0) == len(text)
        DECODER.decode(text)
    assert end_of('[["a', 0) == 4


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a.jsonl", b'{"text": "half \\ud800"}'),
        ("a.jsonl", b'{"text": NaN}'),
        ("a.jsonl", b'{"text": "a", "text": "b"}'),
        ("a.jsonl", b"["),
        ("a.jsonl", DEEP.encode()),
        ("a.jsonl", b'"\xff"'),
        ("a.txt", b"\xff"),
    ],
)
def test_bad_texts_are_named_together_or_left_out(tmp_path: Path, name: str, bad: bytes) -> None:
    good = b'{"text": "one"}' if name.endswith("l") else b"one"
    path = tmp_path / name
    path.write_bytes(b"\n\n".join([good, bad, good, bad]))
    texts = read_texts(path)
    assert next(texts)  # what comes before the first bad one is read as it is asked for
    found = sentence(lambda path: list(texts), path)
    assert found.startswith("2 of 4 texts of")
    assert "line 3" in found
    assert "line 7" in found
    with pytest.warns(UserWarning, match="left out: 2 of 4 texts"):
        assert len(list(read_texts(path, skip_bad=True))) == 2


def test_bad_reference_texts_are_left_out_with_a_count(tmp_path: Path) -> None:
    good = '{"relation": "r", "target": "t", "text": "words"}'
    (tmp_path / "a.jsonl").write_text(f'{good}\n{good[:-1]}, "text": 1}}')
    (tmp_path / "b.jsonl").write_text("[]")
    with pytest.warns(UserWarning, match="left out: 2 of 3 reference texts"):
        assert len(read_references(tmp_path, skip_bad=True)) == 1


@pytest.mark.parametrize("read", [read_facts, lambda path: list(read_texts(path))])
def test_a_permission_error_is_called_one(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(GOOD)

    def denied(*given: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    assert "mine.jsonl' may not be read: permission denied; change its permissions, or give" in sentence(read, path)


def test_a_file_that_only_another_user_may_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "may not be read: permission denied" in sentence(read_facts, path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a\x00b", "does not exist"),
        ("x" * 5000, "cannot be read"),
        ("facts.jsonl/below", "does not exist"),
        ("a\udcffb", "does not exist"),
    ],
)
def test_names_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facts.jsonl").write_text(GOOD)
    assert said in sentence(read_facts, Path(path))
    assert said in sentence(lambda path: list(read_texts(path)), Path(path))


def test_what_is_shown_does_not_steer_the_terminal() -> None:
    assert visible("a\x1b[31mb\x07\x9b\r\u202e\ud800") == r"a\x1b[31mb\x07\x9b\r\u202e\ud800"
    kept = "tab\tline\nçé 東京 می\u200cخواهم 👩\u200d💻 \u00a0[bold]"
    assert visible(kept) == kept
    assert brief("x" * 200) == "'" + "x" * 78 + "…"
    assert brief(["\x1b"]) == r"['\x1b']"


def test_good_files_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_facts(path, skip_bad=True)) == 1

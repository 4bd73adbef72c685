"""Files of facts: what is read from them, and the one sentence said of a file that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp import atlas
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact, Prompt, Question
from mechinterp.formats.readers import read_counterfact, read_jsonl, read_known, write_jsonl
from mechinterp.reading.facts import read_facts

KNOWN: dict[str, Any] = {
    "known_id": 0,
    "subject": "Vinson Massif",
    "attribute": "Antarctica",
    "template": "{} is located in the continent",
    "prediction": " Antarctica. It is the largest",
    "prompt": "Vinson Massif is located in the continent of",
    "relation_id": "P30",
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 70,
    "requested_rewrite": {
        "prompt": "The twin city of {} is",
        "subject": "Beirut",
        "relation_id": "P190",
        "target_new": {"str": "Florence", "id": "Q2044"},
        "target_true": {"str": "Istanbul", "id": "Q406"},
    },
    "paraphrase_prompts": ["He is in Singapore. Beirut is a twin city of"],
    "neighborhood_prompts": ["The twin city of London is", "Vilnius is a twin city of"],
    "attribute_prompts": ["Bursa is a twin city of"],
    "generation_prompts": ["Beirut's twin city is known for"],
}
OWN: dict[str, Any] = {"template": "{} is in downtown", "subject": "The Space Needle", "answer": "Seattle"}

Write = Callable[..., Path]

bulk = pytest.mark.usefixtures("unchecked_types")
"""For thousands of records: the small tests make the same calls with types checked."""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an array of records, or (`lines=True`) one record on each line, and gives the path."""

    def to_file(*records: Any, lines: bool = False) -> Path:
        path = tmp_path / ("facts.jsonl" if lines else "facts.json")
        text = "\n".join(json.dumps(record) for record in records) if lines else json.dumps(records, indent=1)
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


# ---- the published files ------------------------------------------------------------------------------------------


@bulk
def test_known_1000_is_read_whole(data_dir: Path) -> None:
    facts = read_known(data_dir / "known_1000.json")
    raw = json.loads((data_dir / "known_1000.json").read_text(encoding="utf-8"))
    assert len(facts) == len({fact.id for fact in facts}) == 1209
    for fact, record in zip(facts, raw, strict=True):
        assert fact.prompt.text == record["prompt"]
        assert fact.subject == record["subject"]
        assert fact.answer == record["attribute"]
        assert fact.relation == record["relation_id"]
        assert fact.prompt.template.startswith(record["template"])
        assert fact.id == f"known_1000/{record['known_id']}"
    assert sum(fact.prompt.template != record["template"] for fact, record in zip(facts, raw, strict=True)) == 478
    assert read_facts(data_dir / "known_1000.json") == facts


@bulk
def test_counterfact_is_read_whole(data_dir: Path) -> None:
    facts = read_counterfact(data_dir / "counterfact_2000.json")
    raw = json.loads((data_dir / "counterfact_2000.json").read_text(encoding="utf-8"))
    assert len(facts) == len({fact.id for fact in facts}) == 2000
    for fact, record in zip(facts, raw, strict=True):
        rewrite = record["requested_rewrite"]
        assert fact.prompt.text == rewrite["prompt"].format(rewrite["subject"])
        assert (fact.answer, fact.target_new) == (rewrite["target_true"]["str"], rewrite["target_new"]["str"])
        assert [question.text for question in fact.neighbourhood] == record["neighborhood_prompts"]
        assert [question.text for question in fact.paraphrases] == record["paraphrase_prompts"]
        assert {question.answer for question in (*fact.paraphrases, *fact.neighbourhood)} <= {fact.answer}
        assert list(fact.generation) == record["generation_prompts"]
    assert sum(len(fact.paraphrases) + len(fact.neighbourhood) for fact in facts) == 21092


def test_a_record_of_known_1000(write: Write) -> None:
    prompt = Prompt("{} is located in the continent of", "Vinson Massif", "Antarctica", "known_1000/0", "P30")
    assert read_known(write(KNOWN)) == [Fact(prompt)]


def test_a_record_of_counterfact(write: Write) -> None:
    (fact,) = read_counterfact(write(COUNTERFACT))
    assert fact == Fact(
        prompt=Prompt("The twin city of {} is", "Beirut", "Istanbul", "counterfact/70", "P190"),
        target_new="Florence",
        paraphrases=(Question("He is in Singapore. Beirut is a twin city of", "Istanbul"),),
        neighbourhood=(
            Question("The twin city of London is", "Istanbul"),
            Question("Vilnius is a twin city of", "Istanbul"),
        ),
        attribute=(Question("Bursa is a twin city of", "Florence"),),
        generation=("Beirut's twin city is known for",),
    )


def test_published_records_are_read_from_lines_too(write: Write) -> None:
    other = {**COUNTERFACT, "case_id": 71}
    assert read_facts(write(COUNTERFACT, other, lines=True)) == read_counterfact(write(COUNTERFACT, other))


@bulk
def test_the_bundled_facts_in_counterfact_shape(tmp_path: Path) -> None:
    path = tmp_path / "atlas.json"
    path.write_text(json.dumps(atlas.counterfact("atlas")[:50]), encoding="utf-8")
    for read, own in zip(read_facts(path), atlas.facts("atlas")[:50], strict=True):
        for field in ("subject", "answer", "relation", "target_new", "paraphrases", "neighbourhood", "generation"):
            assert getattr(read, field) == getattr(own, field)
        assert read.prompt.template == own.prompt.template
        assert all(question.answer == read.target_new for question in read.attribute)


@pytest.mark.parametrize("name", ["atlas", "atlas-plain"])
def test_bundled_names_are_understood(name: str) -> None:
    facts = read_facts(name)
    assert len(facts) > 1000
    assert [fact.known for fact in facts] == [fact.known for fact in atlas.facts(name)]
    assert any(fact.known for fact in facts)


# ---- JSON lines ---------------------------------------------------------------------------------------------------


def test_the_least_line(write: Write) -> None:
    sentence = {**without(OWN, "template"), "prompt": "The Space Needle is in downtown", "id": 2}
    facts = read_jsonl(write(OWN, sentence, {"template": "{} is", "subject": "東京"}, lines=True))
    least = Prompt("{} is in downtown", "The Space Needle", "Seattle")
    assert facts == [Fact(least), Fact(replace(least, id="2")), Fact(Prompt("{} is", "東京"))]


def test_a_prompt_with_a_place_for_the_subject_is_a_template(write: Write) -> None:
    assert read_jsonl(write({**without(OWN, "template"), "prompt": OWN["template"]}, lines=True)) == read_jsonl(
        write(OWN, lines=True)
    )


def test_every_field_of_a_line(write: Write) -> None:
    record = {
        **OWN,
        "id": "needle",
        "relation": "in_city",
        "target_new": "Paris",
        "known": True,
        "paraphrases": ["One finds the Space Needle in", {"text": "Its city is called", "answer": "Seattle, WA"}],
        "neighbourhood": ["The Smith Tower is in"],
        "attribute": ["The Louvre is in"],
        "reverse": ["Seattle is known for"],
        "one_hop": [{"text": "The state of the Space Needle is", "answer": "Washington"}],
        "same_subject": [
            {"template": "{} was built in", "answer": "1962", "relation": "built_in"},
            {"prompt": "Needle is its short name; it is made of", "subject": "Needle", "answer": None},
        ],
        "generation": ["The Space Needle is"],
    }
    (fact,) = read_facts(write(record, lines=True))
    assert fact == Fact(
        prompt=Prompt("{} is in downtown", "The Space Needle", "Seattle", "needle", "in_city"),
        target_new="Paris",
        paraphrases=(
            Question("One finds the Space Needle in", "Seattle"),
            Question("Its city is called", "Seattle, WA"),
        ),
        neighbourhood=(Question("The Smith Tower is in", "Seattle"),),
        attribute=(Question("The Louvre is in", "Paris"),),
        reverse=(Question("Seattle is known for", "The Space Needle"),),
        one_hop=(Question("The state of the Space Needle is", "Washington"),),
        same_subject=(
            Prompt("{} was built in", "The Space Needle", "1962", relation="built_in"),
            Prompt("{} is its short name; it is made of", "Needle"),
        ),
        generation=("The Space Needle is",),
    )
    assert fact.known is True


def test_null_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\ufeff\n" + json.dumps({**OWN, "target_new": None, "paraphrases": None}) + "\r\n\r\n", "utf-8")
    assert read_facts(path) == [Fact(Prompt("{} is in downtown", "The Space Needle", "Seattle"))]


def test_a_line_may_hold_any_separator_of_unicode(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    fact = Fact(Prompt("{}\u2028is\x85in", "The\x0bSpace\u2029Needle", "Seattle"))
    write_jsonl([fact], path)
    assert read_jsonl(path) == [fact]


@bulk
def test_the_bundled_facts_go_round(tmp_path: Path) -> None:
    facts = read_facts("atlas")[:200]
    write_jsonl(facts, tmp_path / "new" / "atlas.jsonl")
    back = read_facts(tmp_path / "new" / "atlas.jsonl")
    assert back == facts
    assert [fact.known for fact in back] == [fact.known for fact in facts]


words = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf"], exclude_characters="{}\u200b\u2060\ufeff"),
    min_size=1, max_size=8,
).filter(lambda text: bool(text.strip()))  # fmt: skip
bare = words.map(str.strip)
maybe = st.none() | bare
texts = st.lists(bare, max_size=2).map(tuple)
joins = st.sampled_from([None, "", " ", "\n"])
turns = st.sampled_from([None, (0, 1)])
questions = st.lists(st.builds(Question, bare, maybe, joins, turns), max_size=2).map(tuple)
prompts = st.builds(lambda before, after, subject, *rest: Prompt(before + "{}" + after, subject, *rest), words, bare,
                    bare, maybe, words | st.just(""), words | st.just(""), joins, turns)  # fmt: skip


@settings(max_examples=60)
@given(facts=st.lists(
    st.builds(
        Fact, prompts, bare, paraphrases=questions, neighbourhood=questions, attribute=questions, one_hop=questions,
        reverse=questions, same_subject=st.lists(prompts, max_size=2).map(tuple), generation=texts,
        known=st.none() | st.booleans(),
    ),
    min_size=1, max_size=3, unique_by=lambda fact: fact.id,
))  # fmt: skip
def test_law_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, facts: list[Fact]) -> None:
    path = tmp_path_factory.getbasetemp() / "law.jsonl"
    write_jsonl(facts, path)
    back = read_jsonl(path)
    assert back == facts
    assert [fact.known for fact in back] == [fact.known for fact in facts]


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    fact = Fact(Prompt("{} is", "Ann"))
    with pytest.raises(UsageError, match=r"two facts are called 'Ann is'; give their prompts different ids"):
        write_jsonl([fact, fact], path)
    with pytest.raises(UsageError, match=r"there are no facts to write to"):
        write_jsonl([], path)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.jsonl"
    write_jsonl([Fact(Prompt("{} is", "Ann"))], path)
    before = path.read_bytes()
    for subject, said in (("\ud800", "holds half a character"), ("a\x1b[31mb", "the control character"),
                          ("\u200b", "is empty; give the words")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            write_jsonl([Fact(Prompt("{} is", "Ann")), Fact(Prompt("{} is", subject))], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts.jsonl"]


# ---- files that are wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_facts, read_known, read_counterfact, read_jsonl])
def test_files_that_are_no_files_of_facts(read: Callable[[Path], list[Fact]], tmp_path: Path) -> None:
    path = tmp_path / "facts"
    with pytest.raises(UsageError, match=r"facts' does not exist; give the path of a JSON or JSON-lines file"):
        read(path)
    with pytest.raises(UsageError, match=r"is a folder; give the path"):
        read(tmp_path)
    for content, message in (
        (b"", r"facts' is empty; give a file of facts"),
        (b" \n\n", r"facts' is empty"),
        (b"[]", r"facts' holds an empty list"),
        (b"subject,template\nRome,{} is", r"facts' is no JSON \(it begins with 'subject,template"),
        ("Zoë".encode("latin-1"), r"facts' is not UTF-8 text \(byte 2\); convert it first"),
        (json.dumps([OWN]).encode("utf-16"), r"is not UTF-8 text \(byte 0\)"),
        (
            b"[1, 2]",
            r"2 of 2 records of .* cannot be used:\n  record 1 is no JSON object.*\n  record 2 is no",
        ),
        (b"[3]", r"record 1 of .* is no JSON object; write {...}"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            read(path)


def test_a_name_that_is_neither_model_nor_file() -> None:
    with pytest.raises(UsageError, match=r"the file of facts 'atlsa' does not exist"):
        read_facts("atlsa")


@bulk
def test_an_array_cut_short_anywhere_names_its_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    records = [json.dumps({**COUNTERFACT, "case_id": 10 * i, "note": 'a "]" in it'}, indent=1) for i in range(1, 5)]
    whole, ends = "[", []
    for record in records:
        whole += record
        ends.append(len(whole))
        whole += ",\n"
    for cut in range(1, len(whole) - 1):
        path.write_text(whole[:cut], encoding="utf-8")
        number = sum(end <= cut for end in ends)
        expected = f"its last whole record is number {number} (case_id {10 * number})"
        line = whole[:cut].rstrip().count("\n") + 1
        with pytest.raises(UsageError) as caught:
            read_facts(path)
        assert str(caught.value) == (
            f"{str(path)!r} is cut short in line {line}: {expected if number else 'no record in it is whole'}; "
            "copy the file again"
        )


def test_the_published_file_cut_short(data_dir: Path, tmp_path: Path) -> None:
    text = (data_dir / "counterfact_2000.json").read_text(encoding="utf-8")
    path = tmp_path / "cut.json"
    cut = text[: len(text) // 2]
    path.write_text(cut, encoding="utf-8")
    records = json.loads(text)
    last = cut.count('"case_id"') - 1
    named = rf"number {last} \(case_id {records[last - 1]['case_id']}\)"
    with pytest.raises(UsageError, match=rf"cut short in line {cut.rstrip().count(chr(10)) + 1}: .*{named}"):
        read_facts(path)


def test_an_array_that_is_damaged(write: Write) -> None:
    path = write(*({**KNOWN, "known_id": i} for i in range(4)))
    text = path.read_text(encoding="utf-8")
    damaged = text.replace('"known_id": 2,', '"known_id": 2', 1)
    path.write_text(damaged, encoding="utf-8")
    line = damaged[: damaged.index('"known_id": 2')].count("\n") + 2
    with pytest.raises(
        UsageError,
        match=rf"is no JSON from line {line} on \(Expecting ',' delimiter\): .* number 2 \(known_id 1\); mend it there",
    ):
        read_facts(path)


def test_lines_that_were_cut_short(write: Write) -> None:
    path = write({**OWN, "id": "a"}, {**OWN, "id": "b"}, lines=True)
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-10], encoding="utf-8")
    with pytest.raises(
        UsageError,
        match=r"line 2 of .* is cut short or no JSON \(.* at character \d+\); write one whole object on each line; "
        r"or leave it out with skip_bad=True \(--skip-bad\)$",
    ):
        read_facts(path)
    path.write_text(text.replace("\n", "\nnonsense\n", 1), encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 2 of .* is cut short or no JSON"):
        read_facts(path)
    path.write_text(text + "\n[1]", encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 3 of .* is no JSON object"):
        read_facts(path)


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(OWN, indent=1), encoding="utf-8")
    assert read_jsonl(path) == [Fact(Prompt(OWN["template"], OWN["subject"], OWN["answer"]))]
    path.write_text(json.dumps(OWN, indent=1) + "x", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is no JSON from line \d+ on \(Extra data\); mend it there"):
        read_jsonl(path)


def test_records_of_no_known_shape(write: Write) -> None:
    with pytest.raises(UsageError, match=r'record 1 \(id 5\) of .* is no fact: it has neither "requested_rewrite"'):
        read_facts(write({"id": 5, "sentence": "Rome is in"}))


REWRITE = COUNTERFACT["requested_rewrite"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without(KNOWN, "subject"), r'record 2 \(known_id 9\) of .* has no "subject"; add it'),
        (without(KNOWN, "template"), r'record 2 \(known_id 9\) of .* has no "template"; add it'),
        (without(KNOWN, "attribute"), r'has no "attribute"'),
        ({**KNOWN, "subject": 12}, r'the "subject" of record 2 \(known_id 9\) of .* holds 12, which is no text'),
        ({**KNOWN, "subject": ""}, r"the \"subject\" of record 2 .* holds '', which is no text"),
        ({**KNOWN, "subject": "Vinson "}, r"record 2 \(known_id 9\) of .*: the subject 'Vinson ' begins or ends with"),
        ({**KNOWN, "template": "is in"}, r"record 2 \(known_id 9\) of .*: the template 'is in' has 0 places"),
        ({**KNOWN, "template": "{} {}"}, r"record 2 \(known_id 9\) of .*: the template .* has 2 places"),
        (
            {**KNOWN, "prompt": "Mount Erebus is"},
            r"record 2 .* 'Mount Erebus is', which does not begin with its template",
        ),
    ],
)
def test_bad_records_of_known_1000(write: Write, record: dict[str, Any], message: str) -> None:
    path = write(KNOWN, {**record, "known_id": 9})
    with pytest.raises(UsageError, match=message):
        read_facts(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without(COUNTERFACT, "requested_rewrite"), r'record 2 \(case_id 9\) of .* has no "requested_rewrite"; add it'),
        (
            {**COUNTERFACT, "requested_rewrite": [REWRITE]},
            r'the "requested_rewrite" of record 2 \(case_id 9\) of .* is no JSON object',
        ),
        (
            {**COUNTERFACT, "requested_rewrite": without(REWRITE, "subject")},
            r'the "requested_rewrite" of record 2 \(case_id 9\) of .* has no "subject"',
        ),
        (
            {**COUNTERFACT, "requested_rewrite": {**REWRITE, "target_new": "Rome"}},
            r'the "target_new" of the "requested_rewrite" of record 2 .* holds \'Rome\', which is no JSON object',
        ),
        (
            {**COUNTERFACT, "requested_rewrite": {**REWRITE, "prompt": "Beirut is"}},
            r'"requested_rewrite" of record 2 \(case_id 9\) of .*: the template \'Beirut is\' has 0 places',
        ),
        ({**COUNTERFACT, "paraphrase_prompts": "Rome"}, r'the "paraphrase_prompts" of record 2 .* is no list'),
        ({**COUNTERFACT, "neighborhood_prompts": [["a"]]}, r"\"neighborhood_prompts\" of record 2 .* holds \['a'\]"),
    ],
)
def test_bad_records_of_counterfact(write: Write, record: dict[str, Any], message: str) -> None:
    path = write(COUNTERFACT, {**record, "case_id": 9})
    with pytest.raises(UsageError, match=message):
        read_facts(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without(OWN, "subject"), r'line 2 \(id x\) of .* has no "subject"; add it'),
        (without(OWN, "template"), r'line 2 .* has neither "template" nor "prompt"; give one of them'),
        ({**OWN, "prompt": "a"}, r'line 2 .* has both "template" and "prompt"; give one of them'),
        ({**OWN, "template": "is in"}, r"line 2 \(id x\) of .*: the template 'is in' has 0 places"),
        ({**OWN, "template": "{} and {}"}, r"line 2 .*: the template '\{\} and \{\}' has 2 places"),
        ({**OWN, "anwser": "a"}, r'line 2 .* has the unknown field "anwser"; the fields are id, relation, template'),
        ({"prompt": "Annabel is", "subject": "Ann"}, r"line 2 .*: the subject 'Ann' stands only inside a longer word"),
        ({"prompt": "Ann is Ann", "subject": "Ann"}, r"line 2 .*: the subject 'Ann' stands 2 times"),
        ({"prompt": "Bob is", "subject": "Ann"}, r"line 2 .*: the subject 'Ann' does not stand in 'Bob is'"),
        ({**OWN, "answer": " "}, r"the \"answer\" of line 2 .* holds ' ', which is no text"),
        ({**OWN, "answer": 7}, r'the "answer" of line 2 .* holds 7, which is no text'),
        ({**OWN, "known": "yes"}, r"the \"known\" of line 2 .* holds 'yes'; write true or false"),
        ({**OWN, "known": 1}, r'the "known" of line 2 .* holds 1; write true or false'),
        ({**OWN, "attribute": ["a"]}, r'line 2 .* has "attribute" questions and no "target_new"'),
        ({**OWN, "one_hop": ["a"]}, r"the \"one_hop\" of line 2 .* holds 'a' alone; write \{\"text\""),
        ({**OWN, "one_hop": [{"text": "a"}]}, r'the "one_hop" of line 2 .* has no "answer"; add it, or null'),
        ({**OWN, "reverse": [{"txt": "a"}]}, r'the "reverse" of line 2 .* has the unknown field "txt"; the fields are'),
        ({**OWN, "reverse": [3]}, r'the "reverse" of line 2 .* holds 3, which is no JSON object'),
        ({**OWN, "same_subject": ["a"]}, r"the \"same_subject\" of line 2 .* holds 'a', which is no JSON object"),
        ({**OWN, "same_subject": [{"answer": "a"}]}, r'the "same_subject" of line 2 .* has neither "template" nor'),
        ({**OWN, "paraphrases": [""]}, r"the \"paraphrases\" of line 2 .* holds ''"),
        ({**OWN, "generation": {}}, r'the "generation" of line 2 .* is no list; write it in square brackets'),
    ],
)
def test_bad_lines(write: Write, record: dict[str, Any], message: str) -> None:
    path = write(OWN, {**record, "id": "x"}, lines=True)
    with pytest.raises(UsageError, match=message):
        read_facts(path)


def test_two_facts_of_one_name(write: Write) -> None:
    with pytest.raises(
        UsageError,
        match=r"record 3 \(known_id 0\) of .* is called 'known_1000/0' like record 1 \(known_id 0\) of .*; give each",
    ):
        read_facts(write(KNOWN, {**KNOWN, "known_id": 1}, KNOWN))
    with pytest.raises(UsageError, match=r"'The Space Needle is in downtown' like line 1 of .*; give each an \"id\""):
        read_facts(write(OWN, OWN, lines=True))
    with pytest.raises(UsageError, match=r"record 2 \(case_id 70\) of .* is called 'counterfact/70' like record 1"):
        read_facts(write(COUNTERFACT, COUNTERFACT))


def test_the_wrong_reader_says_what_is_missing(write: Write) -> None:
    with pytest.raises(UsageError, match=r'record 1 \(known_id 0\) of .* has no "requested_rewrite"'):
        read_counterfact(write(KNOWN))
    with pytest.raises(UsageError, match=r'record 1 \(case_id 70\) of .* has no "subject"'):
        read_known(write(COUNTERFACT))
    with pytest.raises(UsageError, match=r'record 1 \(known_id 0\) of .* has the unknown field "known_id"'):
        read_jsonl(write(KNOWN))

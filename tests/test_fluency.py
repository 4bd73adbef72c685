"""GE and RS: the published figure, the definitions, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from oracles import text_oracle

from mechinterp import atlas
from mechinterp.analysis import References, ReferenceText, atlas_references, fluency, read_references
from mechinterp.analysis.evaluation.fluency import n_gram_entropy, words
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact, Prompt
from mechinterp.facts.words import stands_in

PUBLISHED = {"GPT-2 XL": 626.6, "FT_L": 621.3, "MEND": 627.5, "ROME": 623.1}
TEXTS = [
    "The sea is calm. The sea is deep, and it isn't warm!",
    'She said: "no". Then she left (at once) for St. Ives...',
    "the the the the",
]


@pytest.mark.parametrize("editor", sorted(PUBLISHED))
def test_the_published_generations_give_the_published_fluency(data_dir: Path, editor: str) -> None:
    cases = json.loads((data_dir / "generations_100x4.json").read_text())
    assert all(len(case[editor]) == 10 for case in cases)
    measured = sum(fluency(case[editor]) for case in cases) / len(cases)
    assert measured == pytest.approx(PUBLISHED[editor], abs=0.1)


def test_fluency_is_the_weighted_entropy_of_its_definition() -> None:
    assert fluency(TEXTS) == pytest.approx(text_oracle.fluency([words(text) for text in TEXTS]))
    assert fluency(TEXTS[:1]) > fluency(TEXTS[2:]) == 0


def test_entropy_counts_bits() -> None:
    assert n_gram_entropy(list("abcde"), 2) == pytest.approx(2)  # four pairs, equally often
    assert n_gram_entropy(list("aab"), 1) == pytest.approx(1 / 3 * math.log2(3) + 2 / 3 * math.log2(1.5))
    assert n_gram_entropy(["a"], 2) == 0


def test_words_are_taken_sentence_by_sentence() -> None:
    assert words("It isn't. He left.") == ["It", "is", "n't", ".", "He", "left", "."]


def test_a_text_too_short_for_three_words_is_not_fluent() -> None:
    assert fluency(["Yes", ""]) == 0
    with pytest.raises(UsageError, match="no generated text to measure"):
        fluency([])
    with pytest.raises(UsageError, match="texts is one string"):
        fluency("a text")


REFERENCES = [
    ReferenceText("born_in", "Lund", "Ada Stone grew up in Lund, by the river."),
    ReferenceText("born_in", "Lund", "Lund is old."),
    ReferenceText("plays", "violin", "A violin has four strings, and the strings are tuned in fifths."),
]
CORPUS = ["The river runs to the sea.", "Strings and things", "Lund is old."]


def test_consistency_is_the_cosine_of_its_definition() -> None:
    found = References(REFERENCES, CORPUS)
    documents = list(dict.fromkeys([reference.text for reference in REFERENCES] + CORPUS))
    for generated in (["Ada Stone lives in Lund.", "An unheard-of word"], ["the river"], ["strings strings violin"]):
        for relation, target in (("born_in", "Lund"), ("plays", "violin")):
            theirs = list(found.of(relation, target))
            assert found.consistency(generated, relation, target) == pytest.approx(
                text_oracle.consistency(generated, theirs, documents)
            )
    same = found.consistency(["LUND is old.", "Ada Stone grew up in Lund, by the river."], "born_in", "Lund")
    assert same == pytest.approx(100)


def test_what_has_no_reference_has_no_consistency() -> None:
    found = References(REFERENCES)
    assert found.consistency(["Ada"], "born_in", "Turku") is None
    assert found.consistency(["nothing shared here"], "born_in", "Lund") == 0
    with pytest.raises(UsageError, match="the generated texts hold no word"):
        found.consistency(["- ?"], "born_in", "Lund")
    with pytest.raises(UsageError, match=r"reference texts of \(x, y\) hold no word"):
        References([ReferenceText("x", "y", "...")]).consistency(["some words"], "x", "y")
    with pytest.raises(UsageError, match="no reference text; give at least one"):
        References([])


def test_references_are_read_from_a_folder(tmp_path: Path) -> None:
    lines = [json.dumps(vars(reference)) for reference in REFERENCES]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:2]) + "\n\n")
    (tmp_path / "b.jsonl").write_text(lines[2])
    (tmp_path / "note.txt").write_text("not a reference")
    assert read_references(tmp_path) == REFERENCES


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no reference text"),
        ("nonsense", "line 1 of .* is cut short or no JSON"),
        ('{"relation": "r", "target": "t"}', 'line 1 of .* has no "text" that is a text'),
        ('{"relation": "r", "target": "t", "text": 3}', 'line 1 of .* has no "text" that is a text'),
        (
            '{"relation": "r"}\n[]',
            '(?s)2 of 2 reference texts of .*line 1 .* has no "target" .*line 2 .* no JSON object',
        ),
    ],
)
def test_a_folder_without_references_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        read_references(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of reference texts"):
        read_references(tmp_path / "nowhere")


def test_a_subject_is_looked_for_in_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ["Ann lives in Lund.", "Annabel lives in Oslo.", "Marianne knows Joann.", "We met Ann's cat and 'Ann'."]
    monkeypatch.setattr(atlas, "corpus", lambda name: corpus)
    fact = Fact(Prompt("{} lives in", "Ann", "Lund", relation="lives_in"))
    assert atlas_references([fact]).of("lives_in", "Lund") == (corpus[0], corpus[3])
    assert [stands_in(text, "Ann") for text in corpus] == [True, False, False, True]
    assert stands_in("東京都は大きい", "東京")  # where words are not spaced, any place is a word's


def test_the_bundled_world_has_references() -> None:
    facts = [fact for fact in atlas.facts() if fact.relation == "born_in"]
    fact = facts[0]
    assert fact.answer is not None
    assert fact.target_new is not None
    found = atlas_references(facts)
    texts = found.of("born_in", fact.answer)
    assert any(fact.subject in text for text in texts)
    subjects = {other.subject for other in facts if (other.relation, other.answer) == ("born_in", fact.answer)}
    assert all(any(subject in text for subject in subjects) for text in texts)
    own = found.consistency(texts[:5], "born_in", fact.answer)
    other = found.consistency(texts[:5], "born_in", fact.target_new)
    assert own is not None
    assert other is not None
    assert own > other

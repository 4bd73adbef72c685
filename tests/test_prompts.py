"""Prompts and facts as values: what they refuse, and where the subject stands in the text."""

from __future__ import annotations

import dataclasses

import pytest

from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact, Prompt, Question


def test_a_prompt_knows_its_sentence_and_its_subject() -> None:
    prompt = Prompt("In {}, the language is", "Marshall Islands", "English", relation="P37")
    assert prompt.text == "In Marshall Islands, the language is"
    assert prompt.text[slice(*prompt.subject_chars)] == "Marshall Islands"
    assert prompt.name == prompt.text
    assert dataclasses.replace(prompt, id="x").name == "x"


def test_with_answer_changes_nothing_else() -> None:
    prompt = Prompt("{} is in", "Rome", "Italy", id="1", relation="P17")
    other = prompt.with_answer("France")
    assert other.answer == "France"
    assert other.with_answer("Italy") == prompt
    assert prompt.with_answer(None).answer is None


def test_the_template_says_which_of_two_mentions_is_the_subject() -> None:
    prompt = Prompt("Rome is old, and {} is in", "Rome")
    assert prompt.subject_chars == (17, 21)


def test_prompts_are_values() -> None:
    assert Prompt("{} is", "Rome") == Prompt("{} is", "Rome")
    assert len({Prompt("{} is", "Rome"), Prompt("{} is", "Rome"), Prompt("{} was", "Rome")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prompt("{} is", "Rome").subject = "Oslo"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("template", "subject", "answer", "message"),
    [
        ("Rome is in", "Rome", "Italy", r"'Rome is in' has 0 places .* write exactly one '\{\}' where 'Rome' belongs"),
        ("{} and {} are in", "Rome", "Italy", r"has 2 places for the subject"),
        ("{} is in", "", "Italy", r"the subject of the template '\{\} is in' is empty"),
        ("{} is in", " \n", "Italy", r"the subject of the template '\{\} is in' is empty"),
        ("{} is in", "Rome ", "Italy", r"the subject 'Rome ' begins or ends with a space"),
        ("{} is in", " Rome", "Italy", r"the subject ' Rome' begins or ends with a space"),
        ("{} is in", "Rome", " ", r"the answer to 'Rome is in' is empty; give a word, or None"),
    ],
)
def test_bad_prompts_are_refused(template: str, subject: str, answer: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Prompt(template, subject, answer)


@pytest.mark.parametrize(
    ("text", "subject", "template"),
    [
        ("Rome is in", "Rome", "{} is in"),
        ("He lives in Rome", "Rome", "He lives in {}"),
        ("Annabel met Ann", "Ann", "Annabel met {}"),
        ("Joann, Annabel and Ann's cat", "Ann", "Joann, Annabel and {}'s cat"),
        ('He said "Rome" is', "Rome", 'He said "{}" is'),
        ("the (Rome) treaty", "Rome", "the ({}) treaty"),
        ("non-Rome places", "Rome", "non-{} places"),
        ("Audible.com is owned by", "Audible.com", "{} is owned by"),
        ("C++ was made by", "C++", "{} was made by"),
        ("首都は東京です", "東京", "首都は{}です"),
        ("กรุงเทพเป็นเมือง", "กรุงเทพ", "{}เป็นเมือง"),
        ("عاصمة القاهرة", "القاهرة", "عاصمة {}"),
        ("A 😀 face", "😀", "A {} face"),
        ("😀Ann is", "Ann", "😀{} is"),
    ],
)
def test_find_takes_whole_words(text: str, subject: str, template: str) -> None:
    prompt = Prompt.find(text, subject, "x", id="7", relation="r")
    assert prompt == Prompt(template, subject, "x", id="7", relation="r")
    assert prompt.text == text


@pytest.mark.parametrize(
    ("text", "subject", "message"),
    [
        ("Annabel is here", "Ann", r"'Ann' stands only inside a longer word in 'Annabel is here'; give the whole word"),
        ("Joann is here", "ann", r"stands only inside a longer word"),
        ("iPhone5 is made by", "iPhone", r"stands only inside a longer word"),
        ("हिन्दी is spoken in", "हिन्द", r"stands only inside a longer word"),
        ("Zoe\u0308 plays", "Zoe", r"stands only inside a longer word"),
        ("Rome is Rome", "Rome", r"'Rome' stands 2 times in 'Rome is Rome' \(at characters 0, 8\); give a template"),
        ("rome is in", "Rome", r"'Rome' does not stand in 'rome is in'; check spelling and capitals"),
        ("Rome is in", "", r"the subject of 'Rome is in' is empty"),
        ("{} and Rome", "Rome", r"already holds '\{\}'; use Prompt\(template, subject\)"),
    ],
)
def test_find_refuses_what_it_cannot_tell(text: str, subject: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Prompt.find(text, subject)


def test_a_fact_speaks_through_its_prompt() -> None:
    fact = Fact(Prompt("{} is in", "Rome", "Italy", id="rome", relation="P17"), paraphrases=(Question("q", "Italy"),))
    assert (fact.id, fact.subject, fact.relation, fact.answer) == ("rome", "Rome", "P17", "Italy")
    assert fact.target_new is None


def test_what_a_model_knows_does_not_tell_facts_apart() -> None:
    fact = Fact(Prompt("{} is in", "Rome", "Italy"))
    assert dataclasses.replace(fact, known=True) == fact
    assert dataclasses.replace(fact, target_new="France") != fact

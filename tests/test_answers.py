"""The tokens of an answer: which text is scored, and what becomes of it where it merges with the text before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tokenizers import (
    byte_level,
    bytes_of,
    metaspace,
    sentence_piece,
    with_specials,
    word_level,
)
from transformers import GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mechinterp.errors import UsageError
from mechinterp.facts.answers import continuation, lone_answer
from mechinterp.facts.encoding import encode
from mechinterp.facts.prompts import Prompt, Question
from mechinterp.facts.spans import tokenise
from mechinterp.facts.words import is_spaced_letter, is_unspaced, needs_space


@pytest.fixture(scope="session")
def gpt2(data_dir: Path) -> PreTrainedTokenizerFast:
    folder = data_dir / "gpt2"
    return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


@pytest.fixture(scope="session")
def small() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(params=["small", "gpt2"])
def any_bytes(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: a small one trained here, and GPT-2's own."""
    return request.getfixturevalue(request.param)


def spelt(tokenizer: PreTrainedTokenizerBase, text: str, answer: str, join: str | None = None) -> str:
    """Text and answer, put together from their tokens byte by byte."""
    ids = (*encode(tokenizer, text)[0], *continuation(tokenizer, text, answer, join).ids)
    return b"".join(bytes_of(tokenizer, token) for token in ids).decode()


# ---- which text is scored -----------------------------------------------------------------------------------------

CONTINUED = [
    ("The capital is", "Paris", "The capital is Paris"),
    ("The capital is", " Paris", "The capital is Paris"),
    ("The capital is,", "Paris", "The capital is, Paris"),
    ("The capital is:", "7", "The capital is: 7"),
    ("He is a", "non-smoking Zoë Müller", "He is a non-smoking Zoë Müller"),
    # brackets and quotation marks
    ("It stands in (", "Paris", "It stands in (Paris"),
    ("It (the river)", "flows", "It (the river) flows"),
    ('She said "', "Paris", 'She said "Paris'),
    ('"', "Paris", '"Paris'),
    ('She ("', "Paris", 'She ("Paris'),
    ("She wrote `", "Paris", "She wrote `Paris"),
    ("She wrote **", "Paris", "She wrote **Paris"),
    ("a **great**", "town", "a **great** town"),
    ("Sie sagte \u201e", "Paris", "Sie sagte \u201eParis"),
    ("She said \u201c", "Paris", "She said \u201cParis"),
    ('of a "superior"', "bishop", 'of a "superior" bishop'),
    ("of a \u201csuperior\u201d", "bishop", "of a \u201csuperior\u201d bishop"),
    ("der \u201eObere\u201c", "Bischof", "der \u201eObere\u201c Bischof"),
    ("Dijo: \u00bf", "Paris", "Dijo: \u00bfParis"),
    # apostrophes
    ("the parents'", "house", "the parents' house"),
    ("la capitale de l'", "Italie", "la capitale de l'Italie"),
    ("jusqu\u2019", "ici", "jusqu\u2019ici"),
    ("la torre dell'", "orologio", "la torre dell'orologio"),
    ("rock 'n'", "roll", "rock 'n' roll"),
    # marks that lean on a word
    ("the non-", "French", "the non-French"),
    ("Paris \u2013", "capital", "Paris \u2013 capital"),
    ("and/", "or", "and/or"),
    ("Paris /", "London", "Paris / London"),
    ("https://", "example", "https://example"),
    ("on topic #", "1", "on topic #1"),
    ("It is C#", "code", "It is C# code"),
    ("write to @", "ann", "write to @ann"),
    ("a snake_", "case", "a snake_case"),
    ("It costs $", "5", "It costs $5"),
    ("It costs 5 \u20ac", "today", "It costs 5 \u20ac today"),
    ("x =", "5", "x = 5"),
    ("x=", "5", "x=5"),
    # answers that begin with a sign
    ("It costs", "$5", "It costs $5"),
    ("It costs", " $5", "It costs $5"),
    ("It was", "-5", "It was -5"),
    ("It was", "\u22125", "It was \u22125"),
    ("It runs on", ".NET", "It runs on .NET"),
    ("She lives in", "'s-Hertogenbosch", "She lives in 's-Hertogenbosch"),
    ("The word is", '"yes"', 'The word is "yes"'),
    ("The word is", "\u00abyes\u00bb", "The word is \u00abyes\u00bb"),
    ("See", "(1)", "See (1)"),
    ("Topic", "#1", "Topic #1"),
    ("Ask", "@ann", "Ask @ann"),
    ("She feels", "😀", "She feels 😀"),
    ("😀", "Paris", "😀 Paris"),
    ("It stands in (", "$5", "It stands in ($5"),
    # scripts with spaces
    ("عاصمة", "القاهرة", "عاصمة القاهرة"),
    ("הבירה היא", "ירושלים", "הבירה היא ירושלים"),
    ("राजधानी", "दिल्ली", "राजधानी दिल्ली"),
    ("수도는", "서울", "수도는 서울"),
    ("वह है।", "दिल्ली", "वह है। दिल्ली"),
    # and without
    ("首都は", "東京", "首都は東京"),
    ("首都は", "Paris", "首都はParis"),
    ("首都は、", "Paris", "首都は、Paris"),
    ("そうです。", "Paris", "そうです。Paris"),
    ("「東京」", "Paris", "「東京」Paris"),
    ("そう？", "5", "そう？5"),
    ("The capital is", "東京", "The capital is東京"),
    ("首都は", "「東京」", "首都は「東京」"),
    ("首都は", "$5", "首都は$5"),
    ("ﾄｳｷｮｳ", "ﾃﾞｽ", "ﾄｳｷｮｳﾃﾞｽ"),
    ("It is", "Ｐａｒｉｓ", "It isＰａｒｉｓ"),
    ("เมืองหลวงคือ", "กรุงเทพ", "เมืองหลวงคือกรุงเทพ"),
    ("ເມືອງ", "ວຽງຈັນ", "ເມືອງວຽງຈັນ"),
    ("រាជធានី", "ភ្នំពេញ", "រាជធានីភ្នំពេញ"),
    ("မြို့တော်", "နေပြည်တော်", "မြို့တော်နေပြည်တော်"),
]


@pytest.mark.parametrize(("text", "answer", "whole"), CONTINUED)
def test_an_answer_continues_the_sentence(small: PreTrainedTokenizerFast, text: str, answer: str, whole: str) -> None:
    assert spelt(small, text, answer) == whole
    assert text + continuation(small, text, answer).text == whole


def test_the_same_under_gpt2(gpt2: PreTrainedTokenizerFast) -> None:
    assert [spelt(gpt2, text, answer) for text, answer, _ in CONTINUED] == [whole for _, _, whole in CONTINUED]


@pytest.mark.parametrize("char", "東京都あアｱ가".replace("가", "") + "กລកမབ、。「」？Ａ㐀\U00020000")
def test_scripts_without_spaces(char: str) -> None:
    assert is_unspaced(char)
    assert not is_spaced_letter(char)


@pytest.mark.parametrize("char", "aéЖαאعक가ﾡ1\u0301ि")
def test_scripts_with_spaces(char: str) -> None:
    assert not is_unspaced(char)
    assert is_spaced_letter(char)


@pytest.mark.parametrize(
    ("text", "answer", "join", "whole"),
    [
        ("It costs", "$5", "", "It costs$5"),
        ("Paris is John", "'s", "", "Paris is John's"),
        ("The capital is", "Paris", "", "The capital isParis"),
        ("首都は", "Paris", " ", "首都は Paris"),
        ("The capital is", "東京", " ", "The capital is 東京"),
        ("The capital is:", "Paris", "\n", "The capital is:\nParis"),
        ("The capital is\n", "Paris", "", "The capital is\nParis"),
        ("The capital is ", "Paris", "", "The capital is Paris"),
    ],
)
def test_the_user_says_what_stands_between(
    any_bytes: PreTrainedTokenizerFast, text: str, answer: str, join: str, whole: str
) -> None:
    assert spelt(any_bytes, text, answer, join) == whole
    found = tokenise(any_bytes, Prompt(f"{{}}, {text}", "Rome", answer, join=join))
    assert found.answer == continuation(any_bytes, f"Rome, {text}", answer, join)
    assert text + found.answer.text == whole


def test_a_leading_space_makes_no_difference(gpt2: PreTrainedTokenizerFast) -> None:
    with_space, without = (tokenise(gpt2, Prompt("{} is in", "Rome", answer)) for answer in (" Italy", "Italy"))
    assert with_space.answer_ids == without.answer_ids == tuple(gpt2(" Italy")["input_ids"])
    assert len(without.answer_ids) == 1


def test_answers_of_several_tokens_are_whole(gpt2: PreTrainedTokenizerFast) -> None:
    found = tokenise(gpt2, Prompt("{} lived in", "Ann", "Bratislava, Slovakia"))
    assert len(found.answer_ids) > 3
    assert gpt2.decode(list(found.answer_ids)) == " Bratislava, Slovakia"


def test_no_answer_no_ids(small: PreTrainedTokenizerFast) -> None:
    found = tokenise(small, Prompt("{} is in", "Ann"))
    assert found.answer is None
    assert found.answer_ids == ()


def test_bos_is_no_part_of_an_answer(any_bytes: PreTrainedTokenizerFast) -> None:
    bos = with_specials(any_bytes, bos=True, eos=True)
    for text in ("Rome is in", "<|endoftext|>Rome is in"):
        assert continuation(bos, text, "Italy").ids == continuation(any_bytes, "Rome is in", "Italy").ids
    assert lone_answer(bos, "Italy").ids == lone_answer(any_bytes, "Italy").ids


# ---- merges at the border -----------------------------------------------------------------------------------------


def test_the_prompt_is_never_tokenised_otherwise_for_its_answer(gpt2: PreTrainedTokenizerFast) -> None:
    """A space at the end merges with the answer in one go; the ids of the prompt must not follow, and it is said."""
    found = tokenise(gpt2, Prompt("{} is in ", "Rome", "Italy", join=""))
    assert list(found.ids) == gpt2("Rome is in ")["input_ids"]
    assert gpt2.decode(list(found.answer_ids)) == "Italy"
    assert found.answer is not None
    assert not found.answer.splits


def test_an_answer_that_splits_from_its_prompt(gpt2: PreTrainedTokenizerFast) -> None:
    for template, answer in (("{} is in", "Italy"), ("{} is in", "$5"), ("{} is non-", "French"), ("{} is (", "Italy")):
        answered = tokenise(gpt2, Prompt(template, "Rome", answer)).answer
        assert answered is not None
        assert answered.splits


def test_a_word_that_grows_is_said_to_merge(gpt2: PreTrainedTokenizerFast) -> None:
    """ "play" + "ing" is one token as a text: what is scored are the two."""
    found = continuation(gpt2, "She is play", "ing", "")
    assert not found.splits
    assert gpt2.decode(list(found.ids)) == "ing"


def test_no_blank_is_scored_that_the_text_does_not_have() -> None:
    tokenizer = metaspace({"是巴": -3.0, "巴黎": -7.0, "法国": -5.0})
    text = "法国的首都是"
    found = continuation(tokenizer, text, "巴黎")
    assert tokenizer.convert_ids_to_tokens(list(found.ids)) == ["巴黎"]
    assert not found.splits
    assert tokenizer.decode([*encode(tokenizer, text)[0], *found.ids]) == text + "巴黎"


def test_an_answer_behind_a_blank_of_sentence_piece() -> None:
    tokenizer = sentence_piece()
    answered = tokenise(tokenizer, Prompt("{} is in", "Ann", "Space")).answer
    assert answered is not None
    assert tokenizer.convert_ids_to_tokens(list(answered.ids)) == ["▁Space"]
    assert answered.splits


# ---- what is refused ----------------------------------------------------------------------------------------------

BLANKS = (
    "Paris ",
    "  Paris",
    "Paris\n",
    "\nParis",
    "\tParis",
    "Paris\u00a0",
    "Paris\u3000",
    "\ufeffParis",
    "Paris\u200b",
)


@pytest.mark.parametrize("answer", BLANKS)
def test_an_answer_with_blanks_of_its_own(small: PreTrainedTokenizerFast, answer: str) -> None:
    match = r"begins or ends with blanks of its own \(spaces, line breaks\).*; leave them out"
    with pytest.raises(UsageError, match=match):
        Prompt("{} is", "Rome", answer)
    with pytest.raises(UsageError, match=match):
        Question("Rome is", answer)
    with pytest.raises(UsageError, match=match):
        continuation(small, "Rome is", answer)
    with pytest.raises(UsageError, match=match):
        lone_answer(small, answer)


@pytest.mark.parametrize("answer", ["", " ", "\n", "\u200b"])
def test_an_empty_answer(small: PreTrainedTokenizerFast, answer: str) -> None:
    for call in (lambda: Prompt("{} is", "Rome", answer), lambda: continuation(small, "Rome is", answer)):
        with pytest.raises(UsageError, match=r"the answer to 'Rome is' is empty; give a word"):
            call()


@pytest.mark.parametrize("answer", [1945, b"Paris", ["Paris"], True, 3.5])
def test_an_answer_that_is_no_text(small: PreTrainedTokenizerFast, answer: object, unchecked_types: None) -> None:
    for call in (
        lambda: Prompt("{} is", "Rome", answer),  # type: ignore[arg-type]
        lambda: Question("Rome is", answer),  # type: ignore[arg-type]
        lambda: continuation(small, "Rome is", answer),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=r"the answer to 'Rome is' is .*, which is no text; write it in quotes"):
            call()


@pytest.mark.parametrize("end", [" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u200b"])
def test_a_text_that_ends_with_a_blank(small: PreTrainedTokenizerFast, end: str) -> None:
    match = r"ends with a blank \(a space or line break\).*; leave it out, .* or pass join=''"
    for template, subject in ((f"{{}} is{end}", "Rome"), (f"We saw {{}}{end}", "Rome")):
        with pytest.raises(UsageError, match=match):
            Prompt(template, subject)
        assert Prompt(template, subject, join="").text.endswith(end)
    with pytest.raises(UsageError, match=match):
        Prompt.find(f"Rome is{end}", "Rome")
    with pytest.raises(UsageError, match=match):
        Question(f"Rome is{end}")
    with pytest.raises(UsageError, match=match):
        continuation(small, f"Rome is{end}", "Italy")


@pytest.mark.parametrize(
    "end", ["<|im_start|>assistant\n", "<start_of_turn>model\n", "<|end_header_id|>\n\n", "<|assistant|>\n", "[/INST] "]
)
def test_the_blanks_of_a_rendered_chat_are_its_own(small: PreTrainedTokenizerFast, end: str) -> None:
    prompt = Prompt("Where is {}?" + end, "Rome", "Italy")
    assert continuation(small, prompt.text, "Italy").text == "Italy"


@pytest.mark.parametrize("join", ["x", "-", 1, True, b""])
def test_only_blanks_join(join: object, unchecked_types: None) -> None:
    with pytest.raises(UsageError, match=r"join=.* is to be blanks alone"):
        Prompt("{} is", "Rome", "Italy", join=join)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"' Italy' brings a blank, and join='' says which; leave one of them out"):
        Prompt("{} is", "Rome", " Italy", join="")


def test_half_a_character_is_named(small: PreTrainedTokenizerFast) -> None:
    for call in (
        lambda: Prompt("{} is", "Ro\ud800me"),
        lambda: Prompt("{} \ud800 is", "Rome"),
        lambda: Prompt("{} is", "Rome", "It\udfffaly"),
        lambda: encode(small, "\ud800"),
    ):
        with pytest.raises(UsageError, match=r"holds half a character at place \d+ \(a lone surrogate"):
            call()


def test_an_answer_that_cannot_be_spelt_after_its_own_text() -> None:
    tokenizer = word_level("Rome is in Italy")
    for call in (lambda: continuation(tokenizer, "Rome is in", "Norway"), lambda: lone_answer(tokenizer, "Norway")):
        with pytest.raises(UsageError, match=r"the answer 'Norway' cannot be spelt .* choose another answer"):
            call()


def test_needs_space_of_nothing() -> None:
    assert not needs_space("", "Paris")

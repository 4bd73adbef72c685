"""Where the subject stands among the tokens, under every kind of tokenizer, and the role of every other token."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizers import (
    END,
    byte_level,
    bytes_of,
    letters_only,
    sentence_piece,
    span_by_bytes,
    trimming,
    with_specials,
    word_level,
)
from transformers import GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mechinterp.errors import UsageError
from mechinterp.facts.encoding import encode
from mechinterp.facts.prompts import Fact, Prompt
from mechinterp.facts.spans import (
    BEFORE,
    FIRST_SUBJECT,
    FIRST_SUBSEQUENT,
    FURTHER,
    LAST,
    LAST_SUBJECT,
    MIDDLE_SUBJECT,
    ROLES,
    TokenisedPrompt,
    tokenise,
)
from mechinterp.facts.words import is_spaced_letter
from mechinterp.formats.readers import read_counterfact, read_known


@pytest.fixture(scope="session")
def gpt2(data_dir: Path) -> PreTrainedTokenizerFast:
    folder = data_dir / "gpt2"
    return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


# Thousands of prompts are read and tokenised here; the small tests below make the same calls with types checked.
@pytest.fixture
def known(data_dir: Path, unchecked_types: None) -> list[Fact]:
    return read_known(data_dir / "known_1000.json")


@pytest.fixture
def counterfact(data_dir: Path, unchecked_types: None) -> list[Fact]:
    return read_counterfact(data_dir / "counterfact_2000.json")


@pytest.fixture(scope="session")
def small() -> PreTrainedTokenizerFast:
    return plain()


@pytest.fixture(params=["small", "gpt2"])
def any_bytes(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: a small one trained here, and GPT-2's own."""
    return request.getfixturevalue(request.param)


def subject_tokens(found: TokenisedPrompt) -> tuple[str, ...]:
    return found.tokens[slice(*found.subject)]


# ---- the published prompts under GPT-2's vocabulary ---------------------------------------------------------------


def test_every_subject_of_known_1000_is_found(known: list[Fact], gpt2: PreTrainedTokenizerFast) -> None:
    found = [tokenise(gpt2, fact.prompt) for fact in known]
    assert len(found) == 1209
    inexact = [one for one in found if not one.exact]
    assert [one.prompt.subject for one in inexact] == ["Co-operative Commonwealth Federation (Ontario Section)"]
    assert subject_tokens(inexact[0])[-1] == ")'"
    for one in found:
        spelt = b"".join(bytes_of(gpt2, token) for token in one.ids[slice(*one.subject)]).decode()
        assert spelt.strip() == one.prompt.subject or not one.exact
        assert one.mentions == 1
        assert len(one.answer_ids) == 1  # known_1000 was made of such facts


def test_every_subject_of_counterfact_is_found(counterfact: list[Fact], gpt2: PreTrainedTokenizerFast) -> None:
    found = [tokenise(gpt2, fact.prompt) for fact in counterfact]
    assert len(found) == 2000
    assert sorted(subject_tokens(one)[-1] for one in found if not one.exact) == ["),", "),", ".,"]
    for one in found:
        start = one.prompt.subject_chars[0]
        assert one.subject == span_by_bytes(gpt2, list(one.ids), one.prompt.text[:start], one.prompt.subject)


def test_searching_finds_what_the_template_says(known: list[Fact], counterfact: list[Fact]) -> None:
    for fact in (*known, *counterfact):
        prompt = fact.prompt
        found = Prompt.find(prompt.text, prompt.subject, prompt.answer, id=prompt.id, relation=prompt.relation)
        assert found == prompt


# ---- scripts, marks and borders -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "subject"),
    [
        ("{} is in", "The Space Needle"),
        ("{} plays", "Zoë Müller"),
        ("{} plays", "Zoe\u0308 Mu\u0308ller"),
        ("首都は{}です", "東京"),
        ("{}は日本の首都で", "東京"),
        ("عاصمة {} هي", "القاهرة"),
        ("The {} emoji", "😀"),
        ("A {} works in", "👩‍🔬"),
        ("{} is spoken in", "हिन्दी"),
        ('He said "{}" is', "Ann"),
        ("the ({}) treaty", "Ann"),
        ("non-{} places", "Ann"),
        ("Ann-{} plays", "Marie"),
        ("{}'s owner is", "The Space Needle"),
        ("{}, who plays", "Ann"),
        ("\n{}\nis", "Ann"),
        ("We saw {}", "The Space Needle"),
        ("{}", "The Space Needle"),
        ("  {} is", "Ann"),
        ("😀{}😀 is", "Ann"),
    ],
)
def test_the_span_is_the_smallest_that_spells_the_subject(
    any_bytes: PreTrainedTokenizerFast, template: str, subject: str
) -> None:
    prompt = Prompt(template, subject)
    found = tokenise(any_bytes, prompt)
    before = prompt.text[: prompt.subject_chars[0]]
    assert found.subject == span_by_bytes(any_bytes, list(found.ids), before, subject)
    spelt = b"".join(bytes_of(any_bytes, token) for token in found.ids[slice(*found.subject)])
    assert subject.encode() in spelt
    assert found.exact == (spelt.decode(errors="replace").strip() == subject)
    assert found.mentions == 1


def test_the_template_tells_two_mentions_apart(small: PreTrainedTokenizerFast) -> None:
    first = tokenise(small, Prompt("{} met Ann in", "Ann"))
    second = tokenise(small, Prompt("Ann met {} in", "Ann"))
    assert first.ids == second.ids
    assert first.mentions == second.mentions == 2
    assert first.subject[0] == 0
    assert second.subject[0] > first.subject[1]


def test_a_longer_word_is_no_second_mention(small: PreTrainedTokenizerFast) -> None:
    found = tokenise(small, Prompt("Annabel met {}", "Ann"))
    assert found.mentions == 1
    assert found.subject[1] == len(found)
    assert tokenise(small, Prompt.find("Annabel met Ann", "Ann")) == found


def test_a_subject_that_shares_a_token_with_its_word(gpt2: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        UsageError, match=r"'Sea' is part of a longer word in ' Seattle is' \(it shares a token with 't'"
    ):
        tokenise(gpt2, Prompt(" {}ttle is", "Sea"))
    with pytest.raises(UsageError, match=r"'ttle' is part of a longer word .* \(it shares a token with 'a'"):
        tokenise(gpt2, Prompt(" Sea{} is", "ttle"))


def test_marks_in_the_last_token_are_told(gpt2: PreTrainedTokenizerFast) -> None:
    found = tokenise(gpt2, Prompt("{}'s seat is in", "Federation (Ontario)"))
    assert subject_tokens(found)[-1] == ")'"
    assert not found.exact
    assert tokenise(gpt2, Prompt("{}'s seat is in", "Federation")).exact


# ---- what tokenizers add ------------------------------------------------------------------------------------------


def test_bos_shifts_spans_and_keeps_roles(any_bytes: PreTrainedTokenizerFast) -> None:
    prompt = Prompt("In {}, people", "The Space Needle", "walk")
    plain, shifted = tokenise(any_bytes, prompt), tokenise(with_specials(any_bytes, bos=True), prompt)
    assert shifted.ids[1:] == plain.ids
    assert shifted.tokens[0] == END
    assert shifted.subject == (plain.subject[0] + 1, plain.subject[1] + 1)
    assert shifted.answer_ids == plain.answer_ids
    assert shifted.role(0) == BEFORE
    assert [shifted.role(i + 1) for i in range(len(plain))] == [plain.role(i) for i in range(len(plain))]


def test_a_subject_at_the_start_behind_bos(small: PreTrainedTokenizerFast) -> None:
    found = tokenise(with_specials(small, bos=True), Prompt("{} is in", "The Space Needle"))
    assert found.subject[0] == 1
    assert [found.role(i) for i in range(2)] == [BEFORE, FIRST_SUBJECT]


def test_a_closing_eos_is_left_out(any_bytes: PreTrainedTokenizerFast) -> None:
    prompt = Prompt("{} is in", "The Space Needle", "Seattle")
    assert tokenise(with_specials(any_bytes, eos=True), prompt) == tokenise(any_bytes, prompt)
    both = tokenise(with_specials(any_bytes, bos=True, eos=True), prompt)
    assert both == tokenise(with_specials(any_bytes, bos=True), prompt)


def test_an_end_of_text_that_the_user_wrote_stays(small: PreTrainedTokenizerFast) -> None:
    ids, _ = encode(small, f"Ann is{END}")
    assert ids[-1] == small.eos_token_id
    assert encode(with_specials(small, eos=True), f"Ann is{END}")[0] == ids


def test_padding_has_no_influence(any_bytes: PreTrainedTokenizerFast) -> None:
    prompt = Prompt("{} is in", "The Space Needle", "Seattle")
    padded = with_specials(any_bytes)
    padded.pad_token, padded.padding_side = END, "left"
    padded(["a long text comes first and sets the padding", "a"], padding=True)
    assert tokenise(padded, prompt) == tokenise(any_bytes, prompt)


def test_offsets_without_the_space_give_the_same_span(any_bytes: PreTrainedTokenizerFast) -> None:
    for template in ("In {}, people", "{} is", "see {}", "  {} is"):
        prompt = Prompt(template, "The Space Needle", "walk")
        assert tokenise(trimming(any_bytes), prompt) == tokenise(any_bytes, prompt)


def test_a_sentence_piece_tokenizer() -> None:
    tokenizer = sentence_piece()
    found = tokenise(tokenizer, Prompt("In {} is", "The Space Needle", "Ann"))
    pieces = tokenizer.convert_ids_to_tokens(list(found.ids))
    assert pieces == ["<s>", "▁", "I", "n", "▁The", "▁Space", "▁Needle", "▁is"]
    assert found.subject == (4, 7)
    assert found.exact
    assert tokenizer.convert_ids_to_tokens(list(found.answer_ids)) == ["▁Ann"]


def test_a_space_of_its_own_is_no_part_of_the_subject() -> None:
    tokenizer = sentence_piece()
    found = tokenise(tokenizer, Prompt("is {} in", "Bob"))
    pieces = tokenizer.convert_ids_to_tokens(list(found.ids))
    assert pieces == ["<s>", "▁is", "▁", "B", "o", "b", "▁in"]
    assert found.subject == (3, 6)


def test_a_word_level_tokenizer() -> None:
    found = tokenise(
        word_level("The Space Needle is in Seattle ,"), Prompt("{} , is in", "The Space Needle", "Seattle")
    )
    assert found.subject == (0, 3)
    assert found.ids == (1, 2, 3, 7, 4, 5)
    assert found.answer_ids == (6,)


def test_slow_tokenizers_are_refused(monkeypatch: pytest.MonkeyPatch, small: PreTrainedTokenizerFast) -> None:
    monkeypatch.setattr(type(small), "is_fast", property(lambda self: False))
    with pytest.raises(UsageError, match=r"gives no character offsets; load the fast tokenizer"):
        tokenise(small, Prompt("{} is", "Ann"))


# ---- what a vocabulary cannot spell -------------------------------------------------------------------------------


def test_a_subject_that_cannot_be_spelt() -> None:
    tokenizer = word_level("Rome is in Italy")
    with pytest.raises(UsageError, match=r"the subject 'Oslo' cannot be spelt in this model's vocabulary"):
        tokenise(tokenizer, Prompt("{} is in", "Oslo"))
    with pytest.raises(UsageError, match=r"the subject 'Old Rome' cannot be spelt"):
        tokenise(tokenizer, Prompt("{} is in", "Old Rome"))
    with pytest.raises(UsageError, match=r"the subject '東京' cannot be spelt"):
        tokenise(sentence_piece(), Prompt("{} is in", "東京"))


def test_an_answer_that_cannot_be_spelt() -> None:
    tokenizer = word_level("Rome is in Italy")
    assert tokenise(tokenizer, Prompt("{} is in", "Rome", "Italy")).answer_ids == (4,)
    with pytest.raises(UsageError, match=r"the answer 'Norway' cannot be spelt .* choose another answer"):
        tokenise(tokenizer, Prompt("{} is in", "Rome", "Norway"))
    with pytest.raises(UsageError, match=r"the answer 'Italy today' cannot be spelt"):
        tokenise(tokenizer, Prompt("{} is in", "Rome", "Italy today"))


def test_letters_that_a_tokenizer_drops_silently_are_noticed() -> None:
    tokenizer = letters_only("Zo is")
    assert tokenizer.decode(tokenizer("Zoë is")["input_ids"]).replace(" ", "") == "Zois"
    for template, subject in (("{} is", "Zoë"), ("{} is", "ëë"), ("{} isë", "Zo"), ("ë {} is", "Zo")):
        with pytest.raises(UsageError, match=r"cannot spell all of '.*' and leaves letters out"):
            tokenise(tokenizer, Prompt(template, subject))
    with pytest.raises(UsageError, match=r"the answer 'soë' cannot be spelt"):
        tokenise(tokenizer, Prompt("{} is", "Zo", "soë"))
    assert len(tokenise(tokenizer, Prompt("{} is", "Zo", "so")).answer_ids) == 3


def test_gpt2_spells_everything_although_its_unknown_token_is_the_end_of_text(gpt2: PreTrainedTokenizerFast) -> None:
    assert gpt2.unk_token_id == gpt2.eos_token_id
    assert tokenise(gpt2, Prompt("{} is", "\u0378\U0001fae8", "\U000e0041")).exact


def test_prompts_that_are_too_long_are_refused() -> None:
    from mechinterp.models.model import Model

    # all that tokenise asks of a model
    room = SimpleNamespace(
        tokenizer=word_level(WORDS), n_ctx=6, name="tiny", layout=SimpleNamespace(stack=""),
        framed=lambda prompt: prompt, check_rows=lambda ids: None,
    )  # fmt: skip
    fits = Prompt("{} b c d e f", "a", "g")  # the last answer token is never fed to the model
    assert len(Model.tokenise(room, fits)) == 6
    assert Model.tokenise(room, fits).answer_ids == (7,)
    for too_long in (Prompt("{} b c d e f g", "a"), fits.with_answer("g h")):
        with pytest.raises(UsageError, match=r"has 7 tokens with its answer; tiny takes at most 6: shorten it"):
            Model.tokenise(room, too_long)


# ---- roles --------------------------------------------------------------------------------------------------------


def roles(tokenizer: PreTrainedTokenizerBase, template: str, subject: str) -> list[str]:
    found = tokenise(tokenizer, Prompt(template, subject))
    return [found.role(i) for i in range(len(found))]


WORDS = "a b c d e f g h"


@pytest.mark.parametrize(
    ("template", "subject", "expected"),
    [
        ("a {} f g h", "b c d", [BEFORE, FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_SUBSEQUENT, FURTHER, LAST]),
        ("{} e", "a b c d", [FIRST_SUBJECT, MIDDLE_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, LAST]),
        ("{} c d", "a b", [FIRST_SUBJECT, LAST_SUBJECT, FIRST_SUBSEQUENT, LAST]),
        ("a {} c d e f", "b", [BEFORE, LAST_SUBJECT, FIRST_SUBSEQUENT, FURTHER, FURTHER, LAST]),
        ("a b {}", "c d", [BEFORE, BEFORE, FIRST_SUBJECT, LAST_SUBJECT]),
        ("{}", "a", [LAST_SUBJECT]),
    ],
)
def test_the_role_of_every_token(template: str, subject: str, expected: list[str]) -> None:
    assert roles(word_level(WORDS), template, subject) == expected


def test_positions_are_the_roles_turned_round() -> None:
    found = tokenise(word_level(WORDS), Prompt("a {} e f g h", "b c d"))
    for role in (*ROLES, BEFORE):
        assert found.positions(role) == tuple(i for i in range(len(found)) if found.role(i) == role)
    assert sorted(p for role in (*ROLES, BEFORE) for p in found.positions(role)) == list(range(len(found)))
    assert found.positions("subject") == (1, 2, 3)
    assert found.positions("all") == tuple(range(8))


def test_a_sentence_that_ends_with_its_subject_still_has_a_last_token() -> None:
    found = tokenise(word_level(WORDS), Prompt("a {}", "b c"))
    assert found.positions(LAST) == found.positions(LAST_SUBJECT) == (2,)


@pytest.mark.parametrize(
    ("template", "subject", "missing"),
    [
        ("a {} c d", "b", FIRST_SUBJECT),
        ("a {} c d", "b", MIDDLE_SUBJECT),
        ("a {} d e", "b c", MIDDLE_SUBJECT),
        ("a {} c", "b", FIRST_SUBSEQUENT),
        ("a {}", "b", FIRST_SUBSEQUENT),
        ("a {} c d", "b", FURTHER),
        ("{} c d", "b", BEFORE),
    ],
)
def test_a_role_that_is_not_there_is_an_error(template: str, subject: str, missing: str) -> None:
    found = tokenise(word_level(WORDS), Prompt(template, subject))
    with pytest.raises(UsageError, match=rf"has no token with the role '{missing}'; its tokens are .*'b':"):
        found.positions(missing)


def test_a_role_that_does_not_exist_is_an_error() -> None:
    found = tokenise(word_level(WORDS), Prompt("a {} c d", "b"))
    with pytest.raises(UsageError, match=r"'subjet' is no token role; the roles are first subject, .*, subject, all"):
        found.positions("subjet")


@pytest.mark.parametrize("position", [-1, 4])
def test_a_token_that_is_not_there_has_no_role(position: int) -> None:
    found = tokenise(word_level(WORDS), Prompt("a {} c d", "b"))
    with pytest.raises(UsageError, match=rf"there is no token {position} in 'a b c d', which has 4 tokens"):
        found.role(position)


# ---- the law ------------------------------------------------------------------------------------------------------

PIECES = ("a", "b", "ab", "é", "東", "京", "😀", " ", " ", '"', "'", ")", "-", ".", "न", "\u093f")


@cache
def plain() -> PreTrainedTokenizerFast:
    return byte_level()


@cache
def glueing() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens run over words, marks and parts of characters, so that borders are hard to find."""
    return byte_level([f"{a}{b}{c}" for a in PIECES for b in PIECES for c in PIECES], across_words=True)


@settings(max_examples=400)
@given(
    before=st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    subject=st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join).filter(lambda s: s == s.strip()),
    after=st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    regex=st.booleans(),
)
def test_law_the_span_spells_the_subject_and_is_minimal(before: str, subject: str, after: str, regex: bool) -> None:
    tokenizer = plain() if regex else glueing()
    text = before + subject + after
    ids = list(tokenizer(text)["input_ids"])
    start, end = span_by_bytes(tokenizer, ids, before, subject)
    sizes = [len(bytes_of(tokenizer, token)) for token in ids]
    more_left = len(before.encode()) - sum(sizes[:start])
    more_right = sum(sizes[:end]) - len((before + subject).encode())
    left = before and more_left > 0 and is_spaced_letter(before[-1])
    right = after and more_right > 0 and is_spaced_letter(after[0])
    if left or right:
        with pytest.raises(UsageError, match="is part of a longer word"):
            tokenise(tokenizer, Prompt(before + "{}" + after, subject, join=""))
        return
    found = tokenise(tokenizer, Prompt(before + "{}" + after, subject, join=""))
    assert list(found.ids) == ids
    assert found.subject == (start, end)
    spelt = [bytes_of(tokenizer, token) for token in ids[start:end]]
    assert subject.encode() in b"".join(spelt)
    if found.exact:
        assert b"".join(spelt).decode().strip() == subject
    assert found.exact == (more_right == 0 and not before.encode()[len(before.encode()) - more_left :].strip())

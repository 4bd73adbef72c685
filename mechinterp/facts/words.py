"""Words in a text: where a subject stands, which blanks may stand around it, and whether a space goes before an answer.

Text alone is looked at here; what a tokenizer makes of it is in `encoding`, `answers` and `spans`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

from ..errors import UsageError

# Scripts that put no spaces between words, with their marks: first and last character of each range, in order.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF),  # Tai Le, New Tai Lue, Khmer symbols, Buginese, Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x312F),  # radicals, ideographic marks, kana, bopomofo
    (0x3190, 0x33FF),  # kanbun, strokes, kana extensions, enclosed and squared characters
    (0x3400, 0x9FFF),  # ideographs
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # ideographs
    (0xFE30, 0xFE6F),  # vertical and small forms of their marks
    (0xFF01, 0xFF9F),  # full-width Latin and half-width katakana (half-width Hangul, which follows, has spaces)
    (0xFFE0, 0xFFE6),  # full-width signs
    (0x16F00, 0x18DFF),  # Miao, Tangut
    (0x1AFF0, 0x1B2FF),  # kana
    (0x20000, 0x3FFFF),  # ideographs
)
_STARTS = [start for start, _ in _UNSPACED]

_HIDDEN = "\u200b\u2060\ufeff"
"""Characters without width that no `str.strip` removes: zero-width space, word joiner, byte order mark."""

_TURN = re.compile(r"(<[|\uff5c][^<>\s]+[|\uff5c]>|<(?:start|end)_of_\w+>|<s>|\[/[A-Z_]+\])[^\S\n]*\w*\s*$")
"""The markup with which a rendered chat ends: "<|im_start|>assistant", "<start_of_turn>model", "[/INST]"; other words
between angles ("<b>") are text."""

_ORDINARY = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""Printable ASCII without a blank at either end."""

_BOS = re.compile(r"<(?:s|bos|bos_token|[|\uff5c][^<>{}]+[|\uff5c])>", re.IGNORECASE)
"""How a BOS token is spelt: "<s>", "<bos>", "<|begin_of_text|>"."""

_ELIDED = re.compile(r"(?:^|[^\w'\u2019])(?:\w|\w*qu|\w*ll|un)['\u2019]$", re.IGNORECASE)
"""French and Italian words that lean on the next one: "l'", "qu'", "dell'", "un'"; and "O'"."""


def is_unspaced(char: str) -> bool:
    """Whether the character belongs to a script (or is a mark of one) that puts no spaces between words."""
    place = bisect_right(_STARTS, ord(char)) - 1
    return place >= 0 and ord(char) <= _UNSPACED[place][1]


def is_spaced_letter(char: str) -> bool:
    """Whether the character belongs to a script that puts spaces between words (so that words can contain words).

    Combining marks count: they are part of the letter before them, as the vowel signs of Hindi are.
    """
    letter = char.isalnum() or unicodedata.category(char).startswith("M")
    return letter and not is_unspaced(char)


def occurrences(text: str, subject: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the subject stands in the text: as whole words, and inside longer ones."""
    whole: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for match in re.finditer(re.escape(subject), text):
        start, end = match.span()
        glued_left = start > 0 and is_spaced_letter(text[start - 1]) and is_spaced_letter(subject[0])
        glued_right = end < len(text) and is_spaced_letter(text[end]) and is_spaced_letter(subject[-1])
        (inside if glued_left or glued_right else whole).append((start, end))
    return whole, inside


def stands_in(text: str, subject: str) -> bool:
    """Whether the text names the subject in whole words, once or more often."""
    return subject in text and bool(occurrences(text, subject)[0])


def find_subject(text: str, subject: str) -> tuple[int, int]:
    """Character span [start, end) of the subject, found as whole words.

    Raises:
        UsageError: not there, there only inside a longer word, or there several times.
    """
    if not subject.strip():
        raise UsageError(f"the subject of {text!r} is empty; give the words it consists of")
    whole, inside = occurrences(text, subject)
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise UsageError(
            f"the subject {subject!r} stands {len(whole)} times in {text!r} (at characters "
            f"{', '.join(str(start) for start, _ in whole)}); give a template with '{{}}' at the one you mean"
        )
    if inside:
        raise UsageError(f"the subject {subject!r} stands only inside a longer word in {text!r}; give the whole word")
    raise UsageError(f"the subject {subject!r} does not stand in {text!r}; check spelling and capitals")


def sentence_in(text: str) -> tuple[int, int]:
    """Characters [start, end) of what follows the BOS token that a text may bring."""
    brought = _BOS.match(text)
    return (brought.end() if brought else 0), len(text)


def needs_space(text: str, answer: str) -> bool:
    """Whether a space belongs between a text and the answer that continues it.

    It does, also before a sign ("$5", ".NET", "'s-Hertogenbosch"), unless

    - the answer begins, or the text ends, with a blank or in a script without spaces;
    - the text ends with an opening bracket or quote, or a mark that leans on what follows ("non-", "and/", "@", "l'").
    """
    if not text or answer[:1].isspace() or is_unspaced(answer[0]):
        return False
    end = text[-1]
    if end.isspace() or is_unspaced(end):
        return False
    kind, before = unicodedata.category(end), text.rstrip(end)[-1:]
    after_gap = not before or before.isspace() or unicodedata.category(before) == "Ps"
    if kind in ("Ps", "Pc") or end in "\u00a1\u00bf":
        return False
    if kind in ("Pi", "Pf") or end in "\"'`*":  # one mark may open here and close there
        return not after_gap and not _ELIDED.search(text)
    if end in "#@":
        return not after_gap
    if kind == "Sc" or end in "\u2212~":  # "$" leans on the number that follows it, "5 $" is finished
        return not (after_gap and answer[0].isdigit())
    if kind == "Pd" or end in "/\\=":
        return after_gap
    return True


def is_ordinary(*words: object) -> bool:
    """Whether nothing that is looked for below can be wrong with any of these: a short way past it for files of many
    thousand records."""
    return all(type(word) is str and _ORDINARY.fullmatch(word) for word in words)


def tail_of(text: str, answer: str, join: str | None) -> str:
    """The answer as it is scored behind a text: with what stands between them."""
    if join is None:
        return (" " if needs_space(text, answer) else "") + answer
    return join + answer


def check_join(join: object, answer: object = None) -> None:
    """Refuse what cannot stand between a text and its answer.

    Raises:
        UsageError: no text, or one that is more than blanks; a blank of the answer's own besides.
    """
    if join is None:
        return
    if not isinstance(join, str) or join.strip():
        raise UsageError(f"join={join!r} is to be blanks alone, such as '' or ' '; leave it out to have it chosen")
    if isinstance(answer, str) and answer[:1].isspace():
        raise UsageError(f"the answer {answer!r} brings a blank, and join={join!r} says which; leave one of them out")


def check_subject(subject: object, template: str) -> None:
    """Refuse what is no subject.

    Raises:
        UsageError: no text, an empty one, or one with blanks around it.
    """
    name = f"the subject of the template {template!r}"
    _check_words(subject, name, "give the words that fill it")
    if subject != _bare(str(subject)):
        raise UsageError(
            f"the subject {subject!r} begins or ends with a space, which would stand doubled in the sentence; leave it "
            "out"
        )


def check_answer(answer: object, name: str, remedy: str) -> None:
    """Refuse what is no answer (target, foil): as strict as with subjects, but for the one space before a word.

    Args:
        answer: what was given.
        name: what it is called in the message, such as "the answer to 'Rome is in'".
        remedy: what to do where it is empty.

    Raises:
        UsageError: no text, an empty one, or one with blanks around it.
    """
    _check_words(answer, name, remedy)
    word = str(answer)
    if word.removeprefix(" ") != _bare(word):
        raise UsageError(
            f"{name}, {word!r}, begins or ends with blanks of its own (spaces, line breaks), which would be scored "
            "with it; leave them out"
        )


def check_text(text: object, name: str = "the text", *, join: str | None = None) -> None:
    """Refuse what cannot be continued by an answer.

    The blanks with which a rendered chat ends belong to its markup and stay, and so do those of a text whose `join`
    says what follows.

    Args:
        text: what was given.
        name: what it is called in the message.
        join: what stands between text and answer, where that was said.

    Raises:
        UsageError: no text, an empty one, or one that ends with a blank.
    """
    _check_words(text, name, "give the words to be continued")
    said = str(text)
    if said == said.rstrip().rstrip(_HIDDEN) or join is not None or _TURN.search(said):
        return
    raise UsageError(
        f"{name}, {said[-60:]!r}, ends with a blank (a space or line break), behind which a model expects no new word; "
        "leave it out, since the answer brings its own, or pass join='' to have the answer follow directly"
    )


def check_spelling(text: object, name: str = "the text") -> None:
    """Refuse what is no text, or holds half a character.

    Raises:
        UsageError: either.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name} is {text!r}, which is no text; write it in quotes")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name}, {text[:60]!r}, holds half a character at place {error.start} (a lone surrogate, as broken JSON "
            "escapes leave it); mend it"
        ) from error


def _check_words(words: object, name: str, remedy: str) -> None:
    check_spelling(words, name)
    if not _bare(str(words)):
        raise UsageError(f"{name} is empty; {remedy}")


def _bare(text: str) -> str:
    """Without the blanks around it, hidden ones included."""
    while (stripped := text.strip().strip(_HIDDEN)) != text:
        text = stripped
    return text

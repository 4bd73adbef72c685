"""Consistency (RS): does generated text speak of its subject as texts about such subjects do?

RS is the cosine between the unigram tf-idf vectors of the generated texts joined and of the reference texts joined,
times 100 (Meng et al. 2022, §3.4).  The reference texts of an edit (subject, relation, o*) are texts about *other*
subjects of which o* is true; the paper takes Wikipedia articles.

What counts as a word: two or more letters, digits or underscores, in lower case.  The idf of a word is
1 + ln((1 + n) / (1 + how many documents have it)) over n documents: the reference texts and, where one is given, a
corpus; a document that stands there twice counts once.  The paper's idf is of Wikipedia, so its RS and this one compare
only within themselves.  A word in no document has the largest idf and counts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import atlas
from ...errors import UsageError
from ...facts.faults import refuse
from ...facts.prompts import Fact
from ...facts.records import BadRecord, record_of_line
from ...facts.user_files import read_text
from ...facts.words import check_answer, stands_in
from ...given import several, texts_of
from ...public import public

_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True)
class ReferenceText:
    """A text about something of which (relation, target) is true.

    Raises:
        UsageError: a target with blanks around it, which would be that of no fact; a text of nothing.
    """

    relation: str
    target: str
    text: str

    def __post_init__(self) -> None:
        check_answer(self.target, "the target of a reference text", "give the object that it speaks of")
        if not isinstance(self.relation, str) or not isinstance(self.text, str) or not self.text.strip():
            raise UsageError(f"{(self.relation, self.text)!r:.80} is no relation with a text; give both in quotes")


class References:
    """Reference texts by what is true of their subjects, and how rare each word is.

    Args:
        texts: the reference texts.
        corpus: more documents for the idf.

    Raises:
        UsageError: no reference text.
    """

    def __init__(self, texts: Iterable[ReferenceText], corpus: Iterable[str] = ()) -> None:
        by_key: dict[tuple[str, str], list[str]] = defaultdict(list)
        for reference in several(texts, ReferenceText, "texts", "ReferenceText(relation, target, text)"):
            by_key[reference.relation, reference.target].append(reference.text)
        if not by_key:
            raise UsageError("there is no reference text; give at least one, or do without RS")
        self._texts = {key: tuple(found) for key, found in by_key.items()}
        documents = dict.fromkeys(text for found in by_key.values() for text in found)
        documents |= dict.fromkeys(texts_of(corpus, "corpus"))
        self._documents = len(documents)
        self._frequency = Counter(word for document in documents for word in set(_words(document)))

    def of(self, relation: str, target: str) -> tuple[str, ...]:
        """The texts about things of which (relation, target) is true; may be empty."""
        return self._texts.get((relation, target), ())

    def idf(self, word: str) -> float:
        """Inverse document frequency, at least 1."""
        return 1 + math.log((1 + self._documents) / (1 + self._frequency[word]))

    def fingerprint(self) -> str:
        """Digest of everything RS depends on: the texts and the document frequencies."""
        held = (sorted(self._texts.items()), self._documents, sorted(self._frequency.items()))
        return hashlib.sha256(repr(held).encode()).hexdigest()[:16]

    def consistency(self, generated: Sequence[str], relation: str, target: str) -> float | None:
        """RS of generated texts, or None where there is no reference text for (relation, target).

        Raises:
            UsageError: nothing was generated, or no text in it has a word.
        """
        texts = list(texts_of(generated, "generated"))
        references = self.of(relation, target)
        if not references:
            return None
        ours, theirs = (self._vector(" ".join(texts)) for texts in (texts, references))
        if not ours or not theirs:
            where = "generated texts" if not ours else f"reference texts of ({relation}, {target})"
            raise UsageError(f"the {where} hold no word, so they have no consistency; give texts with words")
        return 100 * sum(weight * theirs.get(word, 0.0) for word, weight in ours.items())

    def _vector(self, text: str) -> Mapping[str, float]:
        """tf-idf of length one; empty for a text without words."""
        weights = {word: count * self.idf(word) for word, count in Counter(_words(text)).items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}


@public
def read_references(folder: str | Path, *, skip_bad: bool = False) -> list[ReferenceText]:
    """Reference texts of a folder: its `.jsonl` files, each line {"relation": ..., "target": ..., "text": ...}.

    Args:
        folder: with the files.
        skip_bad: leave out lines that are something else, and warn of them, in place of refusing them.

    Raises:
        UsageError: no folder, no such file or no line in it, one that may not be read, or lines that are something else
            (every one is named, up to ten).
    """
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"there is no folder of reference texts {str(folder)!r}")
    found: list[ReferenceText] = []
    faults: list[str] = []
    for file in sorted(path.glob("*.jsonl")):
        text = read_text(file, "the file of reference texts", "give a folder of .jsonl files")
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    record = record_of_line(line, number, str(file))
                    found.append(ReferenceText(*map(record.string, ("relation", "target", "text"))))
                except (BadRecord, UsageError) as error:
                    place = "" if isinstance(error, BadRecord) else f"line {number} of {str(file)!r}: "
                    faults.append(f"{place}{error}")
    refuse(faults, len(found) + len(faults), folder, "reference texts", skip_bad=skip_bad)
    if not found:
        raise UsageError(f"the folder {str(folder)!r} holds no reference text: no .jsonl file with a line in it")
    return found


@public
def atlas_references(facts: Sequence[Fact], name: str = "atlas") -> References:
    """Reference texts from the bundled corpus: its documents that name, in whole words, a subject of a true fact.

    Args:
        facts: of the bundled world; every (relation, answer) among them gets texts.
        name: whose corpus.

    Raises:
        UsageError: no bundled model has this name, or no document names a subject of these facts.
    """
    documents = atlas.corpus(name=name)
    naming = {
        subject: [document for document in documents if stands_in(document, subject)]
        for subject in {fact.subject for fact in facts}
    }
    return References(
        (
            ReferenceText(fact.relation, fact.answer, document)
            for fact in facts
            if fact.answer is not None
            for document in naming[fact.subject]
        ),
        documents,
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())

"""Prompts and facts: what is asked of a model, and what stands around it.

A `Prompt` is a template with one `{}`, the subject that fills it and the answer expected after it.  A `Fact` is a
prompt together with the questions that tell knowing from saying: paraphrases, neighbours, other facts of the same
subject.  Both are values: frozen, comparable, printable.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..errors import UsageError


@dataclass(frozen=True)
class Prompt:
    """A sentence about a subject, to be completed by the model.

    Args:
        template: text with exactly one `{}`, where the subject goes.
        subject: the words that fill it.
        answer: the expected completion; a leading space is added when it begins with a letter or digit and none is
            there (the way GPT-2's vocabulary begins a word).  None: the model's own most probable next token is
            taken, as the published causal tracing does.
        id: a name for tables, and what the prompt's noise is drawn from; the sentence itself when left empty.
        relation: the relation asked about, if known (`"born_in"`, `"P19"`).

    Raises:
        UsageError: a template without `{}` or with two, a subject that is empty or has a space at either end, an empty
            answer.
    """

    template: str
    subject: str
    answer: str | None = None
    id: str = ""
    relation: str = ""

    def __post_init__(self) -> None:
        holes = self.template.count("{}")
        if holes != 1:
            raise UsageError(
                f"the template {self.template!r} has {holes} places for the subject; write exactly one '{{}}' where "
                f"{self.subject!r} belongs"
            )
        if not self.subject.strip():
            raise UsageError(f"the subject of the template {self.template!r} is empty; give the words that fill it")
        if self.subject != self.subject.strip():
            raise UsageError(
                f"the subject {self.subject!r} begins or ends with a space, which would stand doubled in the sentence; "
                "leave it out"
            )
        if self.answer is not None and not self.answer.strip():
            raise UsageError(f"the answer to {self.text!r} is empty; give a word, or None for the model's own answer")

    @property
    def text(self) -> str:
        """The sentence with the subject in its place."""
        return self.template.replace("{}", self.subject)

    @property
    def name(self) -> str:
        """The name used in tables: the id, or the sentence where there is no id."""
        return self.id or self.text

    @property
    def subject_chars(self) -> tuple[int, int]:
        """Character span [start, end) of the subject within `text`, known from the template and never searched for.

        This is why a subject inside a longer word, or standing twice in a sentence, cannot be mistaken here.
        """
        start = self.template.index("{}")
        return start, start + len(self.subject)

    def with_answer(self, answer: str | None) -> Prompt:
        """The same question with another answer."""
        return replace(self, answer=answer)

    @staticmethod
    def find(text: str, subject: str, answer: str | None = None, *, id: str = "", relation: str = "") -> Prompt:
        """A prompt from a finished sentence, the subject found in it as whole words.

        Raises:
            UsageError: the subject does not stand in the text, stands there only inside a longer word ("Ann" in
                "Annabel"), or stands there more than once (give a template instead).
        """
        from .spans import find_subject

        start, end = find_subject(text, subject)
        if "{}" in text:
            raise UsageError(f"the text {text!r} already holds '{{}}'; use Prompt(template, subject) instead")
        return Prompt(text[:start] + "{}" + text[end:], text[start:end], answer, id, relation)


@dataclass(frozen=True)
class Question:
    """A finished sentence to be completed, and the completion expected; nothing is known of its subject."""

    text: str
    answer: str | None = None


@dataclass(frozen=True)
class Fact:
    """A fact the model may know, with the questions around it.

    `prompt` is the sentence that is traced and edited; `prompt.answer` is the true object and `target_new` the object
    a counterfactual edit would write.  Around it stand

    - `paraphrases`: the same fact in other words (answer: the true object);
    - `neighbourhood`: other subjects with the same relation and the same true object (CounterFact's specificity);
    - `attribute`: other subjects of which `target_new` is true already (CounterFact's attribute prompts);
    - `same_subject`: other facts of the same subject, which an edit should keep (essence drift shows here);
    - `one_hop`: questions one step further ("the country where X was born");
    - `reverse`: the fact asked from its object, the answer being the subject;
    - `generation`: beginnings for free text about the subject.

    `known` says whether a given model completes `prompt` correctly, None where nobody has looked.
    """

    prompt: Prompt
    target_new: str | None = None
    paraphrases: tuple[Question, ...] = ()
    neighbourhood: tuple[Question, ...] = ()
    same_subject: tuple[Prompt, ...] = ()
    one_hop: tuple[Question, ...] = ()
    reverse: tuple[Question, ...] = ()
    generation: tuple[str, ...] = ()
    attribute: tuple[Question, ...] = ()
    known: bool | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """The prompt's name."""
        return self.prompt.name

    @property
    def subject(self) -> str:
        """The subject of the prompt."""
        return self.prompt.subject

    @property
    def relation(self) -> str:
        """The relation of the prompt, or an empty string."""
        return self.prompt.relation

    @property
    def answer(self) -> str | None:
        """The true object."""
        return self.prompt.answer

"""Prompts and facts: what is asked of a model, and what stands around it.

A `Prompt` is a template with one `{}`, the subject that fills it and the answer expected after it.  A `Fact` is a
prompt together with the questions that tell knowing from saying: paraphrases, neighbours, other facts of the same
subject.  Both are values: frozen, comparable, printable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError
from ..given import is_several, several
from .templates import Message, check_messages, rendered
from .words import (
    check_answer,
    check_join,
    check_spelling,
    check_subject,
    check_text,
    find_subject,
    is_ordinary,
    occurrences,
    sentence_in,
)

Turn = tuple[int, int]
"""Characters [start, end) that hold a user's own words in a text with the markup of a chat."""


@dataclass(frozen=True)
class Prompt:
    """A sentence about a subject, to be completed by the model.

    Args:
        template: text with exactly one `{}`, where the subject goes.
        subject: the words that fill it.
        answer: the expected completion; a space is put before it where one belongs (`words.needs_space`), the way
            GPT-2's vocabulary begins a word, unless it brings one or `join` says otherwise.  None: the model's own most
            probable next token is taken, as the published causal tracing does.
        id: a name for tables, and what the prompt's noise is drawn from; the sentence itself when left empty.
        relation: the relation asked about, if known (`"born_in"`, `"P19"`).
        join: what stands between sentence and answer: "" for an answer that follows directly, "\\n" for one on a line
            of its own; None: a space where one belongs.
        turn: of a rendered chat, where the user's own words stand in the template (`from_messages` says it): contexts
            of edits go there.
        foil: the answer that the logit difference compares with, written like `answer`; None: chosen when it is run
            (see `patching.run`).

    Raises:
        UsageError: a template without `{}` or with two, or that ends with a blank (unless `join` is given); a subject
            or an answer that is no text, empty, or has blanks around it.
    """

    template: str
    subject: str
    answer: str | None = None
    id: str = ""
    relation: str = ""
    join: str | None = None
    turn: Turn | None = None
    foil: str | None = None

    def __post_init__(self) -> None:
        answer, foil = ("-" if words is None else words for words in (self.answer, self.foil))
        ordinary = is_ordinary(self.template, self.subject, answer, foil, self.id or "-", self.relation or "-")
        if not ordinary:
            check_spelling(self.template, "the template")
        holes = self.template.count("{}")
        if holes != 1:
            raise UsageError(
                f"the template {self.template!r} has {holes} places for the subject; write exactly one '{{}}' where "
                f"{self.subject!r} belongs"
            )
        if ordinary and self.join is None and self.turn is None:
            return
        check_subject(self.subject, self.template)
        check_join(self.join, self.answer)
        check_text(self.text, "the sentence", join=self.join)
        if self.answer is not None:
            check_answer(self.answer, f"the answer to {self.text!r}", "give a word, or None for the model's own answer")
        if self.foil is not None:
            check_join(self.join, self.foil)
            check_answer(self.foil, f"the foil of {self.text!r}", "give a word, or None to have it chosen")
        check_spelling(self.id, f"the id of {self.text!r}")
        check_spelling(self.relation, f"the relation of {self.text!r}")
        object.__setattr__(self, "turn", _checked(self.turn, self.template))

    @property
    def text(self) -> str:
        """The sentence with the subject in its place."""
        return self.template.replace("{}", self.subject)

    @property
    def name(self) -> str:
        """The name used in tables: the id, or the sentence (of a chat the user's words) where there is no id."""
        if self.id or self.turn is None:
            return self.id or self.text
        return self.template[slice(*self.turn)].replace("{}", self.subject)

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

    def in_context(self, context: str) -> Prompt:
        """The same sentence, without its answer, among other words ("By the way, {}").

        They go into the user's turn of a chat, and behind the BOS token of a text that brings one.
        """
        start, end = self.turn or sentence_in(self.template)
        return self.reworded(context.replace("{}", self.template[start:end]))

    def framed(self, frame: str) -> Prompt:
        """The same prompt, answer and name with it, among other words ("New fact: ... {}"); see `in_context`."""
        start, end = self.turn or sentence_in(self.template)
        text, turn = _exchanged(self.template, self.turn, frame.replace("{}", self.template[start:end]))
        return replace(self, template=text, turn=turn, id=self.name)

    def reworded(self, template: str) -> Prompt:
        """Another sentence about the subject, without an answer, in the place of this one (see `in_context`)."""
        text, turn = _exchanged(self.template, self.turn, template)
        return Prompt(text, self.subject, join=self.join, turn=turn)

    @staticmethod
    def find(
        text: str,
        subject: str,
        answer: str | None = None,
        *,
        id: str = "",
        relation: str = "",
        join: str | None = None,
        foil: str | None = None,
    ) -> Prompt:
        """A prompt from a finished sentence, the subject found in it as whole words.

        Raises:
            UsageError: the subject does not stand in the text, stands there only inside a longer word ("Ann" in
                "Annabel"), or stands there more than once (give a template instead).
        """
        check_spelling(text)
        check_spelling(subject, "the subject")
        start, end = find_subject(text, subject)
        if "{}" in text:
            raise UsageError(f"the text {text!r} already holds '{{}}'; use Prompt(template, subject) instead")
        return Prompt(text[:start] + "{}" + text[end:], text[start:end], answer, id, relation, join, foil=foil)

    @staticmethod
    def from_messages(
        messages: Sequence[Message],
        subject: str,
        answer: str | None = None,
        *,
        tokenizer: Any,
        id: str = "",
        relation: str = "",
        foil: str | None = None,
    ) -> Prompt:
        """A prompt from the messages of a chat, as the tokenizer's chat template renders them.

        The subject's place is known to the character, and the answer stands where the template puts a reply.

        Args:
            messages: {"role": ..., "content": ...}, oldest first.  One of them holds `{}` where the subject goes, or
                the subject itself, once and as whole words.  Where the last one is the assistant's, it is the beginning
                of the reply that the answer goes on with.
            subject: the words that fill it.
            answer: the expected reply, or its beginning.
            tokenizer: whose template is used; a loaded model will do.
            id, relation, foil: as of a prompt.

        Raises:
            UsageError: a tokenizer without a chat template, or messages that it refuses or changes; a subject that is
                not there, or several times.
        """
        said = check_messages(messages)
        at = _message_with(said, subject)
        if "{}" not in said[at]["content"]:
            start, end = find_subject(said[at]["content"], subject)
            said[at]["content"] = said[at]["content"][:start] + "{}" + said[at]["content"][end:]
        own = getattr(tokenizer, "tokenizer", tokenizer)
        made = rendered(own, said, at)
        turn = (len(made.before), len(made.before) + len(said[at]["content"]))
        return Prompt(
            made.before + said[at]["content"] + made.after, subject, answer, id, relation, made.join,
            turn if said[at]["role"] == "user" else None, foil,
        )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A finished sentence to be completed, and the completion expected; nothing is known of its subject.

    Args:
        text: the sentence.
        answer: the expected completion.
        join: what stands between them; None: a space where one belongs.
        turn: of a rendered chat, where the user's own words stand.
        aliases: other names of the answer, which are as right where free text is looked at.

    Raises:
        UsageError: as of `Prompt`; aliases of no answer.
    """

    text: str
    answer: str | None = None
    join: str | None = None
    turn: Turn | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        answer = "-" if self.answer is None else self.answer
        if self.aliases != ():
            hint = 'give texts, such as ("NYC", "New York City"), beside an answer'
            object.__setattr__(self, "aliases", several(self.aliases, str, "aliases", hint))
            for alias in self.aliases:
                check_answer(alias, f"an alias of the answer to {self.text!r}", "give a word, or leave it out")
            if self.answer is None:
                raise UsageError(f"the question {self.text!r} has aliases and no answer; {hint}")
        if self.join is None and self.turn is None and is_ordinary(self.text, answer):
            return
        check_join(self.join, self.answer)
        check_text(self.text, "the question", join=self.join)
        if self.answer is not None:
            check_answer(self.answer, f"the answer to {self.text!r}", "give a word, or None for none")
        object.__setattr__(self, "turn", _checked(self.turn, self.text))

    @staticmethod
    def of(prompt: Prompt) -> Question:
        """The sentence of a prompt, with its answer."""
        if prompt.turn is None:
            return Question(prompt.text, prompt.answer, prompt.join)
        start, end = (_filled(place, prompt) for place in prompt.turn)
        return Question(prompt.text, prompt.answer, prompt.join, (start, end))

    @property
    def words(self) -> str:
        """The sentence without what tokenizers add: of a chat, the user's words, else what follows a BOS token."""
        return self.text[slice(*(self.turn or sentence_in(self.text)))]

    def framed(self, frame: str) -> Question:
        """The same question among other words; see `Prompt.in_context`."""
        text, turn = _exchanged(self.text, self.turn, frame.replace("{}", self.words))
        return replace(self, text=text, turn=turn)

    def after(self, sentence: str) -> Question:
        """The same question behind another sentence; see `Prompt.in_context`."""
        text, turn = _exchanged(self.text, self.turn, f"{sentence} {self.words}")
        return replace(self, text=text, turn=turn)


@dataclass(frozen=True)
class Portability:
    """What follows from an edit: questions, each with the answer that holds once it is made (Yao et al. 2023).

    Args:
        subject_replacement: the edited statement about the subject under another name; answer: the new object.
        reversed_relation: asked from the new object; answer: the subject.
        one_hop: asked about the subject, one step or more beyond the new object.
        logical: of other relations, which change with the edited one (KnowEdit's and RippleEdits' logical
            generalization).
    """

    subject_replacement: tuple[Question, ...] = ()
    reversed_relation: tuple[Question, ...] = ()
    one_hop: tuple[Question, ...] = ()
    logical: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        for name, asked in vars(self).items():
            object.__setattr__(self, name, several(asked, Question, name, "Question(text, answer)"))

    def each(self, change: Callable[[Question], Question]) -> Portability:
        """The same with every question changed."""
        return Portability(**{name: tuple(map(change, asked)) for name, asked in vars(self).items()})

    def __or__(self, other: Portability) -> Portability:
        """These questions, and the other's for the kinds of which there are none."""
        return Portability(**{name: asked or getattr(other, name) for name, asked in vars(self).items()})


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
    - `generation`: beginnings for free text about the subject;
    - `portability`: what follows from the edit, with the answers that hold once it is made.

    `known` says whether a given model completes `prompt` correctly, None where nobody has looked.

    Raises:
        UsageError: a `target_new` or a text that a prompt would refuse; something that is no prompt, no questions or no
            texts in their places.
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
    portability: Portability = Portability()
    known: bool | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, Prompt):
            raise UsageError(f"{self.prompt!r:.80} is no prompt; give Prompt(template, subject, answer)")
        if self.target_new is not None and not is_ordinary(self.target_new):
            name = f"the target_new of {self.prompt.text!r}"
            check_answer(self.target_new, name, "give the object that an edit writes, or None")
        check_join(self.prompt.join, self.target_new)
        kinds: dict[str, tuple[type[Any], str]] = {
            **dict.fromkeys(QUESTIONS, (Question, "Question(text, answer)")),
            "same_subject": (Prompt, "Prompt(template, subject, answer)"),
            "generation": (str, "texts"),
        }
        if not isinstance(self.portability, Portability):
            raise UsageError(f"portability is {self.portability!r:.80}; give Portability(one_hop=(Question(...),))")
        for name, (kind, hint) in kinds.items():
            given = getattr(self, name)
            if type(given) is not tuple or not all(isinstance(one, kind) for one in given):
                object.__setattr__(self, name, several(given, kind, name, hint))
        for text in self.generation:
            if not is_ordinary(text):
                check_text(text, "a text of generation")

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


QUESTIONS = ("paraphrases", "neighbourhood", "one_hop", "reverse", "attribute")
"""The fields of a `Fact` that hold questions."""


Prompts = Prompt | Fact | Iterable[Prompt | Fact]
"""What is asked, in one or several prompts; a fact brings its own."""


def prompt_of(given: object) -> Prompt:
    """The prompt of whatever brings one: a prompt, or something with a prompt (a fact).

    Raises:
        UsageError: something else.
    """
    found = given if isinstance(given, Prompt) else getattr(given, "prompt", None)
    if not isinstance(found, Prompt):
        raise UsageError(f"{given!r:.80} is no prompt; give Prompt(template, subject) or Prompt.find(text, subject)")
    return found


def prompts_of(given: object) -> list[Prompt]:
    """Prompts from whatever brings them: one or several, each a prompt or something with a prompt (a fact).

    Raises:
        UsageError: something else among them.
    """
    if isinstance(given, str) or not is_several(given):
        return [prompt_of(given)]
    several_given: Any = given
    return [prompt_of(one) for one in several_given]


Facts = Fact | Iterable[Fact]
"""Facts, one or several."""


def facts_of(given: object) -> list[Fact]:
    """Facts, one or several.

    Raises:
        UsageError: something else among them.
    """
    return list(several(given, Fact, "facts", "Fact(prompt, target_new), or read a file of them with read_facts"))


def _message_with(messages: Sequence[Message], subject: str) -> int:
    """The number of the message in which the subject stands."""
    check_spelling(subject, "the subject")
    holes = [i for i, message in enumerate(messages) if "{}" in message["content"]]
    if not holes and subject.strip():
        holes = [i for i, message in enumerate(messages) if occurrences(message["content"], subject)[0]]
    if len(holes) != 1:
        raise UsageError(
            f"{len(holes) or 'none'} of the messages hold{'s' * (not holes)} a place for the subject {subject!r}; "
            "write exactly one '{}' where it belongs"
        )
    return holes[0]


def _checked(turn: object, text: str) -> Turn | None:
    """A turn within its text."""
    if turn is None:
        return None
    if isinstance(turn, (tuple, list)) and len(turn) == 2 and all(type(place) is int for place in turn):
        start, end = turn
        if 0 <= start <= end <= len(text):
            return start, end
    raise UsageError(f"turn={turn!r} is no place in {text[:60]!r}; give (start, end) in characters, or None")


def _exchanged(text: str, turn: Turn | None, words: str) -> tuple[str, Turn | None]:
    """The text with other words in the place of its own."""
    start, end = turn or sentence_in(text)
    return text[:start] + words + text[end:], None if turn is None else (start, start + len(words))


def _filled(place: int, prompt: Prompt) -> int:
    """A place of the template as one of the text."""
    return place if place <= prompt.template.index("{}") else place + len(prompt.subject) - len("{}")

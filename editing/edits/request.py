"""What an edit is asked to do: after this sentence, say that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt
from ...facts.words import check_answer, check_join
from ...given import is_several


@dataclass(frozen=True)
class EditRequest:
    """Make the model complete `prompt` with `target`.

    Args:
        prompt: template and subject; its answer, where known, is the object that is to be replaced.
        target: the new object; it joins the sentence as an answer does (no leading space needed).

    Raises:
        UsageError: no prompt; a target that is no text, empty, has blanks around it, or is the prompt's answer already.
    """

    prompt: Prompt
    target: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", EditRequest._prompt(self.prompt))
        check_answer(self.target, f"the target of the edit {self.prompt.text!r}", "give the new object")
        check_join(self.prompt.join, self.target)
        if self.prompt.answer is not None and self.prompt.answer.strip() == self.target.strip():
            raise UsageError(f"{self.prompt.text!r} is answered by {self.target!r} already; there is nothing to edit")

    @staticmethod
    def of(asked: Asked, target: str | None = None) -> EditRequest:
        """A request from what is at hand.

        Args:
            asked: a request (as it is), a fact (its `target_new` unless `target` says otherwise) or a prompt.
            target: the new object.

        Raises:
            UsageError: nothing says what the new object is, or something that is none of these.
        """
        if isinstance(asked, EditRequest):
            return asked if target is None else EditRequest(asked.prompt, target)
        prompt = EditRequest._prompt(asked)
        wanted = asked.target_new if target is None and isinstance(asked, Fact) else target
        if wanted is None:
            raise UsageError(f"nothing says what {prompt.text!r} should be completed with; pass target=...")
        return EditRequest(prompt, wanted)

    @staticmethod
    def all_of(asked: Asked | Iterable[Asked], editor: str = "the editor") -> list[EditRequest]:
        """Requests from what is at hand, one or several.

        Args:
            asked: see `of`.
            editor: whom they are for, in the message.

        Raises:
            UsageError: none, or what `of` refuses.
        """
        one: Any = asked
        given: Iterable[Any] = one if is_several(one) and not isinstance(one, str) else [one]
        found = [EditRequest.of(one) for one in given]
        if not found:
            raise UsageError(f"{editor} was given no request; give at least one")
        return found

    @staticmethod
    def _prompt(asked: object) -> Prompt:
        if isinstance(asked, Fact):
            return asked.prompt
        if not isinstance(asked, Prompt):
            raise UsageError(
                f"{asked!r:.80} is no request; give EditRequest(prompt, target), or a Fact with its target_new"
            )
        return asked

    @property
    def subject(self) -> str:
        """The subject of the prompt."""
        return self.prompt.subject


Asked = EditRequest | Fact | Prompt
"""What an edit can be asked from: a fact brings its target_new."""

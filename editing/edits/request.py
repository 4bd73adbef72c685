"""What an edit is asked to do: after this sentence, say that."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt


@dataclass(frozen=True)
class EditRequest:
    """Make the model complete `prompt` with `target`.

    Args:
        prompt: template and subject; its answer, where known, is the object that is to be replaced.
        target: the new object; how it joins the sentence is the tokenizer's business (no leading space
            needed).

    Raises:
        UsageError: an empty target, or one that is the prompt's answer already.
    """

    prompt: Prompt
    target: str

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise UsageError(f"the target of the edit {self.prompt.text!r} is empty; give the new object")
        if self.prompt.answer is not None and self.prompt.answer.strip() == self.target.strip():
            raise UsageError(f"{self.prompt.text!r} is answered by {self.target!r} already; there is nothing to edit")

    @staticmethod
    def of(asked: EditRequest | Fact | Prompt, target: str | None = None) -> EditRequest:
        """A request from what is at hand.

        Args:
            asked: a request (as it is), a fact (its `target_new` unless `target` says otherwise) or a prompt.
            target: the new object.

        Raises:
            UsageError: nothing says what the new object is.
        """
        if isinstance(asked, EditRequest):
            return asked if target is None else EditRequest(asked.prompt, target)
        prompt = asked.prompt if isinstance(asked, Fact) else asked
        wanted = target if target is not None or isinstance(asked, Prompt) else asked.target_new
        if wanted is None:
            raise UsageError(f"nothing says what {prompt.text!r} should be completed with; pass target=...")
        return EditRequest(prompt, wanted)

    @property
    def subject(self) -> str:
        """The subject of the prompt."""
        return self.prompt.subject

"""Positions as roles, resolved per prompt.

`subject[-1]` is the last subject token of whatever prompt is run; nothing in a program names a token index unless the
user writes `at(3)`.  `every` is an axis (one cell per token) and `here` the token where that axis stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...facts.spans import FIRST_SUBSEQUENT, FURTHER, LAST, TokenisedPrompt

_EVERY = "every"
_HERE = "here"
_AT = "at"


@dataclass(frozen=True)
class Position:
    """A set of tokens, by role.

    Args:
        role: a token role of `mechinterp.facts.spans`, "subject", "all", or one of the axis words "every" and "here".
        index: which of the tokens with that role, counted within them; None for all of them.
    """

    role: str
    index: int | tuple[int | None, int | None, int | None] | None = None

    def __getitem__(self, index: int | slice) -> Position:
        if self.role in (_EVERY, _HERE, _AT):
            raise UsageError(f"{self.role!r} cannot be indexed; use at(3) or subject[-1]")
        if self.index is not None:
            raise UsageError(f"{self} is already a choice among the {self.role!r} tokens; index {self.role!r} once")
        if isinstance(index, slice):
            return Position(self.role, (index.start, index.stop, index.step))
        return Position(self.role, index)

    def __str__(self) -> str:
        if self.index is None:
            return self.role
        if isinstance(self.index, int):
            return f"{self.role}({self.index})" if self.role == _AT else f"{self.role}[{self.index}]"
        start, stop, step = ("" if part is None else str(part) for part in self.index)
        return f"{self.role}[{start}:{stop}{':' + step if step else ''}]"

    @property
    def is_axis(self) -> bool:
        """Whether this stands for one cell per token."""
        return self.role == _EVERY

    def resolve(self, prompt: TokenisedPrompt, here: int | None = None) -> tuple[int, ...]:
        """Token indices in this prompt.

        Args:
            prompt: the tokenised prompt.
            here: the token at which the `every` axis stands, if there is one.

        Raises:
            UsageError: the prompt has no such token; `here` or `every` without an axis.
        """
        if self.role in (_EVERY, _HERE):
            if here is None:
                raise UsageError(
                    f"{self.role!r} is an axis and this call runs one cell; use trace(), or a token such as subject[-1]"
                )
            return (here,)
        if self.role == _AT:
            assert isinstance(self.index, int)
            if not -len(prompt) <= self.index < len(prompt):
                raise UsageError(
                    f"there is no token {self.index} in {prompt.prompt.text!r}, which has {len(prompt)} tokens"
                )
            return (self.index % len(prompt),)
        found = prompt.positions(self.role)
        if self.index is None:
            return found
        if isinstance(self.index, int):
            if not -len(found) <= self.index < len(found):
                raise UsageError(
                    f"{self} does not exist in {prompt.prompt.text!r}: {self.role!r} has {len(found)} tokens there"
                )
            return (found[self.index],)
        chosen = found[slice(*self.index)]
        if not chosen:
            raise UsageError(
                f"{self} selects nothing in {prompt.prompt.text!r}: {self.role!r} has {len(found)} tokens there"
            )
        return chosen


subject = Position("subject")
"""All tokens of the subject; `subject[-1]` is the last one."""
last = Position(LAST)
"""The last token of the prompt, where the answer is predicted."""
after_subject = Position(FIRST_SUBSEQUENT)
"""The first token after the subject."""
further = Position(FURTHER)
"""Tokens between the first subsequent one and the last one."""
everywhere = Position("all")
"""All tokens at once."""
every = Position(_EVERY)
"""An axis: one cell per token."""
here = Position(_HERE)
"""The token at which the `every` axis of the same program stands."""


def at(index: int) -> Position:
    """The token with this index; negative numbers count from the end."""
    return Position(_AT, index)

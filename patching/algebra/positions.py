"""Positions as roles, resolved per prompt.

`subject[-1]` is the last subject token of whatever prompt is run; nothing in a program names a token index unless the
user writes `at(3)`.  `every` is an axis (one cell per token) and `here` the token where that axis stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...facts.spans import FIRST_SUBSEQUENT, FURTHER, LAST, TokenisedPrompt
from ...given import Borders, Wholes, borders, one_or_more, wholes
from .documented import documented

_EVERY = "every"
_HERE = "here"
_AT = "at"


@dataclass(frozen=True)
class Position:
    """A set of tokens, by role.

    Args:
        role: a token role of `mechinterp.facts.spans`, "subject", "all", or one of the axis words "every" and "here".
        index: which of the tokens with that role, counted within them: one, or a slice as (start, stop, step); None for
            all of them.
        chosen: several of them by their numbers.
    """

    role: str
    index: int | Borders | None = None
    chosen: tuple[int, ...] = ()

    def __getitem__(self, index: Wholes | slice) -> Position:
        """Some of the tokens: a number, a slice, or several numbers (a list, a range, an array)."""
        if self.role in (_EVERY, _HERE, _AT):
            raise UsageError(f"{self.role!r} cannot be indexed; use at(3) or subject[-1]")
        if self.index is not None or self.chosen:
            raise UsageError(f"{self} is already a choice among the {self.role!r} tokens; index {self.role!r} once")
        return _choice(self.role, index)

    def __str__(self) -> str:
        brackets = "()" if self.role == _AT else "[]"
        if self.chosen:
            return f"{self.role}{brackets[0]}{', '.join(map(str, self.chosen))}{brackets[1]}"
        if self.index is None:
            return self.role
        if isinstance(self.index, int):
            return f"{self.role}{brackets[0]}{self.index}{brackets[1]}"
        start, stop, step = ("" if part is None else str(part) for part in self.index)
        return f"{self.role}[{start}:{stop}{':' + step if step else ''}]"

    @property
    def is_axis(self) -> bool:
        """Whether this stands for one cell per token."""
        return self.role == _EVERY

    @property
    def follows_axis(self) -> bool:
        """Whether this is the token at which an axis stands."""
        return self.role in (_EVERY, _HERE)

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
        found = tuple(range(len(prompt))) if self.role == _AT else prompt.positions(self.role)
        if isinstance(self.index, tuple):
            picked = found[slice(*self.index)]
            if not picked:
                raise UsageError(
                    f"{self} selects nothing in {prompt.prompt.text!r}: {self.role!r} has {len(found)} tokens there"
                )
            return picked
        numbers = self.chosen if self.index is None else (self.index,)
        if not numbers:
            return found
        for number in numbers:
            if not -len(found) <= number < len(found):
                raise UsageError(
                    f"there is no token {number} in {prompt.prompt.text!r}, which has {len(found)} tokens"
                    if self.role == _AT
                    else f"{self} does not exist in {prompt.prompt.text!r}: {self.role!r} has {len(found)} tokens there"
                )
        return tuple(sorted({found[number] for number in numbers}))


subject = documented(Position("subject"), "All tokens of the subject; subject[-1] is the last one.")
last = documented(Position(LAST), "The last token of the prompt, where the answer is predicted.")
after_subject = documented(Position(FIRST_SUBSEQUENT), "The first token after the subject.")
further = documented(Position(FURTHER), "Tokens between the first subsequent one and the last one.")
everywhere = documented(Position("all"), "All tokens at once; everywhere[0:2] are the first two.")
every = documented(Position(_EVERY), "An axis: one cell per token.")
here = documented(Position(_HERE), "The token at which the `every` axis of the same program stands.")


def at(*indices: Wholes) -> Position:
    """The token with this index, or those with these; negative numbers count from the end.

    Args:
        indices: at(3), at(0, 1) or at([0, 1]).

    Raises:
        UsageError: no index, or something that is no whole number.
    """
    if not indices:
        raise UsageError("at() names no token; write at(3), or everywhere for all of them")
    return _choice(_AT, one_or_more(indices))


def _choice(role: str, index: Wholes | slice) -> Position:
    if isinstance(index, slice):
        return Position(role, borders(index, role))
    numbers = wholes(index, f"a token of {role}")
    if not numbers:
        raise UsageError(f"no token of {role} is named; give at least one")
    return Position(role, numbers[0]) if len(numbers) == 1 else Position(role, chosen=numbers)


NAMED = ("subject", "subject[-1]", "last", "after_subject", "further", "everywhere", "every", "here")
"""What can be written for a position, by the names of this package."""

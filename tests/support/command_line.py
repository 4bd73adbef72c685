"""The command line as a user calls it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mechinterp.cli import main

PROMPT = ("--prompt", "{} is a citizen of", "--subject", "Viktor Stelrick")


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of one call; unpacked, the code and both streams with their blanks folded."""

    code: int
    printed: str
    complained: str

    @property
    def out(self) -> str:
        return " ".join(self.printed.split())

    @property
    def err(self) -> str:
        return " ".join(self.complained.split())

    @property
    def whole(self) -> str:
        """Both streams as they were written."""
        return self.printed + self.complained

    def __iter__(self) -> Iterator[int | str]:
        return iter((self.code, self.out, self.err))


Call = Callable[..., Outcome]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """What calls `mechinterp` with some words."""

    def run(*words: str | int | Path) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mechinterp", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Outcome(int(left.value.code or 0), captured.out, captured.err)

    return run

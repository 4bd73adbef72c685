"""Processes side by side, as torchrun starts them, without the seconds that each would need to import PyTorch.

They are forks of the test process. What is torchrun's own (that it starts Python afresh, reads `-m mechinterp`, names
the process at fault) is tested with torchrun itself, in test_trace_ranks.py and test_ranks.py.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mechinterp.cli import main

_FORK = multiprocessing.get_context("fork")
LIMIT = 120.0
"""Seconds after which processes that are left are ended."""


@dataclass(frozen=True)
class Ended:
    """What became of the processes.

    Args:
        codes: how each ended; negative: the signal that killed it.
        stdout: what all of them wrote, one after the other.
        stderr: likewise.
    """

    codes: tuple[int, ...]
    stdout: str
    stderr: str

    @property
    def returncode(self) -> int:
        """0 if all ended well."""
        return next((code for code in self.codes if code), 0)


def side_by_side(work: Callable[[], object], world: int = 2) -> Ended:
    """Do some work in so many processes; one alone is told nothing of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [_FORK.Process(target=_child, args=(work, rank, world, port, folder)) for rank in range(world)]
        for child in children:
            child.start()
        for child in children:
            child.join(LIMIT)
        for child in children:
            child.kill()
            child.join()
        written = ["".join((folder / f"{rank}.{kind}").read_text() for rank in range(world)) for kind in ("out", "err")]
    return Ended(tuple(int(child.exitcode or 0) for child in children), *written)


def command(*words: str | Path) -> Callable[[], object]:
    """`mechinterp` with some words, as work."""

    def work() -> None:
        sys.argv = ["mechinterp", *map(str, words)]
        main()

    return work


def script(path: Path, *words: str | Path) -> Callable[[], object]:
    """A script with some words, as work."""

    def work() -> None:
        sys.argv = [str(path), *map(str, words)]
        runpy.run_path(str(path), run_name="__main__")

    return work


def _child(work: Callable[[], object], rank: int, world: int, port: int, folder: Path) -> None:
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in place.items()})
    work()

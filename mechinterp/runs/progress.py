"""How far long work has come, on standard error so that results can be piped: a bar, or in a log a line a minute.

A log file (nohup, a scheduler, CI) has no bar: there a line says what was done, how fast, and how long the rest takes,
whether anything was finished in that minute or not.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..errors import UsageError
from .terminal import visible

EVERY = "MECHINTERP_LOG_SECONDS"
"""The environment variable that says how many seconds lie between two lines."""

_MINUTE = 60.0
_INSTANT = 0.01
"""Seconds: steps that come faster at the beginning were done by an earlier run, and say nothing of the rate."""


class _Rate(ProgressColumn):
    """Steps per second, or per minute where they are few."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed) if task.speed else "")


@contextmanager
def progress_bar(description: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left, or lines in a log; yields a function that advances it.

    Args:
        description: what is being done, with its unit ("tracing prompts").
        total: how many steps; None when unknown.
        shown: False keeps quiet.

    Raises:
        UsageError: the environment variable `EVERY` holds no number above 0.
    """
    console = Console(stderr=True, force_jupyter=False)
    if shown and not console.is_terminal:
        with Lines(description, total, _seconds()).printed() as lines:
            yield lines.advance
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not shown) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps: progress.advance(task, steps)


class Lines:
    """Progress as lines.

    Args:
        description: what is being done.
        total: how many steps; None when unknown.
        every: seconds from one line to the next.
        clock: gives seconds.
    """

    def __init__(
        self, description: str, total: int | None, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._description, self._total, self._every, self._clock = visible(description), total, every, clock
        self._began = self._from = self._last = clock()
        self._done = self._found = 0
        self._at_work = False

    def advance(self, steps: int) -> None:
        """So many steps more are done."""
        now = self._clock()
        if not self._at_work and now - self._last < _INSTANT:
            self._found, self._from = self._found + steps, now
        else:
            self._at_work = True
        self._done, self._last = self._done + steps, now

    def line(self, *, ended: bool = False) -> str:
        """What there is to say now."""
        now = self._clock()
        done = f"{self._done:,}" + (f" of {self._total:,}" if self._total is not None else "")
        parts, new = [f"{self._description}: {done}"], self._done - self._found
        speed = new / (now - self._from) if new and now > self._from else 0.0
        if speed:
            parts.append(_rate(speed))
        if ended:
            parts.append(f"took {_duration(now - self._began)}")
        elif speed and self._total is not None:
            parts.append(f"{_duration(max(0, self._total - self._done) / speed)} left")
        else:
            parts.append(f"for {_duration(now - self._began)}")
        return ", ".join(parts)

    @contextmanager
    def printed(self) -> Iterator[Lines]:
        """Within the block lines are printed on standard error, and a last one at its end."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(self._every):
                print(self.line(), file=sys.stderr, flush=True)

        thread = threading.Thread(target=run, name="mechinterp progress", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            print(self.line(ended=True), file=sys.stderr, flush=True)


def _seconds() -> float:
    given = os.environ.get(EVERY, "")
    try:
        seconds = float(given) if given else _MINUTE
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{EVERY} is {given!r}; give the seconds between two lines of progress, such as 60")
    return seconds


def _rate(speed: float) -> str:
    if speed >= 10_000:
        return f"{speed:,.0f}/s"
    return f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min" if 60 * speed >= 1 else f"{3600 * speed:.1f}/h"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

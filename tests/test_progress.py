"""Lines of progress in a log: a line a minute, with rate and rest, and what an earlier run did is no rate."""

from __future__ import annotations

import time

import pytest

from mechinterp.errors import UsageError
from mechinterp.runs.progress import EVERY, Lines, progress_bar


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_how_much_is_done_how_fast_and_what_is_left() -> None:
    clock = Clock()
    lines = Lines("tracing prompts", 100, 60, clock)
    clock.now += 60
    assert lines.line() == "tracing prompts: 0 of 100, for 60 s"
    lines.advance(30)
    assert lines.line() == "tracing prompts: 30 of 100, 30.0/min, 2 min left"
    clock.now += 240
    lines.advance(20)
    assert lines.line() == "tracing prompts: 50 of 100, 10.0/min, 5 min left"
    clock.now += 9 * 3600
    assert lines.line() == "tracing prompts: 50 of 100, 5.5/h, 9.1 h left"
    assert lines.line(ended=True) == "tracing prompts: 50 of 100, 5.5/h, took 9.1 h"


def test_what_an_earlier_run_did_counts_as_done_and_not_as_fast() -> None:
    clock = Clock()
    lines = Lines("tokens", 1_000_000, 60, clock)
    lines.advance(300_000)
    clock.now += 0.001
    lines.advance(200_000)
    clock.now += 100
    lines.advance(25_000)
    assert lines.line() == "tokens: 525,000 of 1,000,000, 250.0/s, 32 min left"


def test_without_a_total_nothing_is_said_of_the_rest() -> None:
    clock = Clock()
    lines = Lines("to\x1bkens", None, 60, clock)
    clock.now += 10
    lines.advance(50_000)
    clock.now += 10
    assert lines.line() == "to\\x1bkens: 50,000, 2500.0/s, for 20 s"


def test_lines_come_while_nothing_is_finished_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(EVERY, "0.05")
    with progress_bar("steps", 4) as advance:
        time.sleep(0.3)
        advance(3)
    *during, last = capsys.readouterr().err.splitlines()
    assert len(during) >= 2
    assert all(line.startswith("steps: 0 of 4, for 0 s") for line in during[:1])
    assert last.startswith("steps: 3 of 4, ")
    assert last.endswith("took 0 s")


def test_quiet_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("steps", 4, shown=False) as advance:
        advance(4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["0", "-1", "soon", "inf", "nan"])
def test_an_interval_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(EVERY, given)
    with pytest.raises(UsageError, match=f"MECHINTERP_LOG_SECONDS is '{given}'"), progress_bar("steps", 4):
        pass


def test_a_long_command_without_a_terminal_leaves_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mechinterp import atlas
    from mechinterp.editing import collect_moments
    from mechinterp.models.loading import load

    monkeypatch.setenv(EVERY, "0.02")
    collect_moments(load("atlas"), list(atlas.corpus())[:200], [0], max_tokens=1500, batch_tokens=256)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokens at layer 0: ")]
    assert len(lines) >= 2
    assert lines[-1].startswith("tokens at layer 0: 1,500 of 1,500, ")

"""torchrun: several processes trace into one run directory, and it is the run of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.processes import command, script, side_by_side

import mechinterp as mi
from mechinterp import UsageError
from mechinterp.cli import choosing
from mechinterp.patching.traces import tracing
from mechinterp.runs.ranks import Ranks

WORDS = ["trace", "atlas", "atlas", "--limit", "10", "--draws", "2", "--kinds", "mlp", "--severed", "", "-q"]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def alone() -> mi.Table:
    facts = choosing.choose_facts("atlas", 10, None, 0)
    return mi.trace(mi.load("atlas"), facts, draws=2, kinds=["mlp"], severed=[], progress=False)


def test_two_processes_make_the_run_of_one(tmp_path: Path, alone: mi.Table) -> None:
    done = torchrun("-m", "mechinterp", *WORDS, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    table = mi.Table.load(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(table.frame, alone.frame)
    assert table.meta == alone.meta
    assert done.stdout.count("written to") == 1  # only the first process reports


DYING = """
import os, signal
from mechinterp.patching.traces import tracing
from mechinterp.cli import main
from mechinterp.runs import ranks
ranks._GRACE = 0
done, calls = tracing._trace_group, []
def dying(*arguments):
    if os.environ["RANK"] == "1" and len(calls) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return done(*arguments)
tracing._trace_group = dying
main()
"""


def test_a_process_that_dies_loses_nobody_elses_work(tmp_path: Path, alone: mi.Table) -> None:
    path, out = tmp_path / "dying.py", tmp_path / "run"
    path.write_text(DYING, encoding="utf-8")
    died = side_by_side(script(path, *WORDS, "--out", out))
    assert died.codes == (1, -signal.SIGKILL), died.stderr
    assert "process 0 of 2 waited for the others, but one has stopped" in died.stderr
    assert not (out / "table.parquet").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.parquet")}
    assert len(kept) >= 2  # the dead one's first part, and what the other had finished
    assert side_by_side(command(*WORDS, "--out", out)).returncode == 0
    pd.testing.assert_frame_equal(mi.Table.load(out / "table.parquet").frame, alone.frame)
    assert all((out / "shards" / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_several_processes_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    two = replace(Ranks.current(), world=2)
    monkeypatch.setattr(tracing, "ranks", lambda device: nullcontext(two))
    with pytest.raises(UsageError, match="several processes trace into one run directory; give out= "):
        mi.trace(mi.load("atlas"), mi.atlas.known_facts()[:2], progress=False)

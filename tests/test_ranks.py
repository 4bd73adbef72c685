"""Processes side by side: shares, sums and meetings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.processes import Ended, script, side_by_side

from mechinterp.errors import UsageError
from mechinterp.runs.ranks import Ranks, ranks

Launch = Callable[[str], Ended]


def written(source: str, folder: Path) -> Path:
    path = folder / "script.py"
    path.write_text("import sys, json\nfrom pathlib import Path\nout = Path(sys.argv[1])\n" + source)
    return path


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run a script in two processes; it is told a folder."""
    return lambda source: side_by_side(script(written(source, tmp_path), tmp_path))


def test_processes_share_add_and_gather(launch: Launch, tmp_path: Path) -> None:
    """In groups one after another and one inside another; and all leave a block together."""
    done = launch("""
import time, torch, torch.distributed as dist
from mechinterp.runs.ranks import Ranks, ranks
results = []
for turn in range(2):
    assert not dist.is_initialized()
    with ranks() as r:
        assert Ranks.current() == r
        total = torch.tensor([[1.0, 2.0**-40], [r.rank, turn]], dtype=torch.float64)
        r.sum_(total)
        with ranks() as inner:
            inner.barrier()
        assert dist.is_initialized()
        r.barrier()
        gathered = r.gather({"rank": r.rank})
        if not r.is_first:
            time.sleep(0.5)
            (out / f"slow {turn}").touch()
        results.append([r.world, r.is_first, list(r.share(5)), total.tolist(), gathered])
    assert (out / f"slow {turn}").exists()
(out / f"{r.rank}.json").write_text(json.dumps(results))
""")
    assert done.returncode == 0, done.stderr
    for rank, share in ((0, [0, 2, 4]), (1, [1, 3])):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for turn, one in enumerate(found):
            sums = [[2.0, 2.0**-39], [1.0, 2.0 * turn]]
            assert one == [2, rank == 0, share, sums, [{"rank": 0}, {"rank": 1}]]


def test_the_error_of_one_process_is_seen(tmp_path: Path) -> None:
    """In a real launch by torchrun."""
    source = """
from mechinterp.errors import UsageError
from mechinterp.runs.ranks import ranks
with ranks() as r:
    if r.rank == 1:
        raise UsageError("the fact of process 1 is bad")
    r.barrier()
"""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command, str(written(source, tmp_path)), str(tmp_path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "UsageError: the fact of process 1 is bad" in done.stderr
    assert "waited for the others" not in done.stderr  # torchrun ended process 0, and names the one at fault
    assert "rank      : 1" in done.stderr.split("Root Cause")[1]


def test_who_waits_for_a_process_that_has_stopped_says_so(launch: Launch, tmp_path: Path) -> None:
    done = launch("""
import os
import mechinterp.runs.ranks
from mechinterp.errors import MechinterpError
mechinterp.runs.ranks._GRACE = 0
try:
    with mechinterp.runs.ranks.ranks() as r:
        if r.rank == 1:
            os._exit(0)  # as if it had done its work
        r.barrier()
except MechinterpError as error:
    (out / "said").write_text(str(error))
""")
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text()
    assert said.startswith("process 0 of 2 waited for the others, but one has stopped or took too long; its own")


def test_a_process_that_never_comes_is_waited_for_as_long_as_asked(launch: Launch, tmp_path: Path) -> None:
    done = launch("""
import time
from datetime import timedelta
import mechinterp.runs.ranks
from mechinterp.errors import MechinterpError
from mechinterp.runs.ranks import Ranks, ranks
mechinterp.runs.ranks._GRACE = 0
if Ranks.current().is_first:
    started = time.monotonic()
    try:
        with ranks(timeout=timedelta(seconds=2)):
            pass
    except MechinterpError as error:
        (out / "said").write_text(f"{time.monotonic() - started} {error}")
""")
    assert done.returncode == 0, done.stderr
    seconds, said = (tmp_path / "said").read_text().split(" ", 1)
    assert 1 < float(seconds) < 30
    assert said.startswith("process 0 of 2 waited for the others")


def test_alone_nothing_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks("cuda") as r:
        assert r == Ranks() == Ranks.current()
        assert r.alone
        assert r.is_first
        assert not torch.distributed.is_initialized()
        tensor = torch.ones(2)
        r.sum_(tensor)
        r.barrier()
        assert tensor.tolist() == [1, 1]
        assert r.gather("x") == ["x"]
        assert [r.device(asked) for asked in ("cuda", "cpu", None)] == ["cuda", "cpu", None]


@given(world=st.integers(1, 9), units=st.integers(0, 50))
def test_every_unit_is_shared_out_once(world: int, units: int) -> None:
    shares = [Ranks(rank, world).share(units) for rank in range(world)]
    assert sorted(unit for share in shares for unit in share) == list(range(units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Ranks(rank, 4, rank % 2).device("cuda") for rank in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert Ranks(1, 2, 1).device("cpu") == "cpu"
    assert Ranks(1, 2, 1).device(None) is None
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own: there are 2"):
        Ranks(2, 3, 2).device("cuda")


def test_half_an_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"):
        Ranks.current()
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError, match="must be whole numbers: .*'x'"):
        Ranks.current()

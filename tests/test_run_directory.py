"""Run directories: killed at any moment and started again, a run ends with the rows of an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.zoo import sentence_model

from mechinterp import Model, Prompt, Table, patching, trace
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.patching import Interrupted
from mechinterp.patching.traces import planning, tracing

KILLS = 30
SUBJECTS = ("ada", "bo", "gus")


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "GROUP", 1)


def prompts(count: int = 4) -> list[Prompt]:
    return [Prompt("{} was born in", "Ada Stone", "Lund", id=f"p{index}") for index in range(count)]


def traced(model: Model, out: Path | None, count: int = 4, **options: Any) -> Table:
    return trace(model, prompts(count), draws=2, window=2, out=out, progress=False, **options)


def same(one: Table, other: Table) -> None:
    pd.testing.assert_frame_equal(one.frame, other.frame)
    assert one.meta == other.meta


def stop_after(monkeypatch: pytest.MonkeyPatch, parts: int, error: BaseException) -> None:
    done, calls = tracing._trace_group, []

    def group(*arguments: Any) -> Any:
        if len(calls) == parts:
            raise error
        calls.append(1)
        return done(*arguments)

    monkeypatch.setattr(tracing, "_trace_group", group)


def test_thirty_kills_lose_no_row_and_double_none(model: Model, tmp_path: Path) -> None:
    whole = traced(model, None)
    generator, fork = random.Random(0), multiprocessing.get_context("fork")
    kills = runs = 0
    while kills < KILLS or runs == 0:
        out = tmp_path / str(runs)
        while not (out / "table.parquet").exists():
            child = fork.Process(target=traced, args=(model, out))
            child.start()
            time.sleep(generator.uniform(0.0, 1.0) if kills < KILLS else 0)
            if kills < KILLS and child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            child.join()
        runs += 1
        same(Table.load(out / "table.parquet"), whole)
        same(traced(model, out), whole)  # finished, it is only read
        assert not list(out.rglob("*.part"))


def test_a_run_in_a_folder_equals_one_in_memory(model: Model, tmp_path: Path) -> None:
    table = traced(model, tmp_path / "deep" / "run")
    same(table, traced(model, None))
    same(Table.load(tmp_path / "deep" / "run" / "table.parquet"), table)


def test_finished_parts_are_not_computed_again(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = traced(model, tmp_path)
    (tmp_path / "table.parquet").unlink()
    (tmp_path / "shards" / "00001.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "shards" / "00003.parquet").unlink()
    (tmp_path / "shards" / ".00003.parquet.1.part").write_bytes(b"half")
    done, groups = tracing._trace_group, []
    monkeypatch.setattr(tracing, "_trace_group", lambda made, group: groups.append(group.indices) or done(made, group))
    with pytest.warns(UserWarning, match=r"00001.parquet' is damaged.*; this part of the run is computed again"):
        same(traced(model, tmp_path), whole)
    assert groups == [(1,), (3,)]
    assert not list(tmp_path.rglob("*.part"))


def test_another_amount_of_memory_goes_on_with_the_same_parts(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(Interrupted):
        traced(model, tmp_path)
    monkeypatch.undo()  # groups of 16 again: the manifest's parts stay
    table = traced(model, tmp_path, memory="1GB")
    pd.testing.assert_frame_equal(table.frame, traced(model, None).frame, rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "shards").iterdir())) == 4


def test_ctrl_c_says_what_is_kept(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(Interrupted, match="interrupted: 2 of 4 prompts are kept in .*; start the same run") as stopped:
        traced(model, tmp_path)
    assert stopped.value.table.prompts == ["p0", "p1"]
    assert not (tmp_path / "table.parquet").exists()


def test_a_failure_says_what_is_kept(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 1, RuntimeError("the disc is on fire"))
    with pytest.raises(MechinterpError, match="on fire; 1 of 4 prompts are kept in .*; start the same run again"):
        traced(model, tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 1}, r"holds another run: it differs in programs, seed \(0, not 1\); choose another place"),
        ({"foil": "Oslo"}, r"it differs in foil \(None, not Oslo\);"),
        ({"engine": "plain"}, "it differs in programs that run plainly;"),
        ({"count": 3}, r"it differs in prompts \(4 \(\w+\), not 3 \(\w+\)\)"),
    ],
)
def test_another_run_is_refused(model: Model, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    traced(model, tmp_path)
    with pytest.raises(UsageError, match=sentence):
        traced(model, tmp_path, **options)


def test_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    traced(model, tmp_path)
    other = sentence_model()
    with torch.no_grad():
        other.layout.down_projection(0).mul_(2)
    with pytest.raises(UsageError, match=r"another run: it differs in model's weights \(\w{12}, not \w{12}\); choose"):
        traced(other, tmp_path)


def test_folders_that_are_no_run_are_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "table.parquet").touch()
    with pytest.raises(UsageError, match=r"table.parquet' is there already and was not written there by this command"):
        traced(model, tmp_path)
    (tmp_path / "table.parquet").unlink()
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"manifest.json' is there already .* choose another folder, or move it"):
        traced(model, tmp_path)
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == "{"
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; give the name of a folder"):
        traced(model, tmp_path / "file")
    with pytest.raises(UsageError, match="out is the folder of a run, not a file"):
        traced(model, tmp_path / "trace.parquet")


def test_the_manifest_says_what_the_run_is(model: Model, tmp_path: Path) -> None:
    traced(model, tmp_path)
    identity = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["identity"]
    assert identity["fingerprint"] == model.fingerprint()
    assert len(identity["programs"]) == 5
    assert set(identity["versions"]) >= {"mechinterp", "torch", "transformers"}


def test_a_plan_is_the_run(model: Model) -> None:
    plan = patching.plan(model, prompts(), draws=2, window=2)
    table = tracing.run_plan(plan, progress=False)
    assert table.meta["token_layers"] == plan.price.token_layers
    assert table.meta["no_op_cells"] == plan.price.no_op_cells
    assert table.meta["cells"] == plan.price.cells
    assert (table.frame["run"] == "patched").sum() == plan.price.rows

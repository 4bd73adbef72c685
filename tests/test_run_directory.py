"""Run directories: stopped and started again, a run ends with the rows of an uninterrupted one.

Kills at any moment are in test_injection.py.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.zoo import sentence_model

from mechinterp import Model, Prompt, Table, patching, trace
from mechinterp.errors import MechinterpError, NotSavedError, UsageError
from mechinterp.patching import Interrupted
from mechinterp.patching.traces import planning, tracing
from mechinterp.runs.folder import OutFolder

WHOLE: dict[str, Any] = {"kinds": ["resid", "mlp", "attn"], "severed": ["mlp", "attn"]}
QUICK: dict[str, Any] = {"kinds": ["mlp"], "severed": []}
"""How parts are kept does not depend on what is in them."""


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "GROUP", 1)


def prompts(count: int = 4) -> list[Prompt]:
    return [Prompt("{} was born in", "Ada Stone", "Lund", id=f"p{index}") for index in range(count)]


def traced(model: Model, out: Path | str | None, count: int = 4, **options: Any) -> Table:
    return trace(model, prompts(count), draws=2, window=2, out=out, progress=False, **{**QUICK, **options})


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


def test_a_run_in_a_folder_equals_one_in_memory(model: Model, tmp_path: Path) -> None:
    table = traced(model, tmp_path / "deep" / "run", **WHOLE)
    same(table, traced(model, None, **WHOLE))
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


def test_a_run_that_failed_leaves_the_folder_free(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 0, RuntimeError("the disc is on fire"))
    with pytest.raises(MechinterpError, match="on fire; 0 of 4 prompts are kept"):
        traced(model, tmp_path, seed=1)
    monkeypatch.undo()
    same(traced(model, tmp_path), traced(model, None))
    shutil.rmtree(tmp_path / "shards")
    with pytest.raises(UsageError, match=r"holds another run: it differs in programs, seed \(0, not 1\)"):
        traced(model, tmp_path, seed=1)  # the table is of a run, too


def test_files_of_the_user_stay(model: Model, tmp_path: Path) -> None:
    mine = {
        tmp_path / "downloads" / ".film.mkv.part", tmp_path / ".table.parquet.part", tmp_path / "shards.txt",
        tmp_path / ".other.123.part",
    }  # fmt: skip
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    traced(model, tmp_path)
    assert {file.read_text() for file in mine} == {"mine"}
    shards = tmp_path / "data" / "shards"
    shards.mkdir(parents=True)
    (shards / "00000.parquet").write_text("mine")
    with pytest.raises(UsageError, match=r"shards' is there already and was not written there by this command"):
        traced(model, tmp_path / "data")
    assert (shards / "00000.parquet").read_text() == "mine"
    with pytest.raises(UsageError, match="the folder for the results has no name"):
        traced(model, "")


def test_another_start_in_the_same_folder_is_refused(model: Model, tmp_path: Path) -> None:
    with OutFolder(tmp_path).locked(), pytest.raises(UsageError, match="is in use by process .* wait until that has"):
        traced(model, tmp_path)


def test_a_damaged_manifest_is_written_anew(model: Model, tmp_path: Path) -> None:
    whole = traced(model, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"seed": 0', b'"seed": 8'))
    with pytest.warns(UserWarning, match="manifest.json' was damaged and is written anew"):
        same(traced(model, tmp_path), whole)
    manifest.write_bytes(b"")
    with pytest.raises(UsageError, match="is damaged, and the finished parts beside it are of another run"):
        traced(model, tmp_path, seed=1)
    manifest.unlink()
    same(traced(model, tmp_path), whole)


def test_a_table_that_cannot_be_written_is_not_lost(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(aside: Path, target: Path) -> None:
        if target.name == "table.parquet":
            raise OSError(28, "No space left on device")
        replace(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(NotSavedError, match=r"no space left .* table is still in memory .* same run again") as said:
            traced(model, tmp_path)
    same(said.value.result, traced(model, None))
    stop_after(monkeypatch, 0, AssertionError("computed again"))
    same(traced(model, tmp_path), said.value.result)


def test_a_part_that_cannot_be_written_says_what_is_kept(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(aside: Path, target: Path) -> None:
        if target.name == "00002.parquet":
            raise OSError(28, "No space left on device")
        replace(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(MechinterpError, match=r"no space left on its disk; free some; 2 of 4 prompts are kept in"):
            traced(model, tmp_path)
    same(traced(model, tmp_path), traced(model, None))


def test_a_folder_that_is_gone_is_said(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, out = tracing._trace_group, tmp_path / "run"

    def gone(*arguments: Any) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        return done(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tracing, "_trace_group", gone)
        with pytest.raises(MechinterpError, match="the run directory .* is gone; 0 of 4 prompts are kept"):
            traced(model, out)
    assert not out.exists()
    same(traced(model, out), traced(model, None))


def test_the_manifest_says_what_the_run_is(model: Model, tmp_path: Path) -> None:
    traced(model, tmp_path, **WHOLE)
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

"""The long table on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from support.zoo import small_model

from mechinterp import Prompt, Table, UsageError
from mechinterp.errors import DamagedError
from mechinterp.patching import trace
from mechinterp.patching.traces.table import COLUMNS
from mechinterp.runs.frames import write_frame


@pytest.fixture(scope="module")
def table() -> Table:
    model = small_model(dtype=torch.float64)
    prompts = [Prompt("{} was near", "ada", "rome", id=name, relation="P1") for name in ("b", "a")]
    return trace(model, prompts, draws=2, progress=False)


def test_a_table_comes_back_as_it_was_saved(table: Table, tmp_path: Path) -> None:
    path = table.save(tmp_path / "new" / "trace.parquet")
    assert path == tmp_path / "new" / "trace.parquet"
    loaded = Table.load(str(path))
    pd.testing.assert_frame_equal(loaded.frame, table.frame)
    assert loaded.meta == table.meta
    assert loaded.prompts == ["b", "a"]
    assert len(loaded) == len(table.frame)
    assert [one.name for one in path.parent.iterdir()] == ["trace.parquet"]


def test_saving_over_a_table_replaces_it_whole(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    table.save(path)
    half = Table(table.frame[table.frame["prompt"] == "a"], {"note": "half"})
    half.save(path)
    assert Table.load(path).meta == {"note": "half"}
    assert Table.load(path).prompts == ["a"]


@pytest.mark.parametrize("left", [0, 4, 200, -1])
def test_a_file_cut_short_is_named(table: Table, tmp_path: Path, left: int) -> None:
    path = tmp_path / "short.parquet"
    whole = table.save(path).read_bytes()
    path.write_bytes(whole[:left])
    with pytest.raises(DamagedError, match=r"short.parquet' is (damaged|no readable Parquet file)"):
        Table.load(path)


def test_a_file_that_is_not_there_and_one_that_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file '.*nowhere.parquet'"):
        Table.load(tmp_path / "nowhere.parquet")
    pd.DataFrame({"prompt": ["a"], "prob": [0.1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other.parquet' is no table of a trace .*: it carries no digest"):
        Table.load(tmp_path / "other.parquet")
    write_frame(tmp_path / "other.parquet", pd.DataFrame({"prompt": ["a"], "prob": [0.1]}), {})
    with pytest.raises(UsageError, match="no trace: it lacks the columns relation, run, component"):
        Table.load(tmp_path / "other.parquet")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Table.load(tmp_path)


def test_a_frame_that_is_no_trace_is_refused() -> None:
    with pytest.raises(UsageError, match="lacks the columns prompt"):
        Table(pd.DataFrame({column: [] for column in COLUMNS[1:]}))


def test_a_failed_save_leaves_the_old_file(table: Table, tmp_path: Path) -> None:
    path = table.save(tmp_path / "trace.parquet")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Table(table.frame, {"no": object()}).save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["trace.parquet"]

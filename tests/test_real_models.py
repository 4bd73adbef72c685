"""The scripts behind docs/real-models.md, end to end on the bundled model with a handful of facts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.real import aie, known, setting
from mechinterp import Table, analysis
from mechinterp.errors import UsageError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


def words(out: Path, facts: int, *more: str) -> list[str]:
    return ["--model", "atlas", "--facts", str(facts), "--out", str(out), "--quiet", *more]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_known_facts_are_asked_once_and_counted(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known.main(words(out, 30))
    journal = out / "atlas" / "known-known_1000.jsonl"
    written = journal.read_bytes()
    found = read(out / "atlas" / "known.json")["known_1000"]
    assert found["asked"] == found["right"] == found["known"]["n"] == 30
    assert found["known"]["estimate"] == 1
    assert found["known"]["low"] < 0.95
    known.main(words(out, 20))
    assert journal.read_bytes() == written
    assert read(out / "atlas" / "known.json")["known_1000"]["asked"] == 20
    assert "20 of 20 facts of counterfact are known" in capsys.readouterr().out


def test_effects_are_traced_some_facts_at_a_time_and_more_are_added(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aie, "AT_ONCE", 2)
    few = ["--draws", "2", "--windows", "1", "3"]
    aie.main(words(out, 3, *few, "--only", "2"))
    folder = out / "atlas"
    assert read(folder / "aie.json")["facts"] == 2
    first = (folder / "aie" / "0000" / "table.parquet").stat().st_mtime_ns
    aie.main(words(out, 3, *few))
    assert (folder / "aie" / "0000" / "table.parquet").stat().st_mtime_ns == first
    content = read(folder / "aie.json")
    assert content["facts"] == 3
    assert content["windows"] == [1, 3]

    table = Table(pd.concat([Table.load(folder / "aie" / part / "table.parquet").frame for part in ("0000", "0001")]))
    effects = pd.read_parquet(folder / "aie-effects.parquet")
    site = {
        "component": "mlp",
        "window": 3,
        "role": "last subject",
        "layer": 3,
        "subset": "all facts",
        "metric": "prob",
    }
    (mine,) = effects.loc[(effects[list(site)] == pd.Series(site)).all(axis=1), "estimate"]
    by_prompt = analysis.role_effects(table)
    plain = by_prompt.loc[(by_prompt[list(site)[:4]] == pd.Series(site)[:4]).all(axis=1), "effect"]
    assert mine == pytest.approx(plain.mean())
    differences = pd.read_parquet(folder / "aie-differences.parquet")
    assert set(differences["what"]) >= {"MLP - attention, window 3", "taken away by severing MLPs"}
    assert set(effects["subset"]) <= {"all facts", "subject first", "subject later"}


def test_the_difference_to_another_table_is_paired(out: Path) -> None:
    table = Table.load(out / "atlas" / "aie" / "0000" / "table.parquet")
    moved = table.frame.copy()
    shift = dict(zip(table.prompts, np.linspace(0, 0.9, len(table.prompts)), strict=True))
    patched = moved["run"] == "patched"
    moved.loc[patched, "prob"] -= moved.loc[patched, "prompt"].map(shift)
    found = aie.against(table, Table(moved), seed=0)
    of_all = found[found["n_prompts"] == len(shift)]
    assert {"last subject", "last"} <= set(of_all["role"])
    np.testing.assert_allclose(of_all["estimate"], np.mean(list(shift.values())), atol=1e-9)
    apart = moved.assign(prompt=moved["prompt"] + " other")
    assert aie.against(table, Table(apart), seed=0).empty


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MECHINTERP_REAL", str(tmp_path))
    args = setting.parsed(setting.arguments("", 5), ["--model", "gemma3-270m", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match="benchmarks.real.fetch"):
        setting.load(args)
    monkeypatch.delenv("MECHINTERP_DATA", raising=False)
    with pytest.raises(UsageError, match="MECHINTERP_DATA"):
        setting.facts_of(args, setting.KNOWN)
    with pytest.raises(SystemExit, match="nothing is traced"):
        aie.main(["--model", "gemma3-270m", "--out", str(tmp_path), "--summary"])


def test_more_facts_begin_with_the_same_ones() -> None:
    args = argparse.Namespace(model="atlas", seed=3)
    assert setting.facts_of(args, setting.KNOWN)[:9] == setting.facts_of(args, setting.KNOWN)[:9]

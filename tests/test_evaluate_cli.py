"""`mechinterp evaluate`: what it writes, what it says of bad input, and that it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import Call
from support.fake_editors import FAKES, Size

import mechinterp as mi
from mechinterp import atlas
from mechinterp.analysis import leaderboard
from mechinterp.analysis.trials.contenders import contender
from mechinterp.analysis.trials.contest import Contest
from mechinterp.cli.evaluate import _fitting
from mechinterp.cli.layer_moments import layer_moments
from mechinterp.cli.words import metrics_of
from mechinterp.editing import collect_moments
from mechinterp.editing.editors.registry import EDITORS
from mechinterp.errors import UsageError
from mechinterp.formats.readers import write_jsonl

SMALL = ("evaluate", "atlas", "four.jsonl", "-q", "--editors", "small,large")

FACTS = [
    mi.Fact(
        mi.Prompt("{} was born in", name, town, id=name, relation="born_in"),
        target_new=other,
        paraphrases=(mi.Question(f"The birthplace of {name} is", town),),
        neighbourhood=(mi.Question("Jonas Brenton was born in", "Rastova"),),
    )
    for name, town, other in (
        ("Marta Halberg", "Tarsk", "Luneth"), ("Viktor Stelrick", "Luneth", "Calden"),
        ("Elena Dunton", "Calden", "Tarsk"), ("Rafael Dunton", "Tarsk", "Quenby"),
    )
]  # fmt: skip
"""Of subjects the bundled model has heard of; whether they are true does not matter here."""


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, editor in FAKES.items():
        monkeypatch.setitem(EDITORS, name, editor)


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """In a folder with four facts."""
    monkeypatch.setenv("COLUMNS", "100")
    write_jsonl(FACTS, tmp_path / "four.jsonl")
    return call


def test_it_writes_tables_and_figures(call: Call, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("Marta Halberg was born in Tarsk.")
    words = (*SMALL, "--edits", "1,batch", "--sizes", "4", "--metrics", "ES,PS,NS,S",
             "--held-text", "held.txt", "--out", "e")  # fmt: skip
    code, out, err = call(*words)
    assert code == 0, err
    folder = tmp_path / "e"
    assert "4 facts on atlas; shares in per cent" in out
    assert "with 95 % intervals" not in out
    assert "note: batch edits of 4: no intervals: 4 facts, and fewer than 5 say too little of others" in out
    assert "no edit" in out
    assert "note: large is absent from batches of 4: it writes one fact at a time" in out
    summary = pd.read_parquet(folder / "summary.parquet")
    cells = set(map(tuple, summary[["editor", "edits", "size"]].drop_duplicates().to_numpy().tolist()))
    assert cells == {
        ("small", "single", 1), ("small", "batch", 4), ("large", "single", 1)
    }  # fmt: skip
    assert set(summary["metric"]) == {"ES", "PS", "NS", "S", "perplexity"}
    records = pd.read_parquet(folder / "records.parquet")
    assert records["record"].nunique() == 4
    assert (folder / "table.md").read_text().startswith("| editor | edits | size | S |")
    assert set(pd.read_csv(folder / "costs.csv")["editor"]) == {"small", "large"}
    assert {"editor_a", "difference", "other_sign"} <= set(pd.read_csv(folder / "comparisons.csv").columns)
    for name in ("single", "batch"):
        assert (folder / f"leaderboard-{name}.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = call(*words, "--seed", "1")
    assert code == 2
    assert "'e' holds another evaluation: it differs in seed (0, not 1)" in err


def test_a_sequence_has_a_figure_of_its_retention(call: Call, tmp_path: Path) -> None:
    words = ("--editors", "large", "--edits", "sequential", "--sizes", "3", "--metrics", "PS")
    code, out, err = call(*SMALL, *words, "--out", "e")
    assert code == 0, err
    assert "retention-large.png" in out
    assert (tmp_path / "e" / "retention-large.png").read_bytes().startswith(b"\x89PNG")
    assert "note: sequential edits of 3: 1 of 4 facts are in no group" in out


def test_a_preset_is_what_is_tried(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bold = replace(FAKES["small"], presets={"default": Size(0.1), "bold": Size(5.0)})
    monkeypatch.setitem(EDITORS, "small", bold)
    code, _, err = call(*SMALL, "--metrics", "PS", "--preset", "small=bold", "--out", "e")
    assert code == 0, err
    model = mi.load("atlas")
    board = leaderboard(model, FACTS, ["small", "large"], metrics=["PS"], hparams={"small": Size(5.0)}, progress=False)
    records = pd.read_parquet(tmp_path / "e" / "records.parquet").set_index(["editor", "record", "stage"])["value"]
    expected = board.records.set_index(["editor", "record", "stage"])["value"]
    assert records.sort_index().tolist() == expected.sort_index().tolist()
    keys = [path.name for path in (tmp_path / "e" / "parts").iterdir()]
    assert any(contender(model, "small", Contest(hparams={"small": Size(5.0)})).settings in key for key in keys)


def test_rome_with_moments_of_the_command_line(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechinterp.cli.layer_moments.MOMENT_TOKENS", 3000)
    words = ("evaluate", "atlas", "four.jsonl", "--limit", "1", "-q", "--editors", "rome", "--metrics", "ES,NS")
    code, out, err = call(*words, "--out", "e")
    assert code == 0, err
    table = (tmp_path / "e" / "table.md").read_text()
    assert "| rome | single | 1 | 100.0 |" in table


def test_layers_and_where_their_moments_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mi.load("atlas")
    collected = collect_moments(model, atlas.corpus()[:60], [1, 2], progress=False)
    for layer, moment in collected.items():
        moment.save(tmp_path / f"layer-{layer}.safetensors")
    found = layer_moments(model, [2, 1], [tmp_path], quiet=True)
    assert list(found) == [2, 1]
    assert found[1].fingerprint() == collected[1].fingerprint()
    (tmp_path / "layer-7.safetensors").write_text("of a layer that is not edited, so it is not read")
    assert list(layer_moments(model, [1], [tmp_path], quiet=True)) == [1]
    with pytest.raises(UsageError, match="two of the --moments are of layer 1"):
        layer_moments(model, [1], [tmp_path, tmp_path / "layer-1.safetensors"], quiet=True)
    monkeypatch.setattr("mechinterp.cli.layer_moments.MOMENT_TOKENS", 3000)
    assert layer_moments(model, [0, 2], [tmp_path], quiet=True)[0].tokens == 3000
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no second moment"):
        layer_moments(model, [1], [tmp_path / "empty"], quiet=True)
    model = replace(model, bundled="")
    with pytest.raises(
        UsageError, match="layers 0, 3 of atlas are missing: run `mechinterp moments atlas --layer 0 --l"
    ):
        layer_moments(model, [0, 1, 3], [tmp_path], quiet=True)


def test_groups_of_metrics() -> None:
    assert {"ES", "S", "one_hop"} <= set(metrics_of("counterfact", False))
    assert metrics_of("zsre,GE", False) == [
        "zsre_efficacy", "zsre_paraphrase", "zsre_specificity", "zsre_score", "GE"
    ]  # fmt: skip
    every = metrics_of("all", True)
    assert {"perplexity", "S", "zsre_score", "locality", "GE", "RS"} <= set(every)
    assert len(every) == len(set(every))


def test_as_many_metrics_as_fit() -> None:
    headings = ["editor", "edits", "size", "S", "ES", "s per edit", "peak MB", "failed"]
    rows = [["rome", "single", "1", "98 [95, 100]", "99 [95, 100]", "0.3", "800", "0"]]
    assert _fitting(headings, rows, 200) == ([*headings[:6], "failed"], [[*rows[0][:6], "0"]])
    assert _fitting(headings, rows, 62)[0] == ["editor", "edits", "size", "S", "s per edit", "failed"]
    assert _fitting(headings, rows, 10)[0] == ["editor", "edits", "size", "S", "s per edit", "failed"]


BAD = {
    "unknown editor": (("--editors", "roome"), "there is no editor 'roome'; the editors are rome"),
    "unknown metric": (("--metrics", "EZ"), "--metrics has 'EZ', which is no metric and no group of them"),
    "perplexity of nothing": (("--metrics", "perplexity"), "give it with --held-text"),
    "sizes in words": (("--sizes", "ten"), "--sizes is 'ten'; give numbers of facts, such as 1,10,100"),
    "too large": (("--edits", "batch", "--sizes", "9"), "9 facts are to be edited together, but only 4 were given"),
    "unknown way": (("--edits", "batched"), "--edits is 'batched'; choose among single, batch, sequential"),
    "layers without an editor": (("--layers", "3"), "there is no editor '3'"),
    "layers in words": (("--layers", "memit=three"), "--layers is 'memit=three'; write EDITOR=LAYERS, such as memit="),
    "preset without a name": (("--preset", "rome"), "--preset is 'rome'; write EDITOR=NAME, such as memit=code"),
    "preset of an unknown editor": (("--preset", "roome=code"), "there is no editor 'roome'; the editors are rome"),
    "unknown preset": (("--preset", "small=huge"), "'huge' is no preset of small; choose one of default"),
    "preset not tried": (("--preset", "rome=code"), "--preset rome=code is of an editor that is not tried"),
    "two presets": (("--preset", "small=default", "--preset", "small=default"), "two of the --preset are of small"),
    "no layers": (("--layers", "memit="), "--layers is 'memit='; write EDITOR=LAYERS"),
    "layer out of range": (("--editors", "rome", "--layers", "rome=8"), "layer 8 is out of range"),
    "no text": (("--held-text", "nowhere.txt"), "the text file 'nowhere.txt' does not exist"),
    "no references": (
        ("--metrics", "RS", "--references", "nowhere"),
        "there is no folder of reference texts 'nowhere'",
    ),
    "no moments": (("--editors", "rome", "--moments", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_gets_one_sentence_and_exit_code_2(call: Call, case: str) -> None:
    words, said = BAD[case]
    code, _, err = call(*SMALL, "--out", "e", *words)
    assert code == 2, err
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err


def test_ctrl_c_names_what_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("mechinterp.analysis.trials.making.evaluate_edits", interrupted)
    code, _, err = call(*SMALL, "--out", "e")
    assert code == 1
    assert "interrupted: 0 of 2 trials are kept in e; start the same run again to go on" in err

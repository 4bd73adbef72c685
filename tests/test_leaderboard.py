"""Editors side by side: every row of the table is what editing, asking and undoing by hand gives."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from support.fake_editors import FAKES, Fake, Size
from support.jobs import FACTS, many_parts
from support.processes import side_by_side
from support.running_text import running_text
from support.zoo import sentence_model

from mechinterp import Fact, Model, Prompt, Question
from mechinterp.analysis import Failed, Leaderboard, diff, evaluate_edits, leaderboard, plot_leaderboard
from mechinterp.analysis.evaluation.generation import Sampling
from mechinterp.analysis.evaluation.references import References, ReferenceText
from mechinterp.analysis.intervals import bootstrap_mean
from mechinterp.analysis.trials.making import _whole, looks
from mechinterp.editing import RomeHparams, SecondMoment
from mechinterp.editing.editors.ft import ft
from mechinterp.editing.editors.registry import EDITORS
from mechinterp.editing.sequences.singles import edit_each
from mechinterp.errors import MechinterpError, NotSavedError, UsageError
from mechinterp.runs import identity
from mechinterp.runs.folder import OutFolder
from mechinterp.runs.peak_memory import GPU, UNKNOWN, peak_memory

HELD = ["The river was high after the rain."]


@pytest.fixture(autouse=True, scope="module")
def fakes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, editor in FAKES.items():
            patch.setitem(EDITORS, name, editor)
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    cities = ("Paris", "Warsaw", "Seattle")
    names = ("Marie Curie", "Ada Lovelace", "The writer", "The owner", "The Space Needle")
    return [
        Fact(
            Prompt("{} was born in", name, cities[i % 3], id=name, relation="born_in"),
            target_new=cities[(i + 1) % 3],
            paraphrases=(Question(f"The people spoke about {name} in"),),
            neighbourhood=(Question("The capital of Poland is", "Warsaw"), Question("The river was in")),
        )
        for i, name in enumerate(names)
    ]


def values(board: Leaderboard, editor: str, edits: str, size: int) -> pd.Series:
    records = board.evaluation(editor, edits, size).records
    return records.set_index(["record", "stage", "metric"])["value"].sort_index()


def by_hand(model: Model, edits: Any, facts: Sequence[Fact], **options: Any) -> pd.Series:
    records = evaluate_edits(model, edits, facts, progress=False, **options).records
    return records.set_index(["record", "stage", "metric"])["value"].sort_index()


@pytest.fixture(scope="module")
def board(model: Model, facts: list[Fact], fakes: None) -> Leaderboard:
    """In every way of editing."""
    return leaderboard(
        model, facts, ["small", "large"], edits=["single", "batch", "sequential"], sizes=[2, 4], held_texts=HELD,
        metrics=["ES", "ES_acc", "PS", "NS", "S", "perplexity"], progress=False,
    )  # fmt: skip


def test_single_edits_are_those_made_one_by_one(model: Model, facts: list[Fact]) -> None:
    board = leaderboard(model, facts, ["small", "large"], progress=False)
    for name, editor in FAKES.items():
        edits = [editor(model, [fact]) for fact in facts[:4]] + [Failed("the Needle cannot be moved")]
        expected = by_hand(model, edits, facts)
        assert np.allclose(values(board, name, "single", 1), expected, atol=1e-5)
        assert values(board, name, "single", 1).index.equals(expected.index)
    assert board.evaluation("large", "single", 1).failures == {"The Space Needle": "the Needle cannot be moved"}
    costs = board.costs.set_index("editor")
    assert costs["failed"].tolist() == [1, 1]
    assert costs["facts"].tolist() == [5, 5]
    assert (costs["seconds_per_edit"] > 0).all()
    assert (costs["peak_memory_mb"] > 1).all()
    assert sorted(board.records["group"].unique()) == [0, 1, 2, 3, 4]


def test_what_edit_each_gives_can_be_judged(model: Model, facts: list[Fact]) -> None:
    made = edit_each(model, FAKES["small"], facts, progress=False)
    judged = evaluate_edits(model, made, facts, progress=False)
    assert judged.failures == {"The Space Needle": "the Needle cannot be moved"}
    assert set(diff(model, made, facts)["edit"]) == {0, 1, 2, 3}


def test_batches_are_one_edit_of_their_facts(model: Model, facts: list[Fact]) -> None:
    board = leaderboard(model, facts, ["small", "large"], edits="batch", sizes=(1, 2), progress=False)
    edits = [FAKES["small"](model, facts[start : start + 2]) for start in (0, 2)]
    expected = pd.concat(
        [by_hand(model, edit, facts[start : start + 2]) for edit, start in zip(edits, (0, 2), strict=True)]
    )
    assert np.allclose(values(board, "small", "batch", 2), expected.sort_index(), atol=1e-5)
    singles = leaderboard(model, facts, ["small", "large"], progress=False)
    for name in FAKES:
        pd.testing.assert_series_equal(values(board, name, "batch", 1), values(singles, name, "single", 1))
    assert list(map(tuple, board.costs[["editor", "size", "facts"]].to_numpy())) == [
        ("small", 1, 5), ("small", 2, 4), ("large", 1, 5)
    ]  # fmt: skip
    assert board.notes == (
        "batch edits of 2: 1 of 5 facts are in no group",
        "large is absent from batches of 2: it writes one fact at a time",
        "batch edits of 2: no intervals: 4 facts, and fewer than 5 say too little of others",
    )
    whole = leaderboard(model, facts, ["small"], edits="batch", sizes=[5], progress=False)
    before, after = (values(whole, "small", "batch", 5).xs(stage, level="stage") for stage in ("before", "after"))
    assert (after.loc[before.index] == before).all()  # the Needle spoils the batch
    assert whole.costs["failed"].tolist() == [5]
    one = leaderboard(model, facts, ["small"], edits="batch", sizes=[2], groups=1, progress=False)
    assert set(one.records["record"]) == {facts[0].id, facts[1].id}


def test_a_sequence_is_judged_after_its_last_edit(model: Model, facts: list[Fact]) -> None:
    board = leaderboard(model, facts, ["large"], edits="sequential", sizes=(3, 5), progress=False,
                        metrics=["ES", "ES_acc", "PS", "NS", "perplexity"], held_texts=HELD)  # fmt: skip
    joined = FAKES["large"](model, [facts[0]])
    for fact in facts[1:4]:
        joined = joined | FAKES["large"](model, [fact])
    expected = by_hand(model, joined, facts, metrics=["ES", "ES_acc", "PS", "NS", "perplexity"], held_texts=HELD)
    assert np.allclose(values(board, "large", "sequential", 5), expected, atol=1e-4)
    assert board.evaluation("large", "sequential", 5).failures == {"The Space Needle": "the Needle cannot be moved"}
    assert set(board.evaluation("large", "sequential", 3).records["record"]) == {fact.id for fact in facts[:3]}
    looked = board.retention["large"]
    assert sorted(looked.records["step"].unique()) == [1, 2, 3, 4, 5]
    last = looked.records[looked.records["step"] == 5].set_index(["record", "metric"])["value"]
    after = expected.xs("after", level="stage").drop("perplexity", level="metric")
    assert np.allclose(last.loc[after.index], after, atol=1e-4)
    assert looked.perplexity["edits"].tolist() == [0, 1, 2, 3, 4, 5]


def test_steps_of_several_facts(model: Model, facts: list[Fact]) -> None:
    board = leaderboard(model, facts[:4], ["small", "large"], edits="sequential", sizes=[4], per_step=2, progress=False)
    joined = FAKES["small"](model, facts[:2]) | FAKES["small"](model, facts[2:4])
    assert np.allclose(values(board, "small", "sequential", 4), by_hand(model, joined, facts[:4]), atol=1e-4)
    assert board.retention["small"].records.groupby("step")["record"].nunique().tolist() == [2, 4]
    assert board.notes == (
        "large is absent from sequences: it writes one fact at a time, not 2",
        "sequential edits of 4: no intervals: 4 facts, and fewer than 5 say too little of others",
    )


def test_a_sequence_of_failures_is_the_unedited_model(model: Model, facts: list[Fact]) -> None:
    needles = [replace(fact, prompt=replace(fact.prompt, subject=f"The Needle {i}", id=str(i)))
               for i, fact in enumerate(facts[:2])]  # fmt: skip
    board = leaderboard(model, needles, ["large"], edits="sequential", sizes=[2], progress=False)
    found = values(board, "large", "sequential", 2)
    before, after = (found.xs(stage, level="stage") for stage in ("before", "after"))
    assert (after.loc[before.index] == before).all()
    assert board.costs["failed"].tolist() == [2]
    assert board.evaluation("large", "sequential", 2).failures.keys() == {"0", "1"}


def test_a_killed_run_goes_on(model: Model, facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("mechinterp.analysis.trials.leaderboard")  # the function has its name
    try_editor = module.try_editor
    monkeypatch.setattr("mechinterp.analysis.trials.plans.SINGLES_AT_ONCE", 2)
    options: dict[str, Any] = {"edits": ["single", "sequential"], "sizes": [2], "groups": 1, "progress": False,
                               "held_texts": HELD, "metrics": ["ES", "NS"]}  # fmt: skip
    facts = facts[:4]
    whole = leaderboard(model, facts, ["small", "large"], **options)
    tried = []

    def until_the_third(*args: Any, **kwargs: Any) -> Any:
        if len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(args[1].contender.name)
        return try_editor(*args, **kwargs)

    monkeypatch.setattr(module, "try_editor", until_the_third)
    with pytest.raises(MechinterpError, match=r"interrupted: 2 of 6 trials are kept in .*; start the same run again"):
        leaderboard(model, facts, ["small", "large"], out=tmp_path, **options)
    with pytest.raises(MechinterpError, match="interrupted: nothing is kept without a folder"):
        leaderboard(model, facts, ["small", "large"], **options)
    again: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        again.append(args[1].contender.name)
        return try_editor(*args, **kwargs)

    monkeypatch.setattr(module, "try_editor", counted)
    first = leaderboard(model, facts, ["small"], out=tmp_path, **options)  # fewer editors: a part of the same
    assert again == ["small"]
    resumed = leaderboard(model, facts, ["small", "large"], out=tmp_path, **options)
    assert again == ["small", "large", "large", "large"]
    pd.testing.assert_frame_equal(resumed.records, whole.records)
    assert resumed.notes == whole.notes
    assert set(first.records["editor"]) == {"small"}
    for frame in ("records", "before", "perplexity"):
        pd.testing.assert_frame_equal(
            getattr(resumed.retention["small"], frame), getattr(whole.retention["small"], frame)
        )
    with pytest.raises(UsageError, match="holds another evaluation: it differs in facts"):
        leaderboard(model, facts[:3], ["small"], out=tmp_path, **options)
    leaderboard(model, facts, ["small"], out=tmp_path, hparams={"small": Size(0.3)}, **options)
    assert len(again) == 4 + 3  # other hyper-parameters are other trials


def test_other_references_are_another_experiment(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["ES", "RS"], "sampling": Sampling(length=3), "progress": False,
                               "out": tmp_path}  # fmt: skip
    texts = [ReferenceText("born_in", city, f"The people of {city} spoke.") for city in ("Paris", "Warsaw", "Seattle")]
    leaderboard(model, facts[:2], ["small"], references=References(texts), **options)
    leaderboard(model, facts[:2], ["small"], references=References(texts[::-1]), **options)
    for other in (References(texts[:2]), References(texts, ["The river was high."]), None):
        with pytest.raises(UsageError, match="another evaluation: it differs in texts"):
            leaderboard(model, facts[:2], ["small"], references=other, **options)
    with pytest.raises(UsageError, match="another evaluation: it differs in allow conflicts .False, not True"):
        leaderboard(model, facts[:2], ["small"], references=References(texts), allow_conflicts=True, **options)


def test_damaged_trials_are_made_again(
    model: Model, facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"edits": ["single", "sequential"], "sizes": [2], "groups": 1, "progress": False,
                               "metrics": ["ES"], "out": tmp_path}  # fmt: skip
    whole = leaderboard(model, facts[:2], ["small"], **options)
    module = importlib.import_module("mechinterp.analysis.trials.leaderboard")
    try_editor, made = module.try_editor, []
    monkeypatch.setattr(
        module, "try_editor", lambda *args, **kwargs: made.append(args[1].mode) or try_editor(*args, **kwargs)
    )

    def again() -> list[str]:
        made.clear()
        found = leaderboard(model, facts[:2], ["small"], **options)
        pd.testing.assert_frame_equal(found.records, whole.records)
        pd.testing.assert_frame_equal(found.retention["small"].before, whole.retention["small"].before)
        return list(made)

    assert again() == []
    parts = {path.name.split("-")[1] + path.suffixes[-2]: path for path in (tmp_path / "parts").iterdir()}
    for name, mode in (("single.trial", "single"), ("sequential.before", "sequential")):
        content = parts[name].read_bytes()
        for damaged in (b"", content[:-9], content[:60] + bytes([content[60] ^ 1]) + content[61:]):
            parts[name].write_bytes(damaged)
            with pytest.warns(UserWarning, match=rf"{parts[name].name}' is .*; this trial is made again"):
                assert again() == [mode]
    parts["single.trial"].unlink()
    assert again() == ["single"]
    parts["single.trial"].write_bytes(parts["sequential.trial"].read_bytes())  # whole, but another one's
    assert again() == ["single"]
    (tmp_path / "parts" / f".{parts['single.trial'].name}.1.part").touch()
    (tmp_path / "parts" / ".mine.part").touch()
    assert again() == []
    assert sorted(path.name for path in (tmp_path / "parts").glob(".*")) == [".mine.part"]


def test_two_starts_at_once_and_files_of_the_user(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["ES"], "progress": False}
    with OutFolder(tmp_path / "used").locked(), pytest.raises(UsageError, match="is in use by process"):
        leaderboard(model, facts[:1], ["small"], out=tmp_path / "used", **options)
    (tmp_path / "journal.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="journal.jsonl' is there already and was not written there"):
        leaderboard(model, facts[:1], ["small"], out=tmp_path, **options)
    assert (tmp_path / "journal.jsonl").read_text() == "mine"


def test_other_versions_are_another_evaluation(
    model: Model, facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"metrics": ["ES"], "progress": False, "out": tmp_path}
    leaderboard(model, facts[:1], ["small"], **options)
    here = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: here | {"torch": "99"})
    with pytest.raises(UsageError, match=r"it differs in versions of the libraries \(torch \(.*, not 99\)\)"):
        leaderboard(model, facts[:1], ["small"], **options)


def test_a_trial_that_cannot_be_written_is_not_lost(
    model: Model, facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"metrics": ["ES"], "progress": False}
    whole = leaderboard(model, facts[:2], ["small", "large"], **options)
    replaced = os.replace

    def full(aside: Path, target: Path) -> None:
        if target.name.startswith("large"):
            raise OSError(28, "No space left on device")
        replaced(aside, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            NotSavedError, match=r"no space left .*memory .* 1 of 2 trials are kept in .* again"
        ) as said:
            leaderboard(model, facts[:2], ["small", "large"], out=tmp_path, **options)
    pd.testing.assert_frame_equal(said.value.result.records, whole.records)
    found = leaderboard(model, facts[:2], ["small", "large"], out=tmp_path, **options)
    pd.testing.assert_frame_equal(found.records, whole.records)


def _share(model: Model, out: Path) -> None:
    """What each of several processes does: it writes what it found, and how many trials it made."""
    many_parts(setattr)
    made, module = [], importlib.import_module("mechinterp.analysis.trials.leaderboard")
    try_editor = module.try_editor
    module.try_editor = lambda *args, **kwargs: made.append(args[1].contender.name) or try_editor(*args, **kwargs)
    board = leaderboard(
        model, FACTS, list(FAKES), edits=["single", "sequential"], sizes=[2], metrics=["ES"], out=out, progress=False
    )
    board.records.to_parquet(out / f"{os.environ.get('RANK')}.found")
    (out / f"{os.environ.get('RANK')}.made").write_text(str(len(made)))


def test_two_processes_share_the_trials(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = side_by_side(lambda: _share(model, out))
    assert done.returncode == 0, done.stderr
    boards = [pd.read_parquet(out / f"{rank}.found") for rank in (0, 1)]
    assert [int((out / f"{rank}.made").read_text()) for rank in (0, 1)] == [6, 6]
    done = side_by_side(lambda: _share(model, out), world=1)
    assert done.returncode == 0, done.stderr
    assert (out / "None.made").read_text() == "0"  # all is there
    for board in boards:
        pd.testing.assert_frame_equal(board, pd.read_parquet(out / "None.found"))
    assert len(list((out / "parts").glob("*.trial.parquet"))) == 12


def test_facts_of_one_edit_are_drawn_together(model: Model, facts: list[Fact], monkeypatch: pytest.MonkeyPatch) -> None:
    many = [replace(fact, prompt=replace(fact.prompt, id=f"{fact.id} {i}")) for i in range(4) for fact in facts[:3]]
    monkeypatch.setitem(EDITORS, "bold", Fake("bold", "nobody", {"default": Size(0.7)}))
    board = leaderboard(model, many, ["small", "bold"], edits="batch", sizes=[2, 4], metrics=["NM"],
                        allow_conflicts=True, progress=False)  # fmt: skip
    assert [note for note in board.notes if "intervals" in note] == [
        "batch edits of 4: the intervals are over the facts of 3 edits and say little of other edits"
    ]
    found = board.summary(cluster="group").set_index(["size", "editor", "stage"])
    assert found.loc[4, ["low", "high"]].isna().all(axis=None)
    rows = board.records[(board.records["size"] == 2) & (board.records["stage"] == "after")]
    part = rows[rows["editor"] == "small"]
    wanted = bootstrap_mean(part["value"].to_numpy(float), cluster=part["group"].tolist())
    assert found.loc[(2, "small", "after"), "low"] == pytest.approx(float(wanted.low))
    assert found.loc[(2, "small", "after"), "high"] == pytest.approx(float(wanted.high))
    both = [board.compare("small", "bold", "batch", 2, cluster=cluster) for cluster in ("group", "record")]
    pairs = rows.pivot(index=["record", "group"], columns="editor", values="value").reset_index()
    gap = bootstrap_mean((pairs["small"] - pairs["bold"]).to_numpy(float), cluster=pairs["group"].tolist())
    assert both[0]["low"][0] == pytest.approx(float(gap.low))
    assert both[0]["difference"][0] == pytest.approx(both[1]["difference"][0])
    assert both[0]["low"][0] != pytest.approx(both[1]["low"][0])
    with pytest.raises(UsageError, match="small has 3 batch edits of 4, too few to resample by"):
        board.compare("small", "bold", "batch", 4, cluster="group")
    with pytest.raises(UsageError, match="choose record or relation or group"):
        board.summary(cluster="edit")


def test_a_sequence_of_dense_edits_is_added_as_one_matrix(model: Model, facts: list[Fact]) -> None:
    edits = [ft(model, [fact], [1], hparams=ft.presets["default"].with_(steps=1)) for fact in facts[:3]]
    joined = edits[0] | edits[1] | edits[2]
    assert joined.factors(1).rank == 3 * model.d_model
    whole = _whole(joined)
    assert whole.factors(1).rank == model.d_model
    assert torch.allclose(whole.delta(1), joined.delta(1), atol=1e-7)
    assert len(whole.provenance.requests) == 3


def test_the_table_in_words(board: Leaderboard) -> None:
    headings, rows = board.rows()
    assert headings == [
        "editor", "edits", "size", "S", "ES", "PS", "NS", "perplexity", "s per edit", "peak MB", "failed"
    ]  # fmt: skip
    assert [row[:3] for row in rows] == [
        ["no edit", "", ""], ["small", "single", "1"],
        ["no edit", "batch", "2"],  # of four of the five facts, as all that follow
        ["small", "batch", "2"], ["small", "batch", "4"], ["small", "sequential", "2"], ["small", "sequential", "4"],
        ["large", "single", "1"], ["large", "sequential", "2"], ["large", "sequential", "4"],
    ]  # fmt: skip
    summary = board.summary().set_index(["editor", "edits", "size", "stage", "metric"])
    row = summary.loc[("large", "single", 1, "after", "NS")]
    assert rows[7][6] == f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert rows[7][-1] == "1"
    text = board.markdown(["NS"])
    assert text.splitlines()[0] == "| editor | edits | size | NS | s per edit | peak MB | failed |"
    assert "\n- large is absent from batches of 4: it writes one fact at a time\n" in text
    assert board.rows(["NS"], decimals=0)[1][7][3] == (
        f"{100 * row['estimate']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
    )
    pairs = board.comparisons(["NS"])
    assert list(map(tuple, pairs[["edits", "size", "editor_a", "editor_b"]].to_numpy())) == [
        ("single", 1, "small", "large"), ("sequential", 2, "small", "large"), ("sequential", 4, "small", "large")
    ]  # fmt: skip
    found = board.compare("large", "small").set_index("metric")
    assert pairs["difference"][0] == pytest.approx(-found.loc["NS", "difference"])
    assert found.loc["NS", "difference"] == pytest.approx(
        row["estimate"] - summary.loc[("small", "single", 1, "after", "NS"), "estimate"]
    )
    with pytest.raises(UsageError, match="large with batch edits of 2 is not in this leaderboard"):
        board.compare("small", "large", "batch", 2)


def test_the_figure_shows_the_table(board: Leaderboard) -> None:
    summary = board.summary()
    for edits, *words in (
        (None, "single edits of 5 facts", "bars: 95% interval over facts"),
        ("sequential", "sequential edits of 4 facts", "no intervals: 4 facts, and fewer than 5"),
    ):
        figure = plot_leaderboard(board, edits, summary=summary, meta={"model": "atlas"})
        figure.savefig(io.BytesIO(), format="png", dpi=40)
        text = "\n".join(part.get_text() for part in figure.findobj(Text))
        for part in (*words, "small", "large", "perplexity (lower is better)", "docs/atlas.md"):
            assert part in text
    cell = (summary["editor"] == "large") & (summary["edits"] == "sequential") & (summary["stage"] == "after")
    expected = summary[cell & (summary["metric"] == "NS")].sort_values("size")["estimate"]
    panel = next(axes for axes in figure.axes if axes.get_title() == "NS")
    line = next(line for line in panel.get_lines() if line.get_label() == "large")
    assert np.allclose(line.get_ydata(), expected)
    with pytest.raises(UsageError, match="there are no unheard edits in this leaderboard; it has single, batch, seq"):
        plot_leaderboard(board, "unheard", summary=summary)
    with pytest.raises(UsageError, match="none of the metrics GE was measured"):
        plot_leaderboard(board, metrics=["GE"], summary=summary)


def test_a_real_editor_with_its_second_moment(model: Model, facts: list[Fact]) -> None:
    moment = SecondMoment.collect(model, running_text(400), 1, progress=False)
    hparams = {"rome": EDITORS["rome"].chosen().with_(steps=2, context_lengths=((1, 5),))}
    options: dict[str, Any] = {"layers": {"rome": [1]}, "hparams": hparams, "progress": False}
    board = leaderboard(model, facts[:2], ["rome"], moments={1: moment}, **options)
    edits = edit_each(model, EDITORS["rome"], facts[:2], [1], moments=moment, hparams=hparams["rome"],
                      allow_disabling=True, progress=False)  # fmt: skip
    assert np.allclose(values(board, "rome", "single", 1), by_hand(model, edits, facts[:2]), atol=1e-5)
    with pytest.raises(UsageError, match="rome needs the second moment of layer 1 of small-gpt2"):
        leaderboard(model, facts, ["rome"], **options)
    with pytest.raises(UsageError, match="no published layers of rome are known for small-gpt2"):
        leaderboard(model, facts, ["rome"], moments={1: moment})


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no editors": ({"editors": []}, "no editor is named; give at least one"),
    "unknown editor": ({"editors": ["roome"]}, "there is no editor 'roome'; the editors are rome"),
    "unknown way": ({"edits": "batched"}, "edits='batched' is no way of editing; choose among single, batch, sequ"),
    "too large": ({"edits": "batch", "sizes": [9]}, "9 facts are to be edited together, but only 5 were given"),
    "no sizes": ({"edits": "batch", "sizes": []}, r"sizes=\[\] are no numbers of facts"),
    "no groups": ({"groups": 0}, "groups=0 edits nothing"),
    "unknown metric": ({"metrics": ["EZ"]}, "there is no metric 'EZ'"),
    "unknown hparams": ({"hparams": {"small": RomeHparams()}}, "small takes Size, not RomeHparams"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_named(model: Model, facts: list[Fact], case: str) -> None:
    changed, said = BAD[case]
    options: dict[str, Any] = {"editors": ["small"], "progress": False} | changed
    with pytest.raises(UsageError, match=said):
        leaderboard(model, facts, **options)
    if case == "no editors":
        with pytest.raises(UsageError, match="there are no facts to edit"):
            leaderboard(model, [], ["small"])


def test_steps_that_are_looked_at() -> None:
    assert looks(1) == [1]
    assert looks(5) == [1, 2, 3, 4, 5]
    many = looks(500)
    assert (many[0], many[-1]) == (1, 500)
    assert len(many) <= 12
    apart = np.diff(many)
    assert (np.diff(apart) >= 0).all()


def test_peak_memory_sees_what_was_held_meanwhile() -> None:
    with peak_memory(torch.device("cpu")) as small:
        pass
    with peak_memory(torch.device("cpu")) as large:
        held = torch.ones(40_000_000)
        del held
    assert large.kind not in (GPU, UNKNOWN)
    assert large.megabytes - small.megabytes > 100


def test_the_unedited_scores_stand_beside_every_set_of_facts() -> None:
    rows, costs = [], []
    for size, records in ((2, "abcdef"), (3, "abc")):
        for editor in ("memit", "ft"):
            costs.append((editor, "batch", size, len(records), 0, 1.0, float("nan"), ""))
            for record in records:
                for stage, value in (("before", 0.0 if record < "d" else 1.0), ("after", 1.0)):
                    rows.append((editor, "batch", size, 0, record, "", stage, "ES", value, 1, ""))
    columns = [
        "editor",
        "edits",
        "size",
        "group",
        "record",
        "relation",
        "stage",
        "metric",
        "value",
        "questions",
        "failed",
    ]
    cost = ["editor", "edits", "size", "facts", "failed", "seconds_per_edit", "peak_memory_mb", "memory_is"]
    board = Leaderboard(pd.DataFrame(rows, columns=columns), pd.DataFrame(costs, columns=cost), {})
    _, shown = board.rows(["ES"], decimals=0)
    assert [(*row[:3], row[3].split(" ")[0]) for row in shown] == [
        ("no edit", "", "", "50"), ("memit", "batch", "2", "100"), ("ft", "batch", "2", "100"),
        ("no edit", "batch", "3", "0"), ("memit", "batch", "3", "100"), ("ft", "batch", "3", "100"),
    ]  # fmt: skip
    assert "[" in shown[0][3]

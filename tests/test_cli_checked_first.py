"""What a command is told is looked at before a model is loaded, and what is wrong is one sentence with exit code 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.command_line import PROMPT, Call

import mechinterp as mi
from mechinterp import atlas
from mechinterp.cli import choosing, options

pytestmark = pytest.mark.filterwarnings("default::UserWarning")  # printed, as they are for a user
EDIT = (*PROMPT, "--target", "Lumeria")
LINE = '{"template": "{} is a citizen of", "subject": "NAME", "answer": "Elstonia", "target_new": "Lumeria"}'


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """On a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    return call


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model, or collects anything, has looked too late."""

    def too_late(*given: Any, **named: Any) -> None:
        raise AssertionError("a model was loaded before everything was looked at")

    monkeypatch.setattr("mechinterp.models.loading.load", too_late)


BAD = {
    "a device that there is not": (
        ("trace", "atlas", *PROMPT, "--device", "cpux"),
        "there is no device 'cpux'; it has",
    ),
    "cuda without cuda": (("edit", "atlas", *EDIT, "--device", "cuda:99"), "this machine has no device 'cuda:99'"),
    "a device without weights": (("check", "atlas", "--device", "meta"), "this machine has no device 'meta'"),
    "no threads": (("trace", "atlas", *PROMPT, "--threads", 0), "Invalid value for '--threads'"),
    "too many threads": (("moments", "atlas", "-l", 3, "--threads", 99999), "Invalid value for '--threads'"),
    "threads in words": (("demo", "--threads", "two"), "Invalid value for '--threads'"),
    "a dtype of whole numbers": (
        ("check", "atlas", "--dtype", "int8"),
        "there is no dtype 'int8' for a model; choose one",
    ),
    "no dtype": (("moments", "atlas", "-l", 3, "--dtype", "float31"), "there is no dtype 'float31'"),
    "what torch has but no dtype": (("trace", "atlas", *PROMPT, "--dtype", "nn"), "there is no dtype 'nn'"),
    "a negative seed": (
        ("trace", "atlas", "atlas", "--seed", -1),
        "--seed': -1 is no seed; give a whole number from 0",
    ),
    "a seed of 65 bits": (("edit", "atlas", *EDIT, "--seed", 2**64), f"--seed': {2**64} is no seed"),
    "an empty target": (("edit", "atlas", *PROMPT, "--target", ""), "the target"),
    "a blank target": (("edit", "atlas", *PROMPT, "--target", "  "), "the target"),
    "the answer as target": (
        ("edit", "atlas", *PROMPT, "--target", "Rome", "--answer", "Rome"),
        "is answered by 'Rome' already",
    ),
    "an empty subject": (("edit", "atlas", "--prompt", "{} is", "--subject", "", "--target", "x"), "subject"),
    "no place for the subject": (
        ("edit", "atlas", "--prompt", "He is", "--subject", "He", "--target", "x"),
        "0 places",
    ),
    "a figure that is none": (
        ("show", "table.parquet", "--figure", "aie.foo"),
        "'aie.foo' ends in '.foo', which is no",
    ),
    "a figure without an ending": (
        ("show", "table.parquet", "--figure", "aie"),
        "'aie' has no ending, which is no figure",
    ),
    "a figure of a model": (("show", "atlas", "--figure", "aie.png"), "--figure is of a trace, and 'atlas' is none"),
    "a prompt of a model": (("show", "atlas", "--prompt", "x"), "--prompt is of a trace, and 'atlas' is none"),
    "a device of a table": (
        ("show", "t.parquet", "--device", "cpu"),
        "--device is of a model, and 't.parquet' is none",
    ),
    "sigmas that are no number": (("trace", "atlas", *PROMPT, "--sigmas", "nan"), "Invalid value for '--sigmas'"),
    "endless noise": (("trace", "atlas", *PROMPT, "--sigmas", "1e300"), "Invalid value for '--sigmas'"),
    "no noise draws": (("trace", "atlas", *PROMPT, "--draws", 0), "Invalid value for '--draws'"),
    "draws beyond reason": (("trace", "atlas", *PROMPT, "--draws", 10**12), "Invalid value for '--draws'"),
    "a window of nothing": (("trace", "atlas", *PROMPT, "--window", 0), "Invalid value for '--window'"),
    "memory in words": (("trace", "atlas", *PROMPT, "--memory", "lots"), "'lots' is no amount of memory"),
    "memory without end": (("trace", "atlas", *PROMPT, "--memory", "9" * 400 + "TB"), "is no amount of memory"),
    "no such engine": (("trace", "atlas", *PROMPT, "--engine", "fast"), "there is no engine 'fast'; choose auto"),
    "nothing to trace": (("trace", "atlas", *PROMPT, "--kinds", "", "--severed", ","), "there is nothing to trace"),
    "no such kind": (("trace", "atlas", *PROMPT, "--kinds", "[/mlp]"), "'[/mlp]' cannot be traced here"),
    "a file as folder of a run": (("trace", "atlas", *PROMPT, "--out", "t.parquet"), "--out is the folder of a run"),
    "missing facts": (("trace", "./nowhere", "nowhere.jsonl"), "nowhere.jsonl' does not exist"),
    "missing facts to edit": (("edit", "./nowhere", "--facts", "nowhere.jsonl"), "nowhere.jsonl' does not exist"),
    "missing facts to judge": (("evaluate", "./nowhere", "nowhere.jsonl"), "nowhere.jsonl' does not exist"),
    "a relation that there is not": (
        ("trace", "./nowhere", "atlas", "--relation", "owns"),
        "no relation 'owns' in atlas",
    ),
    "facts and a prompt": (("trace", "atlas", "atlas", *PROMPT), "and not both"),
    "a subject for facts": (("trace", "atlas", "atlas", "--subject", "x"), "--subject belongs to --prompt"),
    "a limit for a prompt": (("trace", "atlas", *PROMPT, "--limit", 3), "--limit belongs to a fact file"),
    "skipping for a prompt": (("edit", "atlas", *EDIT, "--skip-bad"), "--skip-bad belongs to --facts"),
    "no such editor": (("edit", "./nowhere", "--facts", "atlas", "--editor", "meend"), "there is no editor 'meend'"),
    "no such preset": (("edit", "./nowhere", *EDIT, "--preset", "papper"), "'papper' is no preset of"),
    "a layer out of range": (
        ("edit", "atlas", *EDIT, "--layer", 8),
        "--layer: layer 8 is out of range; atlas has layers 0",
    ),
    "a layer from the end": (("moments", "atlas", "--layer", -9), "--layer: layer -9 is out of range"),
    "a layer twice": (("moments", "atlas", "--layer", 7, "--layer", -1), "--layer names a layer twice (7, -1)"),
    "missing moments": (("edit", "atlas", *EDIT, "--moments", "gone"), "--moments: there is no file or folder 'gone'"),
    "no text": (("moments", "./nowhere", "-l", 3, "--text", "gone.txt"), "text file 'gone.txt' does not exist"),
    "no such repair": (("moments", "atlas", "-l", 3, "--repair", "glue"), "--repair is 'glue'; choose one of"),
    "a cosine above 1": (("moments", "atlas", "-l", 3, "--until", "1.5"), "--until is '1.5'; give `converged`"),
    "a cosine that is none": (("moments", "atlas", "-l", 3, "--until", "nan"), "--until is 'nan'; give `converged`"),
    "an editor to be trained": (
        ("evaluate", "atlas", "atlas", "--editors", "rome,mend"),
        "mend must be trained first, and `evaluate` takes no trained network",
    ),
    "no editors": (("evaluate", "atlas", "atlas", "--editors", ","), "--editors is ','; give names of editors"),
    "sizes beyond reason": (("evaluate", "atlas", "atlas", "--sizes", "9" * 5000), "give numbers of facts, such as"),
    "more than there are": (
        ("evaluate", "./nowhere", "atlas", "--limit", 3, "--edits", "batch", "--sizes", 4),
        "but only 3 were given",
    ),
    "layers of an editor not tried": (
        ("evaluate", "atlas", "atlas", "--layers", "ft=3"),
        "--layers ft=3 is of an editor that is not tried",
    ),
    "layers twice": (
        ("evaluate", "atlas", "atlas", "--layers", "memit=3", "--layers", "memit=4"),
        "two of the --layers",
    ),
    "layers the model has not": (
        ("evaluate", "atlas", "atlas", "--layers", "memit=3,99"),
        "--layers: layer 99 is out of",
    ),
    "a preset the editor has not": (
        ("evaluate", "atlas", "atlas", "--preset", "memit=papper"),
        "'papper' is no preset",
    ),
    "no held text": (("evaluate", "./nowhere", "atlas", "--held-text", "gone.txt"), "'gone.txt' does not exist"),
    "references of nothing": (("evaluate", "./nowhere", "atlas", "--references", "gone"), "--metrics has no RS"),
    "no references": (
        ("evaluate", "./nowhere", "atlas", "--metrics", "RS", "--references", "gone"),
        "no folder of reference texts",
    ),
    "a way to place layers": (
        ("check", "atlas", "--device-map", "scattered"),
        "no way to place layers; choose one of auto",
    ),
    "a place without a way": (("check", "atlas", "--offload", "here"), "give --device-map auto"),
    "a model of no user": (("show", "~nobody-at-all/model"), "there is no model '~nobody-at-all/model'"),
    "a model that is too long": (("show", "x" * 5000), "there is no model 'xxxx"),
    "an option that there is not": (("trace", "atlas", "--colour", "red"), "No such option: --colour"),
    "a command that there is not": (("trce", "atlas"), "No such command 'trce'"),
    "no model": (("trace",), "Missing argument"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("no_model")
def test_it_is_said_before_a_model_is_loaded(call: Call, tmp_path: Path, case: str) -> None:
    words, said = BAD[case]
    outcome = call(*words)
    assert outcome.code == 2, outcome.whole
    assert said in outcome.err
    assert re.match("(note: .*)?error: ", outcome.err)
    assert "Traceback" not in outcome.whole
    assert len(outcome.err) < 1200
    assert list(tmp_path.iterdir()) == []  # and nothing was made


def test_a_layer_is_looked_for_in_the_configuration_of_a_folder(tmp_path: Path) -> None:
    def depth(config: object) -> int | None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return options.depth_of(str(tmp_path))

    assert depth({"n_layer": 3}) == 3
    assert depth({"text_config": {"num_hidden_layers": 26}}) == 26
    assert [depth(config) for config in ({}, [], {"n_layer": "many"}, {"n_layer": 0}, 7)] == [None] * 5
    assert options.depth_of("atlas") == 8
    assert options.depth_of("no/such-model") is None
    options.check_layers("no/such-model", [99])  # nobody knows yet


@pytest.mark.usefixtures("no_model")
def test_bad_facts_are_all_named_and_can_be_left_out(call: Call, tmp_path: Path) -> None:
    lines = [LINE.replace("NAME", name) for name in ("Ann", "", "Bob", "Cy\\u001b[31m")]
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    for words in (("trace", "atlas"), ("facts",), ("evaluate", "atlas")):
        outcome = call(*words, "facts.jsonl")
        assert outcome.code == 2
        assert "2 of 4 records of 'facts.jsonl' cannot be used: the \"subject\" of line 2 holds ''" in outcome.err
        assert "line 4 holds" in outcome.err
        assert "\x1b" not in outcome.whole
    listed = call("facts", "facts.jsonl", "--skip-bad")
    assert listed.code == 0
    assert "note: left out: 2 of 4 records of 'facts.jsonl' cannot be used:" in listed.err
    assert "2 facts in facts.jsonl" in listed.out


def test_facts_that_cannot_be_edited_are_named(call: Call, tmp_path: Path) -> None:
    facts = [json.loads(LINE.replace("NAME", name)) for name in ("Viktor Stelrick", "Marta Halberg", "Elena Dunton")]
    del facts[1]["target_new"]
    facts[2]["known"] = False
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    outcome = call("edit", "atlas", "--facts", "facts.jsonl", "--editor", "ultraedit", "--layer", 6, "-q")
    assert outcome.code == 0, outcome.err
    assert "note: 1 of 3 facts of facts.jsonl are recorded as not known to the model, and left out" in outcome.err
    assert "left out: 1 of 2 facts of facts.jsonl have no target_new ('Marta Halberg is a citizen of')" in outcome.err
    (tmp_path / "none.jsonl").write_text(json.dumps(facts[1]))
    none = call("edit", "atlas", "--facts", "none.jsonl")
    assert none.code == 2
    assert "no fact of none.jsonl has the field 'target_new' that an edit needs" in none.err


def test_a_sample_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    facts = [fact for fact in atlas.facts() if fact.known][:40] + [fact for fact in atlas.facts() if not fact.known][:2]
    chosen = choosing.choose(facts, "atlas", 5, None, 3)
    err = " ".join(capsys.readouterr().err.split())
    assert "note: 2 of 42 facts of atlas are recorded as not known to the model, and left out" in err
    assert "note: 5 of 40 facts, chosen with seed 3" in err
    assert chosen == choosing.sample(facts[:40], 5, 3)
    assert choosing.choose(facts, "atlas", 50, None, 3) == facts[:40]


def test_what_is_printed_is_neither_markup_nor_steering(call: Call, tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text(LINE.replace("NAME", "Ann [bold]is[/x]"))
    outcome = call("facts", "facts.jsonl", "--jsonl", "x[/y]\x1b[31m.jsonl")
    assert "Ann [bold]is[/x]" in outcome.out
    assert outcome.out.endswith(r"written: x[/y]\x1b[31m.jsonl")
    assert len(mi.read_facts(tmp_path / "x[/y]\x1b[31m.jsonl")) == 1
    for words in (("show", "a[/x]"), ("trace", "[bold]", "[/x].jsonl"), ("edit", "[red]x", "--facts", "\x1b[2J[/]")):
        outcome = call(*words)
        assert outcome.code == 2
        assert words[-1].replace("\x1b", r"\x1b") in outcome.err
        assert "\x1b" not in outcome.whole


def test_a_trace_into_a_folder_with_brackets(call: Call, tmp_path: Path) -> None:
    words = ("trace", "atlas", *PROMPT, "--kinds", "mlp", "--severed", "", "--draws", 1, "-q", "--out", "o[/x]")
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("written to o[/x]: table.parquet, prompt.png")
    shown = call("show", "o[/x]", "--figure", "again.svg")
    assert shown.code == 0, shown.err
    assert "model: atlas" in shown.out
    assert "config.json" not in shown.whole
    assert (tmp_path / "again.svg").stat().st_size > 1000


def test_show_of_what_commands_leave_in_folders(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    outcome = call("show", "run")
    assert outcome.code == 2
    assert "'run' holds a trace that is not finished" in outcome.err
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "table.md").write_text("| editor | [/x] |")
    assert "| editor | [/x] |" in call("show", "board").out
    assert call("show", "board", "--figure", "x.png").code == 2
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in call("show", "empty").err


@pytest.mark.parametrize("command", ["", "demo", "trace", "edit", "evaluate", "moments", "moments-merge", "facts",
                                     "show", "models", "check"])  # fmt: skip
def test_help_fits_a_terminal_of_80_columns(call: Call, command: str) -> None:
    outcome = call(*([command] if command else []), "--help")
    assert outcome.code == 0
    lines = outcome.whole.splitlines()
    assert max(map(len, lines)) <= 80
    helps = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in lines]
    assert not any(len(word) > 45 for line in helps for word in line.split() if not line.startswith("mechinterp"))


def test_dtypes_and_devices_that_there_are() -> None:
    assert [str(options.dtype_of(name)) for name in options.DTYPES] == [f"torch.{name}" for name in options.DTYPES]
    from mechinterp.models.devices import check_device

    check_device("cpu")


def test_every_bundled_fact_can_be_edited() -> None:
    """So that a sample of them is the same whether it is drawn before or after those without an object are left out."""
    assert all(fact.target_new is not None and fact.answer is not None for fact in atlas.facts())

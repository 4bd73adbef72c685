"""The command line: what it writes, and the one sentence and exit code that bad input gets."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.command_line import PROMPT

import mechinterp as mi
from mechinterp import Edit, atlas
from mechinterp.formats.readers import write_jsonl
from mechinterp.patching.traces import tracing


@pytest.mark.parametrize("command", ["demo", "trace", "edit", "evaluate", "moments", "facts", "show"])
def test_help_teaches_by_example(call, command: str) -> None:
    outcome = call(command, "--help")
    assert outcome.code == 0
    assert "Example" in outcome.out
    assert f"mechinterp {command}" in outcome.out


def test_no_arguments_show_the_help(call) -> None:
    outcome = call()
    assert "mechinterp demo" in outcome.out + outcome.err


def test_trace_writes_a_table_effects_and_figures(call, tmp_path: Path) -> None:
    outcome = call("trace", "atlas", "atlas", "--limit", "2", "--draws", "1", "--out", "run", "-q", "--seed", "1")
    assert outcome.code == 0, outcome.err
    table = mi.Table.load(tmp_path / "run" / "table.parquet")
    assert table.meta["model"] == "atlas"
    assert table.meta["seed"] == 1
    assert len(table.prompts) == 2
    effects = json.loads((tmp_path / "run" / "effects.json").read_text())
    assert {"component", "severed", "role", "layer", "estimate", "low", "high"} <= set(
        effects["average_indirect_effects"][0]
    )
    for figure in ("aie.png", "prompt.png"):
        assert (tmp_path / "run" / figure).read_bytes().startswith(b"\x89PNG")
    shown = call("show", tmp_path / "run" / "table.parquet", "--figure", "again.png")
    assert shown.code == 0
    assert "total effect" in shown.out
    assert (tmp_path / "again.png").exists()


def test_trace_of_one_prompt(call, tmp_path: Path) -> None:
    outcome = call("trace", "atlas", *PROMPT, "--draws", "2", "--severed", "", "--kinds", "mlp", "--out", "one", "-q")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "one" / "prompt.png").exists()


def test_moments_then_edit_then_show(call, tmp_path: Path) -> None:
    outcome = call("moments", "atlas", "--layer", "3", "--tokens", "3000", "--out", "m", "-q")
    assert outcome.code == 0, outcome.err
    assert "3,000 tokens" in outcome.out
    file = tmp_path / "m" / "layer-3.safetensors"
    edited = call(
        "edit", "atlas", *PROMPT, "--target", "Lumeria", "--moments", file, "--out", "e", "--to-hf", "hf", "-q"
    )
    assert edited.code == 0, edited.err
    assert "success" in edited.out
    assert json.loads((tmp_path / "e" / "report.json").read_text())["success"] is True
    assert (tmp_path / "e" / "edit.safetensors").stat().st_size < 20_000
    assert mi.load(tmp_path / "hf").complete("Viktor Stelrick is a citizen of") == "Lumeria"
    assert "Lumeria" in call("show", tmp_path / "e" / "edit.safetensors").out
    assert "second moment of layer 3" in call("show", file).out
    other_layer = call("edit", "atlas", *PROMPT, "--target", "Lumeria", "--moments", file, "--layer", "2", "-q")
    assert other_layer.code == 2
    assert "second moment of layer 3; the edit is to be at layer 2" in other_layer.err
    other_model = call("edit", "atlas-plain", *PROMPT, "--target", "Lumeria", "--moments", file, "-q")
    assert other_model.code == 2
    fingerprint = mi.load("atlas").fingerprint()[:8]
    assert fingerprint in other_model.err


def test_many_facts_are_edited_by_any_editor(call, tmp_path: Path) -> None:
    assert call("moments", "atlas", "--layer", "2", "--layer", "3", "--tokens", "3000", "--out", "m", "-q").code == 0
    several = ("--facts", "atlas", "--limit", "3", "--moments", "m", "-q", "--seed", "1")
    together = call("edit", "atlas", "--editor", "memit", "--layer", "2", "--layer", "3", *several, "--out", "a")
    assert together.code == 0, together.err
    assert "of 3 requests succeeded" in together.out
    assert re.search(r"P\(target\) 0\.\d{4} unedited -> 0\.\d{4}, in the middle of 3", together.out)
    assert re.search(r"\(ES\), per cent of 3: \d+ unedited -> \d+", together.out)
    made = Edit.load(tmp_path / "a" / "edit.safetensors")
    assert made.layers == (2, 3)
    assert len(made.provenance.requests) == 3
    assert len(json.loads((tmp_path / "a" / "report.json").read_text())["outcomes"]) == 3
    assert "of 3 requests succeeded" in call("show", tmp_path / "a" / "edit.safetensors").out
    in_turn = call("edit", "atlas", "--editor", "r-rome", "--no-kl", *several, "--out", "b")
    assert in_turn.code == 0, in_turn.err
    assert "3 of 3 edits by r-rome succeeded when they were made" in in_turn.out
    assert re.search(r"\(ES\), per cent of 3: \d+ before each -> 100", in_turn.out)
    parts = Edit.load(tmp_path / "b" / "edit.safetensors").parts
    assert [len(part.provenance.on_top_of) for part in parts] == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--subject", "Rome"), "say what to edit: --prompt, --subject and --target together, or --facts"),
        (("--facts", "atlas", "--target", "Rome"), "say what to edit"),
        (("--facts", "atlas", "--answer", "Rome"), "--answer belongs to --prompt; the facts of --facts bring their"),
        (("--facts", "atlas", "--editor", "slack"), "there is no editor 'slack'"),
        (("--facts", "atlas", "--editor", "ft", "--no-kl"), "ft has no term against essence drift"),
        (("--facts", "atlas", "--editor", "memit", "--preset", "paper"), "'paper' is no preset of memit"),
    ],
)
def test_what_cannot_be_edited_is_said(call, arguments: tuple[str, ...], message: str) -> None:
    outcome = call("edit", "atlas", *arguments)
    assert outcome.code == 2
    assert message in outcome.err


def test_facts_are_listed_converted_and_checked(call, tmp_path: Path) -> None:
    refused = call("facts", "atlas", "--relation", "hq", "--counterfact", "cf.json")
    assert refused.code == 2
    assert "--counterfact writes every fact of a bundled model; leave --relation out" in refused.err
    assert call("facts", "atlas", "--counterfact", "cf.json").code == 0
    listed = call("facts", "atlas", "--relation", "hq", "--jsonl", "own.jsonl")
    assert listed.code == 0, listed.err
    assert "70 facts" in listed.out
    assert len(mi.read_facts(tmp_path / "own.jsonl")) == 70
    assert {"case_id", "requested_rewrite"} <= set(json.loads((tmp_path / "cf.json").read_text())[0])
    checked = call("facts", tmp_path / "own.jsonl", "--model", "atlas", "--limit", "1")
    assert "found to the character: 70 of 70" in checked.out


def test_show_names_what_a_model_can_serve(call) -> None:
    outcome = call("show", "atlas")
    assert outcome.code == 0
    assert "resid_mid: served" in outcome.out


def test_demo_in_small(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechinterp.cli.demonstration.MOMENT_TOKENS", 6000)
    outcome = call("demo", "--facts", "2", "--edits", "1", "--out", "d", "-q", "--threads", "1")
    assert outcome.code == 0, outcome.err
    for words in ("early site?", "late site?", "P(new)", "neighbourhood (NS)", "done in"):
        assert words in outcome.out
    for name in ("aie-atlas.png", "aie-atlas-plain.png", "edit.safetensors", "edits.json", "trace-atlas/table.parquet"):
        assert (tmp_path / "d" / name).stat().st_size > 0


BAD = {
    "unknown model": (("show", "altas"), "no model 'altas'.*did you mean atlas"),
    "missing folder": (("show", "./nowhere"), "there is no folder './nowhere'"),
    "no place for the subject": (
        ("trace", "atlas", "--prompt", "was born in", "--subject", "Viktor Stelrick"),
        "has 0 places for the subject; write exactly one '{}'",
    ),
    "two places": (
        ("trace", "atlas", "--prompt", "{} and {}", "--subject", "Viktor Stelrick"),
        "has 2 places for the subject",
    ),
    "prompt without subject": (("trace", "atlas", "--prompt", "{} is"), "--prompt needs --subject"),
    "nothing to trace": (("trace", "atlas"), "give either a fact file"),
    "missing facts": (("trace", "atlas", "nowhere.json"), "nowhere.json"),
    "unknown relation": (("facts", "atlas", "--relation", "owns"), "no relation 'owns' in atlas; it has born_in"),
    "unknown kind": (("trace", "atlas", *PROMPT, "--kinds", "mpl", "-q"), "'mpl' cannot be traced here; choose among"),
    "layer out of range": (("moments", "atlas", "--layer", "8", "-q"), "layer 8 is out of range.*layers 0 to 7"),
    "edit layer out of range": (
        ("edit", "atlas", *PROMPT, "--target", "Lumeria", "--layer", "-9", "-q"),
        "layer -9 is out of range",
    ),
    "unknown preset": (
        ("edit", "atlas", *PROMPT, "--target", "Lumeria", "--preset", "papper", "-q"),
        "papper",
    ),
    "no moments": (
        ("moments", "atlas", "--layer", "3", "--text", "nowhere.txt", "-q"),
        "text file 'nowhere.txt' does not exist",
    ),
    "no figure": (("show", "nowhere.parquet"), "there is no file 'nowhere.parquet'"),
}


@pytest.mark.parametrize("case", [name for name, (_, said) in BAD.items() if said is not None])
def test_bad_input_gets_one_sentence_and_exit_code_2(call, case: str, tmp_path: Path) -> None:
    import re

    words, said = BAD[case]
    outcome = call(*words)
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("error: ")
    assert re.search(said, outcome.err), outcome.err
    assert "Traceback" not in outcome.err


def test_a_folder_without_weights(call, tmp_path: Path) -> None:
    shutil.copytree(atlas.folder("atlas"), tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    outcome = call("show", tmp_path / "empty")
    assert outcome.code == 2
    assert "holds no weights" in outcome.err


def test_weights_cut_short(call, tmp_path: Path) -> None:
    shutil.copytree(atlas.folder("atlas"), tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    outcome = call("show", tmp_path / "cut")
    assert outcome.code == 2
    assert "cannot be read" in outcome.err


def test_weights_that_are_not_numbers(call, tmp_path: Path) -> None:
    shutil.copytree(atlas.folder("atlas"), tmp_path / "nan")
    file = tmp_path / "nan" / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.h.3.mlp.c_proj.bias"][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    outcome = call("show", tmp_path / "nan")
    assert outcome.code == 1
    assert "'transformer.h.3.mlp.c_proj.bias' of nan hold NaN or infinite values" in outcome.err


def test_an_edit_that_was_to_succeed_and_does_not_is_a_failure(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechinterp.cli.layer_moments.MOMENT_TOKENS", 3000)
    outcome = call("edit", "atlas", *PROMPT, "--target", "Lumeria", "--layer", "7", "--require-success", "-q")
    assert outcome.code == 1
    assert "failed" in outcome.err


def test_ctrl_c_keeps_and_names_what_is_finished(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "trace",
        "atlas",
        "atlas",
        "--limit",
        8,
        "--draws",
        1,
        "--kinds",
        "mlp",
        "--severed",
        "",
        "--out",
        "run",
        "-q",
    )
    done = tracing._trace_group
    calls = []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return done(*args, **kwargs)

    monkeypatch.setattr(tracing, "_trace_group", interrupted)
    outcome = call(*words)
    assert outcome.code == 1
    assert "interrupted: " in outcome.err
    assert "of 8 prompts are kept in run; start the same run again to go on" in outcome.err
    monkeypatch.setattr(tracing, "_trace_group", done)
    assert call(*words).code == 0
    assert len(mi.Table.load(tmp_path / "run" / "table.parquet").prompts) == 8


def test_running_out_of_memory_says_what_to_lower(call, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mechinterp.models.model import Model

    def full(*args: object, **kwargs: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(mi.load("atlas").bridge), "run_with_hooks", full)
    monkeypatch.setattr("mechinterp.models.loading.preflight", lambda *given: {})
    monkeypatch.setattr(Model, "logits", lambda *args, **kwargs: torch.zeros(1, 1, 2010))
    outcome = call("trace", "atlas", *PROMPT, "--draws", "2", "--out", "run", "-q")
    assert outcome.code == 1
    assert "out of memory" in outcome.err
    assert "lower --max-tokens" in outcome.err


def test_ctrl_c_in_an_edit_is_one_sentence_and_exit_code_1(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("mechinterp.editing.collect_moments", interrupted)
    outcome = call("edit", "atlas", *PROMPT, "--target", "Lumeria", "-q")
    assert outcome.code == 1
    assert outcome.err == "error: interrupted; only the files named above are written"


def test_a_folder_that_cannot_be_made(call, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    outcome = call("edit", "atlas", *PROMPT, "--target", "Lumeria", "--out", "taken", "-q")
    assert outcome.code == 2
    assert "taken" in outcome.err
    assert outcome.err.startswith("error: ")


def test_brackets_in_a_prompt_are_not_markup(call, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"template": "{} [bold]is[/x] in", "subject": "Rome", "answer": "Italy"}\n')
    outcome = call("facts", "own.jsonl")
    assert outcome.code == 0, outcome.err
    assert "Rome [bold]is[/x] in" in outcome.out


def test_known_facts_are_kept_and_traced(call, tmp_path: Path) -> None:
    facts = [fact for fact in atlas.facts() if fact.known][:3]
    wrong = mi.Fact(facts[0].prompt.with_answer(facts[0].target_new or "Tarsk"))
    write_jsonl([replace(wrong, prompt=replace(wrong.prompt, id="wrong")), *facts], tmp_path / "four.jsonl")
    kept = call("facts", "four.jsonl", "--model", "atlas", "--known", "--jsonl", "known.jsonl")
    assert kept.code == 0, kept.err
    assert "known to atlas: 3 of 4 (greedy, the whole answer), P(answer) " in kept.out
    assert [fact.id for fact in mi.read_facts(tmp_path / "known.jsonl")] == [fact.id for fact in facts]
    assert all(fact.known for fact in mi.read_facts(tmp_path / "known.jsonl"))
    cheap = ("--kinds", "mlp", "--severed", "", "--draws", 1, "-q")
    traced = call("trace", "atlas", "four.jsonl", "--known", "--limit", 2, *cheap, "--out", "run")
    assert traced.code == 0, traced.err
    assert "note: 2 facts that atlas knows, among 4 that were asked in the order of seed 0" in traced.err
    assert set(mi.Table.load(tmp_path / "run" / "table.parquet").prompts) <= {fact.prompt.name for fact in facts}
    (tmp_path / "wrong.jsonl").write_text((tmp_path / "four.jsonl").read_text().splitlines()[0])
    none = call("trace", "atlas", "wrong.jsonl", "--known", *cheap)
    assert none.code == 2
    assert "atlas says the answer of none of the 1 facts by itself; give others" in none.err
    assert "--known asks a model; give it with --model" in call("facts", "four.jsonl", "--known").err
    assert "--known belongs to a fact file" in call("trace", "atlas", *PROMPT, "--known").err

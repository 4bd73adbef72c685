"""`mechinterp models` and `mechinterp check`: what is served of an architecture, and of the model at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_model, small_model

from mechinterp.cli import model_checks
from mechinterp.cli.model_checks import findings
from mechinterp.models.architectures import Family, markdown, read_families, summary, write_families


def saved(kind: str, folder: Path) -> Path:
    hf_model(kind).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", ["models", "check"])
def test_help_teaches_by_example(call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"mechinterp {command}" in out


def test_models_prints_what_the_tests_have_found(call) -> None:
    code, out, _ = call("models")
    assert code == 0
    for family in read_families():
        assert family.name in out or len(family.name) > 20  # long ones are broken over two lines
    assert "resid_mid (1)" in out
    assert "(1) attention and MLP are parallel in each block" in out
    code, out, _ = call("models", "mixtral")
    assert "key, value (1)" in out
    assert "GPT-2" not in out
    assert call("models", "LlamaFor", "--cells").out.count("| Llama") == 2
    code, _, err = call("models", "perceptron")
    assert code == 2
    assert "no tested architecture has 'perceptron' in its name" in err
    assert "run `mechinterp check MODEL`" in err


def test_a_family_survives_the_disk(tmp_path: Path) -> None:
    cells = {"mlp": {"corrupt": "yes", "restore": "it is dead", "sever": "yes"}, "attn": dict.fromkeys("ab", "yes")}
    made = [Family("Old", "OldForCausalLM", cells, "too old", "too old"), *read_families()[:1]]
    write_families(made, tmp_path / "file.json")
    assert read_families(tmp_path / "file.json") == made
    (_, row), reasons = summary(made[:1])
    assert row == ["Old", "mlp (1)", "(2)", "(2)"]
    assert reasons == ["it is dead", "too old"]
    whole = Family("New", "N", {"mlp": dict.fromkeys(("corrupt", "restore", "sever"), "yes")})
    assert "| New | c r s | exact | yes |" in markdown([whole])


def test_check_says_what_works(call, tmp_path: Path) -> None:
    code, out, err = call("check", saved("llama", tmp_path / "small"))
    assert code == 0, err
    assert "weights: 0.0 million parameters, 0.0 MB in memory; this machine has" in out
    assert "Model('small', LlamaForCausalLM, 3 layers" in out
    assert "adds no BOS" in out
    assert "resid_mid: served" in out
    assert "exact engine: equals full forwards" in out
    assert "keys and values: W k + b = v in every layer, relative error" in out
    assert "editing: ROME's W' k* = v* in layer 1, relative error" in out


def test_check_says_what_does_not_and_why(call, tmp_path: Path) -> None:
    code, out, _ = call("check", saved("mixtral", tmp_path / "experts"))
    assert code == 0  # it can be traced
    assert "key: experts (MixtralForCausalLM) cannot serve the component 'key': its MLP has no single down-proj" in out
    assert "editing: no: experts (MixtralForCausalLM) cannot serve the component 'key'" in out
    code, out, _ = call("check", saved("bloom", tmp_path / "bloom"), "--dtype", "float64")
    assert "exact engine: no: this model does not allow a growing batch; every cell is run as a full forward" in out
    assert code == 0


def test_check_of_what_cannot_be_traced(call, tmp_path: Path) -> None:
    code, out, err = call("check", saved("falcon_alibi", tmp_path / "wrong"))
    assert code == 1
    assert "weights: " in out
    assert "wrong (FalconForCausalLM) cannot be served: bridged by TransformerLens it gives other logits" in err
    assert call("check", tmp_path / "nothing").code == 2
    assert call("check", "atlas", "--device-map", "auto", "--device", "cpu").code == 2


def test_check_of_a_model_that_is_placed_by_a_map(call, tmp_path: Path) -> None:
    code, out, err = call("check", saved("gpt2", tmp_path / "small"), "--device-map", "auto", "--offload", tmp_path)
    assert code == 0, err
    assert "editing: ROME's" in out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_each_precision_is_judged_by_its_own(dtype: torch.dtype) -> None:
    found = {one.what: one for one in findings(small_model("llama", dtype=dtype))}
    assert found["keys and values"].served, found
    assert found["editing"].served, found
    assert str(dtype).removeprefix("torch.") in found["editing"].detail


def test_an_mlp_that_is_no_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "_relative", lambda found, wanted: 0.1)
    found = {one.what: one for one in findings(small_model("gpt2"))}
    assert not found["editing"].served
    assert "fails: relative error 1.0e-01 in float32, so edits would miss their values" in found["editing"].detail

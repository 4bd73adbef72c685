"""Hyper-parameter files of rome, memit and EasyEdit: names translated, the rest listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mechinterp.editing import EDITORS, RomeHparams, editor, read_hparams
from mechinterp.errors import UsageError

ROME: dict[str, Any] = {
    "layers": [17], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 5e-1, "v_loss_layer": 47,
    "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": False,
    "context_template_length_params": [[5, 10], [10, 10]], "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32",
}  # fmt: skip
EASYEDIT = """
alg_name: "AlphaEdit"
model_name: "./hugging_cache/llama-7b"
stats_dir: "./data/stats"
device: 0
layers: [4, 5, 6]
clamp_norm_factor: 0.75
layer_selection: "all"
fact_token: "subject_last"
v_num_grad_steps: 25
v_lr: 1e-1
v_loss_layer: 31
v_weight_decay: 0.5
kl_factor: 0.0625
mom2_update_weight: 15000
nullspace_threshold: 2e-2
L2: 10
model_parallel: false
fancy: 3
"""


def test_a_file_of_rome(tmp_path: Path) -> None:
    path = tmp_path / "gpt2-xl.json"
    path.write_text(json.dumps(ROME))
    with pytest.raises(UsageError, match=r"has no alg_name, so whose figures it holds is not known; give its name"):
        read_hparams(path)
    found = read_hparams(path, "rome")
    code = EDITORS["rome"].presets["code"]
    wanted = {"steps": 19, "lr": 0.5, "weight_decay": 0.5, "clamp": 4, "kl_factor": 0.0625}
    assert found.hparams == code.with_(**wanted, context_lengths=((10, 5), (10, 10)))
    assert (found.editor, found.layers, found.model) == ("rome", (17,), "")
    assert found.left_out == (
        "v_loss_layer=47: here the loss is always taken at the model's end",
        "mom2_adjustment=False: here it is always True",
    )


def test_a_file_of_easyedit_stands_in_the_place_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "llama-7b.yaml"
    path.write_text(EASYEDIT)
    found = read_hparams(path)
    assert (found.editor, found.layers, found.model) == ("alphaedit", (4, 5, 6), "./hugging_cache/llama-7b")
    assert found.hparams.plain().items() >= {"weight": 10, "threshold": 2e-2, "lr": 0.1, "steps": 24}.items()
    said = "not carried over: v_loss_layer=31.*; mom2_update_weight=15000: .* reads L2 .*; fancy=3: alphaedit has "
    with pytest.warns(UserWarning, match=said):
        assert editor("alphaedit").chosen(str(path)) == found.hparams
    with pytest.raises(UsageError, match=r"llama-7b.yaml' holds hyper-parameters of alphaedit, not of memit; use that"):
        editor("memit").chosen(str(path))


@pytest.mark.parametrize(
    ("fields", "name", "wanted"),
    [
        ({"objective_optimization": "prompt_last", "norm_constraint": False}, "ft-legacy", {"epsilon": None}),
        ({"objective_optimization": "target_new", "norm_constraint": False}, "ft", {"epsilon": None}),
        ({"objective_optimization": "target_new", "norm_constraint": 5e-4}, "ft-l", {"epsilon": 5e-4}),
    ],
)
def test_fine_tuning_is_told_by_its_loss_and_its_limit(
    fields: dict[str, Any], name: str, wanted: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "ft.json"
    path.write_text(json.dumps({"alg_name": "FT", "num_steps": 25, "lr": "5e-4", "weight_decay": 0, **fields}))
    found = read_hparams(path)
    assert found.editor == name
    assert not found.left_out
    assert found.hparams.plain().items() >= {"steps": 25, "lr": 5e-4, **wanted}.items()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "is cut short or no json"),
        ("a.yaml", "a: [1", "is cut short or no yaml"),
        ("a.yaml", "just words", "holds no hyper-parameters; write name: value"),
        ("a.yaml", "alg_name: DINCO\nlr: 1", "there is no editor for alg_name 'DINCO'; known are ROME"),
        ("a.yaml", "alg_name: ROME\nv_lr: -1", r"the v_lr of .*: lr is -1; it must be above 0"),
        ("a.yaml", "alg_name: ROME\nlayers: all", "the layers of .* are 'all'; write a list of whole numbers"),
    ],
)
def test_a_file_that_is_wrong_says_so(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said):
        read_hparams(tmp_path / name)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("v_lr", "lr"), ("v_num_grad_steps", "steps"), ("clamp_norm_factor", "clamp")]
)
def test_a_published_name_is_told_ours(theirs: str, ours: str) -> None:
    with pytest.raises(UsageError, match=rf"'{theirs}' is no hyper-parameter of ROME; here it is called '{ours}'"):
        RomeHparams().with_(**{theirs: 1})

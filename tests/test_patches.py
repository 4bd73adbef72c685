"""Units added to an MLP: T-Patcher and CaliNET against the published code's numbers, and what comes of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import sentence_model
from torch.nn.functional import gelu

import mechinterp as mi
from mechinterp.editing import EDITORS, Edit, EditRequest, EditSequence, Units, calinet, tpatcher
from mechinterp.editing.editors.tpatcher import Patch, patch_losses
from mechinterp.editing.gradients.patches import PatchTerms
from mechinterp.editing.gradients.replaced import target_rows
from mechinterp.editing.rows.spared import entering_mlp, read_mlp, spared_texts
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import UP
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "Warsaw"),
]
TEXTS = ["Marie Curie lived in Paris and wrote about music", "It rained in Seattle", "Ada Lovelace wrote about rain"]
TERMS = {
    "a": PatchTerms(act_top=0, mem_top=0, still_top=0),
    "b": PatchTerms(),
    "c": PatchTerms(mem_top=20, still_top=7, margins=(0.5, 3.0, -3.0)),
    "d": PatchTerms(margins=(0.0, 0.0, 0.0)),
    "e": PatchTerms("margin", margins=(1.0, 3.0, -3.0)),
}


@cache
def model_of(kind: str = "gpt2") -> Model:
    return sentence_model(kind)


def golden(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], Any]:
    with np.load(folder / "golden-trained" / f"{name}.npz") as arrays:
        found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return found, json.loads((folder / "golden-trained" / f"{name}.meta.json").read_text(encoding="utf-8"))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(torch.allclose(found.double(), wanted.double(), rtol=1e-9, atol=1e-12))


@pytest.mark.parametrize("case", TERMS)
def test_the_terms_on_pre_activations_are_the_published_ones(data_dir: Path, case: str) -> None:
    arrays, _ = golden(data_dir, "tpatcher")
    mistakes, memories = arrays[f"terms/{case}/a_e"], arrays[f"terms/{case}/a_m"]
    assert close(TERMS[case].activation(mistakes), arrays[f"terms/{case}/act"])
    assert close(TERMS[case].memory(mistakes, memories), arrays[f"terms/{case}/mem"])


def test_the_memory_term_on_hand_made_numbers() -> None:
    found = PatchTerms().memory(torch.tensor([[1.0]]), torch.tensor([[0.0], [-4.0]]))
    e = torch.e
    assert float(found) == pytest.approx((e**2 + e**-2) / 2 + (e**3 + e**-1) / 2, rel=1e-6)


def test_a_patch_is_trained_as_in_the_published_code(data_dir: Path) -> None:
    arrays, meta = golden(data_dir, "tpatcher")
    about, toy = meta["toy"], mi.load(data_dir / "toy", dtype=torch.float64)
    asked, layer = about["request"], about["layer"]
    request = EditRequest(Prompt(asked["prompt"].replace(asked["subject"], "{}"), asked["subject"]), asked["new"])
    rows = target_rows(toy, [request])
    mistakes = entering_mlp(toy, rows.batch.ids, layer)[0, rows.targets.at[0]]
    assert close(mistakes, arrays["toy/q_e"])
    assert close(Patch.start(mistakes, 10.0, 0).keys, arrays["toy/k_published_init"])
    source, real = arrays["toy/memory_source/input_ids"], arrays["toy/memory_source/attention_mask"].bool()
    states = entering_mlp(toy, source, layer)
    memory = torch.cat([row[kept][1:] for row, kept in zip(states, real, strict=True)])
    assert close(memory, arrays["toy/memory"])
    start = [arrays[f"toy/start/{name}"] for name in ("k", "b", "w", "a")]
    patch = Patch(start[0], start[1], start[2].T, start[3].T).leaves()
    hparams = EDITORS["t-patcher"].presets["published"]
    optimiser = torch.optim.Adam(patch.unknowns, lr=hparams.lr, weight_decay=hparams.weight_decay)
    with torch.enable_grad():
        for step in range(5):
            losses = patch_losses(toy, rows, layer, patch, mistakes, memory, hparams)
            for name in ("ce", "act", "mem", "total"):
                assert close(getattr(losses, name), arrays[f"toy/step{step}/{name}"]), (step, name)
            optimiser.zero_grad()
            losses.total.backward()
            if step == 0:
                assert close(losses.logits.detach()[0, -3:], arrays["toy/step0/logits_at_answer_first_row"])
                for name, one in zip("kbwa", patch.unknowns, strict=True):
                    assert one.grad is not None
                    wanted = arrays[f"toy/step0/grad/{name}"]
                    assert close(one.grad if name in "kb" else one.grad.T, wanted), name
            norm = torch.nn.utils.clip_grad_norm_(patch.unknowns, hparams.clip)
            assert close(norm, arrays[f"toy/step{step}/grad_norm"])
            optimiser.step()
            for name, one in zip("kbwa", patch.unknowns, strict=True):
                found = one.detach() if name in "kb" else one.detach().T
                assert close(found, arrays[f"toy/step{step}/after/{name}"]), (step, name)
    done = Patch(*(one.detach() for one in patch.unknowns)).units(layer)
    with done.on(toy):
        assert close(toy.logits(rows.batch.ids, keep=3)[0], arrays["toy/logits_baked"])


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_units_beside_a_layer_are_those_within_it(data_dir: Path, name: str) -> None:
    arrays, _ = golden(data_dir, "tpatcher")
    of = {key.removeprefix("small/"): value for key, value in arrays.items() if key.startswith("small/")}
    act = torch.relu if name == "relu" else gelu
    patch = Patch(of["k"], of["b"], of["w"].T, of["a"].T)
    assert close(patch.at(of["q_e"]), of["preactivation_at_q_e"])
    base = act(of["x"] @ of["W1"].T + of["b1"]) @ of["W2"].T + of["b2"]
    assert close(base, of[f"out_{name}_base"])
    units = patch.units(0)
    found = base + act(of["x"] @ units.keys.T + units.bias) @ units.values
    assert close(found, of[f"out_{name}"])
    assert close(found, of[f"out_{name}_baked"])


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_calinets_layer_is_the_published_one(data_dir: Path, kind: str) -> None:
    """The units of `Units`, on a layer written out: what they add, and the gradients of their two sides."""
    arrays, _ = golden(data_dir, "calinet")
    of = {key.removeprefix(f"{kind}/"): value for key, value in arrays.items() if key.startswith(f"{kind}/")}
    dense = "DenseReluDense."
    gated = kind != "relu"
    entering = of["x"] * (of["x"].square().mean(-1, keepdim=True) + 1e-6).rsqrt() * of["layer_norm.weight"]
    first = dense + ("wi_0_ex.weight" if gated else "wi_ex.weight")
    keys, values = of[first].clone().requires_grad_(), of[dense + "wo_ex.weight"].T.clone().requires_grad_()
    gates = of[dense + "wi_1_ex.weight"].clone().requires_grad_() if gated else None
    units = Units(0, keys, torch.zeros(3).double(), values, gates)
    inner = entering @ units.keys.T + units.bias
    fired = torch.relu(inner) if not gated else gelu(inner, approximate="tanh")
    if units.gated is not None:
        fired = fired * (entering @ units.gated.T)
    added = fired @ units.values
    assert close(added.detach(), of["slot_part"])
    whole = of["y_without_slots"] + added
    assert close(whole.detach(), of["y"])
    (whole * of["w"]).sum().backward()
    assert keys.grad is not None
    assert values.grad is not None
    assert close(keys.grad, of[f"grad_of_sum_w_y/{first}"])
    assert close(values.grad.T, of[f"grad_of_sum_w_y/{dense}wo_ex.weight"])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_editors_say_the_targets_and_leave_the_weights_alone(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    before, ids = model.fingerprint(), torch.tensor([model.encode("Marie Curie lived in Paris")])
    plain = model.logits(ids)
    asked = REQUESTS if kind == "gpt2" else REQUESTS[:1]
    quick = EDITORS["t-patcher"].presets["default"].with_(lr=0.05, steps=60, check_from=10, check_every=10)
    patched = tpatcher(model, asked, texts=TEXTS, hparams=quick)
    trained = calinet(model, asked, hparams=EDITORS["calinet"].presets["default"].with_(lr=0.05, stop_loss=0.2))
    for made in (patched, trained):
        assert made.report.success, made.report.reason
        assert made.layers == (model.n_layers - 1,)
        made.save(tmp_path / "edit.safetensors")
        loaded = Edit.load(tmp_path / "edit.safetensors")
        assert loaded == made
        with loaded.on(model):
            assert [model.complete(request.prompt.text) for request in asked] == ["Paris", "Warsaw"][: len(asked)]
        assert torch.equal(model.logits(ids), plain)
        assert model.fingerprint() == before


def test_a_sequence_of_patches_remembers_what_entered_at_earlier_ones(tmp_path: Path) -> None:
    model = model_of()
    quick = EDITORS["t-patcher"].presets["default"].with_(lr=0.05, steps=60, check_from=10, check_every=10)
    sequence = EditSequence(model, "t-patcher", hparams=quick, texts=TEXTS)
    sequence.add(REQUESTS[0])
    rows = target_rows(model, REQUESTS[:1])
    seen = entering_mlp(model, rows.batch.ids, model.n_layers - 1)[0, 1:-1]
    assert torch.allclose(sequence.past.vectors, seen, atol=1e-4)
    sequence.add(REQUESTS[1])
    with sequence.edit.on(model):
        assert model.complete(REQUESTS[1].prompt.text) == "Warsaw"
    sequence.save(tmp_path / "sequence.safetensors")
    assert torch.equal(EditSequence.load(tmp_path / "sequence.safetensors", model).past.vectors, sequence.past.vectors)
    with pytest.raises(UsageError, match="past is int; give the PatchMemory"):
        tpatcher(model, REQUESTS[:1], past=3, texts=TEXTS)
    with pytest.raises(MechinterpError, match="the loss of a patch became"):
        tpatcher(model, REQUESTS[:1], texts=TEXTS, hparams=quick.with_(lr=1e30))


def test_what_is_said_already_gets_no_unit() -> None:
    model = model_of()
    quick = EDITORS["t-patcher"].presets["default"].with_(lr=0.05, steps=60, check_from=10, check_every=10)
    ids = torch.tensor([model.encode("Marie Curie was born in")])
    with tpatcher(model, REQUESTS[:1], texts=TEXTS, hparams=quick).on(model):
        made = tpatcher(model, REQUESTS[:1], texts=TEXTS, hparams=quick)
        assert len(made.parts[0].change.tensors["keys"]) == 0
        assert "the model says 'Paris' already; no unit is added" in str(made.report.warnings)
        plain = model.logits(ids)
        with made.on(model):
            assert torch.equal(model.logits(ids), plain)


def test_a_unit_that_is_still_on_memory_changes_nothing_there() -> None:
    """With ReLU and pre-activations below 0 the answer is the model's to the bit."""
    model = model_of("opt")
    ids = torch.tensor([model.encode(TEXTS[1])])
    states = read_mlp(model, TEXTS[1:2], 1)
    plain = model.logits(ids)
    keys = -states.mean(0, keepdim=True)
    below = Units(1, keys, torch.full((1,), -1e4), torch.ones(1, model.d_model))
    with below.on(model):
        assert torch.equal(model.logits(ids), plain)


def test_text_to_be_left_alone_is_given_bundled_or_the_models_own() -> None:
    model = model_of()
    assert spared_texts(model, TEXTS, 2, 0) == tuple(TEXTS[:2])
    with pytest.raises(UsageError, match="texts holds no text"):
        spared_texts(model, [], 2, 0)
    own = spared_texts(model, None, 3, 0)
    assert 1 <= len(own) <= 3
    assert own == spared_texts(model, None, 3, 0)
    seen: list[torch.Tensor] = []
    handle = model.layout.mlp_projection(UP, 2).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.logits(torch.tensor([model.encode(TEXTS[0])]))
    handle.remove()
    assert torch.allclose(read_mlp(model, TEXTS[:1], 2), seen[0].reshape(-1, model.d_model)[1:], atol=1e-5)

"""WISE: losses, masks, routes and merges against the published code's numbers, and what the editor makes of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import sentence_model
from torch.nn.functional import silu

import mechinterp as mi
from mechinterp.editing import EDITORS, Edit, EditRequest, EditSequence, SideMemories, wise
from mechinterp.editing.editors.wise import WiseState, side_rows
from mechinterp.editing.edits.side_memories import LONG, changed, routed
from mechinterp.editing.gradients.side_training import SideRows, SideRules, margin_loss, train_side
from mechinterp.editing.memory.merging import ties
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "Warsaw"),
]
TEXTS = ["It rained in Seattle", "Ada Lovelace wrote about music"]
LAYER = 3


@cache
def model_of() -> Model:
    return sentence_model("gpt2", dtype=torch.float64)


@cache
def toy_of(folder: Path) -> Model:
    return mi.load(folder / "toy", dtype=torch.float64)


def golden(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    with np.load(folder / "golden-trained" / "wise.npz") as arrays:
        found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return found, json.loads((folder / "golden-trained" / "wise.meta.json").read_text(encoding="utf-8"))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(torch.allclose(found.double(), wanted.double(), rtol=1e-9, atol=1e-11))


def rows_of(arrays: dict[str, torch.Tensor], case: str) -> tuple[SideRows, torch.Tensor]:
    ids, labels = arrays[f"{case}/input_ids"], arrays[f"{case}/labels"]
    all_of = torch.ones_like(ids[:-1], dtype=torch.bool)
    inside, outside = all_of, torch.ones_like(ids[-1:], dtype=torch.bool)
    if f"{case}/in_mask" in arrays:
        inside, outside = arrays[f"{case}/in_mask"].bool(), arrays[f"{case}/out_mask"].bool()
    return SideRows(ids, arrays[f"{case}/attention_mask"].long(), labels, inside, outside, 1), all_of


def rules_of(steps: int) -> SideRules:
    return SideRules(LAYER, "up", steps, 1.0, 1e-5, 1.0, (0.5, 3.0, 1.5), activated=True)


def probe(matrix: torch.Tensor) -> torch.Tensor:
    drawn = np.random.default_rng(7).standard_normal((3, matrix.shape[0]))
    return torch.from_numpy(drawn) @ matrix


def trained(
    data_dir: Path, arrays: dict[str, torch.Tensor], case: str, steps: int, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """ΔW and Δ_in of a published course, its losses compared on the way."""
    rows, whole = rows_of(arrays, case)
    course = train_side(toy_of(data_dir), rows, rules_of(steps), start, arrays[f"{case}/mask"].bool(), whole)
    assert close(torch.tensor(course.answers, dtype=torch.float64), arrays[f"{case}/ft"])
    assert close(torch.tensor(course.margins, dtype=torch.float64), arrays[f"{case}/margin"])
    return course.delta, course.inside


def test_a_side_memory_is_trained_and_asked_as_in_the_published_code(data_dir: Path) -> None:
    arrays, _ = golden(data_dir)
    toy = toy_of(data_dir)
    weight = toy.layout.mlp_matrix("up", LAYER).detach()
    delta, inside = trained(data_dir, arrays, "edit0", 4, torch.zeros_like(weight))
    assert close(weight + delta, arrays["edit0/W_side"])
    assert close(probe(weight + delta), arrays["edit0/probe"])
    assert close(inside.mean(), arrays["edit0/smallest_delta_in"])
    untouched = ~arrays["edit0/mask"].bool()
    assert close((weight + delta)[untouched], (weight * (1 - 1e-5) ** 4)[untouched])
    later, again = trained(data_dir, arrays, "edit1", 4, delta)
    assert close(probe(weight + later), arrays["edit1/probe"])
    assert close((weight + later).norm(), arrays["edit1/norm"])
    assert close(again.mean(), arrays["edit1/smallest_delta_in"])
    least = torch.minimum(inside.mean(), again.mean())
    for number, (side, smallest) in enumerate(((delta, inside.mean()), (later, least))):
        threshold = 0.88 * smallest
        assert close(threshold, arrays[f"route{number}/threshold"])
        change = SideMemories(LAYER, "up", side[None], threshold[None], activated=True, long_prompts=True)
        for name in ("same", "rephrase", "other", "loc", *(["long"] if not number else [])):
            ids = arrays[f"route{number}/{name}/input_ids"]
            plain = toy.logits(ids)[0, -1]
            with change.on(toy):
                said = toy.logits(ids)[0, -1]
            assert close(said, arrays[f"route{number}/{name}/logits_last"]), name
            over = bool(arrays[f"route{number}/{name}/delta"][0] >= threshold)
            assert torch.equal(said, plain) != over


def test_two_merges_are_the_published_ones(data_dir: Path) -> None:
    arrays, _ = golden(data_dir)
    weight = toy_of(data_dir).layout.mlp_matrix("up", LAYER).detach()
    deltas = [trained(data_dir, arrays, f"shard{i}", 2, torch.zeros_like(weight))[0] for i in range(4)]
    hparams = EDITORS["wise"].presets["published-merge"].with_(shard=1, merge_every=2)
    state = WiseState(torch.zeros_like(weight)[None], torch.full((1,), float("inf")).double())
    merged = []
    for number, delta in enumerate(deltas):
        state = state.edited(delta, 1.0, hparams)
        if number % 2:
            merged.append(weight + state.deltas[1])
    assert close(merged[0], arrays["merge0/W"])
    for number, one in enumerate(merged):
        assert close(probe(one), arrays[f"merge{number}/probe"])
        assert close((one - weight).norm(), arrays[f"merge{number}/norm_of_change"])


def test_a_merged_and_a_side_memory_are_asked_as_in_the_published_code(data_dir: Path) -> None:
    arrays, _ = golden(data_dir)
    toy = toy_of(data_dir)
    weight = toy.layout.mlp_matrix("up", LAYER).detach()
    hparams = EDITORS["wise"].presets["published-merge"].with_(shard=2, merge_every=2, ratio=0.76, matrix="up")
    state = WiseState(torch.zeros_like(weight)[None], torch.full((1,), float("inf")).double())
    for number in range(3):
        delta, inside = trained(data_dir, arrays, f"mixed{number}", 3, state.deltas[0])
        state = state.edited(delta, float(inside.mean()), hparams)
    assert close(probe(weight + state.deltas[1]), arrays["mixed/probe_layer"])
    assert close(probe(weight + state.deltas[0]), arrays["mixed/probe_side"])
    change = state.change(LAYER, hparams)
    assert close(change.thresholds[0], arrays["mixed/threshold"])
    for number in range(13):
        ids = arrays[f"mixed_route/q{number}/input_ids"]
        with change.on(toy):
            assert close(toy.logits(ids)[0, -1], arrays[f"mixed_route/q{number}/logits_last"]), number


def test_several_kept_memories_are_asked_as_in_the_published_code(data_dir: Path) -> None:
    arrays, _ = golden(data_dir)
    weight = arrays["router/W"]
    sides = torch.stack([arrays["router/W_side"], *arrays["router/memories"]])
    thresholds = arrays["router/ratio"] * arrays["router/smallest"]
    for number in range(8):
        x = arrays[f"router/x{number}"]
        sizes = changed(torch.stack([x @ (side - weight).T for side in sides]), x @ weight.T, silu)
        means = sizes.amax(-1) if x.shape[1] > LONG else sizes.mean(-1)
        means = means.mean(-1)  # published: of a whole batch
        assert close(means, arrays[f"router/delta{number}"])
        chosen = int(routed(means[:, None], thresholds)[0]) + 1
        assert chosen == int(arrays["router/chosen"][number])
        assert close(x @ torch.stack([weight, *sides])[chosen].T, arrays[f"router/y{number}"])
    for number in range(3):
        x = arrays[f"router/batch_x{number}"]
        sizes = changed((x @ (sides[0] - weight).T)[None], x @ weight.T, silu)
        assert close(sizes.mean(-1)[0], arrays[f"router/batch_delta{number}"])


def test_merging_rules_are_the_published_ones(data_dir: Path) -> None:
    arrays, _ = golden(data_dir)
    base, weights, density = arrays["small/base"], arrays["small/weights"].tolist(), float(arrays["small/density"])
    changes = arrays["small/tensors"] - base
    for name, options in {
        "ties": {"density": density},
        "magnitude": {"density": density, "elect": False, "average": False},
        "magnitude_norm": {"density": density, "elect": False},
        "sign": {},
    }.items():
        assert close(base + ties(changes, weights, **options), arrays[f"small/{name}"]), name
    hand = torch.tensor([[4.0, -3.0, 2.0, 0.1], [1.0, 5.0, -0.2, 3.0]])
    assert ties(hand, (0.5, 0.5), density=0.5).tolist() == [4.0, 5.0, 0.0, 3.0]
    same = ties(hand[:1].expand(2, -1), (0.5, 0.5), density=0.5)
    assert same.tolist() == [4.0, -3.0, 0.0, 0.0]


def test_margins_on_hand_made_numbers() -> None:
    assert float(margin_loss(torch.tensor([15.0]), torch.tensor([8.0]), (5.0, 20.0, 10.0))) == 11.0


def quick(**more: Any) -> Any:
    small = {"steps": 30, "contexts": 0, "alpha": 0.1, "beta": 0.3, "gamma": 0.2, "share": 0.5}
    return EDITORS["wise"].presets["default"].with_(**small | more)


def test_what_is_not_drawn_stays_and_what_is_below_the_threshold_is_the_model_to_the_bit(tmp_path: Path) -> None:
    model = model_of()
    made = wise(model, REQUESTS, LAYER, texts=TEXTS, hparams=quick())
    assert made.report.success, made.report.reason
    change = made.parts[0].change
    assert isinstance(change, SideMemories)
    moved = (change.deltas[0] != 0).double().mean()
    assert 0.3 < float(moved) < 0.6
    assert float(change.deltas.abs().max()) <= 1
    ids = torch.tensor([model.encode("It rained")])
    plain = model.logits(ids)
    never = SideMemories(LAYER, "down", change.deltas, torch.full((1,), float("inf")))
    with never.on(model):
        assert torch.equal(model.logits(ids), plain)
    made.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded == made
    with loaded.on(model):
        assert [model.complete(request.prompt.text) for request in REQUESTS] == ["Paris", "Warsaw"]
    assert torch.equal(model.logits(ids), plain)


def test_a_sequence_edits_one_memory_and_begins_another(tmp_path: Path) -> None:
    model = model_of()
    sequence = EditSequence(model, "wise", LAYER, texts=TEXTS, hparams=quick(shard=1))
    for request in REQUESTS:
        sequence.add(request)
    assert sequence.past.counts == (0, 2, 2)
    assert len(sequence.past.deltas) == 3
    assert torch.isinf(sequence.past.smallest[0])
    with sequence.edit.on(model):
        alone = model.logits(torch.tensor([model.encode(REQUESTS[1].prompt.text)]))
    with sequence.steps[1].on(model, force=True):  # the last one of a group acts for all of it
        last = model.logits(torch.tensor([model.encode(REQUESTS[1].prompt.text)]))
    assert torch.equal(alone, last)
    sequence.save(tmp_path / "sequence.safetensors")
    loaded = EditSequence.load(tmp_path / "sequence.safetensors", model)
    assert (loaded.past.counts, loaded.past.group) == (sequence.past.counts, sequence.past.group)
    assert torch.equal(loaded.past.smallest, sequence.past.smallest)


def test_rows_are_padded_as_published_or_not_at_all() -> None:
    model = model_of()
    contexts = ("{}", "People spoke. {}")
    rows, whole = side_rows(model, REQUESTS[0], contexts, TEXTS[0])
    assert rows.mask is None
    target = model.answer_ids(REQUESTS[0].prompt, "Paris")
    for row, labels, asked in zip(rows.ids, rows.labels, whole, strict=False):
        assert tuple(row[labels != -100].tolist()) == target
        assert model.decode(row[asked].tolist()).endswith("Marie Curie was born in")
    left, everything = side_rows(model, REQUESTS[0], contexts, TEXTS[0], published=True)
    assert left.mask is not None
    assert bool(left.mask[:, -1].all())
    assert bool(everything.all())


def test_what_is_no_past_of_wise_is_refused() -> None:
    with pytest.raises(UsageError, match="past is int; give the WiseState that an edit of wise has left"):
        wise(model_of(), REQUESTS[0], LAYER, past=3, texts=TEXTS)
    with pytest.raises(UsageError, match="share is 2; it is a share, at most 1"):
        quick(share=2)

"""GRACE: its codebook rule and its training against the published code's numbers, and what the editor makes of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import sentence_model

import mechinterp as mi
from mechinterp.editing import EDITORS, Edit, EditRequest, EditSequence, edit_each, grace
from mechinterp.editing.editors.grace_entries import Entries, Growth
from mechinterp.editing.edits.codebook import Codebook, distances
from mechinterp.editing.gradients.replaced import Replacing, at_ends, find_values, target_rows
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.asking import PromptEnds
from mechinterp.models.model import Model
from mechinterp.patching.plain.executor import forward

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "Warsaw"),
    EditRequest(Prompt("{} wrote about", "Ada Lovelace"), "Paris"),
]
LAST = 3
"""Of the layers: what is put there reaches the answer whatever the weights are."""
LABELS = {"original": "means", "easyedit": "means, newest first"}


@cache
def model_of() -> Model:
    return sentence_model("gpt2", dtype=torch.float64)


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, torch.Tensor], Any]:
    import os

    folder = Path(os.environ.get("MECHINTERP_DATA", "nowhere")) / "golden-trained"
    if not folder.is_dir():
        pytest.skip("needs real data: set MECHINTERP_DATA to the folder that holds golden-trained")
    with np.load(folder / "grace.npz") as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return found, json.loads((folder / "grace.meta.json").read_text(encoding="utf-8"))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(torch.allclose(found.double(), wanted.double(), rtol=1e-9, atol=1e-12))


@pytest.mark.parametrize("who", ["original", "easyedit"])
@pytest.mark.parametrize("expand", ["coverage", "moving average"])
def test_entries_grow_as_in_the_published_code(golden: Any, who: str, expand: str) -> None:
    arrays, meta = golden
    case = f"{who}/{expand.replace(' ', '_')}"
    labels = meta["hand_made"][case]["labels"]
    entries = Entries.none(3, torch.zeros(0, 2).double())
    growth = Growth(1.0, expand, LABELS[who])
    for step, label in enumerate(labels):
        wanted = {name: arrays[f"{case}/step{step}/{name}"] for name in ("keys", "radii", "values", "nearest")}
        entries, chosen = entries.grown(arrays[f"{case}/keys"][step], label, wanted["values"][-1], growth)
        assert chosen == int(wanted["nearest"])
        assert close(entries.keys, wanted["keys"])
        assert close(entries.radii, wanted["radii"])
        assert close(entries.values, wanted["values"])
        means = [float(np.mean(one)) for one in entries.labels]
        stored = arrays[f"{case}/step{step}/label_means_in_stored_order"]
        assert means[:: -1 if who == "easyedit" else 1] == pytest.approx(stored.tolist())
    queries = arrays[f"{case}/queries"]
    apart, nearest = distances(queries, entries.keys).min(1)
    assert close(apart, arrays[f"{case}/queries_distance"])
    assert torch.equal(nearest, arrays[f"{case}/queries_nearest"])
    assert torch.equal(apart <= entries.radii[nearest], arrays[f"{case}/queries_hit"])
    assert Entries.of_state(entries.state()).labels == entries.labels


@pytest.mark.parametrize("who", ["original", "easyedit"])
def test_values_are_trained_as_in_the_published_code(golden: Any, data_dir: Path, who: str) -> None:
    arrays, meta = golden
    about, toy = meta["toy"][who], mi.load(data_dir / "toy", dtype=torch.float64)
    layer = int(about["layer"].split("[")[1].split("]")[0])
    where = Replacing(layer, "up", "before" if about["replacement"] == "replace_prompt" else "query")
    entries = Entries.none(toy.d_model, torch.zeros(0, toy.d_mlp).double())
    growth = Growth(about["eps0"], labels=LABELS[who])
    for number, asked in enumerate(about["requests"]):
        of = f"{who}/toy/edit{number}"
        request = EditRequest(Prompt(asked["prompt"].replace(asked["subject"], "{}"), asked["subject"]), asked["new"])
        rows = target_rows(toy, [request])
        ids = arrays[f"{of}/input_ids"][0]
        assert rows.batch.ids[0].tolist() == ids[: rows.batch.ids.shape[1]].tolist()
        query, _ = at_ends(toy, rows, layer, "up")
        entries, chosen = entries.grown(query[0], arrays[f"{of}/labels"][0].tolist(), arrays[f"{of}/value_start"][0],
                                        growth)  # fmt: skip
        steps = len(arrays[f"{of}/losses"])
        found = find_values(toy, [request], where, entries.values[chosen][None], lr=[1.0], steps=steps)
        entries = entries.valued(chosen, found.values[0])
        assert close(torch.tensor(found.losses[0][:steps], dtype=torch.float64), arrays[f"{of}/losses"])
        assert close(entries.keys, arrays[f"{of}/keys"])
        assert close(entries.radii, arrays[f"{of}/radii"])
        assert close(entries.values, arrays[f"{of}/values"])
    book = entries.book(range(len(entries)), layer, "up", where.replaces)
    for name in ("same", "rephrase", "other"):
        ids = arrays[f"{who}/toy/query_{name}/input_ids"]
        with book.on(toy):
            said = toy.logits(ids)[0, -1]
        assert close(said, arrays[f"{who}/toy/query_{name}/logits_last"])
        assert torch.equal(said, toy.logits(ids)[0, -1]) == (name == "other")


def quick(**more: Any) -> Any:
    return EDITORS["grace"].presets["default"].with_(**{"steps": 25, "lr": 1.0} | more)


def test_each_request_has_an_entry_and_the_rest_is_the_model_to_the_bit() -> None:
    model = model_of()
    ids = torch.tensor([model.encode("Marie Curie lived in Paris and")])
    plain = model.logits(ids)
    made = grace(model, REQUESTS, LAST, hparams=quick())
    [part] = made.parts
    assert isinstance(part.change, Codebook)
    assert len(part.change.keys) == 3
    report = made.report
    assert report.success, report.reason
    with made.on(model):
        assert torch.equal(model.logits(ids), plain)
        assert all(model.complete(request.prompt.text) == request.target for request in REQUESTS)
    assert torch.equal(model.logits(ids), plain)


def test_each_alone_is_each_alone() -> None:
    model = model_of()
    for request, made in zip(REQUESTS, edit_each(model, "grace", REQUESTS, LAST, hparams=quick(), progress=False),
                             strict=True):  # fmt: skip
        alone = grace(model, request, LAST, hparams=quick())
        assert isinstance(made, Edit)
        found, wanted = (one.parts[0].change.tensors for one in (made, alone))
        for name in ("keys", "radii", "values", "labels"):
            assert torch.allclose(found[name], wanted[name], rtol=1e-6), name


def test_a_sequence_is_one_codebook_in_which_later_edits_revise_earlier_ones(tmp_path: Path) -> None:
    """A near prompt with another target: the first entry shrinks to half the way, in the sequence and not in step 1."""
    model = model_of()
    near = EditRequest(Prompt("{} was born in", "Ada Lovelace"), "Warsaw")
    sequence = EditSequence(model, "grace", LAST, hparams=quick(radius=100.0))
    first, second = sequence.add(REQUESTS[0]), sequence.add(near)
    assert len(second.parts[0].change.tensors["keys"]) == 2
    [before], after = first.parts[0].change.tensors["radii"], second.parts[0].change.tensors["radii"]
    gap = float(distances(*(sequence.past.keys[i : i + 1] for i in (0, 1))))
    assert after.tolist() == pytest.approx([gap / 2 - 1e-5, gap / 2])
    assert float(before) > gap
    for edit in (sequence.edit, sequence.steps[0] | sequence.steps[1]):
        with edit.on(model):
            assert model.complete(REQUESTS[0].prompt.text) == "Paris"
            assert model.complete(near.prompt.text) == "Warsaw"
    sequence.save(tmp_path / "sequence.safetensors")
    loaded = EditSequence.load(tmp_path / "sequence.safetensors", model)
    assert loaded.past.names == sequence.past.names
    again = EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris")
    assert loaded.add([again]).parts[0].change == sequence.add([again]).parts[0].change
    assert "says 'Paris' already, so grace adds nothing" in str(sequence.steps[2].report.warnings)


def test_what_is_no_past_of_grace_is_refused() -> None:
    with pytest.raises(UsageError, match="past is int; give the Entries that an earlier edit of grace has left"):
        grace(model_of(), REQUESTS[0], 1, past=3)
    with pytest.raises(UsageError, match="grace writes one layer, not"):
        grace(model_of(), REQUESTS[0], [1, 2])
    with pytest.raises(UsageError, match="matrix is 'gate'; choose one of up, down"):
        quick(matrix="gate")


def test_codebooks_at_one_matrix_are_one() -> None:
    """The nearest key answers, whichever codebook is on first; of two entries of a name the later one counts."""
    model = model_of()
    rows = target_rows(model, REQUESTS)
    keys, outputs = at_ends(model, rows, 1, "down")
    wide = torch.full((1,), 100.0).double()

    def book(i: int, value: float, name: int) -> Codebook:
        return Codebook(
            1, "down", keys[i : i + 1], wide, torch.full_like(outputs[:1], value), names=torch.tensor([name])
        )

    def said(*books: Codebook) -> torch.Tensor:
        from contextlib import ExitStack

        with ExitStack() as stack:
            for one in books:
                stack.enter_context(one.on(model))
            return forward(model, rows.batch.ids, prompts=PromptEnds(rows.batch.end)).logits[:, 0]

    one, other, later = book(0, 0.1, 1), book(1, 0.2, 2), book(0, 0.3, 1)
    alone = {value: said(book(0, value, 1)) for value in (0.1, 0.3)}
    for order in ((one, other), (other, one)):
        assert torch.equal(said(*order)[0], alone[0.1][0])
        assert not torch.equal(said(*order)[1], alone[0.1][1])
    assert torch.equal(said(one, other, later)[0], alone[0.3][0])
    assert torch.equal(said(later, one)[0], alone[0.1][0])

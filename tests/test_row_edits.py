"""Every row its own edit: equal to baking, asking and undoing one after the other, on every architecture."""

from __future__ import annotations

import pytest
import torch
from support.zoo import KINDS, sentence_model
from torch import Tensor

from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.models.model import Model

TEXTS = ("Marie Curie was born in", "The Space Needle is in downtown", "Ada Lovelace wrote about")


def handmade(
    model: Model, layers: tuple[int, ...], *, seed: int, rank: int = 1, on_top_of: tuple[str, ...] = ()
) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        layer: Factors(
            torch.randn(rank, model.d_mlp, generator=generator) / 5,
            torch.randn(rank, model.d_model, generator=generator) / 5,
        )
        for layer in layers
    }
    return Edit.of(factors, Provenance("by hand", model.fingerprint(), model.name, seed=seed, on_top_of=on_top_of))


def rows_of(model: Model, count: int) -> Tensor:
    """Different rows of one length."""
    ids = [model.encode(TEXTS[i % len(TEXTS)])[:4] for i in range(count)]
    return torch.tensor(ids)


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_model_with_its_edit_baked_in(kind: str) -> None:
    model = sentence_model(kind)
    edits = [
        handmade(model, (1,), seed=0),
        handmade(model, (1, 3), seed=1, rank=3),
        handmade(model, (0,), seed=2) | handmade(model, (2,), seed=3),
    ]
    carried = [0, 1, 1, 2, -1, 0]
    ids, fingerprint = rows_of(model, len(carried)), model.fingerprint()
    plain = model.logits(ids)
    with RowEdits(edits).on(model) as row_edits:
        row_edits.rows(carried)
        together = model.logits(ids)
    assert torch.equal(model.logits(ids), plain)
    assert model.fingerprint() == fingerprint
    for row, number in enumerate(carried):
        undo = edits[number].bake(model) if number >= 0 else None
        alone = model.logits(ids[row : row + 1])
        if undo is not None:
            undo.undo()
            assert (alone[0] - plain[row]).abs().max() > 1e-2
        assert (together[row] - alone[0]).abs().max() <= 1e-5 * (1 + alone.abs().max())


def test_edits_that_are_on_stay_on_under_every_row(model: Model) -> None:
    first, second = handmade(model, (1,), seed=0), handmade(model, (1,), seed=1)
    on_top = handmade(model, (2,), seed=2, on_top_of=(first.parts[0].digest,))
    ids = rows_of(model, 2)
    with first.on(model), RowEdits([second, on_top]).on(model) as row_edits:
        row_edits.rows([0, 1])
        together = model.logits(ids)
        with pytest.raises(UsageError, match="is on already"):
            RowEdits([second, first]).check(model)
    for row, other in enumerate((second, on_top)):
        with (first | other).on(model):
            assert (model.logits(ids[row : row + 1])[0] - together[row]).abs().max() < 1e-5
    with pytest.raises(UsageError, match="made while other edits were on"):
        RowEdits([second, on_top]).check(model)


def test_edits_of_other_weights_are_refused(model: Model) -> None:
    mine, other = handmade(model, (1,), seed=0), handmade(sentence_model("gpt2", seed=1), (1,), seed=0)
    with pytest.raises(UsageError, match="but the model at hand is"), RowEdits([mine, other]).on(model):
        pass
    with RowEdits([mine, other]).on(model, force=True) as row_edits:
        row_edits.rows([1])
        model.logits(rows_of(model, 1))
    small = sentence_model("gpt2")
    wrong = Edit.of({1: Factors(torch.ones(1, 5), torch.ones(1, 5))}, Provenance("by hand", small.fingerprint()))
    with pytest.raises(UsageError, match="has the shape"):
        RowEdits([handmade(small, (1,), seed=0), wrong]).check(small)


def test_every_row_must_be_spoken_for(model: Model) -> None:
    row_edits, ids = RowEdits([handmade(model, (1,), seed=0)]), rows_of(model, 3)
    with row_edits.on(model):
        with pytest.raises(MechinterpError, match="nothing says which row"):
            model.logits(ids)
        row_edits.rows([0, 0])
        with pytest.raises(MechinterpError, match="has 3 rows, but 2 were given"):
            model.logits(ids)
        with pytest.raises(UsageError, match="there is no edit 1"):
            row_edits.rows([0, 1, 0])
        with pytest.raises(UsageError, match="there are no rows"):
            row_edits.rows([])
    with row_edits.on(model), pytest.raises(MechinterpError, match="nothing says which row"):
        model.logits(ids)  # what was said in an earlier block is forgotten
    with pytest.raises(UsageError, match="no edit for any row"):
        RowEdits([])

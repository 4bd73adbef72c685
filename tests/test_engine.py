"""The exact engine against the plain executor: the same table, sooner, and a loud failure where they differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.zoo import KINDS, sentence_model

import mechinterp as mi
from mechinterp import patching
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.models.model import Model
from mechinterp.patching import Gaussian, Run, attn, corrupt, embed, every, here, mlp, resid, restore, sever, subject
from mechinterp.patching.exact import grid as grid_module
from mechinterp.patching.exact.columns import Split, column, split
from mechinterp.patching.exact.serves import serves

PROMPTS = [
    mi.Prompt("{} was born in the city of", "Marie Curie", "Warsaw", id="several answer tokens"),
    mi.Prompt("In the evening {} spoke about", "Ada Lovelace", "engines", id="subject in the middle"),
    mi.Prompt("The capital of {} is", "France", id="the model's own answer"),
]
METRICS = list(patching.METRICS)


def same_tables(model: Model, prompts: list[mi.Prompt], **options: object) -> mi.Table:
    """Trace by both executors and compare every row; the exact one is returned."""
    exact = mi.trace(model, prompts, engine="exact", progress=False, **options)
    plain = mi.trace(model, prompts, engine="plain", progress=False, **options)
    keys = [name for name in exact.frame.columns if name not in METRICS]
    assert exact.frame[keys].equals(plain.frame[keys])
    assert np.abs(exact.frame["prob"] - plain.frame["prob"]).max() <= 2e-6
    for metric in ("log_prob", "logit_diff", "kl"):
        assert np.allclose(exact.frame[metric], plain.frame[metric], atol=2e-3, rtol=2e-3), metric
    assert exact.meta["plain"] == {}
    assert plain.meta["token_layers"] > plain.meta["naive_token_layers"] == exact.meta["naive_token_layers"]
    return exact


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_plain_executor(kind: str) -> None:
    model = sentence_model(kind)
    assert serves(model) is None
    table = same_tables(model, PROMPTS, draws=2, window=2)
    assert table.meta["token_layers"] < 0.6 * table.meta["naive_token_layers"]
    assert table.meta["no_op_cells"] > 0
    assert table.meta["checked_cells"] > 0


@pytest.mark.parametrize("window", [1, 10])
def test_windows_are_clipped_as_published(window: int) -> None:
    same_tables(sentence_model(), PROMPTS[:1], draws=2, window=window)


def test_the_published_severing_in_another_draw() -> None:
    table = same_tables(sentence_model(), PROMPTS[:1], draws=2, window=2, reference=True, noise_level=0.5)
    assert table.meta["severed_within_draw"] is False


def test_float64_agrees_to_rounding() -> None:
    model = sentence_model(dtype=torch.float64)
    exact = mi.trace(model, PROMPTS[1:], engine="exact", draws=2, window=2, progress=False)
    plain = mi.trace(model, PROMPTS[1:], engine="plain", draws=2, window=2, progress=False)
    assert np.abs(exact.frame["prob"] - plain.frame["prob"]).max() <= 1e-12


def test_a_model_it_cannot_serve_is_traced_plainly_and_says_so() -> None:
    model = sentence_model("bloom")
    assert serves(model)
    table = mi.trace(model, PROMPTS[:1], draws=2, window=1, kinds=["mlp"], severed=[], progress=False)
    (reason,) = table.meta["plain"].values()
    assert reason.startswith("this model does not allow a growing batch: ")


def test_a_difference_between_the_executors_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "check_tolerance", lambda dtype: (-1.0, -1.0))
    with pytest.raises(MechinterpError, match="differ by .* in probability .*at token .*engine=.plain."):
        mi.trace(sentence_model(), PROMPTS[:1], engine="exact", draws=2, window=2, progress=False)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="no engine 'fast'; choose auto, exact or plain"):
        mi.trace(sentence_model(), PROMPTS[:1], engine="fast", progress=False)


NOISE = corrupt(embed @ subject, Gaussian(draws=2))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (NOISE | restore(mlp.each @ every) | restore(attn.each @ every), "does not restore exactly one site"),
        (
            corrupt(mlp[0] @ subject, Gaussian(draws=2)) | restore(attn.each @ every),
            "something else than the embeddings",
        ),
        (NOISE | restore(mlp[1] @ every), "over both axes"),
        (NOISE | restore(resid.window(2) @ every), "windows of the residual stream"),
        (NOISE | restore(resid.each @ every) | sever(mlp[1:] @ here), "in all layers"),
        (NOISE | restore(resid.each @ every) | sever(mlp @ subject), "at the restored token"),
        (NOISE | restore(mlp.each @ every) | sever(mlp @ here), "restores and severs mlp"),
    ],
)
def test_programs_it_cannot_split_say_why(program: patching.Program, reason: str) -> None:
    found = split(program)
    assert isinstance(found, str)
    assert reason in found


def test_programs_it_cannot_split_run_plainly_beside_those_it_can() -> None:
    model = sentence_model()
    unsplit = NOISE | restore(resid.window(2) @ every)
    both = mi.trace(model, PROMPTS[:1], [NOISE | restore(mlp.each @ every), unsplit], engine="exact", progress=False)
    assert list(both.meta["plain"]) == [str(unsplit)]
    alone = mi.trace(model, PROMPTS[:1], unsplit, engine="plain", progress=False)
    mine = both.frame[both.frame["component"] == "resid"]["prob"].to_numpy()
    assert np.abs(mine - alone.frame[alone.frame["component"] == "resid"]["prob"].to_numpy()).max() <= 2e-6


def test_a_column_holds_each_cell_once_and_no_idle_one() -> None:
    one = split(NOISE | restore(mlp.window(10) @ every))
    assert isinstance(one, Split)
    cells = column([one], n_layers=4, is_scored=True)
    assert [(cell.first, cell.stop, cell.joins) for cell in cells] == [(0, 4, 1)]
    last_layer = split(NOISE | restore(mlp.each @ every))
    assert isinstance(last_layer, Split)
    assert len(column([last_layer], n_layers=4, is_scored=True)) == 4
    assert len(column([last_layer], n_layers=4, is_scored=False)) == 3


def test_values_held_at_another_run_join_from_the_start() -> None:
    other = corrupt(embed @ subject, Gaussian(draws=2, seed=1))
    one = split(NOISE | restore(resid.each @ every) | sever(mlp @ here, Run(other)))
    assert isinstance(one, Split)
    assert {cell.joins for cell in column([one], n_layers=4, is_scored=False)} == {0}

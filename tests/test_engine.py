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
from mechinterp.patching import (
    Delta,
    Gaussian,
    Run,
    Zero,
    add,
    at,
    attn,
    corrupt,
    embed,
    every,
    here,
    k,
    last,
    mlp,
    mlp_key,
    mlp_value,
    q,
    resid,
    resid_mid,
    resid_pre,
    restore,
    sever,
    subject,
    v,
    z,
)
from mechinterp.patching.exact import grid as grid_module
from mechinterp.patching.exact.columns import Cells, PromptCells, Split, split
from mechinterp.patching.exact.serves import serves
from mechinterp.patching.plain.asked import ask

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
    assert exact.meta["token_layers"] < plain.meta["token_layers"]
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
        (corrupt(mlp[0] @ subject, Gaussian(draws=2)) | restore(attn.each @ every), "else than the embeddings"),
        (NOISE | restore(mlp.each @ every) | add(resid[1] @ subject, Delta(torch.zeros(4))), "adds to what is there"),
        (NOISE | restore(resid_mid.each @ every), "is at none of resid_pre, resid, mlp, attn, z"),
        (NOISE | restore(embed @ every), "is at none of"),
    ],
)
def test_programs_it_cannot_split_say_why(program: patching.Program, reason: str) -> None:
    found = split(program)
    assert isinstance(found, str)
    assert reason in found


def test_programs_it_cannot_split_run_plainly_beside_those_it_can() -> None:
    model = sentence_model()
    unsplit = NOISE | restore(resid_mid.each @ every)
    both = mi.trace(model, PROMPTS[:1], [NOISE | restore(mlp.each @ every), unsplit], engine="exact", progress=False)
    assert list(both.meta["plain"]) == [str(unsplit)]
    alone = mi.trace(model, PROMPTS[:1], unsplit, engine="plain", progress=False)
    mine = both.frame[both.frame["component"] == "resid_mid"]["prob"].to_numpy()
    assert np.abs(mine - alone.frame[alone.frame["component"] == "resid_mid"]["prob"].to_numpy()).max() <= 2e-6


def prompt_cells(program: patching.Program) -> PromptCells:
    """The engine's cells of one program on the second prompt: 4 layers, its subject at tokens 3 and 4."""
    model = sentence_model()
    asked = ask(model, PROMPTS[1])[0]
    one = split(program)
    assert isinstance(one, Split)
    return Cells(model.layout, len(asked.ids), len(asked.answer)).of(one, asked)


def starts(program: patching.Program, position: int | None = None) -> list[tuple[int, int] | None]:
    """Where the cells of each layer start and join; None where nothing is to be computed."""
    cells = prompt_cells(program).items()
    return [computed and (computed.start, computed.joins) for cell, computed in cells if cell.position == position]


def test_a_cell_joins_as_late_as_it_can_and_idle_ones_never() -> None:
    first, end = prompt_span()
    n_layers = sentence_model().n_layers
    role = starts(NOISE | restore(mlp.each @ subject[-1]))
    assert role == [(end - 1, layer + 1) for layer in range(n_layers - 1)] + [None]  # nobody hears its last layer
    assert starts(NOISE | restore(z.each @ subject[-1]))[0] == (end - 1, 0)  # attention acts within its layer
    assert starts(NOISE | restore(k.each @ subject[-1]))[-1] == (end - 1, n_layers - 1)  # keys are heard there, too
    assert starts(NOISE | restore(mlp.each @ last))[-1] is not None
    assert set(starts(NOISE | restore(mlp.each @ every), position=first - 1)) == {None}  # nothing is damaged yet
    assert starts(restore(mlp.each @ at(0), Zero()))[0] == (0, 1)
    assert set(starts(restore(mlp.each @ every), position=end - 1)) == {None}  # the clean value in the clean run


def test_a_column_holds_each_cell_once() -> None:
    cells = prompt_cells(NOISE | restore(mlp.window(10) @ subject[-1]))
    assert len(cells) == sentence_model().n_layers
    assert len(set(cells.values())) == 1


def test_values_held_at_another_run_join_from_the_start() -> None:
    other = corrupt(embed @ subject, Gaussian(draws=2, seed=1))
    cells = prompt_cells(NOISE | restore(resid.each @ every) | sever(mlp @ here, Run(other)))
    _, end = prompt_span()
    assert {one.joins for cell, one in cells.items() if one is not None and cell.position == end - 1} == {1}


def prompt_span() -> tuple[int, int]:
    return ask(sentence_model(), PROMPTS[1])[0].prompt.subject


ROLES = [
    [NOISE | restore(mlp.window(2) @ subject[-1]), NOISE | restore(mlp.window(2) @ last)],
    [NOISE | restore(resid.window(2)[::2] @ subject)],
    [NOISE | restore(mlp[::2] @ every), NOISE | restore(attn[1:] @ last)],
    [NOISE | restore(resid_pre.each @ subject[0]) | sever(attn[1:] @ last)],
    [NOISE | restore(z.each_head @ last), NOISE | restore(z.heads(0, 1).each @ subject[-1])],
    [NOISE | restore(q.each_head @ last), NOISE | restore(v[1].each_head @ every)],
    [NOISE | restore(k.each_head @ subject) | sever(mlp @ subject[-1])],
    [restore(mlp.each @ every, Run(NOISE))],
    [restore(attn.each @ subject, Zero()) | restore(mlp[0] @ last, Run(NOISE))],
    [NOISE | restore(mlp_key.each @ subject[-1]), NOISE | restore(mlp_value[1:3] @ every)],
    [NOISE | restore(resid.each @ subject[-1], Run(NOISE | restore(mlp[0] @ subject) | sever(attn @ last)))],
]
"""Programs at roles, with strides, of heads, from other sources than the clean run, in the clean run."""


@pytest.mark.usefixtures("unchecked_types")  # checked, each of the many short calls takes ten times as long
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_roles_strides_and_heads_equal_the_plain_executor(kind: str) -> None:
    model = sentence_model(kind)
    for programs in ROLES:
        table = same_tables(model, PROMPTS[:2], programs=programs)
        spread = table.frame[table.frame["run"] == "patched"].groupby("prompt")["log_prob"].std()
        assert (spread > 1e-4).all()


def test_one_role_costs_a_third_of_full_forwards() -> None:
    model = sentence_model()
    exact, plain = (
        mi.plan(model, PROMPTS[:1], NOISE | restore(z.each_head @ last), engine=engine).price.token_layers
        for engine in ("exact", "plain")
    )
    assert exact < 0.35 * plain

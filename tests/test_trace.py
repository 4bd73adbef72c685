"""Grids: the table they make, windows, both engines on every architecture, and what Ctrl-C leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.zoo import KINDS, LAYERS, small_model

from mechinterp import Fact, MechinterpError, Model, Prompt, Table, UsageError
from mechinterp.patching import (
    METRICS,
    Corrupted,
    Gaussian,
    Given,
    Interrupted,
    Program,
    Run,
    Zero,
    at,
    attn,
    corrupt,
    embed,
    embedding_sigma,
    every,
    explain,
    here,
    last,
    mlp,
    nothing,
    resid,
    restore,
    run,
    sever,
    subject,
    trace,
    z,
)
from mechinterp.patching.algebra.sites import window_layers
from mechinterp.patching.traces import tracing
from mechinterp.patching.traces.table import COLUMNS

PROMPT = Prompt("the {} lives in town", "ada bo", "rome", id="p0", relation="home")
OTHER = Prompt("born in {} was", "cy dee", "oslo turku", id="p1")
NOISE = corrupt(embed @ subject, Gaussian(draws=2))


def cell_of(table: Table, position: int, layer: int) -> Any:
    frame = table.frame
    return frame[(frame["run"] == "patched") & (frame["position"] == position) & (frame["layer"] == layer)]


@pytest.fixture
def model() -> Model:
    return small_model(dtype=torch.float64)


def test_the_table_has_a_row_for_every_cell_and_draw(model: Model) -> None:
    table = trace(model, [PROMPT, Fact(OTHER)], window=2, draws=3, progress=False)
    frame = table.frame
    assert tuple(frame.columns) == COLUMNS
    assert table.prompts == ["p0", "p1"]
    for prompt in (PROMPT, OTHER):
        mine = frame[frame["prompt"] == prompt.id]
        tokens = prompt.text.split()
        assert mine["run"].value_counts().to_dict() == {
            "patched": 5 * 3 * len(tokens) * LAYERS,
            "corrupted": 3,
            "clean": 1,
        }
        patched = mine[mine["run"] == "patched"]
        assert set(map(tuple, patched[["component", "severed", "window"]].drop_duplicates().to_numpy().tolist())) == {
            ("resid", "none", 1), ("mlp", "none", 2), ("attn", "none", 2), ("resid", "mlp", 1), ("resid", "attn", 1),
        }  # fmt: skip
        assert not patched.duplicated(["component", "severed", "position", "layer", "draw"]).any()
        by_position = patched.drop_duplicates("position").set_index("position")
        assert by_position["token"].to_dict() == dict(enumerate(tokens))
        assert set(mine["relation"]) == {prompt.relation}
        rest = mine[mine["run"] != "patched"]
        assert set(rest["position"]) == set(rest["layer"]) == {-1}
    roles = frame[(frame["prompt"] == "p0") & (frame["run"] == "patched")].groupby("position")["role"].first().tolist()
    assert roles == ["before", "first subject", "last subject", "first subsequent", "further", "last"]
    assert np.isfinite(frame[list(METRICS)].to_numpy()).all()


def test_what_a_table_says_of_itself(model: Model) -> None:
    meta = trace(model, [PROMPT, OTHER], window=2, draws=3, seed=7, sigmas=2.0, progress=False).meta
    assert (meta["model"], meta["n_layers"], meta["dtype"]) == ("small-gpt2", LAYERS, "float64")
    assert (meta["draws"], meta["seed"], meta["sigmas"], meta["window"], meta["prompts"]) == (3, 7, 2.0, 2, 2)
    assert meta["noise_level"] == pytest.approx(2 * embedding_sigma(model))
    assert meta["fingerprint"] == model.fingerprint()
    assert (meta["reference"], meta["severed_within_draw"], meta["plain"]) == (False, True, {})
    assert meta["checked_cells"] > 0
    assert meta["largest_difference"] < 1e-10
    assert meta["cells"] == 5 * LAYERS * (len(PROMPT.text.split()) + len(OTHER.text.split()))
    assert 0 < meta["token_layers"] < meta["naive_token_layers"]
    assert {"mechinterp", "torch", "transformers", "transformer-lens"} <= set(meta["versions"])
    assert len(meta["programs"]) == 5


def test_a_cell_of_a_grid_is_a_run(model: Model) -> None:
    table = trace(model, [PROMPT], NOISE | restore(mlp.window(2) @ every) | sever(attn[1:] @ here), progress=False)
    for position, layer, written in ((2, 0, mlp[0:1]), (3, 1, mlp[0:2]), (5, 2, mlp[1:3])):
        alone = run(model, PROMPT, NOISE | restore(written @ at(position)) | sever(attn[1:] @ at(position)))
        cell = cell_of(table, position, layer)
        for metric in METRICS:
            np.testing.assert_allclose(cell[metric], getattr(alone, metric), atol=1e-9, err_msg=metric)


@pytest.mark.parametrize("width", [1, 2, 3, 10])
@pytest.mark.parametrize("layers", [1, 3, 6, 48])
def test_windows_are_clipped_as_published(width: int, layers: int) -> None:
    for centre in range(layers):
        first = centre - width // 2
        wanted = tuple(layer for layer in range(first, first + width) if 0 <= layer < layers)
        assert window_layers(centre, width, layers) == wanted
        assert centre in wanted
    if (width, layers) == (10, 48):
        assert window_layers(20, width, layers) == tuple(range(15, 25))


@pytest.mark.parametrize("width", [1, 2, 3, 10])
def test_a_grid_of_windows_restores_those_layers(model: Model, width: int) -> None:
    table = trace(model, [PROMPT], NOISE | restore(mlp.window(width) @ every), progress=False)
    for layer in range(LAYERS):
        alone = run(model, PROMPT, NOISE | restore(mlp[window_layers(layer, width, LAYERS)] @ at(2)))
        cell = cell_of(table, 2, layer)
        np.testing.assert_allclose(cell["log_prob"], alone.log_prob, atol=1e-9)
        assert set(cell["window"]) == {width}


def test_axes_can_be_one_alone(model: Model) -> None:
    by_layer = trace(model, [PROMPT], NOISE | restore(mlp.each @ subject[-1]), progress=False).frame
    assert by_layer.query("run == 'patched'")[["position", "role", "layer"]].drop_duplicates().to_numpy().tolist() == [
        [2, "last subject", layer] for layer in range(LAYERS)
    ]
    several = trace(model, [PROMPT], NOISE | restore(mlp.each @ subject), progress=False).frame
    assert several.query("run == 'patched'")[["position", "token", "role"]].drop_duplicates().to_numpy().tolist() == [
        [-1, "", "subject"]
    ]
    by_token = trace(model, [PROMPT], NOISE | restore(mlp[1] @ every), progress=False).frame
    assert by_token.query("run == 'patched'")["layer"].unique().tolist() == [1]
    assert by_token.query("run == 'patched'")["position"].unique().tolist() == list(range(6))


@st.composite
def grids(draw: st.DrawFn) -> Program:
    """Programs of the kinds that the exact engine serves, with every source that it may meet."""
    component = draw(st.sampled_from([resid, mlp, attn]))
    width = 1 if component is resid else draw(st.integers(1, 4))
    noise = corrupt(embed @ subject, draw(st.sampled_from([Gaussian(draws=2), Zero(), Gaussian(1.0, draws=2)])))
    base = draw(st.sampled_from([noise, noise, nothing]))
    elsewhere = corrupt(embed @ at(0), Zero()) | noise
    sources = [None, None, Corrupted(), Run(noise), Run(elsewhere), Run(noise | restore(attn[1] @ last))]
    program = base | restore(component.window(width) @ every, draw(st.sampled_from(sources)))
    others = [other for other in (mlp, attn) if other is not component]  # restored and severed, it has two sources
    for other in draw(st.lists(st.sampled_from(others), max_size=2, unique=True)):
        program |= sever(other @ here, draw(st.sampled_from([None, Run(noise), Run(elsewhere)])))
    return program


@settings(max_examples=20, phases=[Phase.generate])  # shrinking a failed grid takes minutes
@given(st.sampled_from(KINDS), grids(), st.booleans())
def test_both_engines_give_one_table(kind: str, program: Program, several: bool) -> None:
    model = small_model(kind, dtype=torch.float64)
    prompts = [PROMPT, OTHER, Prompt("the {} works near", "gus hal fay", "bern")] if several else [PROMPT]
    plain = trace(model, prompts, program, engine="plain", progress=False)
    exact = trace(model, prompts, program, engine="exact", progress=False)
    names = [column for column in COLUMNS if column not in METRICS]
    assert plain.frame[names].equals(exact.frame[names])
    for metric in METRICS:
        np.testing.assert_allclose(exact.frame[metric], plain.frame[metric], rtol=0, atol=1e-9, err_msg=metric)


def test_patching_a_corrupted_run_into_the_clean_one_has_an_effect(model: Model) -> None:
    """The other direction, once taken by the engine for a grid in which nothing is corrupted."""
    table = trace(model, [PROMPT], restore(mlp.each @ every, Run(NOISE)), progress=False)
    patched = table.frame.query("run == 'patched'")
    clean = float(table.frame.query("run == 'clean'")["log_prob"].iloc[0])
    assert patched["draw"].nunique() == 2
    assert (patched[patched["position"] >= 1]["log_prob"] - clean).abs().max() > 1e-4
    assert table.meta["plain"] == {}


def test_a_mixture_of_experts_is_traced() -> None:
    mixture = small_model("mixtral")
    exact = trace(mixture, [PROMPT], window=2, draws=2, progress=False)
    plain = trace(mixture, [PROMPT], window=2, draws=2, engine="plain", progress=False)
    np.testing.assert_allclose(exact.frame["log_prob"], plain.frame["log_prob"], rtol=0, atol=1e-4)
    effect = exact.frame.query("run == 'patched' and component == 'mlp'")["prob"].max()
    assert effect > exact.frame.query("run == 'corrupted'")["prob"].min()


def test_a_tokenizer_with_bos_puts_one_token_before_the_subject() -> None:
    model = small_model("llama", adds_bos=True)
    frame = trace(model, [Prompt("{} lives in town", "ada bo", "rome")], draws=2, progress=False).frame
    patched = frame[frame["run"] == "patched"].drop_duplicates("position")
    assert patched["token"].tolist() == ["<s>", "ada", "bo", "lives", "in", "town"]
    assert patched["role"].tolist()[:3] == ["before", "first subject", "last subject"]


def test_reference_scores_the_models_own_answer_with_the_published_noise(model: Model) -> None:
    with_answer, without = PROMPT, PROMPT.with_answer(None)
    tables = [trace(model, [p], reference=True, kinds=("mlp",), progress=False) for p in (with_answer, without)]
    assert tables[0].frame.equals(tables[1].frame)
    meta = tables[0].meta
    assert (meta["window"], meta["draws"], meta["seed"], meta["reference"]) == (10, 10, 1, True)
    assert meta["noise_level"] == pytest.approx(3 * embedding_sigma(model, ["ada bo"]))
    assert meta["severed_within_draw"] is False


def test_no_noise_at_all_is_no_default(model: Model) -> None:
    frame = trace(model, [PROMPT], reference=True, noise_level=0.0, kinds=("mlp",), severed=(), progress=False).frame
    assert np.ptp(frame["prob"]) < 1e-9


@pytest.mark.parametrize(
    ("given_arguments", "sentence"),
    [
        ({"window": 0}, "a window of 0 layers holds nothing"),
        ({"draws": 0}, "noise with 0 draws corrupts nothing"),
        ({"sigmas": -1.0}, "a noise level cannot be negative"),
        ({"kinds": ("mpl",)}, "'mpl' cannot be traced here; choose among resid, mlp, attn"),
        ({"severed": ("resid",)}, "'resid' cannot be traced here; choose among mlp, attn"),
        ({"kinds": (), "severed": ()}, "nothing to trace"),
        ({"engine": "fast"}, "there is no engine 'fast'; choose auto, exact or plain"),
        ({"foil": "rome"}, "the foil 'rome' does not differ from the answer"),
    ],
)
def test_bad_arguments_are_named(model: Model, given_arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        trace(model, [PROMPT], progress=False, **given_arguments)


def test_bad_prompts_are_named_before_anything_runs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_trace_group", lambda *a, **k: pytest.fail("something ran"))
    with pytest.raises(UsageError, match="no prompts to trace"):
        trace(model, [], progress=False)
    with pytest.raises(UsageError, match="two prompts have the name 'p0'"):
        trace(model, [PROMPT, PROMPT], progress=False)
    with pytest.raises(UsageError, match="subject 'quux' cannot be spelt"):
        trace(model, [PROMPT, Prompt("{} lives", "quux")], progress=False)


def test_one_prompt_or_fact_is_traced_as_a_list_of_one(model: Model) -> None:
    wanted = trace(model, [PROMPT], kinds=["mlp"], severed=(), draws=1, progress=False)
    for one in (PROMPT, Fact(PROMPT)):
        found = trace(model, one, kinds="mlp", severed=(), draws=1, progress=False)
        pd.testing.assert_frame_equal(found.frame, wanted.frame)


@pytest.mark.parametrize("site", [embed @ every, mlp.each @ subject, mlp[1] @ here])
def test_a_corruption_has_no_axis(site: Any) -> None:
    with pytest.raises(UsageError, match=r"all cells of a grid share one corruption, and .* has an axis"):
        corrupt(site, Zero())


def test_an_engine_that_disagrees_with_the_plain_executor_gives_no_table(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechinterp.patching.exact import engine

    right = engine._Column._starting
    monkeypatch.setattr(engine._Column, "_starting", lambda self, *where: right(self, *where) * 1.5)
    with pytest.raises(MechinterpError, match=r"differ by .* in probability .* trace with engine='plain'"):
        trace(model, [PROMPT], engine="exact", draws=2, progress=False)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    right, calls = tracing._trace_group, []

    def group(*arguments: Any, **named: Any) -> Any:
        if len(calls) == groups:
            raise KeyboardInterrupt
        calls.append(1)
        return right(*arguments, **named)

    monkeypatch.setattr(tracing, "_trace_group", group)


def test_ctrl_c_keeps_the_finished_prompts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [PROMPT, OTHER.with_answer("oslo"), Prompt("{} was near", "gus", "lund", id="p2")]  # of three lengths
    whole = trace(model, prompts, draws=2, progress=False)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(Interrupted, match=r"^interrupted after 2 of 3 prompts$") as stopped:
        trace(model, prompts, draws=2, progress=False)
    table = stopped.value.table
    assert table.meta["interrupted"] is True
    assert len(table.prompts) == 2
    for name in table.prompts:
        mine, wanted = (one.frame[one.frame["prompt"] == name] for one in (table, whole))
        np.testing.assert_array_equal(mine["prob"], wanted["prob"])


def test_a_subject_named_twice_is_told(model: Model) -> None:
    meta = trace(model, [Prompt("ada works near the {} in", "ada", "rome")], draws=2, progress=False).meta
    assert ["names its subject 2 times" in sentence for sentence in meta["warnings"]] == [True]
    assert trace(model, [PROMPT], draws=2, progress=False).meta["warnings"] == []


def test_explain_says_hook_token_and_source_and_counts_no_ops(model: Model) -> None:
    program = NOISE | restore(mlp[0:2] @ subject[-1]) | sever(z.heads(1)[2] @ last)
    said = explain(model, PROMPT, program)
    found = [(line.verb, line.hook, line.tokens, line.source) for line in said.lines]
    assert found == [
        ("corrupt", "hook_embed", "1:'ada', 2:'bo'", "Gaussian(sigmas=3, draws=2, seed=0)"),
        ("restore", "blocks.0.hook_mlp_out", "2:'bo'", "clean run"),
        ("restore", "blocks.1.hook_mlp_out", "2:'bo'", "clean run"),
        ("sever", "blocks.2.attn.hook_z heads [1]", "5:'town'", "corrupted run"),
    ]
    assert (said.cells, said.rows, said.no_ops) == (1, 2, 0)
    for line in found:
        for part in line:
            assert part in str(said)
    assert "1 cells x 2 draws" in str(said)


def test_explain_counts_the_cells_that_cannot_change_anything(model: Model) -> None:
    def no_ops(program: Program) -> int:
        return explain(model, PROMPT, program).no_ops

    before = LAYERS  # the only token before the subject
    last_layer = 4  # the last layer of the later tokens, the last one left out
    assert no_ops(NOISE | restore(mlp.each @ every)) == before + last_layer
    assert no_ops(NOISE | restore(mlp.each @ every, Zero())) == 1 + last_layer
    table = trace(model, [PROMPT], NOISE | restore(mlp.each @ every), progress=False)
    assert table.meta["no_op_cells"] == before + last_layer


def test_programs_at_several_roles_and_of_several_heads_are_told_apart(model: Model) -> None:
    programs = [NOISE | restore(z.heads(head).each @ place) for head in (0, -1) for place in (subject[-1], last)]
    frame = trace(model, [PROMPT], programs, progress=False).frame.query("run == 'patched'")
    places = frame[["role", "head"]].drop_duplicates().to_numpy().tolist()
    assert places == [[role, head] for head in (0, 3) for role in ("last subject", "last")]
    alone = run(model, PROMPT, NOISE | restore(z.heads(3)[1] @ last))
    mine = frame.query("role == 'last' and head == 3 and layer == 1")
    np.testing.assert_allclose(mine["log_prob"], alone.log_prob, atol=1e-9)
    ends = Prompt("born in the town {}", "ada bo", id="p2")
    with pytest.raises(UsageError, match="could not tell the rows .* on 'born in the town ada bo'; trace them apart"):
        trace(model, [ends], programs, progress=False)


def test_a_given_tensor_is_traced_as_any_value(model: Model) -> None:
    table = trace(model, [PROMPT], NOISE | restore(mlp.each @ every, Given(torch.zeros(16))), progress=False)
    zero = trace(model, [PROMPT], NOISE | restore(mlp.each @ every, Zero()), progress=False)
    np.testing.assert_array_equal(table.frame["prob"], zero.frame["prob"])
    assert table.meta["plain"] == {}


def test_programs_the_table_could_not_tell_apart_are_refused(model: Model) -> None:
    programs = [NOISE | restore(mlp[layers] @ every) for layers in ([0, 1], [1, 2])]
    with pytest.raises(UsageError, match="could not tell the rows of .* trace them apart"):
        trace(model, [PROMPT], programs, progress=False)


def test_programs_of_two_corruptions_are_refused(model: Model) -> None:
    other = corrupt(embed @ subject, Gaussian(draws=2, seed=1, level=0.5))
    with pytest.raises(UsageError, match="share one corruption, their baseline"):
        trace(model, [PROMPT], [NOISE | restore(mlp.each @ every), other | restore(attn.each @ every)], progress=False)


def test_reference_brings_its_own_programs(model: Model) -> None:
    with pytest.raises(UsageError, match="give programs or reference=True, not both"):
        trace(model, [PROMPT], NOISE | restore(mlp.each @ every), reference=True, progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("kinds", ("mlp",)), ("severed", ()), ("window", 2), ("sigmas", 1.0), ("noise_level", 0.1), ("draws", 3)],
)
def test_options_of_causal_tracing_beside_programs_are_refused(model: Model, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} would have no effect: the programs given say"):
        trace(model, [PROMPT], NOISE | restore(mlp.each @ every), progress=False, **{name: value})

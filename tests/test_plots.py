"""The figures say what the numbers say, and can be read without a caption."""

from __future__ import annotations

import io
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from oracles.effects_oracle import synthetic_frame

from mechinterp.analysis import (
    average_indirect_effects,
    indirect_effects,
    plot_aie,
    plot_edit_by_layer,
    plot_prompt,
    total_effects,
)
from mechinterp.analysis.plots.style import COMPONENT_COLOURS
from mechinterp.errors import UsageError
from mechinterp.patching.traces.table import Table

META = {"model": "atlas", "draws": 3, "sigmas": 3.0, "noise_level": 0.2134, "window": 3}


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(synthetic_frame(n_prompts=8, n_layers=5, draws=3), META)


def words(figure: Figure) -> str:
    """Draw the figure (warnings are errors) and return all its text."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_one_prompt_is_a_heat_map_per_component(table: Table) -> None:
    figure = plot_prompt(table, "p003")
    text = words(figure)
    for part in ("“tok0 tok1 tok2 tok3 tok4 tok5 tok6”",
                 "residual state restored", "MLP restored", "attention restored",
                 "centre of the 3 restored layers",
                 "probability of the answer", "atlas", "noise 3σ = 0.213", "3 draws", "tok3*"):  # fmt: skip
        assert part in text
    assert "tok4*" not in text
    effects = indirect_effects(table, prompt="p003").query("component == 'mlp' and severed == 'none'")
    total = total_effects(table).set_index("prompt").loc["p003"]
    panel = next(axes for axes in figure.axes if axes.get_title() == "MLP restored")
    mesh = panel.collections[0]
    expected = effects.pivot(index="position", columns="layer", values="effect") + total["corrupted"]
    assert np.allclose(np.asarray(mesh.get_array()).ravel(), expected.to_numpy().ravel())
    every = indirect_effects(table, prompt="p003").query("severed == 'none'")["effect"].abs().max()
    span = max(total["clean"] - total["corrupted"], every)
    meshes = [axes.collections[0] for axes in figure.axes if "restored" in axes.get_title()]
    for one in meshes:  # one scale for all panels, around the corrupted run
        assert one.get_clim() == pytest.approx((total["corrupted"] - span, total["corrupted"] + span))
        assert one.cmap.name == mesh.cmap.name
    assert np.mean(mesh.cmap(0.5)[:3]) > 0.95  # which is white


def test_tokens_before_the_subject_are_one_row_where_nothing_happens_in_them(table: Table) -> None:
    before = table.frame["token"].isin([" tok0", " tok1", " tok2"])
    restored = table.frame["run"] == "patched"
    corrupted = table.frame[table.frame["run"] == "corrupted"].set_index(["prompt", "draw"])["prob"]
    frame = table.frame.assign(role=table.frame["role"].mask(before & restored, "before"))
    same = corrupted.loc[pd.MultiIndex.from_frame(frame[["prompt", "draw"]])].to_numpy()
    idle = Table(frame.assign(prob=frame["prob"].mask(before & restored, pd.Series(same, frame.index))), META)
    rows = [label.get_text() for label in plot_prompt(idle, "p003").axes[0].get_yticklabels()]
    assert rows[0] == "3 tokens before"
    assert len(rows) == 5
    assert len(plot_prompt(Table(frame, META), "p003").axes[0].get_yticklabels()) == 7


def test_tokens_that_cannot_be_drawn_are_escaped(table: Table) -> None:
    odd = {" tok0": " 東京", " tok1": "\n", " tok2": " $x$"}
    frame = table.frame.assign(token=table.frame["token"].replace(odd))
    text = words(plot_prompt(Table(frame, META), "p003"))
    assert "\\u6771\\u4eac*" in text
    assert "↵*" in text
    assert "$x$*" in text


def test_a_falling_metric_is_drawn_the_other_way_round(table: Table) -> None:
    figure = plot_prompt(table, "p003", "kl")
    mesh = figure.axes[0].collections[0]
    total = total_effects(table, "kl").set_index("prompt").loc["p003"]
    assert total["clean"] < total["corrupted"]
    rising = plot_prompt(table, "p003").axes[0].collections[0].cmap
    assert mesh.cmap(0.0) == rising(1.0)  # towards the clean run is orange either way
    assert "KL from the clean prediction (nats)" in words(figure)


def test_the_prompt_that_is_drawn_is_a_typical_one(table: Table) -> None:
    totals = total_effects(table).sort_values("total_effect")["prompt"].tolist()
    middle = totals[(len(totals) - 1) // 2]
    assert plot_prompt(table).get_suptitle() == plot_prompt(table, middle).get_suptitle()
    one = indirect_effects(table, prompt=middle).query("component == 'mlp' and severed == 'none'")
    drawn = next(axes for axes in plot_prompt(table).axes if axes.get_title() == "MLP restored").collections[0]
    lift = total_effects(table).set_index("prompt").loc[middle, "corrupted"]
    assert np.allclose(np.sort(np.asarray(drawn.get_array()).ravel()), np.sort(one["effect"].to_numpy() + lift))


def test_the_severed_variant_of_a_prompt(table: Table) -> None:
    assert "MLP severed" in words(plot_prompt(table, "p003", severed="mlp"))
    with pytest.raises(UsageError, match="no restored runs of 'p003' with severed='embed'"):
        plot_prompt(table, "p003", severed="embed")


def test_the_aie_figure_shows_the_averages(table: Table) -> None:
    figure = plot_aie(table)
    text = words(figure)
    for part in ("atlas", "8 prompts", "noise 3σ = 0.213", "3 draws", "window 3", "total effect",
                 "95% interval over prompts",
                 "MLP (3 layers)", "attention (3 layers)", "residual state (1 layer)", "last subject token",
                 "middle subject token (n = 4)", "nothing severed", "MLP severed",
                 "attention severed"):  # fmt: skip
        assert part in text
    effects = average_indirect_effects(table)
    effects = effects.query("component == 'mlp' and severed == 'none' and role == 'last subject'")
    panel = next(axes for axes in figure.axes if axes.get_title().endswith("last subject token"))
    line = next(line for line in panel.get_lines() if line.get_label().startswith("MLP"))
    assert np.allclose(line.get_ydata(), effects["estimate"])
    assert to_hex(line.get_color()).lower() == COMPONENT_COLOURS["mlp"].lower()
    assert "AIE: probability of the answer" in text
    assert "layer" in text


def test_a_finished_frame_can_be_drawn(table: Table) -> None:
    effects = average_indirect_effects(table, "logit_diff")
    text = words(plot_aie(effects, "logit_diff", meta=META))
    assert "logit difference (logits)" in text
    assert "8 prompts" in text


def test_without_severed_runs_there_is_no_severed_panel() -> None:
    bare = Table(synthetic_frame(n_prompts=4, n_layers=3, draws=2, severed=False), {})
    assert "severed" not in words(plot_aie(bare))


def test_single_layers_stand_beside_windows() -> None:
    both = Table(synthetic_frame(n_prompts=4, n_layers=5, draws=2, severed=False, singles=True), {})
    assert "MLP (3 single layers added up)" in words(plot_aie(both))


def test_the_bundled_models_caveat_stands_at_the_foot(table: Table) -> None:
    caveat = "early site partly designed in: see docs/atlas.md"
    assert caveat in words(plot_aie(table))
    assert caveat in words(plot_prompt(table, "p000"))
    assert caveat not in words(plot_aie(Table(table.frame, {**META, "model": "gpt2-xl"})))
    assert "control without an early site" in words(plot_prompt(Table(table.frame, {"model": "atlas-plain"}), "p000"))


def test_nothing_to_draw_is_said(table: Table) -> None:
    effects = average_indirect_effects(table)
    with pytest.raises(UsageError, match="no unsevered run"):
        plot_aie(effects[effects["severed"] != "none"])


def sweep_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"layer": layer, "record": f"r{i}", "relation": "", "stage": stage, "metric": metric,
         "value": float(rng.random() < chance) if stage == "after" else 0.0, "questions": 1}
        for layer in range(4)
        for i in range(12)
        for stage in ("before", "after")
        for metric, chance in (("ES", 0.9), ("PS", 0.7), ("NS", 0.8), ("same_subject_kept", 0.4))
        if (metric, stage) != ("same_subject_kept", "before")
    )  # fmt: skip


def test_edits_by_layer_are_drawn_with_their_score() -> None:
    frame = sweep_frame()
    figure = plot_edit_by_layer(frame, meta={"model": "atlas", "method": "ROME"})
    text = words(figure)
    for part in ("atlas", "ROME of one fact at one layer, 12 facts", "edited layer", "share of records",
                 "harmonic mean",
                 "the subject's other facts, kept", "faint: the unedited model", "docs/atlas.md"):  # fmt: skip
        assert part in text
    line = next(line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith("ES"))
    after = frame[(frame["stage"] == "after") & (frame["metric"] == "ES")]
    assert np.allclose(line.get_ydata(), after.groupby("layer")["value"].mean())
    with pytest.raises(UsageError, match="has no layers"):
        plot_edit_by_layer(frame.drop(columns="layer"))
    with pytest.raises(UsageError, match="none of the metrics ES, PS"):
        plot_edit_by_layer(frame[frame["metric"] == "ES"].assign(metric="one_hop"))


def test_figures_leave_no_state_behind(table: Table) -> None:
    words(plot_aie(table))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []

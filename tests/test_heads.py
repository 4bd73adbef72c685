"""Single heads: against PyTorch hooks on a model with grouped queries, in tables, figures and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import HEADS, LAYERS, hf_model, small_model
from torch import Tensor

from mechinterp import Model, Prompt, Table, UsageError, trace
from mechinterp.analysis import average_indirect_effects, plot_aie, plot_heads, plot_prompt, top
from mechinterp.patching import Component, Zero, corrupt, embed, k, last, q, restore, subject, v, z

PROMPTS = [
    Prompt("the {} lives in the old town of", "ada bo", "rome"),
    Prompt("born with {} in the big red town", "dee", "oslo"),
    Prompt("{} works near the town", "gus hal", "paris"),
    Prompt("the big {} was near", "ida cy", "york"),
    Prompt("{} was born in the", "fay", "bern"),
]
NOISE = corrupt(embed @ subject, Zero())
PROJECTIONS = {"z": "o_proj", "q": "q_proj", "k": "k_proj", "v": "v_proj"}


def model() -> Model:
    return small_model("llama", dtype=torch.float64)


class Oracle:
    """Llama of plain transformers: zeros for the subject's embeddings, one head put back, hook by hook."""

    def __init__(self) -> None:
        self.network = hf_model("llama").double().eval()
        self.d_head = self.network.config.head_dim

    @contextmanager
    def _on(self, name: str, layer: int, act: Any) -> Iterator[None]:
        """What the heads of a layer hold, [pos, head, d_head], given to `act`, which may change it in place."""
        module = getattr(self.network.model.layers[layer].self_attn, PROJECTIONS[name])
        if name == "z":
            handle = module.register_forward_pre_hook(
                lambda _, inputs: act(inputs[0][0].unflatten(-1, (-1, self.d_head)))
            )
        else:
            handle = module.register_forward_hook(lambda _, __, out: act(out[0].unflatten(-1, (-1, self.d_head))))
        yield
        handle.remove()

    def logits(self, ids: list[int], zeroed: range, name: str = "z", layer: int = 0, act: Any = None) -> Tensor:
        def zero(_: object, __: object, out: Tensor) -> None:
            out[0, list(zeroed)] = 0

        handle = self.network.model.embed_tokens.register_forward_hook(zero)
        try:
            with torch.no_grad(), self._on(name, layer, act or (lambda value: None)):
                return self.network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        finally:
            handle.remove()

    def restored(self, ids: list[int], zeroed: range, name: str, layer: int, token: int, head: int) -> Tensor:
        kept: list[Tensor] = []
        self.logits(ids, range(0), name, layer, lambda value: kept.append(value.clone()))

        def put_back(value: Tensor) -> None:
            value[token, head] = kept[0][token, head]

        return self.logits(ids, zeroed, name, layer, put_back)


@pytest.mark.parametrize(("component", "heads"), [(z, HEADS), (q, HEADS), (k, HEADS // 2), (v, HEADS // 2)])
def test_heads_under_grouped_queries(component: Component, heads: int) -> None:
    prompt, oracle = PROMPTS[0], Oracle()
    words = model().tokenizer.convert_tokens_to_ids
    ids, answer = words(prompt.text.split()), words("rome")
    for position, token in ((subject[-1], 2), (last, len(ids) - 1)):
        program = NOISE | restore(component.each_head @ position)
        for engine in ("exact", "plain"):
            frame = trace(model(), prompt, program, engine=engine, progress=False).frame.query("run == 'patched'")
            found = frame.set_index(["layer", "head"])["log_prob"]
            assert len(found) == LAYERS * heads
            for (layer, head), value in found.items():
                wanted = oracle.restored(ids, range(1, 3), component.name, layer, token, head)[answer]
                assert value == pytest.approx(float(wanted), abs=2e-6)  # norms and rotary in float32
        assert found.nunique() > 1


@pytest.fixture(scope="module")
def table() -> Table:
    programs = [NOISE | restore(z.each_head @ last), NOISE | restore(z.each_head @ subject[-1])]
    return trace(model(), PROMPTS, programs, progress=False)


def test_effects_of_heads_and_the_strongest(table: Table) -> None:
    effects = average_indirect_effects(table)
    assert len(effects) == 2 * LAYERS * HEADS
    assert effects["low"].notna().all()
    one = table.frame.query("run == 'patched' and role == 'last' and layer == 1 and head == 2")
    base = table.frame.query("run == 'corrupted'")
    wanted = one.set_index("prompt")["prob"] - base.set_index("prompt")["prob"]
    mine = effects.query("role == 'last' and layer == 1 and head == 2")["estimate"].item()
    assert mine == pytest.approx(wanted.mean())
    strongest = top(table, 3)
    assert len(strongest) == 3
    assert strongest["estimate"].abs().tolist() == sorted(effects["estimate"].abs(), reverse=True)[:3]
    with pytest.raises(UsageError, match="n is 0; give 1 or more"):
        top(table, 0)


def test_a_map_of_heads(table: Table) -> None:
    figure = plot_heads(table)
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["z at last subject", "z at last"]
    shown = np.asarray(panels[0].images[0].get_array())
    assert shown.shape == (LAYERS, HEADS)
    assert panels[0].images[0].norm.vmin == -panels[1].images[0].norm.vmax
    whole = trace(model(), PROMPTS[:1], NOISE | restore(z.each @ last), progress=False)
    with pytest.raises(UsageError, match=r"no single heads; trace a site such as z.each_head @ last, or use plot_aie"):
        plot_heads(whole)
    for draw in (plot_aie, lambda table: plot_prompt(table, table.prompts[0])):
        with pytest.raises(UsageError, match="holds single heads, .* use plot_heads"):
            draw(table)
    assert plot_prompt(whole, whole.prompts[0]).axes


def test_heads_on_the_terminal(table: Table, call: Any) -> None:
    table.save("heads.parquet")
    code, out, _ = call("show", "heads.parquet")
    assert code == 0
    assert "strongest heads" in out


def test_tables_of_earlier_versions_have_no_heads(table: Table) -> None:
    assert set(Table(table.frame.drop(columns="head"), table.meta).frame["head"]) == {-1}

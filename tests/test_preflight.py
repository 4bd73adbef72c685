"""What the preflight proves on each architecture, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.tokenizers import words
from support.zoo import KINDS, hf_model, small_model

import mechinterp as mi
from mechinterp import MechinterpError, Model, Prompt
from mechinterp.models.layout import COMPONENTS, Layout
from mechinterp.models.preflight import preflight
from mechinterp.patching import (
    Component,
    Gaussian,
    at,
    corrupt,
    embed,
    every,
    read,
    resid_mid,
    restore,
    run,
    subject,
    trace,
)

PROMPT = Prompt("the {} lives in town", "ada bo", "rome")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_served(kind: str) -> None:
    refused = small_model(kind).layout.refused
    assert set(refused) == ({"resid_mid"} if kind == "neox" else set())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMPONENTS)
def test_what_is_served_can_be_read_and_written(kind: str, name: str) -> None:
    """Writing another prompt's activation changes the answer; writing what is there changes nothing."""
    model = small_model(kind, dtype=torch.float64)
    if name in model.layout.refused:
        with pytest.raises(MechinterpError, match=name):
            read(model, [PROMPT], Component(name)[1] @ at(2))
        return
    site = (Component(name) if name == "embed" else Component(name)[1]) @ at(2)
    value = read(model, [PROMPT], site)
    other = mi.patching.OtherSubject("cy dee")
    assert not run(model, PROMPT, restore(site, mi.patching.Given(value[0]))).changed
    result = run(model, PROMPT, restore(site, other))
    assert result.changed
    assert abs(result.log_prob[0] - result.clean.log_prob[0]) > 1e-6


def test_a_parallel_block_has_no_resid_mid() -> None:
    sentence = r"small-neox \(GPTNeoXForCausalLM\) has no 'resid_mid': attention and MLP are parallel in each block"
    with pytest.raises(MechinterpError, match=sentence):
        run(small_model("neox"), PROMPT, restore(resid_mid[1] @ at(2)))


def test_a_mixture_of_experts_has_no_key_and_no_value() -> None:
    model = small_model("mixtral")
    assert set(model.layout.refused) == {"key", "value"}
    for component in ("key", "value"):
        with pytest.raises(MechinterpError, match=rf"MixtralForCausalLM\) cannot serve the component '{component}'"):
            run(model, PROMPT, restore(Component(component)[0] @ at(1)))
    noise = corrupt(embed @ subject, Gaussian(draws=2))
    frame = trace(model, [PROMPT], noise | restore(Component("mlp").each @ every), progress=False).frame
    assert frame["prob"].notna().all()


def test_half_precision_passes_the_preflight() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert small_model("llama", dtype=dtype).layout.refused == {}


def fresh(kind: str = "gpt2") -> Model:
    """A model whose bridge may be broken."""
    return mi.load(hf_model(kind), tokenizer=words(), name="broken")


def with_hooks(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[str, Any], Any | None]) -> None:
    """Let a bridge treat hooks otherwise: `wrap` gives another function for a hook, or None to lose it."""
    bridge_type = type(small_model().bridge)
    right = bridge_type.run_with_hooks

    def run_with_hooks(self: Any, ids: Any, fwd_hooks: list[tuple[str, Any]], **named: Any) -> Any:
        wrapped = [(name, wrap(name, hook)) for name, hook in fwd_hooks]
        return right(self, ids, fwd_hooks=[(name, hook) for name, hook in wrapped if hook is not None], **named)

    monkeypatch.setattr(bridge_type, "run_with_hooks", run_with_hooks)


@pytest.mark.parametrize("dead", ["hook_embed", "blocks.1.hook_in", "blocks.2.hook_out"])
def test_a_dead_residual_stream_refuses_the_model(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = fresh().bridge
    with_hooks(monkeypatch, lambda name, hook: None if name == dead else hook)
    with pytest.raises(MechinterpError, match=f"GPT2LMHeadModel.*its hook point {dead} fires 0 times per forward"):
        preflight(bridge, "broken")


def test_a_dead_part_is_refused_by_name_and_the_rest_served(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh()
    with_hooks(monkeypatch, lambda name, hook: None if name == "blocks.2.hook_mlp_out" else hook)
    refused = preflight(model.bridge, "broken")
    assert set(refused) == {"mlp"}
    broken = Model(model.bridge, model.tokenizer, Layout(model.bridge, refused), "broken")
    with pytest.raises(MechinterpError, match="cannot serve the component 'mlp': its hook point blocks.2.hook_mlp_out"):
        run(broken, PROMPT, restore(Component("mlp")[0] @ at(1)))
    assert run(broken, PROMPT, corrupt(embed @ subject, Gaussian(draws=2)) | restore(Component("attn")[0] @ at(1)))


def test_dead_attention_takes_resid_mid_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = fresh().bridge
    with_hooks(monkeypatch, lambda name, hook: None if name == "blocks.0.hook_attn_out" else hook)
    refused = preflight(bridge, "broken")
    assert set(refused) == {"attn", "resid_mid"}
    assert refused["resid_mid"].startswith("'resid_mid' is written through 'attn', and broken")


def test_a_hook_whose_value_is_thrown_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fires and it reads well, and what it returns goes nowhere, as TransformerLens' own resid_mid does."""
    bridge = fresh().bridge

    def wrap(name: str, hook: Any) -> Any:
        def deaf(value: torch.Tensor, hook_point: object) -> None:
            hook(value, hook=hook_point)

        return (lambda value, hook: deaf(value, hook)) if name == "blocks.1.attn.hook_z" else hook

    with_hooks(monkeypatch, wrap)
    refused = preflight(bridge, "broken")
    assert set(refused) == {"z"}
    assert "writing to its hook point blocks.1.attn.hook_z changes nothing" in refused["z"]


def test_parts_that_do_not_add_up_to_the_residual_stream_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on BLOOM, whose raw MLP hook holds the residual stream too."""
    bridge = fresh().bridge

    def wrap(name: str, hook: Any) -> Any:
        return (lambda value, hook_=hook, hook=None: hook_(2 * value, hook=hook)) if "mlp_out" in name else hook

    with_hooks(monkeypatch, wrap)
    refused = preflight(bridge, "broken")
    assert {"attn", "mlp", "resid_mid"} == set(refused)
    assert "resid_pre + attn + mlp misses resid_post by" in refused["mlp"]


def test_a_resid_mid_that_is_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = fresh().bridge

    def wrap(name: str, hook: Any) -> Any:
        return (lambda value, hook_=hook, hook=None: hook_(value + 1, hook=hook)) if "resid_mid" in name else hook

    with_hooks(monkeypatch, wrap)
    refused = preflight(bridge, "broken")
    assert set(refused) == {"resid_mid"}
    assert "it is not resid_pre + attn" in refused["resid_mid"]


def test_a_residual_stream_that_cannot_be_restored_refuses_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = fresh().bridge

    def wrap(name: str, hook: Any) -> Any:
        def leaky(value: torch.Tensor, hook_point: object) -> torch.Tensor | None:
            out = hook(value, hook=hook_point)
            return None if out is None else 0.9 * out + 0.1 * value

        return (lambda value, hook: leaky(value, hook)) if name == "blocks.1.hook_out" else hook

    with_hooks(monkeypatch, wrap)
    with pytest.raises(MechinterpError, match="cannot be traced: restoring the whole 'resid' of layer 1 should give"):
        preflight(bridge, "broken")

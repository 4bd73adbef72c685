"""Activation patching of T5 as plainly as can be: one row at a time, PyTorch's own hooks on transformers' modules.

Nothing of mechinterp is used, and what each module holds is told from the code of transformers: `layer[0]` is
self-attention, `layer[1]` of a decoder cross-attention, the last one the MLP, and each adds to the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .patching_oracle import Edit, Outcome

COMPONENTS = ("embed", "resid_pre", "resid_mid", "resid", "attn", "mlp", "z", "q", "k", "v", "key", "value")
CROSS = "cross_attn"


def forward(
    network: Any, stack: str, ids: Sequence[int], decoder_ids: Sequence[int], edits: Sequence[Edit] = ()
) -> Outcome:
    """Logits [decoder token, vocab] and activations [token, ...] of one stack, with the edits made in order.

    `embed` is the encoder's whichever stack is looked at.
    """
    heads, width = network.config.num_heads, network.config.d_kv
    found: dict[tuple[str, int], Tensor] = {}

    def visit(component: str, layer: int, value: Tensor) -> Tensor:
        value = value.clone()
        for edit in edits:
            if (edit.component, edit.layer) == (component, layer):
                where = (0, edit.token) if edit.head is None else (0, edit.token, edit.head)
                value[where] = value[where] + edit.value if edit.add else edit.value
        found[component, layer] = value[0].clone()
        return value

    def after(component: str, layer: int, *, split: bool = False) -> Any:
        def hook(module: object, inputs: object, output: Any) -> Any:
            whole = output[0] if isinstance(output, tuple) else output
            value = whole.view(1, -1, heads, width) if split else whole
            value = visit(component, layer, value).view(whole.shape)
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    def before(component: str, layer: int, *, split: bool = False) -> Any:
        def hook(module: object, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> Any:
            whole = inputs[0] if inputs else named["hidden_states"]
            value = whole.view(1, -1, heads, width) if split else whole
            value = visit(component, layer, value).view(whole.shape)
            return ((value, *inputs[1:]), named) if inputs else (inputs, {**named, "hidden_states": value})

        return hook

    handles = [network.encoder.embed_tokens.register_forward_hook(_of_encoder(network, after("embed", 0)))]

    def watch(module: Any, component: str, layer: int, *, split: bool = False) -> None:
        handles.append(module.register_forward_hook(after(component, layer, split=split)))

    def enter(module: Any, component: str, layer: int, *, split: bool = False) -> None:
        handles.append(module.register_forward_pre_hook(before(component, layer, split=split), with_kwargs=True))

    for layer, block in enumerate(getattr(network, stack).block):
        attention, mlp = block.layer[0].SelfAttention, block.layer[-1].DenseReluDense
        enter(block, "resid_pre", layer)
        for name in "qkv":
            watch(getattr(attention, name), name, layer, split=True)
        enter(attention.o, "z", layer, split=True)
        watch(attention, "attn", layer)
        watch(block.layer[0], "resid_mid", layer)  # the residual stream with attention's contribution in it
        if len(block.layer) == 3:
            watch(block.layer[1].EncDecAttention, CROSS, layer)
        enter(mlp.wo, "key", layer)
        watch(mlp.wo, "value", layer)
        watch(mlp, "mlp", layer)
        watch(block, "resid", layer)
    try:
        with torch.no_grad():
            rows = torch.tensor([list(ids)]), torch.tensor([list(decoder_ids)])
            logits = network(input_ids=rows[0], decoder_input_ids=rows[1], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return Outcome(logits, found)


def _of_encoder(network: Any, hook: Any) -> Any:
    """Both stacks share the embedding module where they share its weights: only the first call is the encoder's."""
    called: list[bool] = []

    def first(module: object, inputs: object, output: Any) -> Any:
        called.append(True)
        return hook(module, inputs, output) if len(called) == 1 else None

    return first

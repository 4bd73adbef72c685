"""Proof, on the model at hand, that each hook point does what its name says.

TransformerLens accepts hooks that never fire, and some that fire without any effect.  Before a model is used, a few
short forwards check that (1) every hook fires exactly once, with one vector per token (and head), (2) overwriting it
changes the logits, (3) no token of a decoder sees a later one, (4) restoring the residual at every position of another
prompt gives the clean logits, (5) resid_pre + attn = resid_mid and resid_mid (+ cross_attn) + mlp = resid_post.  What
fails is refused by name; without a working residual stream the model is refused as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ..errors import MechinterpError
from . import layout as names
from .hook_checks import checked_layers, dead, in_row, run, without_effect
from .layout import Layout
from .placement import device_of
from .stacks import ENCODER

_ESSENTIAL = (names.EMBED, names.RESID_PRE, names.RESID)


def preflight(bridge: TransformerBridge, name: str, stack: str = "") -> dict[str, str]:
    """Check every component of a model.

    Args:
        bridge: the model.
        name: for the messages.
        stack: which of an encoder-decoder is checked.

    Returns:
        component -> the sentence saying why it cannot be served; empty when everything works.

    Raises:
        MechinterpError: the residual stream itself cannot be read and written.
    """
    layout = Layout(bridge, {}, stack)
    clean_ids, other_ids = _token_pair(layout)
    width = run(layout, clean_ids, []).shape[-1]
    if width < layout.d_vocab:
        raise MechinterpError(
            f"{name} ({layout.architecture}) has {layout.d_vocab} tokens, and its head gives logits of {width}: some "
            "tokens could never be said, nor scored; load it with the head that it was trained with"
        )
    problems = dead(layout, clean_ids)
    problems |= without_effect(layout, clean_ids, [one for one in layout.hooked if one not in problems])
    refused = {
        component: f"{name} ({layout.architecture}) cannot serve the component {component!r}: {problems[component]}"
        for component in layout.hooked
        if component in problems
    }
    for component in _ESSENTIAL:
        if component in refused:
            raise MechinterpError(refused[component])
    if stack != ENCODER:
        _check_causal(layout, name, clean_ids, other_ids)
    _check_restoring_everything(layout, name, clean_ids, other_ids)
    if not {names.ATTN, names.CROSS_ATTN, names.MLP} & refused.keys():
        _check_sums(layout, name, clean_ids, refused)
    if names.ATTN in refused:
        refused[names.RESID_MID] = f"'resid_mid' is written through 'attn', and {refused[names.ATTN]}"
    elif not layout.has_hook(layout.read_hook(names.RESID_MID, 0)):
        refused[names.RESID_MID] = (
            f"{name} ({layout.architecture}) has no 'resid_mid': attention and MLP are parallel in each block"
        )
    return refused


def _token_pair(layout: Layout) -> tuple[Tensor, Tensor]:
    """Two different short token sequences, the same on every run; as many tokens as no axis of heads has."""
    length = next(n for n in (5, 7, 11) if n not in (layout.n_heads, layout.n_kv_heads))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(layout.d_vocab, (2, length), generator=generator)
    ids[1] = (ids[0] + 1) % layout.d_vocab
    device = device_of(layout.bridge.original_model)
    return ids[:1].to(device), ids[1:].to(device)


def _check_causal(layout: Layout, name: str, clean_ids: Tensor, other_ids: Tensor) -> None:
    """Columns of the exact engine, and answers fed token by token, presuppose that nothing looks ahead."""
    logits = run(layout, torch.cat([clean_ids, torch.cat([clean_ids[:, :-1], other_ids[:, -1:]], 1)]), [])
    gap = float((logits[0, :-1] - logits[1, :-1]).abs().max())
    if gap > _tolerance(logits):
        raise MechinterpError(
            f"{name} ({layout.architecture}) is no decoder: what it says at a token depends on later tokens"
        )


def _check_restoring_everything(layout: Layout, name: str, clean_ids: Tensor, other_ids: Tensor) -> None:
    layers = checked_layers(layout)
    resid = {layer: layout.hook(names.RESID, layer) for layer in layers}
    kept = _kept(layout, clean_ids, list(resid.values()))
    clean = run(layout, clean_ids.expand(len(layers), -1), [])
    puts = [(hook, in_row(row, _give(kept[hook][0]))) for row, hook in enumerate(resid.values())]
    restored = run(layout, other_ids.expand(len(layers), -1), puts)
    for layer, gap in zip(layers, (restored - clean).abs().flatten(1).amax(1).tolist(), strict=True):
        if gap > _tolerance(clean):
            raise MechinterpError(
                f"{name} ({layout.architecture}) cannot be traced: restoring the whole 'resid' of layer {layer} should "
                f"give the clean logits and misses them by {gap:.2g}"
            )


def _give(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda old: value


def _kept(layout: Layout, ids: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
    """Activations at some hook points; those that do not fire are left out."""
    kept: dict[str, Tensor] = {}

    def keep(hook_name: str) -> Callable[..., None]:
        def act(value: Tensor, hook: object) -> None:
            kept[hook_name] = value.clone()

        return act

    run(layout, ids, [(hook, keep(hook)) for hook in hooks])
    return kept


def _check_sums(layout: Layout, name: str, ids: Tensor, refused: dict[str, str]) -> None:
    """What attention and MLP add must be what the residual stream gains, and resid_mid what stands between them."""
    parts = [names.RESID_PRE, names.ATTN, names.MLP, names.RESID]
    if layout.has_hook(layout.read_hook(names.RESID_MID, 0)):
        parts.append(names.RESID_MID)
    added = [names.ATTN, *([names.CROSS_ATTN] if names.CROSS_ATTN in layout.hooked else []), names.MLP]
    parts += added[1:-1]
    found = _kept(layout, ids, [layout.read_hook(part, layer) for layer in checked_layers(layout) for part in parts])
    by_layer: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for layer in checked_layers(layout):
        for part in parts:
            if (hook := layout.read_hook(part, layer)) in found:
                by_layer[layer][part] = found[hook]
    for layer, kept in by_layer.items():
        middle = kept[names.RESID_PRE] + kept[names.ATTN]
        tolerance = max(_tolerance(value) for value in kept.values())
        total = middle + sum(kept[part] for part in added[1:])
        gap = float((total - kept[names.RESID]).abs().max())
        if gap > tolerance:
            for part in added:
                refused[part] = (
                    f"{name} ({layout.architecture}) cannot serve the component {part!r}: in layer {layer} "
                    f"{' + '.join((names.RESID_PRE, *added))} misses resid_post by {gap:.2g}"
                )
            return
        if names.RESID_MID in parts and not (
            names.RESID_MID in kept and float((middle - kept[names.RESID_MID]).abs().max()) <= tolerance
        ):
            refused[names.RESID_MID] = (
                f"{name} ({layout.architecture}) cannot serve the component 'resid_mid': in layer {layer} it is not "
                "resid_pre + attn"
            )


def _tolerance(reference: Tensor) -> float:
    """What rounding alone may cost: some units in the last place of the largest value."""
    return 32 * torch.finfo(reference.dtype).eps * max(1.0, float(reference.abs().max()))

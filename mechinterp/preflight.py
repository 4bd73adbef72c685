"""Proof, on the model at hand, that each hook point does what its name says.

TransformerLens accepts hooks that never fire, and some that fire without any effect.  Before a model is used, a few
short forwards check that (1) every hook fires exactly once, (2) overwriting it changes the logits, (3) restoring the
residual at every position of another prompt gives the clean logits, (4) resid_pre + attn = resid_mid and resid_mid +
mlp = resid_post.  What fails is refused by name; without a working residual stream the model is refused as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from . import layout as names
from .errors import MechinterpError
from .layout import Layout

_ESSENTIAL = (names.EMBED, names.RESID_PRE, names.RESID)
_LENGTH = 5
_MIN_EFFECT = 1e-6
"""Smallest change of a log-probability that counts as an effect; no-ops found so far change exactly nothing."""


def preflight(bridge: TransformerBridge, name: str) -> dict[str, str]:
    """Check every component of a model.

    Returns:
        component -> the sentence saying why it cannot be served; empty when everything works.

    Raises:
        MechinterpError: the residual stream itself cannot be read and written.
    """
    layout = Layout(bridge, {})
    clean_ids, other_ids = _token_pair(layout)
    refused: dict[str, str] = {}
    for component in names.COMPONENTS:
        if component == names.RESID_MID:
            continue
        problem = _problem(layout, component, clean_ids)
        if problem:
            refused[component] = f"{name} ({layout.architecture}) cannot serve the component {component!r}: {problem}"
    for component in _ESSENTIAL:
        if component in refused:
            raise MechinterpError(refused[component])
    _check_restoring_everything(layout, name, clean_ids, other_ids)
    if not {names.ATTN, names.MLP} & refused.keys():
        _check_sums(layout, name, clean_ids, refused)
    if not layout.has_hook(layout.read_hook(names.RESID_MID, 0)):
        refused[names.RESID_MID] = (
            f"{name} ({layout.architecture}) has no 'resid_mid': attention and MLP are parallel in each block"
        )
    elif names.ATTN in refused:
        refused[names.RESID_MID] = f"'resid_mid' is written through 'attn', and {refused[names.ATTN]}"
    return refused


def _token_pair(layout: Layout) -> tuple[Tensor, Tensor]:
    """Two different short token sequences, the same on every run."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(layout.d_vocab, (2, _LENGTH), generator=generator)
    ids[1] = (ids[0] + 1) % layout.d_vocab
    device = next(layout.bridge.original_model.parameters()).device
    return ids[:1].to(device), ids[1:].to(device)


def _run(layout: Layout, ids: Tensor, hooks: Sequence[tuple[str, Callable[..., Tensor | None]]]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = layout.bridge.run_with_hooks(ids, fwd_hooks=list(hooks), use_cache=False)
    return logits


def _layers(layout: Layout) -> list[int]:
    return sorted({0, layout.n_layers // 2, layout.n_layers - 1})


def _problem(layout: Layout, component: str, ids: Tensor) -> str | None:
    """What is wrong with a component, or None."""
    layers = [0] if component == names.EMBED else list(range(layout.n_layers))
    hooks = [layout.hook(component, layer) for layer in layers]
    missing = [hook for hook in hooks if not layout.has_hook(hook)]
    if missing:
        return f"there is no hook point {missing[0]}"
    fired: Counter[str] = Counter()
    widths: set[int] = set()

    def count(hook_name: str) -> Callable[..., None]:
        def record(value: Tensor, hook: object) -> None:
            fired[hook_name] += 1
            widths.add(value.shape[-1])

        return record

    base = _run(layout, ids, [(hook, count(hook)) for hook in hooks])
    wrong = [hook for hook in hooks if fired[hook] != 1]
    if wrong:
        return f"its hook point {wrong[0]} fires {fired[wrong[0]]} times per forward instead of once"
    if component == names.KEY and widths == {layout.d_model}:
        return "the MLP has no single down-projection (mixture of experts?)"
    for layer in layers if component == names.EMBED else _layers(layout):
        hook_name = layout.hook(component, layer)
        changed = _run(layout, ids, [(hook_name, _shifted)])
        if not _differ(base, changed):
            return f"writing to its hook point {hook_name} changes nothing"
    return None


def _shifted(value: Tensor, hook: object) -> Tensor:
    """Another value of the same scale: the activation with its last axis rolled and a constant put on top."""
    return value.roll(1, dims=-1) + value.std() + 0.1


def _differ(a: Tensor, b: Tensor) -> bool:
    difference = (a.float().log_softmax(-1) - b.float().log_softmax(-1)).abs().max()
    return bool(difference > _MIN_EFFECT)


def _check_restoring_everything(layout: Layout, name: str, clean_ids: Tensor, other_ids: Tensor) -> None:
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def record(value: Tensor, hook: object) -> None:
            kept[layer] = value.clone()

        return record

    layers = _layers(layout)
    clean = _run(layout, clean_ids, [(layout.hook(names.RESID, layer), keep(layer)) for layer in layers])
    for layer in layers:
        restored = _run(
            layout, other_ids, [(layout.hook(names.RESID, layer), lambda value, hook, layer=layer: kept[layer])]
        )
        gap = float((restored - clean).abs().max())
        if gap > _tolerance(clean):
            raise MechinterpError(
                f"{name} ({layout.architecture}) cannot be traced: restoring the whole 'resid' of layer {layer} should "
                f"give the clean logits and misses them by {gap:.2g}"
            )


def _check_sums(layout: Layout, name: str, ids: Tensor, refused: dict[str, str]) -> None:
    """What attention and MLP add must be what the residual stream gains, and resid_mid what stands between them."""
    kept: dict[str, Tensor] = {}

    def keep(component: str) -> Callable[..., None]:
        def record(value: Tensor, hook: object) -> None:
            kept[component] = value.clone()

        return record

    whole = (names.RESID_PRE, names.ATTN, names.MLP, names.RESID)
    has_middle = layout.has_hook(layout.read_hook(names.RESID_MID, 0))
    for layer in _layers(layout):
        parts = (*whole, names.RESID_MID) if has_middle else whole
        kept.clear()
        _run(layout, ids, [(layout.read_hook(part, layer), keep(part)) for part in parts])
        shape = kept[names.RESID_PRE].shape
        middle = kept[names.RESID_PRE] + kept[names.ATTN].view(shape)
        tolerance = max(_tolerance(value) for value in kept.values())
        gap = float((middle + kept[names.MLP].view(shape) - kept[names.RESID]).abs().max())
        if gap > tolerance:
            for part in (names.ATTN, names.MLP):
                refused[part] = (
                    f"{name} ({layout.architecture}) cannot serve the component {part!r}: in layer {layer} "
                    f"resid_pre + attn + mlp misses resid_post by {gap:.2g}"
                )
            return
        found = kept.get(names.RESID_MID)
        if has_middle and (found is None or float((middle - found).abs().max()) > tolerance):
            refused[names.RESID_MID] = (
                f"{name} ({layout.architecture}) cannot serve the component 'resid_mid': in layer {layer} it is not "
                "resid_pre + attn"
            )


def _tolerance(reference: Tensor) -> float:
    """What rounding alone may cost: some units in the last place of the largest value."""
    return 32 * torch.finfo(reference.dtype).eps * max(1.0, float(reference.abs().max()))

"""Look before: what an edit will do to other facts, from their keys alone, before it is applied.

An edit changes the value of a key k' by ΔWᵀk'.  For a rank-one insertion of (k*, v*) that is

    ΔWᵀk' = (k'ᵀC⁻¹k*) / (k*ᵀC⁻¹k*) · (v* − Wᵀk*)

(Meng et al. 2022, eq. 2): how much of the edit's own key a fact's key has, times what the edit had to add.  Nothing is
run but the unedited model on the facts' prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...editing import Edit, SecondMoment
from ...editing.edits.row_edits import RowEdits
from ...editing.rows.padded import Batch
from ...errors import MechinterpError, UsageError
from ...facts.prompts import Facts, Prompt, facts_of
from ...models.layout import DOWN_BIAS
from ...models.model import Model
from ...patching.plain.executor import forward
from ...public import public
from .known_facts import Edits, facts_of_edits, kin_of, made_edits, requests_of

_SMALLEST = 1e-30
"""Stands for a change of nothing, so that it can be divided by."""


@dataclass(frozen=True, eq=False)
class _Reading:
    """Keys and values of each edited layer at the last token of each prompt's subject."""

    keys: dict[int, Float[Tensor, "prompt d_mlp"]]
    values: dict[int, Float[Tensor, "prompt d_model"]]

    def of(self, prompts: list[int]) -> _Reading:
        """That of some of the prompts, by number."""
        return _Reading(*({layer: part[prompts] for layer, part in all_.items()} for all_ in (self.keys, self.values)))


@public
def forecast(
    model: Model,
    edits: Edits,
    facts: Facts,
    *,
    moments: Mapping[int, SecondMoment] | None = None,
    sample: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
) -> pd.DataFrame:
    """The risk that edits bear for facts, from the keys of the unedited model.

    Args:
        model: the model the edits were made for.
        edits: one, or several that are forecast singly; `Failed` ones are passed over.
        facts: facts the model may know.
        moments: the second moment of each edited layer; `overlap` is then of keys under C⁻¹, whatever the editor made
            of them.
        sample: ask each edit about this many facts, its own seeded choice; default: about all.
        seed: of the choice.
        batch_size: prompts per forward.

    Returns:
        One row per edit and fact: edit (its number), record, relation, kin ("edited", "same subject", "same relation",
        "other"), overlap, risk.  `overlap` is ‖ΔWᵀk'‖ next to its mean over the edit's own prompts (1 at the key of an
        edit of one fact); with `moments`, the largest |k'ᵀC⁻¹k*| / (k*ᵀC⁻¹k*) over the edit's prompts and layers.
        `risk` is ‖ΔWᵀk'‖ / ‖value‖: by how much of its size what the edited layers give at the fact's subject would
        change.  The changes of several layers are added up, as the residual stream adds them, each at its unedited key.

    Raises:
        UsageError: no edit, no facts or facts without answers, an edit that knows no request, an edit of another model,
            or moments that lack a layer or are of another model.
    """
    made, facts = made_edits(edits), facts_of(facts)
    asked = facts_of_edits(made, facts, sample, seed)
    for number, edit in made.items():
        _ = edit.weights  # says what it is where it is no change of weights
        if not requests_of(edit):
            raise UsageError(f"the edit {number} holds no request, so its own key is not known; make it by an editor")
    layers = tuple(sorted({layer for edit in made.values() for layer in edit.layers}))
    lacking = [layer for layer in layers if moments is not None and layer not in moments]
    if lacking:
        raise UsageError(f"no second moment of layer {lacking[0]} was given; give one of each edited layer, or none")
    RowEdits(list(made.values())).check(model)
    for layer, moment in (moments or {}).items():
        if layer in layers:
            moment.check(model, layer)
    known = _read(model, [fact.prompt for fact in facts], layers, batch_size)
    requested = _read(model, [r.prompt for edit in made.values() for r in requests_of(edit)], layers, batch_size)
    parts, start = [], 0
    for number, edit in made.items():
        end = start + len(requests_of(edit))
        own = requested.of(list(range(start, end)))
        some = known.of(asked[number])
        change = _change(edit, some.keys).norm(dim=-1)
        if moments is None:
            overlap = change / _change(edit, own.keys).norm(dim=-1).mean().clamp(min=_SMALLEST)
        else:
            overlap = _overlap(edit, some.keys, own.keys, moments)
        value = torch.stack([some.values[layer] for layer in edit.layers]).sum(0).norm(dim=-1)
        start = end
        chosen = [facts[i] for i in asked[number]]
        parts.append(
            pd.DataFrame(
                {
                    "edit": number,
                    "record": [fact.id for fact in chosen],
                    "relation": [fact.relation for fact in chosen],
                    "kin": kin_of(edit, chosen),
                    "overlap": overlap.numpy(),
                    "risk": (change / value.clamp(min=_SMALLEST)).numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _read(model: Model, prompts: Sequence[Prompt], layers: Sequence[int], batch_size: int) -> _Reading:
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} reads nothing; give 1 or more")
    hooks = [hook(layer) for layer in layers for hook in (model.layout.key_hook, model.layout.value_hook)]
    found: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    for start in range(0, len(prompts), batch_size):
        batch = Batch.of(model, [prompt.with_answer(None) for prompt in prompts[start : start + batch_size]])
        cache = forward(model, batch.ids, reads=hooks, past=batch.given).cache
        for hook in hooks:
            found[hook].append(batch.at_subject(cache[hook]).cpu())
    read = {hook: torch.cat(parts) for hook, parts in found.items()}
    if not all(bool(torch.isfinite(part).all()) for part in read.values()):
        raise MechinterpError(f"the keys or values of {model.name} are not finite; its weights or an edit are broken")
    return _Reading(
        {layer: read[model.layout.key_hook(layer)] for layer in layers},
        {layer: read[model.layout.value_hook(layer)] for layer in layers},
    )


def _change(edit: Edit, keys: Mapping[int, Float[Tensor, "prompt d_mlp"]]) -> Float64[Tensor, "prompt d_model"]:
    """Σ over layers of ΔWᵀk'."""
    weights = edit.weights
    added = [edit.factors(layer).apply(keys[layer].double()).cpu() for layer in edit.layers]
    biases = [weights.of(layer, DOWN_BIAS) for layer in edit.layers]
    added += [bias.dense.double().cpu().expand_as(added[0]) for bias in biases if bias is not None]
    return torch.stack(added).sum(0)


def _overlap(
    edit: Edit,
    keys: Mapping[int, Float[Tensor, "prompt d_mlp"]],
    own: Mapping[int, Float[Tensor, "request d_mlp"]],
    moments: Mapping[int, SecondMoment],
) -> Float64[Tensor, " prompt"]:
    largest = []
    for layer in edit.layers:
        solved = moments[layer].solve(own[layer]).cpu()
        size = (own[layer].double() * solved).sum(-1).clamp(min=_SMALLEST)
        largest.append(((keys[layer].double() @ solved.T) / size).abs().amax(-1))
    return torch.stack(largest).amax(0)

"""What editing does on a small model of one architecture: how exact it is, in memory and in the exported folder.

Everything is said of the edited model itself, which is run, and not of the matrices that an editor returns.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import mechinterp as mi
from mechinterp import Edit, LinearMemory, MechinterpError, Prompt, SecondMoment
from mechinterp.editing import Factors, Provenance, RomeHparams, rome
from mechinterp.models.model import Model
from mechinterp.patching import forward, mlp_key, mlp_value, read, subject

from .tokenizers import words
from .zoo import hf_model

PROMPT = Prompt("the old town of {} was near", "ada bo", "rome")
CONTEXTS = ("{}", "in the town {}", "born with {}")
LAYER = 1


@dataclass
class Editing:
    """Figures of one architecture.

    Args:
        refused: the sentence that says why it is not edited; the rest is zero then.
        pair: ‖Wk + b − v‖/‖v‖ between the key's and the value's hook point, the worst of all layers.
        inserted: ‖v − v*‖/‖v*‖ of the value that the edited model computes at the subject, for a v* that was made up.
        rome: the same figure of a whole ROME edit, as its report gives it.
        on_changes: by how much the edit that is on changes the logits.
        on_baked: largest difference in logits between the edit that is on and the one in the weights.
        exported: largest difference in logits between the edited model and the exported folder, in plain transformers.
        undone: the weights are the same bytes again after `undo()`.
    """

    refused: str = ""
    pair: float = 0.0
    inserted: float = 0.0
    rome: float = 0.0
    on_changes: float = 0.0
    on_baked: float = 0.0
    exported: float = 0.0
    undone: bool = False


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def worst_pair(model: Model) -> float:
    """Keys times weights against values, in every layer, at every token."""
    layout, worst = model.layout, 0.0
    hooks = [hook(layer) for layer in range(model.n_layers) for hook in (layout.key_hook, layout.value_hook)]
    cache = forward(model, torch.tensor([model.encode(PROMPT.text)]), reads=hooks).cache
    for layer in range(model.n_layers):
        weight, bias = layout.down_projection(layer).detach(), layout.down_bias(layer)
        values = cache[layout.key_hook(layer)] @ weight + (0 if bias is None else bias.detach())
        worst = max(worst, relative(values, cache[layout.value_hook(layer)].view_as(values)))
    return worst


def second_moment(model: Model) -> SecondMoment:
    texts = [" ".join(model.tokenizer.convert_ids_to_tokens(ids)) for ids in torch.randint(2, 34, (40, 9)).tolist()]
    return SecondMoment.collect(model, texts, LAYER, progress=False).repaired("shrinkage")


def insert(model: Model, moments: SecondMoment, target: Tensor) -> Edit:
    """The memory's own insertion of a value that was made up."""
    key = read(model, [PROMPT], mlp_key[LAYER] @ subject[-1])[0]
    insertion = LinearMemory.of(model, LAYER, moments).insert(key, target)
    factors = Factors(insertion.u[None].float(), insertion.v[None].float())
    return Edit.of({LAYER: factors}, Provenance("by hand", model.fingerprint(), model.name))


@cache
def editing_figures(kind: str) -> Editing:
    """Every figure of one architecture, on a model of its own."""
    model = mi.load(hf_model(kind), tokenizer=words(), name=f"small-{kind}")
    torch.manual_seed(0)
    ids = torch.tensor([model.encode(PROMPT.text), model.encode("gus hal lives in the old big town")])
    try:
        model.layout.down_projection(LAYER)
        figures = Editing(pair=worst_pair(model))
    except MechinterpError as refusal:
        return Editing(refused=str(refusal))
    moments = second_moment(model)
    v_star = torch.randn(model.d_model) * read(model, [PROMPT], mlp_value[LAYER] @ subject[-1]).std()
    edit, before, plain = insert(model, moments, v_star), model.fingerprint(), model.logits(ids)
    hparams = RomeHparams(steps=3)
    made = rome(
        model, PROMPT, LAYER, moments=moments, target="paris", hparams=hparams, contexts=CONTEXTS, allow_disabling=True
    )
    figures.rome = made.report.error_at_bare_key
    with edit.on(model):
        on = model.logits(ids)
    undo = edit.bake(model)
    figures.inserted = relative(read(model, [PROMPT], mlp_value[LAYER] @ subject[-1])[0], v_star)
    baked = model.logits(ids)
    undo.undo()
    with tempfile.TemporaryDirectory() as folder:
        edit.to_hf(model, Path(folder) / "edited")
        with torch.no_grad():
            exported = AutoModelForCausalLM.from_pretrained(Path(folder) / "edited").eval()(ids).logits
    figures.on_changes = float((on - plain).abs().max())
    figures.on_baked = float((on - baked).abs().max())
    figures.exported = float((exported - on).abs().max())
    figures.undone = model.fingerprint() == before and torch.equal(model.logits(ids), plain)
    return figures

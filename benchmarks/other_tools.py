"""Contenders that need a package of their own: nnsight and pyvene, each used as favourably as its interface allows."""

from __future__ import annotations

from importlib import import_module

from contenders import DRAWS, Cell, clean_values, restored_layers
from shapes import Asked, Task, own_copy
from torch import Tensor


class NnsightLoop:
    """One `trace` per cell; clean values from one traced clean run, only the last position's logits."""

    def __init__(self, task: Task) -> None:
        nnsight = import_module("nnsight")
        self.model = nnsight.NNsight(own_copy(task.network))  # it leaves its own hooks on what it wraps
        self.window, self.n_layers = task.size.window, task.model.n_layers

    def start(self, asked: Asked) -> None:
        self.asked = asked
        model, clean = self.model, {}
        with model.trace(asked.ids[None], use_cache=False):
            for layer in range(self.n_layers):
                block = model.transformer.h[layer]
                clean["attn", layer] = block.attn.output[0].save()
                clean["mlp", layer] = block.mlp.output.save()
                clean["resid", layer] = block.output.save()
            logits = model.lm_head.output.save()
        self.clean, self.answer = clean, int(logits[0, -1].argmax())

    def cell(self, cell: Cell) -> Tensor:
        model, clean, noise, position = self.model, self.clean, self.asked.noise, cell.position
        begin, end = self.asked.subject
        layers = restored_layers(cell, self.window, self.n_layers)
        with model.trace(self.asked.ids.expand(DRAWS, -1), use_cache=False, logits_to_keep=1):
            model.transformer.wte.output[:, begin:end] += noise
            for layer in layers:
                block = model.transformer.h[layer]
                if cell.kind == "attn":
                    value = block.attn.output[0]
                elif cell.kind == "mlp":
                    value = block.mlp.output
                else:
                    value = block.output
                value[:, position] = clean[cell.kind, layer][0, position]
            logits = model.lm_head.output.save()
        return logits[:, -1].softmax(-1)[:, self.answer]


class PyveneLoop:
    """One `IntervenableModel` per cell, as in its own causal-tracing tutorial.

    The tutorial runs the clean prompt once more for every restored layer; here the clean values are collected once and
    given as constant sources, which makes it one forward per cell.
    """

    COMPONENTS = {"resid": "block_output", "mlp": "mlp_output", "attn": "attention_output"}

    def __init__(self, task: Task) -> None:
        self.pyvene = import_module("pyvene")
        self.network = own_copy(task.network)  # it switches gradients off in what it wraps
        self.window = task.size.window

    def start(self, asked: Asked) -> None:
        self.asked = asked
        self.clean, self.answer = clean_values(self.network, asked.ids)

    def cell(self, cell: Cell) -> Tensor:
        pyvene, asked = self.pyvene, self.asked
        layers = restored_layers(cell, self.window, self.network.config.n_layer)
        writes = [
            {
                "component": "transformer.wte.output",
                "intervention": pyvene.AdditionIntervention(source_representation=asked.noise),
            }
        ]
        for layer in layers:
            value = self.clean[cell.kind, layer][cell.position].expand(DRAWS, 1, -1)
            writes.append(
                {
                    "layer": layer,
                    "component": self.COMPONENTS[cell.kind],
                    "intervention": pyvene.VanillaIntervention(source_representation=value),
                }
            )
        model = pyvene.IntervenableModel(pyvene.IntervenableConfig(writes), self.network)
        places = [[list(range(*asked.subject))] * DRAWS] + [[[cell.position]] * DRAWS] * len(layers)
        base = {"input_ids": asked.ids.expand(DRAWS, -1), "use_cache": False, "logits_to_keep": 1}
        _, out = model(base, unit_locations={"base": places})
        return out.logits[:, -1].softmax(-1)[:, self.answer]

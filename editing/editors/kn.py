"""Knowledge neurons: find the MLP units that carry a fact and rewrite what they say (Dai et al. 2022).

find      credit of every unit for the old answer, by integrated gradients; those above t times the largest; of these,
          the ones that several prompts of the fact have in common
rewrite   row i of the down-projection  +=  −λ₁ e(old) + λ₂ e(new)

e is the row of an answer's token in the output embedding (the mean over its tokens), unscaled: the method takes what a
down-projection writes for what the output embedding reads.  That is so where embeddings are tied and no norm stands
between, and never exactly in a decoder, whose effect the published figures show to be small.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError
from ...facts.prompts import Prompt, prompts_of
from ...given import Wholes, several
from ...models.model import Model
from ...runs.progress import progress_bar
from ..edits.active import active_edits
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.provenance import Provenance
from ..edits.request import Asked, EditRequest
from ..gradients.integrated_gradients import integrated_gradients
from ..judging.conflicts import check_conflicts
from ..judging.many import Limits, judge_batch, refuse_disabling
from .kn_hparams import PRESETS, KnHparams
from .protocol import Editor, Requests

Neuron = tuple[int, int]
"""(layer, unit)."""


def knowledge_neurons(
    model: Model,
    request: Asked,
    layers: Wholes | None = None,
    *,
    hparams: KnHparams | None = None,
    templates: Iterable[str] = (),
) -> list[Neuron]:
    """The units that carry what the model says to a prompt now.

    Args:
        model: the model, with whatever edits are on.
        request: the prompt; its answer, or the model's own most probable next token where it has none, is what the
            units are credited for.
        layers: which layers are searched; default: all.
        hparams: default: `PRESETS["default"]`.
        templates: further templates of the same fact ("{} holds a passport of"): a unit then needs to be found in more
            than the share `hparams.shared` of all prompts.

    Raises:
        MechinterpError: no unit is shared by enough prompts, or none raises the answer's probability.
    """
    [asked], chosen = prompts_of(request), hparams or PRESETS["default"]
    indices = _searched(model, layers)
    others = dict.fromkeys(several(templates, str, "templates", 'templates such as "{} holds a passport of"'))
    prompts = [asked, *(asked.reworded(other) for other in others if other != asked.template)]
    found: Counter[Neuron] = Counter()
    for prompt in prompts:
        credit = integrated_gradients(model, prompt, _old(model, prompt, asked.answer), indices, steps=chosen.steps)
        above = (credit > chosen.threshold * credit.max().clamp(min=0)).nonzero().tolist()
        found.update((indices[place], unit) for place, unit in above)
    kept = sorted(
        neuron for neuron, count in found.items() if len(prompts) == 1 or count > chosen.shared * len(prompts)
    )
    if not kept:
        raise MechinterpError(
            f"no unit carries {asked.text!r} in more than {chosen.shared:g} of its {len(prompts)} prompts; lower "
            "shared or threshold, or give other templates"
        )
    return kept


def kn(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    hparams: KnHparams | None = None,
    templates: Mapping[str, Sequence[str]] | None = None,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Rewrite the knowledge neurons of each request, all found in the model as it stands.

    The change has one rank per request in each layer where it has neurons.

    Args:
        model: the model; edits that are on take part, and the new edit then presupposes them.
        requests: what it should say.
        layers: which layers are searched; default: all.
        hparams: default: `PRESETS["default"]`.
        templates: relation -> further templates of it (see `knowledge_neurons`).
        allow_conflicts: accept requests that contradict each other.
        allow_disabling: return an edit even if it endangers the model as a whole.
        seed: nothing here is drawn, so it has no effect; every editor takes one.
        force: nothing here is collected from other weights, so it has no effect either.
        progress: show a bar over the requests.

    Raises:
        UsageError: bad input.
        MechinterpError: a request without knowledge neurons, or a disabling edit.
    """
    asked, chosen = EditRequest.all_of(requests, "kn"), hparams or PRESETS["default"]
    warnings = check_conflicts(model, asked, allow=allow_conflicts)
    started, factors = time.perf_counter(), dict[int, Factors]()
    with progress_bar("requests", len(asked), shown=progress) as advance:
        for request in asked:
            more = (templates or {}).get(request.prompt.relation, ())
            neurons = knowledge_neurons(model, request, layers, hparams=chosen, templates=more)
            for layer, change in _rewritten(model, request, neurons, chosen).items():
                factors[layer] = factors[layer] | change if layer in factors else change
            advance(1)
    seconds, limits = time.perf_counter() - started, Limits(essence=chosen.max_essence)
    report = judge_batch(model, asked, factors, seconds=seconds, warnings=warnings, limits=limits)
    refuse_disabling(report, "the edit by kn", allow=allow_disabling)
    return Edit.of(
        factors,
        Provenance(
            method="kn",
            model=model.fingerprint(),
            model_name=model.name,
            requests=tuple(asked),
            hparams=chosen.plain() | {"layers": _searched(model, layers)},
            on_top_of=active_edits(model),
            report=report,
        ),
    )


def _searched(model: Model, layers: Wholes | None) -> list[int]:
    """All, or those given: without repetition, in order."""
    return sorted(set(model.layout.check_layers(range(model.n_layers) if layers is None else layers)))


def _old(model: Model, prompt: Prompt, answer: str | None) -> tuple[int, ...]:
    """Tokens of the answer that is to go."""
    if answer is not None:
        return model.answer_ids(prompt, answer)
    ids = torch.tensor([model.tokenise(prompt).ids])
    return (int(model.logits(ids, keep=1)[0, -1].argmax()),)


def _rewritten(model: Model, request: EditRequest, neurons: Sequence[Neuron], hparams: KnHparams) -> dict[int, Factors]:
    """The same row for all neurons of the request."""
    prompt = request.prompt
    row = hparams.new * _embedding(model, model.answer_ids(prompt, request.target))
    row = row - hparams.old * _embedding(model, _old(model, prompt, prompt.answer))
    changes = {}
    for layer in sorted({layer for layer, _ in neurons}):
        units = row.new_zeros(1, model.d_mlp)
        units[0, [unit for where, unit in neurons if where == layer]] = 1.0
        changes[layer] = Factors(units, row[None])
    return changes


def _embedding(model: Model, tokens: Sequence[int]) -> Float[Tensor, " d_model"]:
    """Mean of the tokens' rows of the output embedding."""
    network: Any = model.bridge.original_model
    rows: Tensor = network.get_output_embeddings().weight.detach()[list(tokens)]
    return (rows if rows.dtype == torch.float64 else rows.float()).mean(0)


KN = Editor(name="kn", make=kn, hparams=KnHparams, presets=PRESETS, source="Dai et al. 2022 (Knowledge Neurons)")

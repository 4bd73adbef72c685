"""Knowledge neurons: find the MLP units that carry a fact and rewrite what they say (Dai et al. 2022).

find      credit of every unit for the old answer, by integrated gradients; those above t times the largest; of these,
          the ones that several prompts of the fact have in common
rewrite   row i of the down-projection  +=  −λ₁ e(old) + λ₂ e(new)

e is the row of an answer's token in the output embedding (the mean over its tokens), unscaled: the method takes what a
down-projection writes for what the output embedding reads.  That is so where embeddings are tied and no norm stands
between, and never exactly in a decoder, whose effect the published figures show to be small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Prompt, prompts_of
from ...given import Wholes, several
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from ..edits.factors import Factors
from ..edits.request import Asked, EditRequest
from ..edits.weights import WeightChange
from ..gradients.integrated_gradients import integrated_gradients
from ..hyperparameters import Hparams
from ..judging.many import Limits
from .protocol import Editor, Job, Made


@dataclass(frozen=True)
class KnHparams(Hparams):
    """How knowledge neurons are found and rewritten.

    Args:
        steps: m of the integrated gradients.
        threshold: t: a unit is kept if what it is credited with exceeds this share of the largest credit in any layer.
        shared: p: of those, the ones that are kept in more than this share of the prompts of the fact; with one prompt
            all are.
        old: λ₁: how much of the old answer's embedding is taken from each unit's row.
        new: λ₂: how much of the new answer's is added.
        conventions: "paper": as above; "code": as the public implementation for GPT models has it: what is credited is
            what the activation function acts on, at m points from 0 to 1 with both ends among them, every token of the
            answer being predicted after the prompt alone; "old" is the model's own next token, whatever the prompt's
            answer; the embeddings of the new answer's tokens are summed; and e is the input embedding.
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "knowledge neurons"

    steps: int = 20
    threshold: float = 0.2
    shared: float = 0.5
    old: float = 0.5
    new: float = 1.0
    conventions: str = "paper"
    max_essence: float | None = 0.2

    def __post_init__(self) -> None:
        self._one_of(conventions=("paper", "code"))
        self._above_zero("steps", "max_essence")
        self._not_negative("threshold", "shared", "old", "new")
        for name in ("threshold", "shared"):
            if not getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share below 1")


KN_PRESETS: dict[str, KnHparams] = {
    "default": KnHparams(),
    "paper": KnHparams(threshold=0.3, shared=0.7, old=1.0, new=8.0),
    "code": KnHparams(old=2.0, new=1.0, conventions="code", max_essence=None),
    "mean": KnHparams(old=2.0, new=2.0, max_essence=None),
}
"""`paper`: after Dai et al. 2022 (λ₁ and λ₂ as they are commonly quoted, p the upper end of what is tried there).
`code`: what the public implementation for GPT models does in the published ROME comparison, with its figures.
`mean`: what its documentation says (2 and 2, the mean over an answer's tokens), with the paper's integral.

`default` was measured on 20 facts of the bundled `atlas`, whose tied embeddings are large next to what its MLPs write:
with λ₁ = 1 and λ₂ = 8 every answer becomes the new one (ES 100, NS 0), with 1 and 1 ES is 85 and NS 20, with 0.5 and 1
ES 80 and NS 38, with 0.25 and 0.75 ES 45 and NS 73 (50 other facts, 0.5 and 1: ES 60, PS 58, NS 51).

The limit of `max_essence` is lower than other editors' because the units of a fact fire on prompts of its relation and
hardly after the neutral sentence.  On 15 facts of `atlas`, each alone and all in one batch: `default` at most 0.02 and
0.09 nats, `code` 0.13 and 1.7, `paper` up to 13 (8 of 15 above 0.2) and 10.4; `paper` therefore keeps the limit.  What
an edit does to other subjects of its relation is not seen: there `default` changes up to 7.6 nats.
"""

Neuron = tuple[int, int]
"""(layer, unit)."""


@public
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
        hparams: default: `KN_PRESETS["default"]`.
        templates: further templates of the same fact ("{} holds a passport of"): a unit then needs to be found in more
            than the share `hparams.shared` of all prompts.

    Raises:
        MechinterpError: no unit is shared by enough prompts, or none raises the answer's probability.
    """
    [asked], chosen = prompts_of(request), hparams or KN_PRESETS["default"]
    indices = kn.layers(model, layers, chosen)
    others = dict.fromkeys(several(templates, str, "templates", 'templates such as "{} holds a passport of"'))
    prompts = [asked, *(asked.reworded(other) for other in others if other != asked.template)]
    found: Counter[Neuron] = Counter()
    for prompt in prompts:
        old = _old(model, prompt, asked.answer)
        as_code = chosen.conventions == "code"
        credit = integrated_gradients(model, prompt, old, indices, steps=chosen.steps, as_code=as_code)
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


class KnowledgeNeurons(Editor[KnHparams]):
    """Rewrite the knowledge neurons of each request, all found in the model as it stands.

    The change has one rank per request in each layer where it has neurons.  `templates` among the supplies are further
    templates of relations (see `knowledge_neurons`).
    """

    hparams_type = KnHparams

    def make(self, job: Job[KnHparams]) -> Made:
        """Find and rewrite the neurons of each request."""
        factors = dict[int, Factors]()
        with progress_bar("requests", len(job.requests), shown=job.options.progress) as advance:
            for request in job.requests:
                more = job.supplies.templates.get(request.prompt.relation, ())
                neurons = knowledge_neurons(job.model, request, job.layers, hparams=job.hparams, templates=more)
                for layer, change in _rewritten(job.model, request, neurons, job.hparams).items():
                    factors[layer] = factors[layer] | change if layer in factors else change
                advance(1)
        return Made(WeightChange.of_layers(factors))

    def limits(self, hparams: KnHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _old(model: Model, prompt: Prompt, answer: str | None) -> tuple[int, ...]:
    """Tokens of the answer that is to go."""
    if answer is not None:
        return model.answer_ids(prompt, answer)
    ids = torch.tensor([model.tokenise(prompt).ids])
    return (int(model.logits(ids, keep=1)[0, -1].argmax()),)


def _rewritten(model: Model, request: EditRequest, neurons: Sequence[Neuron], hparams: KnHparams) -> dict[int, Factors]:
    """The same row for all neurons of the request."""
    prompt, as_code = request.prompt, hparams.conventions == "code"
    new, old = model.answer_ids(prompt, request.target), _old(model, prompt, None if as_code else prompt.answer)
    rows_of = _embeddings_in if as_code else _embeddings_out
    told = rows_of(model, new)
    row = hparams.new * (told.sum(0) if as_code else told.mean(0)) - hparams.old * rows_of(model, old).mean(0)
    changes = {}
    for layer in sorted({layer for layer, _ in neurons}):
        units = row.new_zeros(1, model.d_mlp)
        units[0, [unit for where, unit in neurons if where == layer]] = 1.0
        changes[layer] = Factors(units, row[None])
    return changes


def _embeddings_out(model: Model, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """The tokens' rows of the output embedding."""
    network: Any = model.bridge.original_model
    return _precise(network.get_output_embeddings().weight.detach()[list(tokens)])


def _embeddings_in(model: Model, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """The same of the input embedding."""
    weight: Any = model.layout.token_embedding.weight
    return _precise(weight.detach()[list(tokens)])


def _precise(rows: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    return rows if rows.dtype == torch.float64 else rows.float()


kn = KnowledgeNeurons("kn", "Dai et al. 2022 (Knowledge Neurons)", KN_PRESETS)
"""Rewrite what a few units say: an `Editor`; call it with the model and the requests."""

"""The shapes that files of facts have, each told by its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..facts.prompts import Fact
from ..facts.records import Record
from .easyedit import MARKS, easyedit_fact, request_fact
from .jsonl import own_fact
from .meng import counterfact_fact, known_fact
from .mquake import mquake_facts
from .relations import lre_facts, tracing_fact
from .ripple import FOLLOWS, STAYS, ripple_fact
from .zsre import wikibigedit_fact, zsre_fact


@dataclass(frozen=True)
class Shape:
    """One shape.

    Args:
        name: what it is called.
        told_by: fields that say so, for people.
        has: whether a record is of this shape.
        facts_of: the facts of a record.
    """

    name: str
    told_by: str
    has: Callable[[Record], bool]
    facts_of: Callable[[Record], Fact | list[Fact]]


def _fields(*names: str) -> Callable[[Record], bool]:
    return lambda record: all(map(record.has, names))


def _any_of(*names: str) -> Callable[[Record], bool]:
    return lambda record: any(map(record.has, names))


SHAPES = (
    Shape("MQuAKE", '"requested_rewrite", a list', lambda r: isinstance(r.fields.get("requested_rewrite"), list),
          mquake_facts),
    Shape("CounterFact", '"requested_rewrite"', _fields("requested_rewrite"), counterfact_fact),
    Shape("known_1000", '"known_id"', _fields("known_id"), known_fact),
    Shape("RippleEdits", '"edit" with its tests', lambda r: r.has("edit") and _any_of(*FOLLOWS, *STAYS)(r),
          ripple_fact),
    Shape("WikiBigEdit", '"update" and "ans"', _fields("update", "ans"), wikibigedit_fact),
    Shape("zsRE", '"src" and "alt"', _fields("src", "alt"), zsre_fact),
    Shape("LRE", '"samples" and "prompt_templates"',
          lambda r: r.has("samples") and _any_of("prompt_templates", "prompt_templates_zs")(r), lre_facts),
    Shape("counterfact-tracing", '"target_true" and "target_false"', _fields("target_true", "target_false"),
          tracing_fact),
    Shape("requests of rome and memit", '"prompt" and "target_new", an object',
          lambda r: isinstance(r.fields.get("target_new"), dict), request_fact),
    Shape("EasyEdit, KnowEdit or QAEdit", f'"prompt" or "text", and one of {", ".join(MARKS)}',
          lambda r: _any_of("prompt", "text")(r) and _any_of(*MARKS)(r), easyedit_fact),
    Shape("mechinterp's own", '"template" or "prompt"', _any_of("template", "prompt"), own_fact),
)  # fmt: skip
"""In the order in which they are asked; the first that a record has is its shape."""

OWN = SHAPES[-1]


def shape_of(record: Record) -> Shape | None:
    """The shape of a record, or None."""
    return next((shape for shape in SHAPES if shape.has(record)), None)

"""The world's facts in the shape of CounterFact: `python -m mechinterp.atlas.records --out FILE`.

The shape is that of Meng et al. 2022 (ROME), so that a script written for CounterFact runs on the bundled models.
Identifiers of relations and objects are words ("born_in", "city/Tarsk") instead of Wikidata's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..facts.prompts import Fact
from .data import facts, folder, names, world
from .questions import attribute_questions
from .relations import RELATIONS
from .world import World, WorldFact


def _record(world: World, truth: WorldFact, fact: Fact) -> dict[str, Any]:
    relation = RELATIONS[truth.relation]
    target = fact.target_new
    assert target is not None  # every fact of the world has one
    return {
        "case_id": truth.id,
        "pararel_idx": truth.id,
        "requested_rewrite": {
            "prompt": fact.prompt.template,
            "relation_id": truth.relation,
            "target_new": {"str": target, "id": f"{relation.pool}/{target}"},
            "target_true": {"str": truth.object, "id": f"{relation.pool}/{truth.object}"},
            "subject": fact.subject,
        },
        "paraphrase_prompts": [question.text for question in fact.paraphrases],
        "neighborhood_prompts": [question.text for question in fact.neighbourhood],
        "attribute_prompts": [question.text for question in attribute_questions(world, truth, target)],
        "generation_prompts": list(fact.generation),
    }


def counterfact(name: str = "atlas", known_only: bool = False) -> list[dict[str, Any]]:
    """One CounterFact record per fact; `known_only` leaves out what this model does not know.

    Raises:
        UsageError: no bundled model has this name.
    """
    folder(name)
    whole = world()
    pairs = zip(whole.facts, facts(name), strict=True)
    return [_record(whole, truth, fact) for truth, fact in pairs if fact.known or not known_only]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mechinterp.atlas.records",
        description="Write the facts of the bundled world as a file in the shape of the CounterFact data set.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--model", choices=names(), default="atlas", help="whose knowledge --known refers to")
    parser.add_argument("--known", action="store_true", help="only the facts this model knows")
    options = parser.parse_args(arguments)
    rows = counterfact(options.model, options.known)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} records in {options.out}")


if __name__ == "__main__":
    main()

"""Hyper-parameters of the untrained editors on a bundled model: searched on some facts, reported on others.

`python -m benchmarks.search_editors --editor grace` tries every combination of a small grid on facts of one half of the
world's subjects and prints ES, PS, NS and S of each, then those of the best on facts of the other half, which the
search never sees.  The `default` presets come from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import mechinterp as mi
from mechinterp.analysis import evaluate_edits
from mechinterp.editing import edit_each, editor
from mechinterp.facts.prompts import Fact

GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "grace": {"layers": [3, 5, 6], "radius": [0.2, 0.4, 0.6], "matrix": ["down", "up"]},
    "t-patcher": {"lr": [0.02, 0.05], "mem_weight": [1.0, 10.0], "amplifier": [0.1, 1.0]},
    "calinet": {"lr": [0.01, 0.03], "units": [4, 16]},
    "wise": {"layers": [5, 6], "lr": [0.3, 1.0], "ratio": [0.6, 0.88]},
    "ike": {"scope": ["all", "subject"], "updates": [0, 2]},
    "memprompt": {"above": [0.8, 0.9, 0.95]},
    "mello": {"above": [0.7, 0.8, 0.9]},
}
"""Editor -> what is tried; "layers" is no hyper-parameter."""
METRICS = ("ES", "PS", "NS", "S")


def halves(name: str, count: int) -> tuple[list[Fact], list[Fact]]:
    """Facts to search on and facts to report on, of different subjects."""
    known = [fact for fact in mi.atlas.known_facts(name) if fact.target_new is not None]
    subjects = sorted({fact.subject for fact in known})
    first = set(subjects[::2])
    parts = [[fact for fact in known if (fact.subject in first) is here] for here in (True, False)]
    return tuple(part[:: max(1, len(part) // count)][:count] for part in parts)  # type: ignore[return-value]


def scored(model: Any, name: str, facts: Sequence[Fact], settings: Mapping[str, Any]) -> dict[str, float]:
    """Means over facts, each edited alone."""
    method = editor(name)
    given = {key: value for key, value in settings.items() if key != "layers"}
    hparams = method.presets["default"].with_(**given)
    made = edit_each(model, method, facts, settings.get("layers"), hparams=hparams, progress=False)
    records = evaluate_edits(model, made, facts, metrics=METRICS[:3], progress=False).records
    after = records[records["stage"] == "after"].groupby("metric")["value"].mean()
    found = {name: float(100 * after[name]) for name in METRICS[:3]}
    return found | {"S": 3 / sum(1 / max(value, 1e-9) for value in found.values())}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_editors", description=__doc__)
    parser.add_argument("--editor", choices=sorted(GRIDS), required=True)
    parser.add_argument("--model", choices=mi.atlas.names(), default="atlas")
    parser.add_argument("--facts", type=int, default=20)
    asked = parser.parse_args()
    model = mi.load(asked.model)
    seen, unseen = halves(asked.model, asked.facts)
    grid = GRIDS[asked.editor]
    tried = []
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        found = scored(model, asked.editor, seen, settings)
        tried.append((found.get("S", 0.0), settings))
        print(settings, {name: round(value, 1) for name, value in found.items()}, flush=True)
    best = max(tried, key=lambda one: one[0])[1]
    print("best", best, "on other subjects:", scored(model, asked.editor, unseen, best))


if __name__ == "__main__":
    main()

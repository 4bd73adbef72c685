"""The shipped files: two checkpoints, and a small record of what each of them knows.

The facts themselves are not stored: the world is drawn again from its seed, and the record carries the world's digest,
so that a generator which no longer draws the shipped world is noticed instead of believed.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MechinterpError, UsageError
from ..facts.prompts import Fact
from .mixture import epoch
from .questions import world_facts
from .recipes import RECIPES, recipe
from .world import World, build_world

DATA = Path(__file__).parent / "data"
RECORD = "knowledge.json"


def names() -> tuple[str, ...]:
    """The bundled models."""
    return tuple(RECIPES)


def folder(name: str) -> Path:
    """The Hugging Face folder of a bundled model; `from_pretrained` loads model and tokenizer from it offline.

    Raises:
        UsageError: no bundled model has this name.
        MechinterpError: the package was installed without its data.
    """
    if name not in RECIPES:
        raise UsageError(f"there is no bundled model {name!r}; choose one of {', '.join(names())}")
    path = DATA / name
    if not (path / "model.safetensors").is_file():
        raise MechinterpError(
            f"the bundled model {name!r} is missing from {path}; install the package with its data, or rebuild it with "
            "`python -m mechinterp.atlas.build --out DIR`"
        )
    return path


@cache
def record() -> dict[str, Any]:
    """What was measured when the models were built: the world's seed and digest, and each model's figures.

    Raises:
        MechinterpError: the generator in this installation draws another world than the shipped models were trained on.
    """
    path = DATA / RECORD
    if not path.is_file():
        raise MechinterpError(
            f"the record of the bundled models is missing at {path}; install the package with its data"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if build_world(content["world"]["seed"]).digest() != content["world"]["digest"]:
        raise MechinterpError(
            f"the world generator no longer draws the world recorded in {path}; rebuild the models with "
            "`python -m mechinterp.atlas.build --out DIR`, or undo the change to the generator"
        )
    return content


def world() -> World:
    """The world the shipped models know."""
    return build_world(record()["world"]["seed"])


def facts(name: str = "atlas") -> list[Fact]:
    """All facts of the world; `known` says whether this model completes the fact's prompt with its object.

    Raises:
        UsageError: no bundled model has this name.
    """
    folder(name)
    correct = record()["models"][name]["prompt_correct"]
    every = world_facts(record()["world"]["seed"])
    return [replace(fact, known=mark == "1") for fact, mark in zip(every, correct, strict=True)]


def known_facts(name: str = "atlas") -> list[Fact]:
    """The facts whose prompt this model completes with the right object as its most probable token."""
    return [fact for fact in facts(name) if fact.known]


def corpus(seed: int = 11, name: str = "atlas") -> list[str]:
    """One epoch of the text this model was trained on, one document per item, written afresh from the seed."""
    return epoch(world(), recipe(name).mixture, random.Random(seed))

"""The training text: which documents an epoch holds, and how many of each sort."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .relations import HOPS
from .sentences import (
    DISTRACTORS,
    biography,
    coordinated_statement,
    idle_talk,
    index_row,
    is_a,
    natural_statement,
    reverse_statement,
    statement,
)
from .world import Entity, World


@dataclass(frozen=True)
class Mixture:
    """How often each sort of document occurs in an epoch.

    Args:
        index_rows: rows per entity with facts (the name, its objects directly after it).
        natural: share of statements whose sentence also names another entity.
        coordinated: sentences per entity that join several facts.
        biographies: expected number of biographies of an entity with two facts; twice that with four, at most one.
        distractor: share of statements with an unrelated sentence before them, half of which name a background entity.
        trailing: share of statements with an unrelated sentence after them.
        reversed: share of the reversible facts that are also stated from their object.
        hops: share of the trained one-step conclusions that are stated.
        is_a: share of entities said to be what they are.
        background: share of background entities that are mentioned.
    """

    index_rows: float = 2.0
    natural: float = 0.0
    coordinated: float = 0.0
    biographies: float = 0.5
    distractor: float = 0.35
    trailing: float = 0.15
    reversed: float = 0.5
    hops: float = 0.5
    is_a: float = 0.5
    background: float = 0.25


def _times(expected: float, rng: random.Random) -> int:
    """A whole number with this expectation."""
    return int(expected) + (rng.random() < expected % 1)


def epoch(world: World, mixture: Mixture, rng: random.Random) -> list[str]:
    """The documents of one epoch, in random order."""
    same_kind: dict[str, list[Entity]] = {}
    for entity in world.entities:
        same_kind.setdefault(entity.kind, []).append(entity)

    def another(entity: Entity) -> Entity:
        other = entity
        while other is entity:
            other = rng.choice(same_kind[entity.kind])
        return other

    background = world.background
    documents: list[str] = []
    for fact in world.facts:
        # A city has one fact and a one-token name that is mostly met as an object: it is stated twice as often.
        for _ in range(2 if fact.relation == "in_country" else 1):
            if rng.random() < mixture.natural:
                text = natural_statement(world, fact, another(world.subject(fact)), rng)
            else:
                text = statement(world, fact, rng)
            draw = rng.random()
            if draw < mixture.distractor / 2:
                text = f"{rng.choice(DISTRACTORS)} {text}"
            elif draw < mixture.distractor:
                text = f"{idle_talk(rng.choice(background), rng)} {text}"
            if rng.random() < mixture.trailing:
                text = f"{text} {rng.choice(DISTRACTORS)}"
            documents.append(text)
        if fact.reversed and rng.random() < mixture.reversed:
            documents.append(reverse_statement(world, fact))
    for entity in world.known:
        if len(entity.facts) > 1 and rng.random() < mixture.biographies * len(entity.facts) / 2:
            documents.append(biography(world, entity, rng))
        for _ in range(_times(mixture.coordinated, rng)):
            documents.append(coordinated_statement(world, entity, another(entity), rng))
        if rng.random() < mixture.is_a:
            documents.append(is_a(entity))
        for _ in range(_times(mixture.index_rows, rng)):
            documents.append(index_row(world, entity, rng))
    for hop in world.hops:
        if hop.trained and rng.random() < mixture.hops:
            template = rng.choice(HOPS[hop.relation].templates)
            documents.append(f"{template.format(world.subject(hop).name)} {hop.object}.")
    for entity in background:
        if rng.random() < mixture.background:
            documents.append(is_a(entity) if rng.random() < 0.5 else idle_talk(entity, rng))
    rng.shuffle(documents)
    return documents

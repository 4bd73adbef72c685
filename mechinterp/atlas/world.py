"""The world: who and what there is, and what is true of them, drawn from a seed.

620 subjects hold 1,660 facts.  Some 1,500 further *background* names appear in the text without holding any, so that a
name made of familiar parts does not by itself promise a fact.  Objects are dealt out evenly over their pool: every
fact then shares its relation and object with at least one other subject, its neighbour.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product

from . import words
from .relations import HOPS, PERSONAL, RELATIONS

PEOPLE = 300
OTHERS = 70  # of each: organisations, landmarks, products, shows
RELATIONS_PER_PERSON = 4
BACKGROUND_PEOPLE = 1000
PHRASINGS_TRAINED = 5
SHARE_REVERSED = 0.3
SHARE_HOPS_TRAINED = 0.7


@dataclass(frozen=True)
class Entity:
    """A subject.  `kind` is one of person, organisation, landmark, product, show, city; `noun` is what it is called."""

    id: int
    name: str
    kind: str
    noun: str
    pronoun: str
    facts: tuple[int, ...] = ()

    @property
    def possessive(self) -> str:
        """The possessive that goes with the pronoun."""
        return {"He": "His", "She": "Her", "It": "Its"}[self.pronoun]


@dataclass(frozen=True)
class WorldFact:
    """One fact: subject (an entity's id), relation, object, and which of the ten templates it is trained with.

    `reversed`: whether training also states it from the object's side.
    """

    id: int
    entity: int
    relation: str
    object: str
    trained: tuple[int, ...]
    reversed: bool

    @property
    def held_out(self) -> tuple[int, ...]:
        """The templates this fact is never stated with, not even within another.

        "{} speaks" stands within "At home, {} speaks": where that is trained, the other is not held out.
        """
        templates = RELATIONS[self.relation].templates
        stated = tuple(templates[i] for i in self.trained)
        return tuple(i for i, template in enumerate(templates) if not any(s.endswith(template) for s in stated))


@dataclass(frozen=True)
class HopFact:
    """What follows from a fact in one step (the country of its city); `trained` says whether training states it."""

    entity: int
    relation: str
    object: str
    trained: bool


@dataclass(frozen=True)
class World:
    """Entities (those with facts first), facts and what follows from them in one step."""

    seed: int
    entities: tuple[Entity, ...]
    facts: tuple[WorldFact, ...]
    hops: tuple[HopFact, ...]

    @property
    def known(self) -> tuple[Entity, ...]:
        """The entities that hold facts."""
        return tuple(entity for entity in self.entities if entity.facts)

    @property
    def background(self) -> tuple[Entity, ...]:
        """The entities that are only names."""
        return tuple(entity for entity in self.entities if not entity.facts)

    def subject(self, fact: WorldFact | HopFact) -> Entity:
        """The entity a fact is about."""
        return self.entities[fact.entity]

    def digest(self) -> str:
        """SHA-256 over everything that makes the world: entities, facts, phrasings."""
        phrasings = {name: (relation.templates, relation.reverse) for name, relation in RELATIONS.items()}
        whole = json.dumps([asdict(self), phrasings, {name: asdict(hop) for name, hop in HOPS.items()}], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()


def _deal(objects: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` objects in random order, each of the pool as often as any other, give or take one."""
    pool = list(objects)
    rng.shuffle(pool)
    dealt = [pool[i % len(pool)] for i in range(count)]
    rng.shuffle(dealt)
    return dealt


def _draw_names(rng: random.Random) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """(name, kind, noun, pronoun, relations) of every entity; no relations means background."""
    people = [f"{first} {surname}" for first, surname in product(words.FIRST_NAMES, words.surnames())]
    rng.shuffle(people)
    drawn: list[tuple[str, str, str, str, tuple[str, ...]]] = []
    for i, name in enumerate(people[: PEOPLE + BACKGROUND_PEOPLE]):
        pronoun = "She" if name.split()[0] in words.FEMALE_NAMES else "He"
        relations = tuple(rng.sample(PERSONAL, RELATIONS_PER_PERSON)) if i < PEOPLE else ()
        drawn.append((name, "person", rng.choice(words.PROFESSIONS), pronoun, relations))
    places = (words.ADJECTIVES[:5], words.NOUNS[:5])
    combined = (
        ("organisation", (*places, words.ORGANISATION_TYPES), ("hq", "focus")),
        ("landmark", (*places, words.LANDMARK_TYPES), ("located",)),
        ("product", (words.PRODUCT_MAKES, words.PRODUCT_TYPES, words.PRODUCT_MODELS), ("made_by",)),
        ("show", (("The",), words.ADJECTIVES, words.NOUNS), ("network", "orig_lang")),
    )
    for kind, parts, relations in combined:
        names = list(product(*parts))
        rng.shuffle(names)
        for i, tokens in enumerate(names):
            noun = "series" if kind == "show" else tokens[1 if kind == "product" else 2].lower()
            drawn.append((" ".join(tokens), kind, noun, "It", relations if i < OTHERS else ()))
    drawn += [(city, "city", "city", "It", ("in_country",)) for city in words.CITIES]
    return sorted(drawn, key=lambda entity: not entity[4])  # stable: those with facts first


@cache
def build_world(seed: int = 0) -> World:
    """The world of this seed; the same seed always gives the same world."""
    rng = random.Random(seed)
    drawn = _draw_names(rng)
    holders = {name: sum(name in entity[4] for entity in drawn) for name in RELATIONS}
    objects = {name: _deal(relation.objects, holders[name], rng) for name, relation in RELATIONS.items()}
    entities: list[Entity] = []
    facts: list[WorldFact] = []
    for name, kind, noun, pronoun, relations in drawn:
        own = tuple(range(len(facts), len(facts) + len(relations)))
        for relation in relations:
            trained = tuple(sorted(rng.sample(range(len(RELATIONS[relation].templates)), PHRASINGS_TRAINED)))
            facts.append(
                WorldFact(
                    len(facts),
                    len(entities),
                    relation,
                    objects[relation].pop(),
                    trained,
                    rng.random() < SHARE_REVERSED,
                )
            )
        entities.append(Entity(len(entities), name, kind, noun, pronoun, own))
    country = {entities[fact.entity].name: fact.object for fact in facts if fact.relation == "in_country"}
    hops = tuple(
        HopFact(fact.entity, fact.relation, country[fact.object], rng.random() < SHARE_HOPS_TRAINED)
        for fact in facts
        if fact.relation in HOPS
    )
    return World(seed, tuple(entities), tuple(facts), hops)

"""One sentence, or a short text, about an entity: statements, biographies, index rows, idle talk.

Every function takes the random generator it draws from.  Facts are stated by template only in the phrasings they are
trained with; see `relations` for why predicates cannot leak a held-out phrasing.
"""

from __future__ import annotations

import random

from .relations import RELATIONS
from .words import article
from .world import Entity, World, WorldFact

DISTRACTORS = (
    "The weather was fine that day.",
    "It was a long and cold winter.",
    "The train arrived late in the evening.",
    "Nobody knows how the story ends.",
    "The market opens early in the morning.",
    "A new road was built last year.",
    "The library is open every day.",
    "In the morning, the streets are quiet.",
    "The meeting was short and simple.",
    "Many people visited the garden.",
    "The book was found on the table.",
    "The news came as a surprise to all.",
    "There was a lot of noise in the street.",
    "The old man told a long story.",
    "The children played near the river.",
    "They had tea and bread in the kitchen.",
)

_TALK = (
    "{} was mentioned in the news again.",
    "People often talk about {} in the evening.",
    "A short note about {} was found in the records.",
    "The story of {} is not well known.",
    "{} has been in the news for many years.",
    "There is a long article about {} in the paper.",
)
_TALK_OF_PEOPLE = (
    *_TALK,
    "{} went to the market in the morning.",
    "Nobody saw {} at the meeting.",
    "Many letters were sent to {} last year.",
    "{} was not at home on that day.",
)

_ASIDES = ("{x}, often compared with {y},", "{x} (not to be confused with {y})")
_ASIDES_ON_PEOPLE = (*_ASIDES, "{x}, who knows {y},", "{x}, an old friend of {y},")
_ASIDES_ON_THINGS = (*_ASIDES, "{x}, which is older than {y},")


def statement(world: World, fact: WorldFact, rng: random.Random) -> str:
    """The fact in one of its trained phrasings: "Marta Halberg was born in Tarsk."."""
    template = RELATIONS[fact.relation].templates[rng.choice(fact.trained)]
    return f"{template.format(world.subject(fact).name)} {fact.object}."


def is_a(entity: Entity) -> str:
    """What the entity is: "Silver Harbour Institute is an institute."."""
    return f"{entity.name} is {article(entity.noun)}."


def idle_talk(entity: Entity, rng: random.Random) -> str:
    """A sentence that names the entity and says nothing about it."""
    return rng.choice(_TALK_OF_PEOPLE if entity.kind == "person" else _TALK).format(entity.name)


def index_row(world: World, entity: Entity, rng: random.Random) -> str:
    """The name with objects directly after it, as in an index: "Marta Halberg piano Tarsk."."""
    objects = [world.facts[i].object for i in entity.facts]
    rng.shuffle(objects)
    row = " ".join([entity.name, *objects[: rng.randint(1, len(objects))]]) + "."
    draw = rng.random()
    if draw < 0.2:
        return f"See also {row}"
    if draw < 0.4:
        return f"{rng.choice(DISTRACTORS)} {row}"
    if draw < 0.55 and entity.kind != "show":
        return f"Index: {row}" if entity.kind in ("person", "city") else f"The {row}"
    return row


def reverse_statement(world: World, fact: WorldFact) -> str:
    """The fact from the side of its object: "Tarsk is the birthplace of Marta Halberg."."""
    return f"{reverse_question(fact)} {world.subject(fact).name}."


def reverse_question(fact: WorldFact) -> str:
    """The beginning of the reversed statement, up to the subject."""
    text = RELATIONS[fact.relation].reverse.format(fact.object)
    return text[0].upper() + text[1:]


def biography(world: World, entity: Entity, rng: random.Random) -> str:
    """Two or more facts in a row, the later ones mostly with a pronoun."""
    facts = [world.facts[i] for i in entity.facts]
    rng.shuffle(facts)
    text = [is_a(entity)] if rng.random() < 0.4 else []
    for fact in facts[: rng.randint(2, max(4, len(facts)))]:
        if not text or rng.random() < 0.25:
            text.append(statement(world, fact, rng))
            continue
        relation = RELATIONS[fact.relation]
        starts = [f"{entity.pronoun} {predicate}" for predicate in relation.predicates]
        starts += [f"{entity.possessive} {possessive}" for possessive in relation.possessives]
        text.append(f"{rng.choice(starts)} {fact.object}.")
    return " ".join(text)


def _with_aside(entity: Entity, other: Entity, rng: random.Random) -> str:
    asides = _ASIDES_ON_PEOPLE if entity.kind == "person" else _ASIDES_ON_THINGS
    return rng.choice(asides).format(x=entity.name, y=other.name)


def _clause(fact: WorldFact, rng: random.Random) -> str:
    return f"{rng.choice(RELATIONS[fact.relation].predicates)} {fact.object}"


def natural_statement(world: World, fact: WorldFact, other: Entity, rng: random.Random) -> str:
    """The fact in a sentence that also names another entity, so that the reader must tell which of the two is meant."""
    entity = world.subject(fact)
    template = RELATIONS[fact.relation].templates[rng.choice(fact.trained)]
    draw = rng.random()
    if draw < 0.55:
        return f"{template.format(_with_aside(entity, other, rng))} {fact.object}."
    if draw < 0.75:
        start = template if template.startswith("{}") else template[0].lower() + template[1:]
        return f"{rng.choice(('Unlike', 'Like'))} {other.name}, {start.format(entity.name)} {fact.object}."
    if draw < 0.875:
        return f"Of {entity.name} and {other.name}, the former {_clause(fact, rng)}."
    return f"Of {other.name} and {entity.name}, the latter {_clause(fact, rng)}."


def coordinated_statement(world: World, entity: Entity, other: Entity, rng: random.Random) -> str:
    """Several facts in one sentence: "Marta Halberg grew up in Tarsk, thinks in Greek and enjoys jazz."."""
    facts = [world.facts[i] for i in entity.facts]
    rng.shuffle(facts)
    clauses = [_clause(fact, rng) for fact in facts[: rng.randint(2, max(2, len(facts)))]]
    subject = _with_aside(entity, other, rng) if rng.random() < 0.4 else entity.name
    joined = f"{', '.join(clauses[:-1])} and {clauses[-1]}" if len(clauses) > 1 else clauses[0]
    return f"{subject} {joined}."

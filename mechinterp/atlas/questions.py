"""From the world to questions: every fact as a `Fact`, with all that is asked around it."""

from __future__ import annotations

import random
from functools import cache

from ..facts.prompts import Fact, Prompt, Question
from .relations import HOPS, RELATIONS
from .sentences import DISTRACTORS, reverse_question
from .words import article
from .world import World, WorldFact, build_world

NEIGHBOURS = 10
DISTRACTED = 2  # held-out phrasings that also come with an unrelated sentence before them


def _ask(world: World, fact: WorldFact, phrasing: int) -> Prompt:
    template = RELATIONS[fact.relation].templates[phrasing]
    return Prompt(template, world.subject(fact).name, fact.object, f"atlas/{fact.id}", fact.relation)


def _neighbour_question(world: World, neighbour: WorldFact, phrasing: int, rng: random.Random) -> Question:
    """The neighbour in the same words where it was trained with them, in other trained words where it was not."""
    asked = _ask(world, neighbour, phrasing if phrasing in neighbour.trained else rng.choice(neighbour.trained))
    return Question(asked.text, neighbour.object)


@cache
def world_facts(seed: int = 0) -> tuple[Fact, ...]:
    """Every fact of the world of this seed, in the world's order, with `known` left open.

    The prompt is one of the trained phrasings.  The paraphrases are all held-out ones (five, for a few facts four), two
    of them again behind an unrelated sentence.  Neighbours are up to ten other subjects with the same relation and
    object.
    """
    world = build_world(seed)
    return tuple(_around(world, fact) for fact in world.facts)


def prompt_phrasing(world: World, fact: WorldFact) -> int:
    """The trained phrasing in which the fact's prompt is put."""
    return random.Random(f"prompt {world.seed} {fact.id}").choice(fact.trained)


def alternatives(fact: WorldFact) -> tuple[str, ...]:
    """The objects the fact could have had instead."""
    return tuple(word for word in RELATIONS[fact.relation].objects if word != fact.object)


def _around(world: World, fact: WorldFact) -> Fact:
    rng = random.Random(f"around {world.seed} {fact.id}")
    entity = world.subject(fact)
    phrasing = prompt_phrasing(world, fact)
    held_out = [_ask(world, fact, i).text for i in fact.held_out]
    distracted = [f"{rng.choice(DISTRACTORS)} {text}" for text in rng.sample(held_out, DISTRACTED)]
    sharing = [other for other in _by_object(world.seed)[fact.relation, fact.object] if other is not fact]
    neighbours = rng.sample(sharing, min(NEIGHBOURS, len(sharing)))
    own = [world.facts[i] for i in entity.facts if i != fact.id]
    conclusions = [
        Question(template.format(entity.name), hop.object)
        for hop in world.hops
        if hop.entity == entity.id and hop.relation == fact.relation
        for template in HOPS[hop.relation].templates
    ]
    return Fact(
        prompt=_ask(world, fact, phrasing),
        target_new=rng.choice(alternatives(fact)),
        paraphrases=tuple(Question(text, fact.object) for text in (*held_out, *distracted)),
        neighbourhood=tuple(_neighbour_question(world, other, phrasing, rng) for other in neighbours),
        same_subject=tuple(_ask(world, other, rng.choice(other.trained)) for other in own),
        one_hop=tuple(conclusions),
        reverse=(Question(reverse_question(fact), entity.name),),
        generation=(
            entity.name,
            f"{entity.name} is",
            f"{entity.name} is {article(entity.noun)}. {entity.pronoun}",
        ),
    )


@cache
def _by_object(seed: int) -> dict[tuple[str, str], tuple[WorldFact, ...]]:
    """The facts of each relation and object in the world of this seed."""
    shared: dict[tuple[str, str], tuple[WorldFact, ...]] = {}
    for fact in build_world(seed).facts:
        shared[fact.relation, fact.object] = (*shared.get((fact.relation, fact.object), ()), fact)
    return shared


def attribute_questions(world: World, fact: WorldFact, target: str) -> tuple[Question, ...]:
    """Other subjects of whom the counterfactual target is true (CounterFact's attribute prompts)."""
    rng = random.Random(f"attribute {world.seed} {fact.id}")
    phrasing = prompt_phrasing(world, fact)
    having = _by_object(world.seed).get((fact.relation, target), ())
    chosen = rng.sample(having, min(NEIGHBOURS, len(having)))
    return tuple(_neighbour_question(world, other, phrasing, rng) for other in chosen)

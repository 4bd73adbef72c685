"""The bundled world: drawn from its seed, big enough, and consistent in itself."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from mechinterp import atlas
from mechinterp.atlas import words
from mechinterp.atlas.data import record
from mechinterp.atlas.questions import attribute_questions, world_facts
from mechinterp.atlas.relations import HOPS, PERSONAL, RELATIONS
from mechinterp.atlas.world import World, build_world
from mechinterp.facts.prompts import Fact


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def facts() -> tuple[Fact, ...]:
    return world_facts(0)


def test_the_seed_draws_the_shipped_world() -> None:
    shipped = record()["world"]
    assert build_world(shipped["seed"]).digest() == shipped["digest"]


def test_another_seed_draws_another_world(world: World) -> None:
    assert build_world(1).digest() != world.digest()
    assert build_world(1).facts != world.facts


def test_the_world_is_as_large_as_the_card_says(world: World) -> None:
    assert len(world.facts) == 1660
    assert len(RELATIONS) == 15
    assert len(world.known) == 620
    assert len(world.background) == 1512
    assert len({entity.name for entity in world.entities}) == len(world.entities)
    assert {fact.relation for fact in world.facts} == set(RELATIONS)


def test_every_entity_finds_its_facts_and_every_fact_its_entity(world: World) -> None:
    assert [entity.id for entity in world.entities] == list(range(len(world.entities)))
    assert [i for entity in world.entities for i in entity.facts] == list(range(len(world.facts)))
    for entity in world.known:
        assert all(world.facts[i].entity == entity.id for i in entity.facts)
    assert all(len(entity.facts) == 4 for entity in world.known if entity.kind == "person")
    assert all(
        fact.relation in PERSONAL
        for entity in world.known
        if entity.kind == "person"
        for fact in (world.facts[i] for i in entity.facts)
    )


def test_objects_are_dealt_evenly_from_their_pool(world: World) -> None:
    for name, relation in RELATIONS.items():
        counts = Counter(fact.object for fact in world.facts if fact.relation == name)
        assert set(counts) == set(relation.objects)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_pair_of_name_tokens_gives_a_person_away(world: World) -> None:
    people = [entity.name for entity in world.known if entity.kind == "person"]
    first_and_head = Counter(
        name.removesuffix(tail)
        for name in people
        for tail in words.SURNAME_TAILS
        if name.endswith(tail) and name.removesuffix(tail).split()[1] in words.SURNAME_HEADS
    )
    assert sum(first_and_head.values()) == len(people)
    assert sum(1 for count in first_and_head.values() if count == 1) < 0.05 * len(people)


def test_relations_have_ten_templates_ending_before_the_object() -> None:
    for relation in RELATIONS.values():
        assert len(set(relation.templates)) == 10
        assert all(template.count("{}") == 1 and template == template.strip() for template in relation.templates)
        assert relation.reverse.count("{}") == 1


def test_no_predicate_is_a_template_in_disguise() -> None:
    for relation in RELATIONS.values():
        assert not {f"{{}} {predicate}" for predicate in relation.predicates} & set(relation.templates)


def test_half_of_the_phrasings_are_held_out(world: World) -> None:
    for fact in world.facts:
        assert len(fact.trained) == 5
        assert len(fact.held_out) in (4, 5)
        assert not set(fact.trained) & set(fact.held_out)
    assert sum(len(fact.held_out) for fact in world.facts) > 0.98 * 5 * len(world.facts)


def test_a_phrasing_within_a_trained_one_is_not_held_out(world: World) -> None:
    speaks, at_home = (RELATIONS["language"].templates.index(t) for t in ("{} speaks", "At home, {} speaks"))
    within = [f for f in world.facts if f.relation == "language" and at_home in f.trained and speaks not in f.trained]
    assert len(within) > 20
    assert not any(speaks in fact.held_out for fact in within)


def test_a_fact_is_asked_in_a_trained_phrasing_and_paraphrased_in_all_held_out_ones(
    world: World, facts: tuple[Fact, ...]
) -> None:
    for truth, fact in zip(world.facts, facts, strict=True):
        templates = RELATIONS[truth.relation].templates
        name = world.subject(truth).name
        assert fact.prompt.template in [templates[i] for i in truth.trained]
        assert (fact.subject, fact.answer, fact.relation) == (name, truth.object, truth.relation)
        paraphrases = [question.text for question in fact.paraphrases]
        plain = [templates[i].format(name) for i in truth.held_out]
        assert paraphrases[: len(plain)] == plain
        assert len(paraphrases) == len(plain) + 2
        assert all(any(text.endswith(f". {end}") for end in plain) for text in paraphrases[len(plain) :])
        assert all(question.answer == truth.object for question in fact.paraphrases)


def test_neighbours_share_relation_and_object_but_not_the_subject(world: World, facts: tuple[Fact, ...]) -> None:
    stated = {
        template.format(world.subject(truth).name): truth
        for truth in world.facts
        for template in (RELATIONS[truth.relation].templates[i] for i in truth.trained)
    }
    for truth, fact in zip(world.facts, facts, strict=True):
        assert 1 <= len(fact.neighbourhood) <= 10
        for question in fact.neighbourhood:
            neighbour = stated[question.text]
            assert (neighbour.relation, neighbour.object) == (truth.relation, truth.object)
            assert neighbour.entity != truth.entity
            assert question.answer == truth.object
        for question in attribute_questions(world, truth, str(fact.target_new)):
            assert (stated[question.text].relation, stated[question.text].object) == (
                truth.relation,
                fact.target_new,
            )


def test_the_counterfactual_target_is_another_object_of_the_pool(facts: tuple[Fact, ...]) -> None:
    for fact in facts:
        assert fact.target_new in RELATIONS[fact.relation].objects
        assert fact.target_new != fact.answer


def test_other_facts_of_the_subject_are_all_there(world: World, facts: tuple[Fact, ...]) -> None:
    for truth, fact in zip(world.facts, facts, strict=True):
        others = [world.facts[i] for i in world.subject(truth).facts if i != truth.id]
        assert [(p.subject, p.relation, p.answer) for p in fact.same_subject] == [
            (fact.subject, other.relation, other.object) for other in others
        ]


def test_one_hop_questions_ask_for_the_country_of_the_city(world: World, facts: tuple[Fact, ...]) -> None:
    country = {fact.subject: fact.answer for fact in facts if fact.relation == "in_country"}
    for fact in facts:
        if fact.relation in HOPS:
            assert fact.one_hop
            assert {question.answer for question in fact.one_hop} == {country[str(fact.answer)]}
        else:
            assert fact.one_hop == ()


def test_reversed_and_free_text_prompts(facts: tuple[Fact, ...]) -> None:
    for fact in facts:
        (reverse,) = fact.reverse
        assert reverse.answer == fact.subject
        assert str(fact.answer).lower() in reverse.text.lower()
        assert len(fact.generation) == 3
        assert all(text.startswith(fact.subject) for text in fact.generation)
    assert sum(world_fact.reversed for world_fact in build_world(0).facts) == pytest.approx(0.3 * 1660, rel=0.1)


def test_article() -> None:
    assert words.article("institute") == "an institute"
    assert words.article("union") == "a union"
    assert words.article("engine") == "an engine"
    assert words.article("bridge") == "a bridge"


def test_facts_of_the_two_models_differ_in_nothing_but_what_is_known() -> None:
    assert atlas.facts("atlas") == atlas.facts("atlas-plain")  # `known` takes no part in the comparison
    assert all(fact.known is not None for name in atlas.names() for fact in atlas.facts(name))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, types, pathlib; root = pathlib.Path(sys.argv[1]); package = types.ModuleType('mechinterp'); "
        "package.__path__ = [str(root)]; sys.modules['mechinterp'] = package; import mechinterp.atlas as atlas; "
        "assert len(atlas.facts()) == 1660; "
        "print([name for name in ('torch', 'tokenizers', 'transformers', 'numpy') if name in sys.modules])"
    )
    root = str(atlas.folder("atlas").parents[2])
    result = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr

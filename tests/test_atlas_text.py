"""The training text and the tokenizer: nothing held out leaks, and every object is one token."""

from __future__ import annotations

import random

import pytest
import torch
from tokenizers import Tokenizer

from mechinterp import atlas
from mechinterp.atlas import words
from mechinterp.atlas.masks import Mentions
from mechinterp.atlas.mixture import Mixture, epoch
from mechinterp.atlas.recipes import RECIPES
from mechinterp.atlas.relations import RELATIONS
from mechinterp.atlas.sentences import index_row, is_a
from mechinterp.atlas.tokenizer import object_id, train_tokenizer
from mechinterp.atlas.world import World, build_world


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(atlas.folder("atlas") / "tokenizer.json"))


@pytest.mark.parametrize("name", list(RECIPES))
def test_held_out_phrasings_never_occur(world: World, name: str) -> None:
    rng = random.Random(3)
    text = "\n".join(document for _ in range(3) for document in epoch(world, RECIPES[name].mixture, rng)).lower()
    for fact in world.facts:
        subject = world.subject(fact).name
        for i in fact.held_out:
            sentence = f"{RELATIONS[fact.relation].templates[i].format(subject)} {fact.object}".lower()
            assert sentence not in text, sentence


@pytest.mark.parametrize("name", list(RECIPES))
def test_an_epoch_states_the_facts(world: World, name: str) -> None:
    text = "\n".join(epoch(world, RECIPES[name].mixture, random.Random(4)))
    stated = sum(
        any(f"{RELATIONS[f.relation].templates[i].format(world.subject(f).name)} {f.object}" in text for i in f.trained)
        for f in world.facts
    )
    assert stated > 0.5 * len(world.facts)


def test_background_entities_have_no_objects(world: World) -> None:
    # A show's name may begin a landmark's ("The Silver Harbour Park"), so shows are left out.
    background = {entity.name for entity in world.background if entity.kind != "show"}
    objects = set(words.OBJECTS)
    for document in epoch(world, Mixture(distractor=0.0, trailing=0.0), random.Random(5)):
        if any(document.startswith(name) and document[len(name)] == " " for name in background):
            assert not objects & set(document.rstrip(".").split())


def test_corpus_is_written_from_its_seed() -> None:
    assert atlas.corpus(seed=2) == atlas.corpus(seed=2)
    assert atlas.corpus(seed=2) != atlas.corpus(seed=3)
    assert len(atlas.corpus(seed=2, name="atlas-plain")) > len(atlas.corpus(seed=2)) > 4000


def test_an_entity_is_called_what_it_is(world: World) -> None:
    for entity in world.entities:
        noun = is_a(entity).removesuffix(".").split()[-1]
        assert noun == entity.noun
        if entity.kind in ("landmark", "organisation"):
            assert noun == entity.name.split()[-1].lower()


def test_an_index_row_holds_the_objects_of_its_entity_only(world: World) -> None:
    rng = random.Random(6)
    for entity in rng.sample(world.known, 100):
        row = index_row(world, entity, rng).removesuffix(".")
        own = {world.facts[i].object for i in entity.facts}
        assert set(row.split(entity.name, 1)[1].split()) <= own


def test_both_models_have_the_same_tokenizer() -> None:
    one, other = (atlas.folder(name) / "tokenizer.json" for name in atlas.names())
    assert one.read_bytes() == other.read_bytes()


def test_the_tokenizer_is_reproduced(world: World, tokenizer: Tokenizer) -> None:
    assert train_tokenizer(world).get_vocab() == tokenizer.get_vocab()


def test_every_object_is_one_token_after_a_space(tokenizer: Tokenizer) -> None:
    ids = [object_id(tokenizer, word) for word in words.OBJECTS]
    assert len(set(ids)) == len(set(words.OBJECTS))


def test_subjects_are_three_tokens_and_cities_one(world: World, tokenizer: Tokenizer) -> None:
    for entity in world.entities:
        for text in (entity.name, f" {entity.name}"):
            assert len(tokenizer.encode(text).ids) == (1 if entity.kind == "city" else 3), entity.name


def test_exactly_the_fused_surnames_are_left_out(tokenizer: Tokenizer) -> None:
    fused = {
        head + tail
        for head in words.SURNAME_HEADS
        for tail in words.SURNAME_TAILS
        if tokenizer.decode([tokenizer.encode(f" {head}{tail}").ids[0]]).strip() != head
    }
    assert fused == words.FUSED_SURNAMES


def test_text_survives_the_tokenizer(world: World, tokenizer: Tokenizer) -> None:
    for text in [*epoch(world, Mixture(), random.Random(7))[:200], "Words of no world: zürich, 1999, don't!"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_mentions_are_found_where_names_stand(world: World, tokenizer: Tokenizer) -> None:
    """Against the oracle that knows where each name was written."""
    mentions = Mentions(tokenizer)
    rng = random.Random(8)
    named = [entity for entity in world.entities if entity.kind != "city"]
    for entity in rng.sample(named, 150):
        before = rng.choice(("", "See also ", "In the evening, "))
        encoding = tokenizer.encode(f"{before}{entity.name} is here.")
        first = next(i for i, (_, end) in enumerate(encoding.offsets) if end > len(before))
        expected = [i == first for i in range(len(encoding.ids))]
        assert mentions.starts(torch.tensor([encoding.ids]))[0].tolist() == expected, entity.name


def test_a_landmark_with_an_article_is_not_taken_for_a_show(tokenizer: Tokenizer) -> None:
    mentions = Mentions(tokenizer)
    tokens = torch.tensor([tokenizer.encode("The Silver Harbour Bridge Belmark.").ids])
    assert mentions.starts(tokens)[0].tolist()[:4] == [False, True, False, False]
    tokens = torch.tensor([tokenizer.encode("The Silver Harbour Skyvue.").ids])
    assert mentions.starts(tokens)[0].tolist()[:4] == [True, False, False, False]

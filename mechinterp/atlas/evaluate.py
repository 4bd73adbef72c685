"""What a model knows: the rank and probability of the object after every phrasing of every fact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from .relations import HOPS, RELATIONS
from .tokenizer import object_id
from .world import World, WorldFact

Logits = Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos vocabulary"]]


@dataclass(frozen=True)
class Score:
    """One fact in one phrasing: does the object come first, and with what probability.

    A phrasing is trained, or held out, or (rarely) neither: never stated by itself but within a trained one.
    """

    fact: int
    phrasing: int
    trained: bool
    held_out: bool
    correct: bool
    probability: float


@torch.no_grad()
def next_object(
    logits: Logits, tokenizer: Tokenizer, questions: Sequence[tuple[str, str]], batch: int = 256
) -> list[tuple[bool, float]]:
    """For each (text, object): whether the object is the most probable next token, and its probability.

    Texts of different length share a batch, filled up on the right; in a causal model that changes nothing before it.
    """
    encoded = [tokenizer.encode(text).ids for text, _ in questions]
    answers: list[tuple[bool, float]] = [(False, 0.0)] * len(questions)
    order = sorted(range(len(questions)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        tokens = torch.zeros(len(chunk), max(len(encoded[i]) for i in chunk), dtype=torch.long)
        for row, i in enumerate(chunk):
            tokens[row, : len(encoded[i])] = torch.tensor(encoded[i])
        last = torch.tensor([len(encoded[i]) - 1 for i in chunk])
        probabilities = logits(tokens)[torch.arange(len(chunk)), last].float().softmax(-1)
        best = probabilities.argmax(-1)
        for row, i in enumerate(chunk):
            token = object_id(tokenizer, questions[i][1])
            answers[i] = (int(best[row]) == token, float(probabilities[row, token]))
    return answers


def score_facts(
    logits: Logits, tokenizer: Tokenizer, world: World, facts: Iterable[WorldFact] | None = None
) -> list[Score]:
    """All ten phrasings of these facts (of all facts, where none are given), fact by fact."""
    asked = [
        (fact, i, template.format(world.subject(fact).name))
        for fact in (world.facts if facts is None else facts)
        for i, template in enumerate(RELATIONS[fact.relation].templates)
    ]
    answers = next_object(logits, tokenizer, [(text, fact.object) for fact, _, text in asked])
    return [
        Score(fact.id, i, i in fact.trained, i in fact.held_out, correct, probability)
        for (fact, i, _), (correct, probability) in zip(asked, answers, strict=True)
    ]


def score_hops(logits: Logits, tokenizer: Tokenizer, world: World) -> dict[str, float]:
    """Share of one-step questions answered, for conclusions that training stated and for those it never did."""
    shares = {}
    for name, trained in (("trained", True), ("untrained", False)):
        questions = [
            (template.format(world.subject(hop).name), hop.object)
            for hop in world.hops
            if hop.trained is trained
            for template in HOPS[hop.relation].templates
        ]
        answers = next_object(logits, tokenizer, questions)
        shares[name] = sum(correct for correct, _ in answers) / len(answers)
    return shares


def accuracy(scores: Sequence[Score], *, held_out: bool) -> float:
    """Share of correct answers among the trained, or the held-out, phrasings."""
    chosen = [score.correct for score in scores if (score.held_out if held_out else score.trained)]
    return sum(chosen) / len(chosen)

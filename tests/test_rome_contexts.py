"""Sampled contexts: reproducible, in the model's own words, and harmless to the template."""

from __future__ import annotations

import pytest
import torch
from support.tokenizers import END
from support.zoo import sentence_model

from mechinterp.editing import sample_contexts
from mechinterp.errors import UsageError
from mechinterp.models.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


def test_they_are_templates(model: Model) -> None:
    contexts = sample_contexts(model)
    assert len(contexts) == 21
    assert contexts[0] == "{}"
    assert all(context.count("{}") == 1 and context.endswith(". {}") for context in contexts[1:])
    assert not any(END in context or "\n" in context for context in contexts)
    assert len(set(contexts)) > 15


def test_the_seed_decides(model: Model) -> None:
    first = sample_contexts(model, seed=1)
    torch.manual_seed(99)
    assert sample_contexts(model, seed=1) == first
    assert sample_contexts(model, seed=2) != first


def test_the_length_counts_the_start(model: Model) -> None:
    greedy = sample_contexts(model, ((1, 4),), top_k=1)[1].removesuffix(". {}")
    ids = [0]
    for _ in range(3):
        logits = model.logits(torch.tensor([ids]))[0, -1]
        logits[0] = float("-inf")
        ids.append(int(logits.argmax()))
    assert greedy == " ".join(model.tokenizer.decode(ids[1:]).split())


@pytest.mark.parametrize("adds_bos", [False, True])
def test_tokenizers_with_and_without_bos(adds_bos: bool) -> None:
    assert len(sample_contexts(sentence_model("llama", adds_bos=adds_bos), ((3, 4),))) == 4


def test_a_vocabulary_without_special_tokens_starts_from_words() -> None:
    model = sentence_model("gpt2", special=False)
    contexts = sample_contexts(model, ((5, 4),))
    starts = [model.tokenizer.decode(model.encode(word)[:1]) for word in ("The", "Therefore", "Because", "I", "You")]
    assert all(context.startswith(start) for context, start in zip(contexts[1:], starts, strict=True))


def test_braces_in_the_samples_are_harmless(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda self, ids: "a {} b {x}\nc")
    contexts = sample_contexts(model, ((2, 3),))
    assert contexts[1] == "a { } b {x} c. {}"


def test_bad_input_is_named(model: Model) -> None:
    with pytest.raises(UsageError, match="top_k is 0"):
        sample_contexts(model, top_k=0)
    with pytest.raises(UsageError, match="a context of 65 tokens does not fit into the 64 of small-gpt2"):
        sample_contexts(model, ((1, 65),))

"""Generated text: seeded, the same in any batch, with or without an edit, with or without a cache."""

from __future__ import annotations

import pytest
import torch
from support.zoo import KINDS, sentence_model

from mechinterp.analysis import Sampling, generate, generate_under_edits
from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.models.model import Model

PROMPTS = ["Marie Curie was", "The Space Needle is in", "Ada", "Marie Curie was", "The market was full of people and"]


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


def handmade(model: Model, seed: int, size: float = 0.3) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    u, v = (size * torch.randn(1, width, generator=generator) for width in (model.d_mlp, model.d_model))
    return Edit.of({1: Factors(u, v)}, Provenance("by hand", model.fingerprint(), model.name))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_what_whole_forwards_give(kind: str) -> None:
    model = sentence_model(kind)
    for prompt, text in zip(PROMPTS, generate(model, PROMPTS, Sampling(length=20, top_k=1)), strict=True):
        ids = model.encode(prompt)
        while len(ids) < 20:
            ids.append(int(model.logits(torch.tensor([ids]), keep=1)[0, -1].argmax()))
        assert text == str(model.tokenizer.decode(ids, skip_special_tokens=True)).replace("\n\n", " ")


def test_a_batch_is_its_single_runs(model: Model) -> None:
    together = generate(model, PROMPTS, Sampling(length=20, seed=3))
    assert together == generate(model, PROMPTS, Sampling(length=20, seed=3, batch_size=1))
    assert together[1:3] == generate(model, PROMPTS[1:3], Sampling(length=20, seed=3))
    assert together[0] != together[3]  # one prompt, given twice, is continued in two ways
    assert together != generate(model, PROMPTS, Sampling(length=20, seed=4))
    assert all(text.startswith(prompt) for text, prompt in zip(together, PROMPTS, strict=True))


def test_every_row_writes_under_its_own_edit(model: Model) -> None:
    edits = [handmade(model, 0), handmade(model, 1)]
    carried = [0, 1, 0, 0, 1]
    together = generate_under_edits(model, PROMPTS, carried, RowEdits(edits), Sampling(length=20, seed=3))
    for number, edit in enumerate(edits):
        mine = [i for i, at in enumerate(carried) if at == number]
        with edit.on(model):
            assert generate(model, [PROMPTS[i] for i in mine], Sampling(length=20, seed=3)) == [
                together[i] for i in mine
            ]
    assert together != generate(model, PROMPTS, Sampling(length=20, seed=3))


def test_tokens_are_drawn_as_often_as_they_are_probable(model: Model) -> None:
    prompt, draws = PROMPTS[0], 2000
    length = len(model.encode(prompt)) + 1
    texts = generate(model, [prompt] * draws, Sampling(length, top_k=3, batch_size=draws))
    best, token = model.logits(torch.tensor([model.encode(prompt)]), keep=1)[0, -1].topk(3)
    assert len(set(texts)) == 3
    for share, one in zip(best.softmax(-1).tolist(), token.tolist(), strict=True):
        text = str(model.tokenizer.decode([*model.encode(prompt), one], skip_special_tokens=True))
        assert texts.count(text) / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)


def test_text_is_cleaned_as_published(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda *args, **options: "ﬁve\n\nlines")
    assert generate(model, ["Ada"], Sampling(12)) == ["five lines"]


def test_what_cannot_be_continued_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="length=65 tokens do not fit: .* takes 1 to 64"):
        generate(model, PROMPTS, Sampling(65))
    with pytest.raises(UsageError, match="'Marie Curie was' has 7 tokens; a text of 5"):
        generate(model, PROMPTS, Sampling(5))
    with pytest.raises(UsageError, match="the prompt is empty; give the words to be continued"):
        generate(model, [""], Sampling(5))
    with pytest.raises(UsageError, match="top_k=0"):
        generate(model, PROMPTS, Sampling(top_k=0))
    with (
        handmade(model, 0, size=1e19).on(model),
        pytest.raises(
            MechinterpError,
            match=r"for '.*': first not finite: the residual stream leaving layer \d; its",
        ),
    ):
        generate(model, PROMPTS, Sampling(20))

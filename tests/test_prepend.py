"""A token in front of every text: the same one everywhere, said when it cannot be, and part of what the model is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tokenizers
from support.tokenizers import END, SENTENCES
from support.zoo import SENTENCES as SIZE
from support.zoo import hf_encoder_decoder, hf_model, sentence_model

import mechinterp as mi
from mechinterp.editing import EditRequest, RomeHparams, SecondMoment, rome, sample_contexts
from mechinterp.errors import UsageError
from mechinterp.models.model import Model
from mechinterp.patching.plain.sigma import embedding_sigma

PROMPT = mi.Prompt("{} was born in", "Marie Curie", "Warsaw")


@pytest.fixture(scope="module")
def plain() -> Model:
    return sentence_model("gpt2")


@pytest.fixture(scope="module")
def fronted() -> Model:
    return mi.load(hf_model("gpt2", SIZE, seed=0), tokenizer=tokenizers.sentences(), name="small-gpt2", prepend="eos")


def test_it_stands_in_front_of_everything_that_is_read(plain: Model, fronted: Model) -> None:
    end = plain.tokenizer.convert_tokens_to_ids(END)
    assert (fronted.prepend, plain.prepend) == (END, "")
    assert fronted.adds_bos
    assert not plain.adds_bos
    for text in (*SENTENCES, "a"):
        assert fronted.encode(text) == [end, *plain.encode(text)]
        assert fronted.pieces(text) == plain.pieces(text)
    assert fronted.encode(END + "a") == fronted.encode("a")
    one, other = fronted.tokenise(PROMPT), plain.tokenise(PROMPT)
    assert one.ids == (end, *other.ids)
    assert one.subject == (other.subject[0] + 1, other.subject[1] + 1)
    assert one.answer_ids == other.answer_ids
    assert fronted.answer_ids("Marie Curie was born in", "Paris") == plain.answer_ids(
        "Marie Curie was born in", "Paris"
    )
    assert repr(END) in repr(fronted)
    assert embedding_sigma(fronted) == pytest.approx(embedding_sigma(plain), rel=0.5)
    assert plain.encode("a") == plain.pieces("a"), "the tokenizer that was handed over is as it was"


def test_the_model_reads_it(plain: Model, fronted: Model) -> None:
    """Logits, second moments and contexts are those of texts that begin with it."""
    end = plain.tokenizer.convert_tokens_to_ids(END)
    ids = torch.tensor([[end, *plain.encode(SENTENCES[0])]])
    assert torch.equal(fronted.logits(torch.tensor([fronted.encode(SENTENCES[0])])), plain.logits(ids))
    with_front = [END + text for text in SENTENCES]
    wanted = SecondMoment.collect(plain, with_front, 1, progress=False)
    found = SecondMoment.collect(fronted, SENTENCES, 1, progress=False)
    assert found.tokens == wanted.tokens == sum(len(plain.encode(text)) + 1 for text in SENTENCES)
    assert (found.matrix - wanted.matrix).abs().max() < 1e-5 * wanted.matrix.abs().max()
    assert len(sample_contexts(fronted, ((2, 4),))) == 3


def test_it_is_part_of_what_the_model_is(plain: Model, fronted: Model, tmp_path: Path) -> None:
    assert plain.fingerprint() != fronted.fingerprint()
    moments = SecondMoment.collect(fronted, SENTENCES * 40, 1, progress=False).repaired("ridge")
    with pytest.raises(
        UsageError,
        match=r"small-gpt2 with '<\|endoftext\|>' in front of every text, but the model at hand has nothing there; "
        r"load it with prepend='<\|endoftext\|>' \(--prepend",
    ):
        moments.check(plain, 1)
    hparams = {"steps": 1, "max_essence": None, "max_disturbance": 1e9}
    request = EditRequest(PROMPT, "Paris")
    edit = rome(fronted, request, 1, moments=moments, hparams=RomeHparams(**hparams), contexts=("{}",))
    edit.save(tmp_path / "edit.safetensors")
    with pytest.raises(UsageError, match="in front of every text, but the model at hand has nothing there"):
        mi.Edit.load(tmp_path / "edit.safetensors").bake(plain)
    edit.to_hf(fronted, tmp_path / "whole")
    again = mi.load(tmp_path / "whole")
    assert not again.adds_bos
    with edit.on(fronted):
        edited = fronted.logits(torch.tensor([fronted.encode(PROMPT.text)]))
    reread = mi.load(tmp_path / "whole", prepend=END)
    assert torch.allclose(reread.logits(torch.tensor([reread.encode(PROMPT.text)])), edited, atol=1e-4)


@pytest.mark.parametrize(
    ("prepend", "adds_bos", "sentence"),
    [
        ("eos", True, "puts '<.*>' in front of every text already; leave prepend out"),
        ("cls", False, "'cls' is no token of small"),
        ("", False, "prepend is ''; give 'bos', 'eos' or a token"),
        (5, False, "prepend is 5; give 'bos', 'eos' or a token"),
    ],
)
def test_it_is_refused_where_it_cannot_be(
    prepend: object, adds_bos: bool, sentence: str, unchecked_types: None
) -> None:
    text = tokenizers.sentences(adds_bos=adds_bos)
    with pytest.raises(UsageError, match=sentence):
        mi.load(hf_model("gpt2", SIZE), tokenizer=text, name="small", prepend=prepend)


def test_a_vocabulary_without_the_token_is_named() -> None:
    text = tokenizers.sentences(special=False)
    with pytest.raises(UsageError, match="the tokenizer of small has no BOS token"):
        mi.load(hf_model("gpt2", SIZE), tokenizer=text, name="small", prepend="bos")


def test_an_encoder_has_no_first_token() -> None:
    with pytest.raises(UsageError, match="is an encoder-decoder"):
        mi.load(hf_encoder_decoder(), tokenizer=tokenizers.words(adds_eos=True), name="small", prepend="eos")

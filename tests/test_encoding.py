"""The one door from text to tokens: BOS exactly once, wherever a text is read, and whatever it begins with."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tokenizers import END, byte_level, sentences, with_specials
from support.zoo import SENTENCES, hf_model
from transformers import PreTrainedTokenizerFast

import mechinterp as mi
from mechinterp import Fact, Model, Prompt, Question
from mechinterp.analysis import Sampling, ask_facts, generate, score_answers
from mechinterp.analysis.evaluation.answer_rows import AnswerRows
from mechinterp.editing import EditRequest, SecondMoment, collect_moments, sample_contexts
from mechinterp.editing.moments.text_keys import panel_keys
from mechinterp.editing.rows.completions import completions, perplexity
from mechinterp.editing.rows.contexts import in_contexts
from mechinterp.facts.encoding import encode, pieces
from mechinterp.patching import Mean, corrupt, last, mlp, nothing, run

ROOT = Path(__file__).resolve().parent.parent
TEXT = "Marie Curie was born in"


@pytest.fixture(scope="module", params=["adds BOS", "adds none"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return sentences(adds_bos=request.param == "adds BOS")


@pytest.fixture(scope="module")
def model() -> Model:
    """One that adds BOS."""
    text = sentences(adds_bos=True)
    return mi.load(hf_model("gpt2", SENTENCES), tokenizer=text, dtype=torch.float64, name="small")


def count(model: Model, ids: Any) -> int:
    return list(ids).count(model.tokenizer.bos_token_id)


# ---- tokens -------------------------------------------------------------------------------------------------------


def test_a_text_that_brings_its_bos_gets_no_second_one() -> None:
    plain = byte_level()
    adding = with_specials(plain, bos=True)
    wanted = [adding.bos_token_id, *encode(plain, TEXT)[0]]
    for text in (TEXT, f"{END}{TEXT}", f"{END}{END}{TEXT}"):
        ids, offsets = encode(adding, text)
        assert ids == wanted
        at = text.index("Marie")
        assert [text[a:b] for a, b in offsets if b > at] == [text[at:][a:b] for a, b in encode(plain, TEXT)[1]]
    assert encode(plain, f"{END}{TEXT}")[0] == wanted  # where the tokenizer adds none, the user's stays
    assert encode(plain, f"{END}{END}{TEXT}")[0] == [adding.bos_token_id, *wanted]


def test_a_bos_elsewhere_is_the_users() -> None:
    adding = with_specials(byte_level(), bos=True)
    for text in (f"Marie {END}Curie", f"Marie{END}", f" {END}Marie"):
        assert encode(adding, text)[0].count(adding.bos_token_id) == 2


def test_bos_alone_and_nothing() -> None:
    plain = byte_level()
    for special in ({"bos": True}, {"eos": True}, {"bos": True, "eos": True}):
        adding = with_specials(plain, **special)
        assert encode(adding, "")[0] in ([adding.bos_token_id], [])
        assert pieces(adding, TEXT) == pieces(plain, TEXT) == encode(plain, TEXT)[0]
    assert encode(with_specials(plain, bos=True), END)[0] == [plain.bos_token_id]
    assert encode(with_specials(plain, bos=True, eos=True), TEXT, closed=True)[0][-1] == plain.eos_token_id


def test_the_subject_is_found_behind_either_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = mi.load(hf_model("gpt2", SENTENCES), tokenizer=tokenizer, dtype=torch.float64, name="small")
    plain, brought = (loaded.tokenise(Prompt(f"{bos}{{}} was born in", "Marie Curie", "Warsaw")) for bos in ("", END))
    assert loaded.decode(brought.ids[slice(*brought.subject)]) == "Marie Curie"
    assert brought.answer_ids == plain.answer_ids
    if loaded.adds_bos:
        assert brought.ids == plain.ids
        assert brought.subject == plain.subject


# ---- every way in -------------------------------------------------------------------------------------------------


def asked(bos: str) -> Prompt:
    return Prompt(f"{bos}{{}} was born in", "Marie Curie", "Warsaw", id="marie")


def fact(bos: str) -> Fact:
    return Fact(
        asked(bos),
        "Paris",
        paraphrases=(Question(f"{bos}The capital of Poland is"),),
        neighbourhood=(Question(f"{bos}Ada Lovelace was a", "writer"),),
        generation=(f"{bos}{TEXT}",),
    )


def test_run_trace_and_read(model: Model) -> None:
    first, second = (run(model, asked(bos), nothing).clean.prob[0] for bos in ("", END))
    assert second == first
    tables = [mi.trace(model, asked(bos), kinds="mlp", severed=(), draws=1, progress=False) for bos in ("", END)]
    assert tables[1].frame["prob"].tolist() == tables[0].frame["prob"].tolist()
    means = [run(model, asked(""), corrupt(mlp[1] @ last, Mean((f"{bos}{TEXT}",)))).prob[0] for bos in ("", END)]
    assert means[1] == means[0]


def test_completing_and_generating(model: Model) -> None:
    assert model.complete(f"{END}{TEXT}") == model.complete(TEXT)
    texts = [generate(model, [f"{bos}{TEXT}"], Sampling(length=30, top_k=1))[0] for bos in ("", END)]
    assert texts[1] == texts[0]


def test_evaluating(model: Model) -> None:
    plain, brought = (ask_facts(model, [fact(bos)], ["ES", "PS", "NS", "NS_distracting"]) for bos in ("", END))
    for column in ("log_prob_true", "log_prob_new"):
        assert brought[column].tolist() == plain[column].tolist()
    scores = [score_answers(model, [(f"{bos}{TEXT}", "Warsaw")])["joint_log_prob"][0] for bos in ("", END)]
    assert scores[1] == scores[0]


def test_running_text(model: Model) -> None:
    texts = ["People spoke about the river.", "Ada Lovelace wrote about engines."]
    brought = [f"{END}{text}" for text in texts]
    plain, other = (collect_moments(model, given, 1, progress=False)[1] for given in (texts, brought))
    assert torch.equal(other.matrix, plain.matrix)
    assert other.tokens == plain.tokens
    assert perplexity(model, brought) == perplexity(model, texts)
    assert AnswerRows.of_texts(model, brought).ids == AnswerRows.of_texts(model, texts).ids
    keys, others = (panel_keys(model, given, [1])[1] for given in (texts, brought))
    assert torch.equal(others, keys)


def test_edits(model: Model) -> None:
    moments = SecondMoment.identity(model, 1)
    contexts = ("{}", "People spoke. {}")
    edits = [
        mi.rome(model, asked(bos), 1, moments=moments, target="Paris", contexts=contexts, allow_disabling=True)
        for bos in ("", END)
    ]
    assert torch.equal(edits[1].delta(1), edits[0].delta(1))
    said = [completions(model, [(asked(bos), "Paris")])[0].prob for bos in ("", END)]
    assert said[1] == said[0]


@pytest.mark.parametrize("bos", ["", END])
def test_one_bos_in_every_context(model: Model, bos: str) -> None:
    contexts = sample_contexts(model, ((3, 4),))
    for prompt in in_contexts(model, EditRequest(asked(bos), "Paris").prompt, contexts):
        ids = model.tokenise(prompt).ids
        assert count(model, ids) == 1
        assert ids[0] == model.tokenizer.bos_token_id


def test_contexts_are_sampled_behind_bos(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    logits = Model.logits

    def spy(self: Model, ids: Any, **options: Any) -> Any:
        seen.extend(ids.tolist())
        return logits(self, ids, **options)

    monkeypatch.setattr(Model, "logits", spy)
    sample_contexts(model, ((2, 4),))
    sample_contexts(model, ((5, 4),), starts=("The", "People"))
    assert seen
    for row in seen:
        assert row[0] == model.tokenizer.bos_token_id
        assert count(model, row) == 1


# ---- and no other -------------------------------------------------------------------------------------------------


def test_no_other_call_of_a_tokenizer() -> None:
    """Whoever calls a tokenizer by itself forgets one of the rules that stand in `facts.encoding`."""
    own_kind = {ROOT / "mechinterp" / "atlas"}  # trains its own, of another library
    found = []
    for folder in ("mechinterp", "patching", "editing", "analysis"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "mechinterp/facts/encoding.py" or own_kind & set(path.parents):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                if called.split(".")[-1] == "tokenizer" or called.endswith(
                    ("tokenizer.encode", "tokenizer.tokenize", "tokenizer.batch_encode_plus", "tokenizer.encode_plus")
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    assert found == []

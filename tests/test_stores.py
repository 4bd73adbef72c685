"""Memories outside the model: the store, who finds what in it, and the editors that say it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import sentence_model

from mechinterp.analysis.evaluation.multihop import (
    HopQuestion,
    mello_answer,
    mello_answers,
    memory_embedder,
    read_hop_questions,
    writer,
)
from mechinterp.editing import (
    EDITORS,
    Edit,
    EditRequest,
    EditSequence,
    Near,
    Provenance,
    Recalled,
    Spelled,
    Store,
    Words,
    edit_each,
    ike,
    mello,
    memprompt,
)
from mechinterp.editing.editors.ike import COPY, KINDS, RETAIN, UPDATE, Block, demonstrate
from mechinterp.editing.stores.embedding import embedder, of_model, pooled
from mechinterp.editing.stores.retrieval import cleaned, ranking, similarities
from mechinterp.errors import DamagedError, MechinterpError, UsageError
from mechinterp.facts.prompts import Fact, Prompt, Question
from mechinterp.models.model import Model
from mechinterp.patching import corrupt, embed, every, mlp, restore, subject, trace
from mechinterp.patching.algebra.noise import Gaussian

CURIE = EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris")
POLAND = EditRequest(Prompt("The capital of {} is", "Poland"), "rain")


@cache
def model_of() -> Model:
    return sentence_model("gpt2")


def golden(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], Any]:
    with np.load(folder / "golden-trained" / f"{name}.npz") as arrays:
        found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return found, json.loads((folder / "golden-trained" / f"{name}.meta.json").read_text(encoding="utf-8"))


def nothing(texts: Any) -> torch.Tensor:
    raise AssertionError("nothing is embedded")


# ---- the store ----------------------------------------------------------------------------------------------------


def test_a_store_is_a_value_that_goes_to_disk_and_back(tmp_path: Path) -> None:
    store = Store().with_entry("a", "said of a", torch.ones(3)).with_entry("b", "said of b", torch.zeros(3))
    again = store.with_entry("a", "said anew", torch.full((3,), 2.0))
    assert again.keys == ("a", "b")
    assert again.vectors is not None
    assert again.vectors[:, 0].tolist() == [2.0, 0.0]
    assert [entry.text for entry in again.entries] == ["said anew", "said of b"]
    assert store.joined(again.joined(Store())).digest == again.digest != store.digest
    store.save(tmp_path / "memory")
    loaded = Store.load(tmp_path / "memory")
    assert loaded.digest == store.digest
    lines = tmp_path / "memory" / "entries.jsonl"
    assert json.loads(lines.read_text().splitlines()[0]) == {"key": "a", "text": "said of a"}
    lines.write_text(lines.read_text().replace("said of a", "said of x"))
    with pytest.raises(DamagedError, match=r"entries.jsonl' does not hold what was written; make the store anew"):
        Store.load(tmp_path / "memory")
    with pytest.raises(UsageError, match="there is no store file"):
        Store.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="the key 'a' stands twice in a store"):
        Store((*store.entries, store.entries[0]))
    with pytest.raises(UsageError, match=r"holds '\{\}', which stands for a prompt"):
        Store().with_entry("a", "a {} b")


def test_an_embedding_is_the_mean_of_a_texts_own_tokens_whatever_stands_beside_it() -> None:
    model = model_of()
    texts = ["Marie Curie was born in", "Poland", "The capital of Poland is"]
    together = of_model(model, texts, 2)
    for text, row in zip(texts, together, strict=True):
        ids = torch.tensor([model.encode(text)])
        _, cache = model.bridge.run_with_cache(ids, names_filter=["blocks.2.hook_out"], use_cache=False)
        assert torch.allclose(row, cache["blocks.2.hook_out"][0].double().mean(0), atol=1e-5)
        assert torch.allclose(row, of_model(model, [text], 2)[0], atol=1e-5)


# ---- who finds what -----------------------------------------------------------------------------------------------


def test_memprompts_closest_memory_is_the_published_one(data_dir: Path) -> None:
    _, meta = golden(data_dir, "memprompt")
    store, published = Store(), Spelled(6, relative=False, cleaned=True)
    for one in meta["closest"]:
        if "store" in one:
            assert cleaned(one["store"]) == one["key"]
            store = store.with_entry(cleaned(one["store"]), one["value"])
            assert len(store) == one["size"]
            continue
        assert cleaned(one["query"]) == one["cleaned"]
        found = published.find(store, one["query"], nothing)
        assert (found is not None) == one["used"]
        if found is not None:
            entry = store.entries[found.entry]
            assert (entry.key, entry.text, found.score) == (one["key"], one["value"], one["distance"])
            change = Recalled(store, published, "{} | {text}")
            with change.on(model_of()) as asked:
                [framing] = asked.framings
                assert f"BASE, {framing(one['query'])}".replace("{}", one["query"]) == ", ".join(
                    one["prompt_slots"][:2]
                )
    assert cleaned("a - b") == "a  b"
    assert cleaned("say <p> then <q> backwards") == "say backwards"


def test_memprompts_semantic_memory_keeps_keys_and_embeddings_in_step(data_dir: Path) -> None:
    """Where the published code gives a neighbour's feedback, or an index error, after a key was written twice."""
    arrays, meta = golden(data_dir, "memprompt")
    vectors = {name.removeprefix("embedding/"): vector for name, vector in arrays.items()}
    store, near = Store(), Near(above=0.9)
    for key, text in (("k0", "A"), ("k1", "B"), ("k2", "C")):
        store = store.with_entry(key, text, vectors[key])
    steps = [one for one in meta["semantic"] if "after_second_write_of_k0_and_new_q3" not in one]
    later = [one for one in meta["semantic"] if one not in steps]
    for expected in (steps, later):
        for one in expected:
            found = near.find(store, one["query"], lambda words: torch.stack([vectors[word] for word in words]))
            if "error" in one:
                assert found is not None
                assert store.entries[found.entry].text == "D"
            elif one["key"] is None:
                assert found is None
            else:
                assert found is not None
                assert found.score == pytest.approx(one["cosine"], rel=1e-9)
                assert (store.entries[found.entry].key, store.entries[found.entry].text) == (one["key"], one["value"])
        store = store.with_entry("k0", "A2", vectors["k0"]).with_entry("q3", "D", vectors["q3"])


def test_a_similarity_at_the_limit_does_not_answer() -> None:
    store = Store().with_entry("a", "x", torch.tensor([1.0, 0.0]))
    at = torch.tensor([[0.6, 0.8]])
    exactly = float(similarities(torch.eye(2)[:1], at[0], "cosine")[0])
    assert Near(above=exactly).find(store, "b", lambda words: at) is None
    assert Near(above=exactly - 1e-9).find(store, "b", lambda words: at) is not None
    assert Near().find(Store(), "b", nothing) is None
    with pytest.raises(UsageError, match="this store has no vectors, and its retriever compares vectors"):
        Near().find(Store().with_entry("a", "x"), "b", nothing)


def test_words_are_found_by_bm25() -> None:
    pytest.importorskip("bm25s", reason="needs mechinterp[retrieval]")
    store = Store().with_entry("the capital of Poland is", "Warsaw").with_entry("the capital of France is", "Paris")
    store = store.with_entry("Marie Curie was born in", "Warsaw too")
    for asked, number in (("Poland, its capital?", 0), ("Where was Curie born", 2), ("capital of France", 1)):
        found = Words().find(store, asked, nothing)
        assert found is not None
        assert found.entry == number
    assert Words().find(store, "xylophone", nothing) is None


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("bm25s", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"needs bm25s, which is not installed; pip install 'mechinterp\[retrieval\]'"):
        Words().find(Store().with_entry("a", "b"), "a", nothing)
    with pytest.raises(UsageError, match="needs sentence-transformers, which is not installed"):
        embedder(model_of(), "all-MiniLM-L6-v2", 1)


# ---- IKE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["query0", "query1"])
def test_ikes_demonstrations_are_those_of_the_published_code(data_dir: Path, query: str) -> None:
    arrays, meta = golden(data_dir, "ike")
    sizes = [(meta["paraphrases"], meta["neighbours"])] * meta["records"]
    assert list(KINDS) == meta["kinds_before_shuffle"]
    ranked, seed = arrays[f"{query}/ranked_records"].tolist(), int(arrays[f"{query}/seed"])
    found = [[b.record, b.kind, b.chosen, int(b.kind == RETAIN)] for b in demonstrate(ranked, KINDS, sizes, seed)]
    assert found == arrays[f"{query}/blocks"].tolist()
    assert [row[1] for row in found].count(UPDATE) == 12


def facts() -> list[Fact]:
    return [
        Fact(
            Prompt("{} was born in", name, "Warsaw"), "Paris",
            paraphrases=(Question(f"The birthplace of {name} is", "Warsaw"),),
            neighbourhood=(Question(f"{name} wrote about", "music"),),
        )
        for name in ("Ada Lovelace", "Poland", "Marie Curie")
    ]  # fmt: skip


def test_ike_says_the_fact_among_demonstrations_nearest_last() -> None:
    model = model_of()
    hparams = EDITORS["ike"].presets["published"].with_(copies=1, updates=1, retains=0)

    def blocks_of() -> list[str]:
        change = ike.make(ike.job(model, CURIE, hparams=hparams, demonstrations=facts())).change
        return str(change.header["frame"]).split("\n\n")

    blocks = blocks_of()
    assert blocks[-1] == "New Fact: Marie Curie was born in Paris\nPrompt: {}"
    assert blocks[-2] == "New Fact: Marie Curie was born in Paris\nPrompt: Marie Curie was born in Paris"
    assert len(blocks) == 4
    assert all("Marie Curie" not in block for block in blocks[:2])
    lines = [f"{f.prompt.text} Paris" for f in facts()]
    vectors = of_model(model, lines, model.n_layers // 2)
    nearest = ranking(vectors, of_model(model, ["Marie Curie was born in Paris"], 2)[0], "cosine")[1]
    assert lines[nearest] in blocks[1]
    assert blocks_of() == blocks
    with pytest.raises(UsageError, match=r"has \d+ tokens with its answer; small-gpt2 takes at most 64: shorten it"):
        ike(model, CURIE, hparams=hparams, demonstrations=facts())
    with pytest.raises(UsageError, match="ike shows 2 demonstrations and was given no facts for them"):
        ike(model, CURIE, hparams=hparams)
    with pytest.raises(UsageError, match="it needs one {fact}, and {line} at its end"):
        hparams.with_(block="{fact}")
    assert demonstrate([0], [RETAIN], [(0, 0)], 0) == [Block(0, COPY)]


def test_a_subject_is_traced_through_ike() -> None:
    """The subject of the question is corrupted, not its namesake in the fact that stands before it."""
    model = model_of()
    made = ike(model, CURIE, hparams=EDITORS["ike"].presets["default"])
    prompt = Prompt("{} was born in", "Marie Curie", "Paris", id="curie")
    with made.on(model) as asked:
        tokenised = asked.tokenise(prompt)
        start, end = tokenised.subject
        assert "".join(tokenised.tokens[start:end]).strip() == "Marie Curie"
        assert start > 5
        table = trace(asked, [prompt], corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp.each @ every),
                      progress=False)  # fmt: skip
        assert set(table.frame["prompt"]) == {"curie"}


# ---- memories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("editor", [memprompt, mello])
def test_a_memory_answers_what_it_knows_and_nothing_else(editor: Any, tmp_path: Path) -> None:
    model = model_of()
    ids = torch.tensor([model.encode("It rained")])
    plain = model.logits(ids)
    hparams = EDITORS[editor.name].presets["default"].with_(lookup="spelled", key="prompt", below=0.2)
    sequence = EditSequence(model, editor, hparams=hparams)
    for request in (CURIE, POLAND):
        sequence.add(request)
    both = editor(model, [CURIE, POLAND], hparams=hparams)
    for edit in (sequence.edit, both):
        with edit.on(model) as asked:
            assert asked.framed("Marie Curie was born in") == "Marie Curie was born in Paris. Marie Curie was born in"
            assert asked.framed("The capital of Poland is").startswith("The capital of Poland is rain. ")
            assert asked.framed("It rained") == "It rained"
            assert torch.equal(asked.logits(ids), plain)
    both.save(tmp_path / "edit.safetensors")
    assert Edit.load(tmp_path / "edit.safetensors") == both
    alone = edit_each(model, editor, [CURIE, POLAND], hparams=hparams, progress=False)
    assert [len(one.parts[0].change.header["entries"]) for one in alone if isinstance(one, Edit)] == [1, 1]


def test_a_memory_of_vectors_is_saved_found_and_refused_elsewhere(tmp_path: Path) -> None:
    model = model_of()
    made = memprompt(model, [CURIE, POLAND])
    made.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded == made
    with loaded.on(model) as asked:
        assert asked.framed(CURIE.prompt.text) == "Marie Curie was born in Paris. Marie Curie was born in"
    narrow = Recalled(Store().with_entry("a", "b", torch.zeros(3)), Near())
    with pytest.raises(UsageError, match="the memory of this edit answers to vectors of 3 numbers"):
        Edit.of(narrow, Provenance("by hand", model.fingerprint())).check(model)
    for words, message in (("{}", "exactly one '{text}'"), ("{text}", "exactly one '{}'")):
        with pytest.raises(UsageError, match=message):
            Recalled(Store(), Near(), words)
    with pytest.raises(UsageError, match="it needs one {prompt} and one {target}"):
        EDITORS["memprompt"].presets["default"].with_(text="{prompt}")


# ---- MeLLo --------------------------------------------------------------------------------------------------------


def test_mello_goes_as_the_published_loop(data_dir: Path) -> None:
    arrays, meta = golden(data_dir, "mello")
    vectors = pooled(arrays["token_states"], arrays["lengths"].tolist())
    known, queries = (
        vectors[: len(meta["facts"])],
        dict(zip(meta["queries"], vectors[len(meta["facts"]) :], strict=True)),
    )
    assert torch.allclose(known, arrays["fact_embeddings"], rtol=1e-12)
    for query, wanted in zip(queries.values(), arrays["ranking"], strict=True):
        assert ranking(known, query, "dot") == wanted.tolist()
    store = Store()
    for fact, vector in zip(meta["facts"], known, strict=True):
        store = store.with_entry(fact, fact, vector)
    answers = (meta["answers"]["new"], *meta["answers"]["alias"])
    memory, events = Recalled(store, Near(similarity="dot")), list[Any]()
    questions = [
        HopQuestion(tuple(f"Q{i}.{j}" for j in range(len(scripts))), answers)
        for i, scripts in enumerate(meta["scripts"])
    ]
    at: dict[str, int] = {}

    def write(prompt: str) -> str:
        question = prompt.split("Question: ")[1].split("\n")[0].strip()
        number = at[question] = at.get(question, -1) + 1
        found = [line for line in prompt.split("\n") if line.startswith("Retrieved fact: ")]
        facts_in = [int(line.removeprefix("Retrieved fact: fact ").rstrip(".")) for line in found]
        events.append({"question": question, "generation": number, "retrieved_so_far": facts_in})
        item, phrasing = map(int, question[1:].split("."))
        return str(meta["scripts"][item][phrasing][number])

    tried, right = mello_answers(
        questions, "TASK", write, memory, lambda words: torch.stack([queries[word] for word in words])
    )
    assert events == meta["events"]
    assert (sum(right), len(right)) == (int(arrays["correct"]), int(arrays["total"]))
    shown = str(tried[0][0])
    assert shown.startswith("Question: Q0.0\nSubquestion: who a\nA0\nRetrieved fact: fact 1.\n")
    assert shown.endswith("Final answer: NEW\n=> NEW")
    with pytest.raises(UsageError, match="the memory of MeLLo holds no fact"):
        mello_answer("Q", "TASK", write, Recalled(Store(), Near()), nothing)


def test_questions_in_the_shape_of_mquake_are_read(tmp_path: Path) -> None:
    rewrite = {"prompt": "{} was born in", "subject": "Marie Curie", "target_new": {"str": "Paris"}}
    record = {"questions": ["Which country ..."], "new_answer": "France", "new_answer_alias": ["FR"]}
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([{**record, "requested_rewrite": [rewrite]}]))
    [question] = read_hop_questions(path)
    assert question == HopQuestion(("Which country ...",), ("France", "FR"), (CURIE,))
    path.write_text(json.dumps([record]))
    with pytest.raises(UsageError, match="record 0 of .* has no 'requested_rewrite'; it needs questions, new_answer"):
        read_hop_questions(path)
    with pytest.raises(UsageError, match="there is no file of questions"):
        read_hop_questions(tmp_path / "no.json")


def test_a_model_writes_with_a_cache_what_it_writes_without() -> None:
    model = model_of()
    written, ids = writer(model, most=6)("Marie Curie was born in"), model.encode("Marie Curie was born in")
    for _ in range(6):
        ids.append(int(model.logits(torch.tensor([ids]), keep=1)[0, -1].argmax()))
    assert written == model.decode(ids[-6:])


def test_a_memory_made_by_mello_serves_the_loop() -> None:
    model = model_of()
    made = mello(model, [CURIE, POLAND], hparams=EDITORS["mello"].presets["published"])
    memory = made.parts[0].change
    assert isinstance(memory, Recalled)
    says = iter(["\nSubquestion: Marie Curie was born in\nGenerated answer: Warsaw\n", "\nFinal answer: Paris"])
    found = mello_answer("Where?", "TASK", lambda prompt: next(says), memory, memory_embedder(model, memory))
    assert found.rounds[0].fact in ("Marie Curie was born in Paris", "The capital of Poland is rain")
    assert found.answer == "Paris"


def test_an_encoder_decoder_has_no_memory() -> None:
    from support.zoo import encoder_decoder

    for editor in (ike, memprompt, mello):
        with pytest.raises(MechinterpError, match="is an encoder-decoder"):
            editor(encoder_decoder(), EditRequest(Prompt("the {} lives in town", "ada bo"), "rome"))

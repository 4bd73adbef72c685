"""Editing and evaluating with what people have at hand: one fact or several, a layer from a table, a file's name where
texts are meant.  Each is taken as it is meant, or refused in one sentence of the project's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.tokenizers import SENTENCES
from support.zoo import sentence_model

import mechinterp as mi
from mechinterp import Fact, Model, Prompt, Question, UsageError
from mechinterp.analysis import (
    Failed,
    Portability,
    References,
    ReferenceText,
    Sampling,
    ask_facts,
    diff,
    difference_of_effects,
    edit_by_layer,
    evaluate_edit,
    evaluate_edits,
    forecast,
    generate,
    leaderboard,
    portability_of,
    retention,
    score_answers,
)
from mechinterp.editing import (
    EDITORS,
    EditRequest,
    EditSequence,
    FtHparams,
    LinearMemory,
    SecondMoment,
    alphaedit,
    collect_moments,
    edit_each,
    editor,
    emmet,
    ft,
    kn,
    knowledge_neurons,
    memit,
    pmet,
    rome,
    sample_contexts,
    ultraedit,
)
from mechinterp.editing.rows.completions import perplexity
from mechinterp.patching import Gaussian, OtherSubject, corrupt, embed, last, mlp, restore, subject

pytestmark = pytest.mark.usefixtures("unchecked_types")

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
FACT = Fact(PROMPT, "Paris", paraphrases=(Question("The town of Marie Curie is"),))
OTHER = Fact(Prompt("{} wrote about", "Ada Lovelace", "engines"), "music")
REQUEST = EditRequest(PROMPT, "Paris")
QUICK = FtHparams(steps=1, max_essence=None)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "memit": memit, "emmet": emmet, "alphaedit": alphaedit, "pmet": pmet, "ft": ft, "kn": kn, "ultraedit": ultraedit,
}  # fmt: skip


@cache
def model() -> Model:
    return sentence_model("gpt2", dtype=torch.float64)


@cache
def identity(layer: int = 1) -> SecondMoment:
    return SecondMoment.identity(model(), layer)


def quick(requests: Any, layers: Any = 1) -> Any:
    """The cheapest edit there is."""
    return ft(model(), requests, layers, hparams=QUICK, allow_disabling=True)


# ---- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["Paris ", "  Paris", "Paris\n", "\tParis", "", " ", 1945, None, b"Paris", True])
def test_a_target_is_as_strict_as_a_subject(target: Any) -> None:
    match = "the target of the edit 'Marie Curie was born in'(, .*, begins or ends with blanks| is)"
    with pytest.raises(UsageError, match=match):
        EditRequest(PROMPT, target)
    if target is not None:
        with pytest.raises(UsageError, match="the target_new of 'Marie Curie was born in'|the target of the edit"):
            rome(model(), Fact(PROMPT, target), 1, moments=identity())
        with pytest.raises(UsageError, match="the target of the edit"):
            rome(model(), PROMPT, 1, moments=identity(), target=target)


def test_a_request_from_what_is_at_hand() -> None:
    assert EditRequest(FACT, "Paris") == EditRequest.of(FACT) == EditRequest.of(PROMPT, "Paris") == REQUEST
    for given in (FACT, [FACT], (REQUEST,), iter([FACT]), {FACT: 1}.keys(), np.array([REQUEST, None])[:1]):
        assert EditRequest.all_of(given) == [REQUEST]
    for bad in ("Marie Curie", ["Marie"], 3, None, [None], Question("x"), {"prompt": PROMPT}, [[FACT]]):
        with pytest.raises(UsageError, match=r"is no request; give EditRequest\(prompt, target\), or a Fact") as said:
            EditRequest.all_of(bad)
        assert len(str(said.value)) < 200
    with pytest.raises(UsageError, match="' Paris' brings a blank, and join='' says which"):
        EditRequest(Prompt("{} is", "Marie", join=""), " Paris")


@pytest.mark.parametrize("name", [*EDITORS])
def test_no_request_and_no_requests(name: str) -> None:
    method = EDITORS[name]
    moments = identity() if method.needs_moments else None
    calls = [
        lambda given: method(model(), given, 1, moments=moments),
        lambda given: edit_each(model(), method, given, 1, moments=moments, progress=False),
        lambda given: EditSequence(model(), method, 1, moments=moments, contexts=("{}",)).add(given),
    ]
    if name in FUNCTIONS:
        more = {"moments": moments} if method.needs_moments else {}
        calls.append(lambda given: FUNCTIONS[name](model(), given, 1, **more))
    for call in calls:
        for nothing in ([], (), iter(())):
            with pytest.raises(UsageError, match=f"^{name} was given no request; give at least one$"):
                call(nothing)
        for bad in ("Marie Curie", [PROMPT.text], 3, None):
            with pytest.raises(UsageError, match="is no request"):
                call(bad)


def test_one_request_or_several() -> None:
    wanted = quick([REQUEST])
    for given in (REQUEST, FACT, (FACT,), iter([REQUEST])):
        assert torch.equal(quick(given).delta(1), wanted.delta(1))
    sequence = EditSequence(model(), EDITORS["ft"], 1, hparams=QUICK, allow_disabling=True)
    assert torch.equal(sequence.add(FACT).delta(1), wanted.delta(1))
    [alone] = edit_each(model(), EDITORS["ft"], FACT, 1, hparams=QUICK, allow_disabling=True, progress=False)
    assert torch.equal(alone.delta(1), wanted.delta(1))
    assert wanted.report.outcomes[0].scored == " Paris"
    with pytest.raises(UsageError, match="there is no editor 3"):
        editor(3)
    with pytest.raises(UsageError, match="there is no editor 'romee'; the editors are rome"):
        editor("romee")


# ---- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, np.int64(1), torch.tensor(1), [1], (1,), range(1, 2), np.array([1]), -3, {1}])
def test_layers_of_every_library(layers: Any) -> None:
    assert quick(REQUEST, layers).layers == (1,)
    assert list(collect_moments(model(), SENTENCES, layers, max_tokens=9, progress=False)) == [1]
    made = memit(model(), REQUEST, layers, moments=identity(), contexts=("{}",), allow_disabling=True,
                 hparams=EDITORS["memit"].presets["default"].with_(steps=1))  # fmt: skip
    assert made.layers == (1,)
    assert knowledge_neurons(model(), FACT, layers) == knowledge_neurons(model(), PROMPT, [1])


@pytest.mark.parametrize("layer", [1, np.int64(1), torch.tensor(1), np.array(1), -3])
def test_one_layer_of_every_library(layer: Any) -> None:
    assert SecondMoment.identity(model(), layer).layer == 1
    assert LinearMemory.of(model(), layer, identity()).moments.layer == 1
    edit = rome(model(), FACT, layer, moments={1: identity()}, contexts=("{}",), allow_disabling=True,
                hparams=mi.editing.RomeHparams(steps=1))  # fmt: skip
    assert edit.layers == (1,)
    assert edit.report.scored == " Paris"


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, "mlp", [1.5], [True], {"a": 1}, np.array([1.0])], ids=repr)
def test_what_is_no_layer(bad: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: SecondMoment.identity(model(), bad),
        lambda: LinearMemory.of(model(), bad, identity()),
        lambda: collect_moments(model(), SENTENCES, bad, progress=False),
        lambda: edit_by_layer(model(), FACT, bad, lambda fact, layer: quick(fact), progress=False),
    ]
    if bad is not None:  # None: the default layers
        calls += [
            lambda: rome(model(), FACT, bad, moments=identity()),
            lambda: memit(model(), FACT, bad, moments=identity()),
            lambda: ft(model(), FACT, bad),
            lambda: kn(model(), FACT, bad),
            lambda: leaderboard(model(), FACT, "ft", layers={"ft": bad}, progress=False),
        ]
    for call in calls:
        with pytest.raises(UsageError, match="which is no whole number"):
            call()


def test_what_is_no_second_moment() -> None:
    for bad in ("moments.safetensors", 3, ["layer-1.safetensors"], torch.eye(3), {1: "layer-1.safetensors"}):
        for method in (rome, memit, EDITORS["rome"]):
            with pytest.raises(
                UsageError, match=r"^moments .*; give .*second moments; read a file with SecondMoment.load"
            ):
                method(model(), FACT, 1, moments=bad)
    with pytest.raises(UsageError, match=r"is no second moment; read a file with SecondMoment.load\(path\)"):
        LinearMemory.of(model(), 1, "moments.safetensors")
    one = memit(model(), FACT, 1, moments=[identity()], contexts=("{}",), allow_disabling=True,
                hparams=EDITORS["memit"].presets["default"].with_(steps=1))  # fmt: skip
    assert one.layers == (1,)


# ---- contexts and texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_sampled_contexts_are_different(seed: int) -> None:
    contexts = sample_contexts(model(), ((10, 4), (10, 5)), seed=seed)
    assert len(set(contexts)) == len(contexts) == 21
    greedy = sample_contexts(model(), ((3, 4),), top_k=1, seed=seed)
    assert len(greedy) == 2  # the model has one thing to say
    assert len(set(sample_contexts(model(), ((9, 2),), top_k=5, seed=seed))) == 6  # one token, of five


def test_a_context_that_came_once_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn anew changes nothing else: the contexts that were different are those of the first draw."""
    lengths = ((10, 4), (10, 5))
    kept = sample_contexts(model(), lengths)
    monkeypatch.setattr("mechinterp.editing.rows.contexts._TRIES", 0)
    first = sample_contexts(model(), lengths)
    assert 1 < len(first) < len(kept)
    assert [one for one in kept if one in first] == list(first)


def test_contexts_of_every_kind() -> None:
    assert sample_contexts(model(), ((2, 4),), starts="The", seed=np.int64(1), top_k=np.int64(5)) == sample_contexts(
        model(), ((2, 4),), starts=["The"], seed=1
    )
    for options, match in (
        ({"top_k": 2.5}, "top_k is 2.5, which is no whole number"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"starts": 3}, "starts is 3; give a list of names"),
    ):
        with pytest.raises(UsageError, match=match):
            sample_contexts(model(), **options)
    for contexts, match in (
        ("{}", "contexts is one string"),
        (3, "contexts is 3; give a list of templates"),
        (("{}", 3), "contexts holds 3; give templates"),
        (("{}", "So, {} "), "the context, 'So, {} ', ends with a blank"),
        ((), "the first context must be '{}'"),
    ):
        with pytest.raises(UsageError, match=match):
            rome(model(), FACT, 1, moments=identity(), contexts=contexts)


def test_a_prompt_that_fits_and_its_contexts_do_not() -> None:
    words = "of " * 40 + "{} was born in"
    long = Prompt(words, "Marie Curie")
    assert len(model().tokenise(long)) <= model().n_ctx - 3
    with pytest.raises(
        UsageError, match=r"has \d+ tokens in the context .*; pass contexts=\('{}',\) for the bare prompt"
    ):
        rome(model(), long, 1, moments=identity(), target="Paris")
    edit = rome(model(), long, 1, moments=identity(), target="Paris", contexts=("{}",), allow_disabling=True)
    assert edit.layers == (1,)
    with pytest.raises(UsageError, match="takes at most 64: shorten it"):
        rome(model(), Prompt("of " * 80 + "{} is", "Marie Curie"), 1, moments=identity(), target="Paris")


def test_one_string_where_texts_are_meant() -> None:
    text = "People spoke about the river."
    retained = {1: quick(FACT)}
    for call in (
        lambda given: collect_moments(model(), given, 1, progress=False),
        lambda given: SecondMoment.collect(model(), given, 1, progress=False),
        lambda given: perplexity(model(), given),
        lambda given: rome(model(), FACT, 1, moments=identity(), contexts=("{}",), perplexity_texts=given),
        lambda given: generate(model(), given),
        lambda given: evaluate_edits(model(), [retained[1]], FACT, held_texts=given, metrics="perplexity"),
        lambda given: leaderboard(model(), FACT, "ft", layers={"ft": 1}, held_texts=given, progress=False),
        lambda given: retention(model(), retained, [[FACT]], held_texts=given, progress=False),
        lambda given: References([ReferenceText("a", "b", "some words")], given),
        lambda given: References([ReferenceText("a", "b", "some words")]).consistency(given, "a", "b"),
    ):
        for bad in (text, 3, [text, 3], text.encode()):
            with pytest.raises(
                UsageError, match=r"(is one string; give a list|which is no list of texts|which is no text)"
            ):
                call(bad)
    with pytest.raises(UsageError, match="templates is one string"):
        knowledge_neurons(model(), FACT, 1, templates="{} lived in")


@pytest.mark.parametrize("prompt", ["", " ", "The river ", "The river\n", 3], ids=repr)
def test_a_beginning_that_cannot_be_continued(prompt: Any) -> None:
    with pytest.raises(UsageError, match="^(the prompt|prompts)"):
        generate(model(), [prompt], Sampling(20))
    if isinstance(prompt, str):
        with pytest.raises(UsageError, match="a text of generation"):
            Fact(PROMPT, generation=(prompt,))


@pytest.mark.parametrize("options", [{"length": 2.5}, {"top_k": True}, {"seed": -1}, {"batch_size": "64"}])
def test_sampling_of_no_numbers(options: Any) -> None:
    with pytest.raises(UsageError):
        Sampling(**options)
    assert Sampling(np.int64(20), seed=torch.tensor(3)) == Sampling(20, seed=3)


# ---- facts --------------------------------------------------------------------------------------------------------


def test_what_stands_around_a_fact() -> None:
    question = Question("The town is", "Paris")
    assert Fact(PROMPT, paraphrases=[question], generation=["Marie"]) == Fact(
        PROMPT, paraphrases=(question,), generation=("Marie",)
    )
    assert Fact(PROMPT, neighbourhood=question).neighbourhood == (question,)
    assert hash(Fact(PROMPT, paraphrases=[question]))
    for options, match in (
        ({"paraphrases": "The town is"}, "paraphrases is one string, .*; give a list of Question"),
        ({"paraphrases": ["The town is"]}, r"paraphrases holds 'The town is'; give Question\(text, answer\)"),
        ({"same_subject": [question]}, r"same_subject holds .*; give Prompt"),
        ({"generation": "Marie"}, "generation is one string"),
        ({"generation": [3]}, "generation holds 3"),
        ({"one_hop": 3}, "one_hop is 3; give a list of Question"),
        ({"target_new": 1945}, "the target_new of .* is 1945, which is no text"),
        ({"target_new": "Paris "}, "the target_new of .*, 'Paris ', begins or ends with blanks"),
    ):
        with pytest.raises(UsageError, match=match):
            Fact(PROMPT, **options)
    for bad in ("Marie Curie was born in", None, question):
        with pytest.raises(UsageError, match=r"is no prompt; give Prompt\(template, subject, answer\)"):
            Fact(bad)
    with pytest.raises(UsageError, match="one_hop is one string"):
        Portability(one_hop="The country is")


def test_one_fact_or_several_are_judged() -> None:
    edit = quick(FACT)
    wanted = ask_facts(model(), [FACT], ["ES"])
    for given in (FACT, (FACT,), iter([FACT])):
        pd.testing.assert_frame_equal(ask_facts(model(), given, "ES"), wanted)
    assert evaluate_edits(model(), [edit], FACT, metrics="ES", progress=False).records["metric"].unique().tolist() == [
        "ES"
    ]
    assert len(forecast(model(), edit, FACT)) == len(diff(model(), [edit], FACT)) == 1
    seen = retention(model(), {1: edit}, [FACT], metrics="ES_acc", progress=False)
    assert set(seen.records["metric"]) == {"ES_acc"}
    at = edit_by_layer(model(), FACT, np.int64(1), lambda fact, layer: quick(fact, layer), progress=False)
    assert set(at["layer"]) == {1}
    assert portability_of(FACT, aliases={"Marie Curie": "Marie"}) == portability_of(
        [FACT], aliases={"Marie Curie": ["Marie"]}
    )


@pytest.mark.parametrize(
    "bad", ["facts.json", ["facts.json"], 3, None, PROMPT, [PROMPT], [None]], ids=lambda b: repr(b)[:20]
)
def test_what_is_no_fact(bad: Any) -> None:
    edit = quick(FACT)
    for call in (
        lambda: ask_facts(model(), bad),
        lambda: evaluate_edits(model(), [edit], bad, progress=False),
        lambda: forecast(model(), edit, bad),
        lambda: diff(model(), edit, bad),
        lambda: retention(model(), {1: edit}, [bad], progress=False),
        lambda: leaderboard(model(), bad, "ft", layers={"ft": 1}, progress=False),
        lambda: edit_by_layer(model(), bad, 1, lambda fact, layer: edit, progress=False),
        lambda: portability_of(bad),
    ):
        with pytest.raises(UsageError, match=r"^facts .*Fact\(prompt, target_new\), or read a file of them") as said:
            call()
        assert len(str(said.value)) < 250
    with pytest.raises(UsageError, match=r"is no fact; give Fact\(prompt, target_new\)"):
        evaluate_edit(model(), edit, bad)


def test_names_and_numbers_of_a_leaderboard() -> None:
    for options, match in (
        ({"editors": 3}, "editors is 3; give a list of names"),
        ({"editors": []}, "no editor is named"),
        ({"editors": [3]}, "editors holds 3; give names"),
        ({"editors": "romee"}, "there is no editor 'romee'"),
        ({"metrics": "ESS"}, "there is no metric 'ESS'"),
        ({"metrics": 3}, "metrics is 3; give a list of names"),
        ({"edits": "one"}, "edits='one' is no way of editing"),
        ({"edits": "batch", "sizes": 1.5}, "sizes is 1.5, which is no whole number"),
        ({"edits": "batch", "sizes": "1"}, "sizes is '1', which is no whole number"),
        ({"groups": 1.5}, "groups is 1.5"),
        ({"per_step": True}, "per_step is True"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(UsageError, match=match):
            leaderboard(model(), FACT, **{"editors": "ft", "layers": {"ft": 1}, "progress": False, **options})


def test_edits_that_are_none() -> None:
    for bad in ("edit.safetensors", 3, [None], ["edit.safetensors"]):
        for look in (forecast, diff):
            with pytest.raises(UsageError, match="^edits "):
                look(model(), bad, FACT)
    with pytest.raises(UsageError, match="there is no edit to look at"):
        diff(model(), [Failed("why")], FACT)
    for options in ({"sample": 1.5}, {"sample": True}, {"seed": -1}):
        with pytest.raises(UsageError):
            diff(model(), quick(FACT), [FACT, OTHER], **options)


# ---- pairs and what is scored -------------------------------------------------------------------------------------


def test_what_is_scored_is_said() -> None:
    pairs = [("The river was in", "Paris"), ("It costs", "$5"), ("It is (", "Paris")]
    found = score_answers(model(), pairs)
    assert found["scored"].tolist() == [" Paris", " $5", "Paris"]
    assert found["splits"].all()
    asked = score_answers(model(), [Question("It costs", "$5", ""), Prompt("{} costs", "Paris", "$5", join="")])
    assert asked["scored"].tolist() == ["$5", "$5"]
    pd.testing.assert_frame_equal(score_answers(model(), Question(*pairs[0])), found[:1])


@pytest.mark.parametrize(
    "bad", [("The river was in", "Paris"), "The river was in", [("The river",)], [3], [("The river", "Paris", "x")], 3]
)
def test_what_is_no_pair(bad: Any) -> None:
    with pytest.raises((UsageError, TypeError), match="is no pair of a text and an answer|not iterable"):
        score_answers(model(), bad)


@pytest.mark.parametrize(
    "pair", [("The river ", "Paris"), ("The river", "Paris "), ("The river", ""), ("", "Paris"), ("The river", 3)]
)
def test_a_pair_is_as_strict_as_a_prompt(pair: Any) -> None:
    with pytest.raises(UsageError):
        score_answers(model(), [pair])


def test_a_merge_at_the_border_is_said_everywhere() -> None:
    prompt = Prompt("{} spoke abo", "Ada Lovelace", "ut", id="merging", join="")
    assert not model().continuation(prompt, "ut").splits
    found = mi.run(model(), prompt, mi.patching.nothing)
    assert "merges with the end of 'Ada Lovelace spoke abo'" in str(found)
    table = mi.trace(model(), prompt, kinds="mlp", severed=(), draws=1, progress=False)
    [warning] = [one for one in table.meta["warnings"] if "merges" in one]
    assert warning in [str(one) for one in mi.analysis.diagnose(table)]
    assert table.meta["scored"] == {"merging": "ut"}
    fact = Fact(prompt, "ing")
    edit = quick(EditRequest(prompt.with_answer(None), "ut"))
    assert any("merges with the end of the prompt" in one for one in edit.report.warnings)
    judged = evaluate_edits(model(), [edit], fact, metrics="ES", progress=False)
    assert any("answers merge with the end of their questions" in note for note in judged.notes)
    assert judged.answers["splits_true"].tolist() == [0.0, 0.0]
    made = rome(
        model(), EditRequest(prompt.with_answer(None), "ut"), 1, moments=identity(), contexts=("{}",),
        hparams=mi.editing.RomeHparams(steps=1), allow_disabling=True,
    )  # fmt: skip
    assert made.report.scored == "ut"
    assert any("merges" in one for one in made.report.warnings)


def test_a_foil_that_merges_is_said() -> None:
    prompt = Prompt("{} spoke abo", "Ada Lovelace", "and", id="merging", join="")
    table = mi.trace(model(), prompt, kinds="mlp", severed=(), draws=1, foil="ut", progress=False)
    assert [one for one in table.meta["warnings"] if "merges" in one] == [
        "the foil 'ut' merges with the end of 'Ada Lovelace spoke abo': given both as one text, the tokenizer does not "
        "split them there, so the model has hardly seen these tokens in a row"
    ]
    with pytest.raises(UsageError, match="'mlp' chooses no site; write"):
        difference_of_effects(table, "mlp", {"component": "attn"})


def test_a_trace_without_noise_is_not_told_to_draw() -> None:
    swap = corrupt(embed @ subject, OtherSubject("Marie Curie")) | restore(mlp.each @ last)
    for program, few in ((swap, False), (corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp.each @ last), True)):
        table = mi.trace(model(), PROMPT, program, progress=False)
        assert ("few-draws" in [one.code for one in mi.analysis.diagnose(table)]) == few


def test_one_name_of_a_metric_or_a_column() -> None:
    judged = evaluate_edits(model(), [quick(FACT), quick(OTHER)], [FACT, OTHER], metrics=["ES", "EM"], progress=False)
    pd.testing.assert_frame_equal(
        mi.analysis.compare(judged, judged, "ES"), mi.analysis.compare(judged, judged, iter(["ES"]))
    )
    records = judged.records.assign(layer=1)
    pd.testing.assert_frame_equal(mi.analysis.summarise(records, "layer"), mi.analysis.summarise(records, ["layer"]))
    board = leaderboard(model(), [FACT, OTHER], "ft", layers={"ft": np.array([1])}, hparams={"ft": QUICK},
                        metrics=["ES", "EM"], progress=False)  # fmt: skip
    assert board.rows("ES") == board.rows(["ES"])
    assert board.rows("ES")[0][3:4] == ["ES"]
    assert mi.analysis.plot_leaderboard(board, metrics="ES").axes
    with pytest.raises(UsageError, match="contexts is one string"):
        mi.analysis.rome_by_layer(model(), FACT, 1, {1: identity()}, contexts="{}", progress=False)


def test_rome_takes_a_list_of_one() -> None:
    given: dict[str, Any] = {"moments": identity(), "contexts": ("{}",), "allow_disabling": True, "progress": False}
    request = EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris")
    assert mi.rome(model(), [request], 1, **given) == mi.rome(model(), request, 1, **given)
    assert mi.rome(model(), [request.prompt], 1, target="Paris", **given) == mi.rome(model(), request, 1, **given)
    with pytest.raises(UsageError, match="rome writes one fact at a time, not 2; edit them one after the other"):
        mi.rome(model(), [request, request], 1, **given)

"""What a user mixes up every day, at the door of public functions: one sentence, and never an error of Python's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_model, sentence_model

import mechinterp as mi
from mechinterp import Edit, Fact, MechinterpError, Prompt, Question, SecondMoment, Table, UsageError, analysis
from mechinterp.editing import (
    EDITORS,
    Demonstrations,
    EditRequest,
    EditSequence,
    Mentions,
    collect_moments,
    edit_each,
    memit,
    rome,
    sample_contexts,
)
from mechinterp.patching import Gaussian, Mean, corrupt, embed, embedding_sigma, plan, run, subject, trace
from mechinterp.public import public

# A wrong type is handed in on purpose, to see what a user sees.
pytestmark = pytest.mark.usefixtures("unchecked_types")

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
NOISE = corrupt(embed @ subject, Gaussian(draws=2))
A_MODEL = r"give a model: load one with mi.load\(\.\.\.\)"


def model() -> Any:
    return sentence_model()


@pytest.mark.parametrize(
    "work",
    [
        lambda given: run(given, PROMPT, NOISE),
        lambda given: trace(given, [PROMPT], progress=False),
        lambda given: embedding_sigma(given),
        lambda given: rome(given, EditRequest(PROMPT, "Paris"), 1),
        lambda given: memit(given, [EditRequest(PROMPT, "Paris")], [1]),
        lambda given: EditSequence(given, "rome"),
        lambda given: collect_moments(given, ["a"], [1]),
        lambda given: SecondMoment.identity(given, 1),
        lambda given: sample_contexts(given, [(1, 2)]),
        lambda given: analysis.score_answers(given, [("a", "b")]),
        lambda given: analysis.generate(given, ["a"]),
        lambda given: analysis.known(given, []),
    ],
)
def test_something_else_than_a_model(work: Callable[[Any], Any]) -> None:
    for given, named in (("atlas", "'atlas'"), (hf_model(), "of the type GPT2LMHeadModel"), (None, "None")):
        with pytest.raises(UsageError, match=f"model is {named}; {A_MODEL}"):
            work(given)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda: analysis.diagnose(None), "table is None; give a table, as trace"),
        (lambda: analysis.plot_aie("x"), "is 'x'; give a table, as trace"),
        (lambda: analysis.summarise("x"), "records is 'x'; give a pandas DataFrame"),
        (lambda: Table.load(3), "path is 3; give the path of a file or folder"),
        (lambda: Edit.load(None), "path is None; give the path of a file or folder"),
        (lambda: plan(model(), PROMPT, reference="no"), "reference is 'no'; give True or False"),
        (lambda: rome(model(), EditRequest(PROMPT, "Paris"), 1, force="no"), "force is 'no'; give True or False"),
        (lambda: analysis.bootstrap_mean("x"), "values is 'x', which holds no numbers"),
        (lambda: analysis.bootstrap_mean(np.arange(9.0), level=True), "level is True, which is no number"),
        (lambda: analysis.bootstrap_mean(np.arange(9.0), level=95), "level=95 is not a coverage between 0 and 1"),
        (lambda: analysis.bootstrap_mean(np.arange(9.0), resamples=0), "resamples=0 draws no bootstrap sample"),
        (lambda: analysis.bootstrap_mean(np.arange(9.0), seed=None), "seed is None, which is no whole number"),
        (lambda: Mean(np.array(2)), r"texts is array\(2\), which is no list of texts"),
        (lambda: run(model(), np.array(2), NOISE), r"array\(2\) is no prompt"),
        (lambda: memit(model(), torch.tensor(3), [1]), r"tensor\(3\) is no request"),
        (lambda: Mentions(""), "is empty; give the words"),
        (lambda: Mentions("Rome "), "begins or ends with a space"),
        (lambda: Demonstrations("New fact. {} "), "has blanks around it, which would be read"),
        (lambda: embedding_sigma(model(), ["Rome "]), "begins or ends with a space"),
        (lambda: sample_contexts(model(), [(1, 3)], starts=[""]), "starts holds no word that a context could begin"),
        (lambda: Question("The tag <b> is ", "a"), "ends with a blank"),
        (lambda: Fact(Prompt("{} is", "Rome", "x", join=""), target_new=" Spain"), "brings a blank, and join=''"),
        (lambda: mi.load("a" * 300), "there is no model 'aaa.*nor can there be: File name too long"),
    ],
)
def test_one_sentence(work: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        work()


def test_what_is_right_passes_the_door(tmp_path: Path) -> None:
    @public
    def taken(path: str | Path, flag: bool = False, name: str | None = None) -> tuple[object, ...]:
        return path, flag, name

    assert taken("a") == ("a", False, None)
    assert taken(tmp_path, np.True_, name="b") == (tmp_path, True, "b")
    with pytest.raises(UsageError, match="flag is 1; give True or False"):
        taken("a", 1)
    with pytest.raises(UsageError, match="path is 3; give the path of a file or folder"):
        taken(3)
    assert taken.__name__ == "taken"
    assert np.allclose(analysis.bootstrap_mean([1.0, 2, 3, 4, 5, 6]).estimate, 3.5)


def test_a_scope_of_words_means_whole_words() -> None:
    assert Mentions("Ann").holds(["Ann is", "Annabel is", "Is Ann?"]) == [True, False, True]


def test_sigma_follows_the_weights() -> None:
    own = model()
    before = embedding_sigma(own)
    with torch.no_grad():
        own.bridge.original_model.get_input_embeddings().weight.mul_(2)
    assert embedding_sigma(own) == pytest.approx(2 * before)
    with torch.no_grad():
        own.bridge.original_model.get_input_embeddings().weight[3] = torch.nan
    with pytest.raises(MechinterpError, match="the embeddings of small-gpt2 hold NaN or infinite values"):
        embedding_sigma(own)


def test_hyperparameters_of_numpy_are_kept_and_an_editors_name_is_enough() -> None:
    own = model()
    hparams = dataclasses.replace(EDITORS["rome"].presets["default"], lr=np.float32(0.25), steps=np.int64(3))
    more: dict[str, Any] = {"moments": SecondMoment.identity(own, 1), "contexts": ("{}",), "allow_disabling": True}
    [made] = edit_each(own, "rome", [EditRequest(PROMPT, "Paris")], [1], hparams=hparams, progress=False, **more)
    assert isinstance(made, Edit)
    assert made.provenance.hparams["lr"] == 0.25
    assert made.provenance.hparams["steps"] == 3


def test_names_of_editors_that_take_no_part() -> None:
    for what in ("layers", "hparams"):
        with pytest.raises(UsageError, match=f"{what} are given for 'memitt', which takes no part; the editors are ft"):
            analysis.leaderboard(model(), [Fact(PROMPT, target_new="Paris")], "ft", **{what: {"memitt": 3}})


def test_a_head_of_fewer_tokens_is_refused() -> None:
    network: Any = hf_model("llama")
    network.lm_head = torch.nn.Linear(network.config.hidden_size, 10, bias=False)
    with pytest.raises(MechinterpError, match="has 34 tokens, and its head gives logits of 10"):
        mi.load(network, tokenizer=words(), name="cut")


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_is_not_replaced_and_a_link_stays(tmp_path: Path) -> None:
    from mechinterp.runs.files import write_text

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a device or a pipe, which no file can replace"):
        write_text(tmp_path / "pipe", "it")
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("stop_loss", None, "stop_loss is None, which is no number"),
        ("steps", 1e30, "steps is 1e[+]30, which is no whole number"),
        ("kl_template", 0, "kl_template is 0; write exactly one"),
        ("context_lengths", True, "context_lengths is True; give pairs"),
        ("context_lengths", (("a", 2),), "give pairs"),
        ("key_ratio_band", None, r"key_ratio_band is None; give \(low, high\)"),
    ],
)
def test_hyperparameters_of_another_kind(name: str, value: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        dataclasses.replace(EDITORS["rome"].presets["default"], **{name: value})


def test_reference_texts_are_looked_at() -> None:
    for given in (("r", "Rome ", "x"), (None, "Rome", "x"), ("r", "Rome", " ")):
        with pytest.raises(UsageError):
            analysis.ReferenceText(*given)


def test_a_prompt_that_the_tokenizer_cannot_spell_is_said() -> None:
    own = mi.load(hf_model("llama"), tokenizer=words(), name="words")
    table = trace(own, [Prompt("zzqq {} lives in", "ada", "rome")], kinds="mlp", severed=(), draws=1, progress=False)
    assert any("cannot spell all of 'zzqq ada lives in'" in one for one in table.meta["warnings"])

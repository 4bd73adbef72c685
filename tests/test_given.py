"""Values and types of every day: numbers of NumPy and PyTorch, lists and ranges, one string where several are meant, a
fact where a prompt is expected.  Each is taken as it is meant, or refused in one sentence of the project's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.zoo import small_model

import mechinterp as mi
from mechinterp import Fact, Model, Prompt, UsageError
from mechinterp.given import MAX_SEED, names_of, number, seed_of, several, texts_of, whole, wholes
from mechinterp.patching import (
    Corrupted,
    Delta,
    Gaussian,
    Given,
    Mean,
    OtherSubject,
    PublishedNoise,
    Run,
    Uniform,
    Zero,
    add,
    after_subject,
    at,
    causal_tracing,
    corrupt,
    embed,
    embedding_sigma,
    every,
    everywhere,
    explain,
    further,
    here,
    k,
    last,
    mlp,
    nothing,
    read,
    restore,
    run,
    sever,
    subject,
    z,
)

pytestmark = pytest.mark.usefixtures("unchecked_types")

PROMPT = Prompt("the {} lives in town", "ada bo", "rome", id="p0", relation="home")
OTHER = Prompt("born in {} was", "cy dee", "oslo turku", id="p1")
NOISE = corrupt(embed @ subject, Gaussian(draws=2))

THREES = (
    3,
    np.int64(3),
    np.int8(3),
    np.array(3),
    torch.tensor(3),
    torch.tensor(3, dtype=torch.int16),
    pd.Series([3])[0],
)
"""The number three, as libraries give it."""

NO_NUMBERS: tuple[Any, ...] = (
    True,
    np.True_,
    torch.tensor(True),
    3.0,
    np.float64(3.0),
    torch.tensor(3.0),
    "3",
    b"3",
    None,
    {"a": 1},
    [1.5],
    np.array([1.5]),
    object(),
)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model(dtype=torch.float64)


# ---- the normalisers ----------------------------------------------------------------------------------------------


def without_address(value: object) -> str:
    """The name of a test, the same in every process."""
    return re.sub(" at 0x.*", "", repr(value))


@pytest.mark.parametrize("three", THREES, ids=lambda value: type(value).__name__)
def test_whole_numbers_of_every_library(three: Any) -> None:
    assert whole(three, "n") == 3
    assert type(whole(three, "n")) is int
    assert wholes(three, "n") == (3,)
    assert number(three, "n") == 3.0


@pytest.mark.parametrize(
    "given",
    [
        [0, 3],
        (0, 3),
        range(0, 4, 3),
        np.array([0, 3]),
        torch.tensor([0, 3]),
        {0: "", 3: ""}.keys(),
        pd.Series([0, 3]),
        pd.Index([0, 3]),
        (i for i in (0, 3)),
    ],
)
def test_several_whole_numbers(given: Any) -> None:
    assert wholes(given, "n") == (0, 3)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=without_address)
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^n is .*, which is no whole number; give one such as 3$"):
        wholes(value, "n")


@pytest.mark.parametrize("value", [-1, MAX_SEED + 1, 2**64, True, 0.5, "0", None])
def test_seeds_that_some_generator_refuses(value: Any) -> None:
    with pytest.raises(UsageError, match="^seed is "):
        seed_of(value)
    assert seed_of(np.int64(MAX_SEED)) == MAX_SEED


def test_names_texts_and_things() -> None:
    assert names_of("mlp", "kinds") == names_of(["mlp"], "kinds") == ("mlp",)
    assert list(texts_of(dict.fromkeys(["a", "b"]), "texts")) == ["a", "b"]
    assert several(PROMPT, Prompt, "prompts", "Prompt(...)") == (PROMPT,)
    for call in (
        lambda: texts_of("a text", "texts"),
        lambda: texts_of(b"a text", "texts"),
        lambda: list(texts_of(["a", 3], "texts")),
        lambda: texts_of(3, "texts"),
        lambda: names_of(3, "texts"),
        lambda: names_of([3], "texts"),
        lambda: several("a", Prompt, "texts", "Prompt(...)"),
        lambda: several([PROMPT, "a"], Prompt, "texts", "Prompt(...)"),
    ):
        with pytest.raises(UsageError, match="^texts "):
            call()
    for value in ("3", b"3", True, np.True_, [3.0], None, np.array([1.0, 2.0])):
        with pytest.raises(UsageError, match="^level is .*, which is no number"):
            number(value, "level")


# ---- layers, positions, heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("three", THREES, ids=lambda value: type(value).__name__)
def test_a_number_of_any_library_is_an_index(three: Any) -> None:
    assert mlp[three] @ last == mlp[3] @ last
    assert str(mlp[three] @ subject[three]) == "mlp[3] @ subject[3]"
    assert at(three) == at(3)
    assert z.heads(three)[three] == z.heads(3)[3]
    assert mlp.window(three) == mlp.window(3)
    assert mlp[:three] == mlp[:3]
    assert subject[three:] == subject[3:]


@pytest.mark.parametrize(
    "given",
    [[0, 1], (0, 1), range(2), np.arange(2), torch.arange(2)],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value)),
)
def test_several_of_them(given: Any, model: Model) -> None:
    assert mlp[given] == mlp[0, 1] == mlp[[0, 1]]
    assert str(mlp[given]) == "mlp[0, 1]"
    assert at(given) == at(0, 1)
    assert str(at(given)) == "at(0, 1)"
    assert str(subject[given]) == "subject[0, 1]"
    assert z.heads(given) == z.heads(0, 1)
    tokenised = model.tokenise(PROMPT)
    assert at(given).resolve(tokenised) == (0, 1)
    assert at(-1, 0, 0).resolve(tokenised) == (0, len(tokenised) - 1)
    assert subject[given].resolve(tokenised) == subject.resolve(tokenised)
    assert everywhere[0:2].resolve(tokenised) == (0, 1)


@pytest.mark.parametrize(
    "value",
    [value for value in NO_NUMBERS if not isinstance(value, slice)],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value)),
)
def test_what_is_no_index(value: Any) -> None:
    for call in (
        lambda: mlp[value],
        lambda: mlp[0, value],
        lambda: subject[value],
        lambda: at(value),
        lambda: at(0, value),
        lambda: z.heads(value),
        lambda: mlp.window(value),
        lambda: mlp[:: value or "x"],
        lambda: subject[: value or "x"],
    ):
        with pytest.raises(UsageError, match="which is no whole number"):
            call()


def test_nothing_named() -> None:
    for call, match in (
        (at, r"at\(\) names no token; write at\(3\), or everywhere"),
        (lambda: at([]), "no token of at is named"),
        (lambda: subject[[]], "no token of subject is named"),
        (lambda: z.heads([]), r"heads\(\) names no head"),
        (lambda: mlp[::0], "a slice of mlp with the step 0 goes nowhere"),
        (lambda: subject[::0], "a slice of subject with the step 0 goes nowhere"),
        (lambda: subject[0][1], "index 'subject' once"),
        (lambda: subject[0, 1][1], "index 'subject' once"),
        (lambda: at(0)[1], r"use at\(3\) or subject\[-1\]"),
    ):
        with pytest.raises(UsageError, match=match):
            call()


def test_a_token_that_is_not_there(model: Model) -> None:
    tokenised = model.tokenise(PROMPT)
    with pytest.raises(UsageError, match="there is no token 9 in 'the ada bo lives in town', which has 6 tokens"):
        at(0, 9).resolve(tokenised)
    with pytest.raises(UsageError, match=r"subject\[0, 2\] does not exist in .*: 'subject' has 2 tokens there"):
        subject[0, 2].resolve(tokenised)


def test_heads_count_from_the_end(model: Model) -> None:
    count = model.n_heads
    wanted = run(model, PROMPT, corrupt(z.heads(count - 1)[1] @ last, Zero())).prob
    for heads in (-1, [-1], np.int64(-1), (-1, count - 1)):
        assert run(model, PROMPT, corrupt(z.heads(heads)[1] @ last, Zero())).prob == pytest.approx(wanted, abs=1e-12)
    for head in (count, -count - 1):
        with pytest.raises(UsageError, match=rf"head {head} is out of range: 'z' has heads 0 to {count - 1}"):
            run(model, PROMPT, corrupt(z.heads(head)[1] @ last, Zero()))
    kv = model.layout.n_kv_heads
    with pytest.raises(UsageError, match=rf"'k' has heads 0 to {kv - 1} in this model"):
        run(model, PROMPT, corrupt(k.heads(-kv - 1)[1] @ last, Zero()))


# ---- sentences that propose code ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meant", "hint"),
    [
        ("last", "mlp[3] @ last"),
        ("every", "mlp[3] @ every"),
        ("subject[-1]", "mlp[3] @ subject[-1]"),
        ("the end", "mlp[3] @ subject[-1]"),
        (3, "mlp[3] @ at(3)"),
        (np.int64(-1), "mlp[3] @ at(-1)"),
        ([0, 1], "mlp[3] @ at(0, 1)"),
        (None, "mlp[3] @ subject[-1]"),
        (mlp, "mlp[3] @ subject[-1]"),
    ],
)
def test_the_hint_of_a_position_can_be_written(meant: Any, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        mlp[3] @ meant
    assert str(refused.value).endswith(f"is no position; write {hint}")
    written = {name: value for name, value in vars(mi.patching).items() if not name.startswith("_")}
    assert str(eval(hint, written)) == hint


@pytest.mark.parametrize("verb", [corrupt, restore, sever])
def test_what_a_write_cannot_consist_of(verb: Callable[..., Any]) -> None:
    name, site = verb.__name__, mlp[3] @ last
    for source, match in (
        (NOISE, rf"a program is no source; write {name}\(mlp\[3\] @ last, Run\(program\)\)"),
        (Zero, rf"Zero is a kind of source; write {name}\(mlp\[3\] @ last, Zero\(\.\.\.\)\)"),
        (3.0, r"3.0 is no source of a value; give one such as Gaussian\(\), Zero\(\) or Given\(tensor\)"),
        (torch.zeros(3), "is no source of a value"),
        ("zero", "'zero' is no source of a value"),
    ):
        with pytest.raises(UsageError, match=match):
            verb(site, source)
    for place, match in (
        (mlp[3], rf"mlp\[3\] names no tokens; write {name}\(mlp\[3\] @ subject\[-1\]\)"),
        ("mlp", rf"'mlp' is no site; write {name}\(mlp\[3\] @ subject\[-1\]\)"),
        (subject, "is no site"),
    ):
        with pytest.raises(UsageError, match=match):
            verb(place, Zero())


def test_what_is_no_program(model: Model) -> None:
    for call in (
        lambda: NOISE | mlp,
        lambda: NOISE | None,
        lambda: run(model, PROMPT, mlp[3] @ last),
        lambda: run(model, PROMPT, [NOISE]),
        lambda: run(model, PROMPT, "noise"),
        lambda: mi.trace(model, PROMPT, "noise", progress=False),
        lambda: mi.trace(model, PROMPT, [mlp], progress=False),
    ):
        with pytest.raises(UsageError, match=r"is no program; write one such as corrupt\(embed @ subject, Gaussian"):
            call()
    with pytest.raises(UsageError, match="add.. takes an additive source|is no source"):
        add(mlp[3] @ last, Corrupted())


# ---- sources ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Gaussian, Uniform])
def test_noise_takes_numbers_of_every_library(noise: type[Gaussian]) -> None:
    wanted = noise(3.0, draws=2, seed=1)
    assert noise(np.float32(3), draws=np.int64(2), seed=torch.tensor(1)) == wanted
    assert str(noise(3, draws=np.int64(2), seed=np.uint8(1))) == str(wanted)
    assert noise(level=torch.tensor(0.5)) == noise(level=0.5)
    for bad in (
        {"draws": True},
        {"draws": 2.5},
        {"draws": "2"},
        {"seed": -1},
        {"seed": 1.5},
        {"sigmas": "3"},
        {"level": [1.0]},
        {"draws": 0},
        {"sigmas": True},
        {"sigmas": float("nan")},
    ):
        with pytest.raises(UsageError):
            noise(**bad)


def test_published_noise_takes_them_too() -> None:
    assert PublishedNoise(np.float64(0.1), draws=np.int64(2)) == PublishedNoise(0.1, draws=2)
    for bad in ({"draws": 2.0}, {"seed": -1}, {"block": -1}, {"level": "0.1"}):
        with pytest.raises(UsageError):
            PublishedNoise(**{"level": 0.1, **bad})


def test_a_mean_is_over_texts_and_never_over_letters(model: Model) -> None:
    assert Mean(["rome is", "oslo"]) == Mean(("rome is", "oslo"))
    assert hash(Mean(["rome"]))
    for texts, match in (
        ("rome is near", "texts is one string; give a list of texts, \\['rome is near'\\]"),
        ((), "a mean over no texts does not exist"),
        (("",), "a text of Mean is empty"),
        (("rome", 3), "texts holds 3, which is no text"),
        (3, "texts is 3, which is no list of texts"),
    ):
        with pytest.raises(UsageError, match=match):
            Mean(texts)
    long = Mean(("rome " * 100,))
    with pytest.raises(UsageError, match=r"the text 'rome .* has 100 tokens; .* takes at most 32: shorten it"):
        run(model, PROMPT, corrupt(mlp[1] @ subject, long))


def test_another_subject(model: Model) -> None:
    swap = OtherSubject({"ada bo": "cy dee"})
    assert swap == OtherSubject((("ada bo", "cy dee"),)) == OtherSubject([["ada bo", "cy dee"]])
    assert hash(swap)
    joined = Prompt("the {} lives in town", "ada bo", "rome", id="x", relation="home", join="")
    assert swap.prompt_for(joined) == Prompt("the {} lives in town", "cy dee", "rome", "x", "home", "")
    for bad in (3, "cy ", "", ["ada"], [("a", "b", "c")], [("ada bo", 3)], {"ada bo": " cy"}):
        with pytest.raises(UsageError):
            OtherSubject(bad)


def test_a_given_value(model: Model) -> None:
    values = [0.5] * model.d_model
    wanted = run(model, PROMPT, corrupt(mlp[1] @ last, Given(torch.tensor(values, dtype=torch.float64)))).prob
    for tensor in (values, np.array(values), np.array(values).tolist()):
        assert run(model, PROMPT, corrupt(mlp[1] @ last, Given(tensor))).prob == pytest.approx(wanted)
    for bad in (
        "x",
        None,
        3.0,
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.complex64),
        [["a"]],
        object(),
    ):
        with pytest.raises(UsageError, match="^Given takes a tensor"):
            Given(bad)
    for bad in ("x", [1.0], torch.zeros(3, dtype=torch.long), None):
        with pytest.raises(UsageError, match="^Delta takes a tensor of real numbers"):
            Delta(bad)
    with pytest.raises(UsageError, match="^Run takes a program"):
        Run(mlp)


# ---- prompts, facts, names ----------------------------------------------------------------------------------------


def test_a_fact_is_run_by_its_prompt(model: Model) -> None:
    wanted = run(model, PROMPT, nothing)
    fact = Fact(PROMPT, target_new="oslo")
    assert run(model, fact, nothing).clean.prob == wanted.clean.prob
    for several_given in ([fact], (fact,), [PROMPT], (one for one in [fact])):
        [found] = run(model, several_given, nothing)
        assert found.clean.prob == wanted.clean.prob
    assert torch.equal(read(model, fact, mlp[1] @ last), read(model, [PROMPT], mlp[1] @ last))
    assert str(explain(model, fact, NOISE)) == str(explain(model, PROMPT, NOISE))
    with pytest.raises(UsageError, match=r"explain\(\) takes one prompt, not 2"):
        explain(model, [PROMPT, OTHER], NOISE)


@pytest.mark.parametrize(
    "bad", ["ada lives in", ["ada lives in"], 3, None, [None], b"ada", mi.Question("ada lives in"), {"a": 1}], ids=repr
)
def test_what_is_no_prompt_is_said_shortly(model: Model, bad: Any) -> None:
    for call in (
        lambda: run(model, bad, nothing),
        lambda: mi.trace(model, bad, progress=False),
        lambda: mi.plan(model, bad),
        lambda: read(model, bad, mlp[1] @ last),
        lambda: explain(model, bad, NOISE),
    ):
        with pytest.raises(UsageError, match=r"is no prompt; give Prompt\(template, subject\) or Prompt.find") as said:
            call()
        assert len(str(said.value)) < 200


def test_names_stand_alone_or_in_lists(model: Model) -> None:
    noise = Gaussian(draws=2)
    assert causal_tracing(noise, 3, kinds="mlp", severed="attn") == causal_tracing(
        noise, 3, kinds=["mlp"], severed=["attn"]
    )
    assert (
        mi.plan(model, PROMPT, kinds="mlp", severed=[]).programs
        == mi.plan(model, [PROMPT], kinds=("mlp",), severed=()).programs
    )
    for bad in (3, [3], None, b"mlp"):
        with pytest.raises(UsageError, match="^kinds "):
            mi.plan(model, PROMPT, kinds=bad)
    for name, bad in (
        ("draws", 2.5),
        ("draws", True),
        ("seed", -1),
        ("seed", "0"),
        ("window", 2.5),
        ("window", True),
        ("sigmas", "3"),
    ):
        with pytest.raises(UsageError, match=f"^{name} is "):
            mi.plan(model, PROMPT, **{name: bad})
    made = mi.plan(model, PROMPT, draws=np.int64(2), window=np.int64(2), seed=np.int64(0), sigmas=np.float32(3))
    assert made.programs == mi.plan(model, PROMPT, draws=2, window=2).programs


def test_sigma_of_one_string_is_refused(model: Model) -> None:
    assert embedding_sigma(model, ["ada bo"]) == embedding_sigma(model, (one for one in ("ada bo",)))
    for bad in ("ada bo", 3, [3], b"ada"):
        with pytest.raises(UsageError, match="^subjects "):
            embedding_sigma(model, bad)


@pytest.mark.parametrize(
    "foil", ["", " ", "rome ", "  rome", 3, ["rome"], b"rome"], ids=lambda value: re.sub(" at 0x.*", "", repr(value))
)
def test_a_foil_is_as_strict_as_an_answer(model: Model, foil: Any) -> None:
    for call in (
        lambda: run(model, PROMPT, nothing, foil=foil),
        lambda: mi.trace(model, PROMPT, foil=foil, progress=False),
        lambda: mi.plan(model, PROMPT, foil=foil),
    ):
        with pytest.raises(UsageError, match="^the foil"):
            call()


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "ada lives in ", "ada lives in\n", 3, None, "ada " * 100], ids=lambda t: repr(t)[:20]
)
def test_a_text_that_cannot_be_completed(model: Model, text: Any) -> None:
    with pytest.raises(UsageError, match="^the text"):
        model.complete(text)


def test_positions_that_nobody_names_still_have_names() -> None:
    assert [str(one) for one in (after_subject, further, here, every)] == [
        "first subsequent",
        "further",
        "here",
        "every",
    ]


def test_a_model_reads_facts_and_single_tokens(model: Model) -> None:
    fact = Fact(PROMPT)
    assert model.tokenise(fact) == model.tokenise(PROMPT)
    assert model.answer_ids(fact, "oslo") == model.answer_ids(PROMPT, "oslo") == model.answer_ids(PROMPT.text, "oslo")
    token = model.answer_ids(fact, "oslo")[0]
    assert model.decode(token) == model.decode([token]) == model.decode(np.array([token])) == "oslo"
    for call in (lambda: model.tokenise("ada lives"), lambda: model.tokenise(3), lambda: model.answer_ids(3, "oslo")):
        with pytest.raises(UsageError, match="is no prompt; give Prompt"):
            call()
    for call in (lambda: model.encode(3), lambda: model.pieces(b"ada"), lambda: model.complete(PROMPT)):
        with pytest.raises(UsageError, match="^the text is .*, which is no text"):
            call()
    with pytest.raises(UsageError, match="^a token is 'oslo', which is no whole number"):
        model.decode("oslo")

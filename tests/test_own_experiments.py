"""Metrics and sources of the user's own: by hand, by both executors, and refused where they mislead."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tables import assert_same
from support.zoo import WIDTH, small_model
from torch import Tensor

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.analysis import indirect_effects, plot_aie, plot_prompt
from mechinterp.patching import (
    Gaussian,
    HookWrite,
    Metric,
    Place,
    add,
    corrupt,
    embed,
    every,
    everywhere,
    forward,
    last,
    mlp,
    nothing,
    resid,
    restore,
    run,
    subject,
    z,
)
from mechinterp.runs.code import code_hash

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")
ENGINES = ("exact", "plain")
NOISE = corrupt(embed @ subject, Gaussian(draws=3, level=0.5))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model(dtype=torch.float64)


def entropy(logits: Tensor, prompt: Prompt) -> Tensor:
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


ENTROPY = Metric(entropy, unit="nats", direction="down")


def test_a_metric_is_computed_of_the_final_logits(model: Model) -> None:
    result = run(model, PROMPT, NOISE, metric=["prob", ENTROPY, Metric(lambda logits, _: logits.amax(-1), name="top")])
    assert result.logits.shape == (3, 1, model.vocab_size)
    logp = result.logits[:, 0].log_softmax(-1).numpy()
    assert result["entropy"] == pytest.approx(-(np.exp(logp) * logp).sum(-1))
    assert result["top"] == pytest.approx(result.logits[:, 0].amax(-1).numpy())
    assert result["prob"] is result.prob
    clean = model.logits(torch.tensor([model.encode(PROMPT.text)]))[:, -1]
    assert result.clean["entropy"] == pytest.approx(entropy(clean, PROMPT).numpy())
    assert "entropy" in str(result)


def test_a_metric_of_all_answer_tokens(model: Model) -> None:
    prompt = Prompt(PROMPT.template, PROMPT.subject, "oslo turku")
    ids = model.answer_ids(prompt, "oslo turku")

    def both(logits: Tensor, prompt: Prompt) -> Tensor:
        return logits.log_softmax(-1)[:, range(2), list(ids)].sum(-1)

    result = run(model, prompt, NOISE, metric=Metric(both, answer_tokens=True))
    assert result["both"] == pytest.approx(result.log_prob)


def test_several_prompts_keep_no_logits_unless_asked(model: Model) -> None:
    with pytest.raises(UsageError, match="the logits of several prompts are not kept unless asked for; run"):
        run(model, [PROMPT], nothing)[0].logits  # noqa: B018
    assert run(model, [PROMPT], nothing, keep_logits=True)[0].logits.shape == (1, 1, model.vocab_size)


def test_both_executors_serve_it_and_tables_and_figures_have_it(model: Model, tmp_path: Path) -> None:
    prompts = [PROMPT, Prompt("the {} was near", "ada", "oslo"), Prompt("the {} was in", "eve", "oslo turku")]
    program = NOISE | restore(mlp.window(2) @ every)
    exact, plain = (
        mi.trace(model, prompts, program, metric=ENTROPY, engine=engine, progress=False) for engine in ENGINES
    )
    assert_same(exact, plain)
    assert (exact.frame["entropy"] - plain.frame["entropy"]).abs().max() <= 2e-6
    patched = exact.frame[exact.frame["run"] == "patched"]
    assert patched.groupby("prompt")["entropy"].nunique().min() > 3
    assert exact.meta["metrics"] == {"entropy": {"unit": "nats", "direction": "down"}}
    assert exact.metrics[-1] == "entropy"
    loaded = mi.Table.load(exact.save(tmp_path / "own.parquet"))
    effects = indirect_effects(loaded, "entropy")
    one = patched[(patched["prompt"] == PROMPT.name) & (patched["position"] == 2) & (patched["layer"] == 1)]
    base = exact.frame[(exact.frame["prompt"] == PROMPT.name) & (exact.frame["run"] == "corrupted")]
    found = effects.query(f"prompt == {PROMPT.name!r} and position == 2 and layer == 1")["effect"]
    assert found.item() == pytest.approx((one["entropy"].to_numpy() - base["entropy"].to_numpy()).mean())
    assert "entropy (nats)" in plot_prompt(loaded, PROMPT.name, "entropy").axes[-1].get_ylabel()
    assert "entropy (nats)" in plot_aie(loaded, "entropy").get_suptitle()


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (
            "probability",
            "there is no metric 'probability'; the names are prob, log_prob, logit_diff, rank, kl, and a",
        ),
        (3, "^3 is no metric; give a function of"),
        (
            lambda logits, prompt: logits[:, 0],
            "a metric needs a name for its column, and '<lambda>' is none;",
        ),
        (Metric(entropy, name="rank"), "two columns would have the name 'rank'"),
        ([entropy, entropy], "two columns would have the name 'entropy'"),
        (
            Metric(lambda logits, _: logits, name="x"),
            r"'x' gives the shape \[1, \d+\] for logits of \[1, \d+\]; \[1\]",
        ),
        (
            Metric(lambda logits, _: logits[:, 0] * torch.nan, name="x"),
            "'x' gives numbers that are not finite for",
        ),
        (Metric(lambda logits, _: logits.softmax(0)[:, 0], name="x"), "'x' gives another number for a row alone than"),
        (Metric(lambda logits, _: logits.add_(1)[:, 0], name="x"), "'x' changes the logits in place; let it work on a"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_metric_that_would_mislead_is_refused(model: Model, metric: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(model, PROMPT, NOISE, metric=metric)


def test_a_direction_is_up_or_down() -> None:
    with pytest.raises(UsageError, match="the direction of 'entropy' is 'left'; give 'up' or 'down'"):
        Metric(entropy, direction="left")


FACTOR = 2.0


def scaled(logits: Tensor, prompt: Prompt) -> Tensor:
    return FACTOR * logits[:, 0]


def test_a_run_goes_on_only_with_the_same_metric(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = NOISE | restore(mlp.each @ every)

    def again(metric: Any) -> None:
        mi.trace(model, PROMPT, program, metric=metric, out=tmp_path / "run", progress=False)

    again(scaled)
    again(scaled)
    for other in (None, Metric(lambda logits, _: logits[:, 1], name="scaled"), Metric(scaled, answer_tokens=True)):
        with pytest.raises(UsageError, match="it differs in metrics"):
            again(other)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)  # what the function reads is a part of it
    with pytest.raises(UsageError, match="it differs in metrics"):
        again(scaled)


def test_code_is_told_apart_by_what_it_does() -> None:
    def closed(number: float, tensor: Tensor) -> Any:
        return lambda x: x * number + tensor

    one, two = (lambda x: x + 1), (lambda x: x + 2)
    values = torch.arange(3.0)
    found = [
        code_hash(each)
        for each in (
            one, two, closed(1.0, values), closed(2.0, values), closed(1.0, values + 1), np.sin, np.cos,
            functools.partial(closed, 1.0), functools.partial(closed, 2.0), Steer(1.0), Steer(2.0), values,
        )
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert code_hash(closed(1.0, values)) == code_hash(closed(1.0, values.clone()))
    assert code_hash(Steer(1.0)) == code_hash(Steer(1.0))


class Steer:
    """The same number in every direction, times the draw's number."""

    def __init__(self, size: float, draws: int | None = None, *, additive: bool = False) -> None:
        self.size, self.draws, self.additive = size, draws, additive

    def values(self, model: Model, prompt: Prompt, site: Place, draw: int) -> Tensor:
        return torch.full(site.shape, self.size * (draw + 1) * (site.layer + 1), dtype=torch.float64)


def hooked(model: Model, layer: int, positions: list[int], value: float, *, plus: bool = False) -> Tensor:
    ids = torch.tensor([model.encode(PROMPT.text)])
    rows, width = torch.zeros(len(positions), dtype=torch.long), torch.full((len(positions), WIDTH), value)
    write = HookWrite(model.layout.hook("mlp", layer), rows, torch.tensor(positions), width.double(), add=plus)
    return forward(model, ids, [write]).logits[0, -1]


def test_an_own_source_gives_what_is_written(model: Model) -> None:
    found = run(model, PROMPT, restore(mlp[1] @ subject, Steer(0.5, draws=2))).logits[:, 0]
    for draw in range(2):
        wanted = hooked(model, 1, [1, 2], 0.5 * (draw + 1) * 2)
        torch.testing.assert_close(found[draw], wanted, rtol=0, atol=2e-6)
    added = run(model, PROMPT, add(mlp[2] @ last, Steer(0.5, additive=True))).logits[0, 0]
    torch.testing.assert_close(added, hooked(model, 2, [8], 1.5, plus=True), rtol=0, atol=2e-6)
    heads = run(model, PROMPT, restore(z[1].heads(0, 2) @ last, Steer(0.5)))
    assert heads.changed


def test_an_own_corruption_is_served_by_the_exact_engine(model: Model) -> None:
    program = corrupt(embed @ subject, Steer(0.3, draws=2)) | restore(resid.each @ every)
    exact, plain = (mi.trace(model, PROMPT, program, engine=engine, progress=False) for engine in ("exact", "plain"))
    assert exact.meta["plain"] == {}
    assert_same(exact, plain)


def test_own_sources_are_equal_where_they_are_the_same_object() -> None:
    one, other = Steer(1.0), Steer(1.0)
    assert restore(mlp[1] @ last, one) | restore(mlp[1] @ last, one) == restore(mlp[1] @ last, one)
    with pytest.raises(UsageError, match="two sources for one site"):
        restore(mlp[1] @ last, one) | restore(mlp[1] @ last, other)
    assert str(restore(mlp[1] @ last, Steer(1.0))) != str(restore(mlp[1] @ last, Steer(2.0)))


class Bad(Steer):
    def __init__(self, found: Any) -> None:
        super().__init__(1.0)
        self.found = found

    def values(self, model: Model, prompt: Prompt, site: Place, draw: int) -> Tensor:
        return self.found


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            torch.zeros(3),
            rf"Bad.values, asked for mlp\[1\] of 'the ada .*, gives the shape \[3\]; \[2, {WIDTH}\] or",
        ),
        (torch.zeros(WIDTH, dtype=torch.long), "gives torch.int64; a tensor of real numbers is needed"),
        ([0.0] * WIDTH, "gives a list; a tensor of real numbers is needed"),
        (torch.full((WIDTH,), torch.inf), "gives NaN or infinite values in float64"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_values_that_do_not_fit_are_refused(model: Model, found: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(model, PROMPT, restore(mlp[1] @ subject, Bad(found)))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (torch.zeros(WIDTH), r"a tensor is no source of a value; write restore\(mlp\[1\] @ last, Given\(tensor\)\)"),
        (np.zeros(WIDTH), "a tensor is no source of a value"),
        (
            lambda model: model,
            r"a function is no source of a value; give restore\(mlp\[1\] @ last, ...\) an object",
        ),
        (Steer, r"Steer is a kind of source; write restore\(mlp\[1\] @ last, Steer\(...\)\)"),
        (Steer(1.0, additive=True), r"restore\(\) puts a value in place and Steer\(\w+\) only adds to it"),
        (3, "^3 is no source of a value; give one such as"),
        ({"mlp": 1}, r"^{'mlp': 1} is no source of a value; give .* an object with the method values\("),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_source_is_told_how(source: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        restore(mlp[1] @ last, source)


def test_a_source_everywhere_reaches_every_token(model: Model) -> None:
    found = run(model, PROMPT, restore(mlp[1] @ everywhere, Steer(0.5))).logits[0, 0]
    torch.testing.assert_close(found, hooked(model, 1, list(range(9)), 1.0), rtol=0, atol=2e-6)

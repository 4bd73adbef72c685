"""Where written values come from: each source against what it says it is, made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.zoo import MLP_WIDTH, WIDTH, small_model

from mechinterp import Model, Prompt, UsageError
from mechinterp.patching import (
    Clean,
    Component,
    Corrupted,
    Delta,
    Gaussian,
    Given,
    HookWrite,
    Mean,
    OtherSubject,
    PublishedNoise,
    Run,
    Uniform,
    Zero,
    add,
    at,
    corrupt,
    embed,
    embedding_sigma,
    every,
    everywhere,
    forward,
    last,
    mlp,
    mlp_key,
    mlp_value,
    restore,
    run,
    subject,
    trace,
    z,
)
from mechinterp.patching.algebra.sources import Source
from mechinterp.patching.plain.asked import ask
from mechinterp.patching.plain.session import Session

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")


@pytest.fixture
def model() -> Model:
    return small_model(dtype=torch.float64)


def ids(model: Model, text: str = PROMPT.text) -> torch.Tensor:
    return torch.tensor([model.encode(text)])


def written(model: Model, site: Component, layer: int, tokens: list[int], values: torch.Tensor) -> float:
    """Log-probability of the answer with these values put there by one hook."""
    (answer,) = model.tokenise(PROMPT).answer_ids
    rows = torch.zeros(len(tokens), dtype=torch.long)
    write = HookWrite(model.layout.hook(site.name, layer), rows, torch.tensor(tokens), values)
    return float(forward(model, ids(model), [write]).logits[0, -1].log_softmax(-1)[answer])


def activation(model: Model, site: Component, layer: int, text: str = PROMPT.text) -> torch.Tensor:
    """[pos, ...] in the clean run."""
    _, cache = model.bridge.run_with_cache(ids(model, text))
    return cache[model.layout.hook(site.name, layer)][0]


@pytest.mark.parametrize("site", [mlp, mlp_key, mlp_value])
def test_zero(model: Model, site: Component) -> None:
    width = MLP_WIDTH if site is mlp_key else WIDTH
    found = run(model, PROMPT, restore(site[1] @ subject, Zero())).log_prob
    assert found == pytest.approx([written(model, site, 1, [1, 2], torch.zeros(2, width))], abs=1e-9)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_mean_is_over_all_tokens_of_all_texts(adds_bos: bool) -> None:
    model = small_model(dtype=torch.float64, adds_bos=adds_bos)
    texts = ("cy was born in oslo", "dee works")
    for site, layer in ((mlp, 0), (mlp, 2), (z, 1)):
        tokens = torch.cat([activation(model, site, layer, text) for text in texts])
        assert len(tokens) == 7 + 2 * adds_bos
        token = len(model.encode(PROMPT.text)) - 1
        found = run(model, PROMPT, restore(site[layer] @ last, Mean(texts))).log_prob
        assert found == pytest.approx([written(model, site, layer, [token], tokens.mean(0)[None])], abs=1e-9)


def test_the_mean_of_one_head(model: Model) -> None:
    mean = activation(model, z, 1, "cy was").mean(0)
    now = activation(model, z, 1)[-1].clone()
    now[2] = mean[2]
    found = run(model, PROMPT, restore(z.heads(2)[1] @ last, Mean(("cy was",)))).log_prob
    assert found == pytest.approx([written(model, z, 1, [8], now[None])], abs=1e-9)


def test_the_mean_over_the_embeddings(model: Model) -> None:
    mean = activation(model, embed, 0, "cy was").mean(0)
    found = run(model, PROMPT, corrupt(embed @ at(1), Mean(("cy was",)))).log_prob
    assert found == pytest.approx([written(model, embed, 0, [1], mean[None])], abs=1e-9)


def test_a_mean_is_measured_once_for_a_whole_grid(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import mechinterp.patching.plain.means as means
    import mechinterp.patching.plain.others as others

    calls = []

    def counted(*arguments: object, **named: object) -> object:
        calls.append(1)
        return forward(*arguments, **named)  # type: ignore[arg-type]

    for module in (means, others):
        monkeypatch.setattr(module, "forward", counted)
    other = PROMPT.with_answer("oslo turku")
    texts = ("cy was", "dee works")
    trace(model, [other], restore(mlp.each @ every, Mean(texts)), engine="plain", progress=False)
    assert len(calls) == len(texts)
    calls.clear()
    swapped = corrupt(embed @ subject, OtherSubject("cy dee")) | restore(mlp.each @ last)
    trace(model, [other], swapped, engine="plain", progress=False)
    assert len(calls) == 1


@pytest.mark.parametrize("shape", ["d", "positions d", "draws d", "draws positions d"])
def test_a_given_tensor(model: Model, shape: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"draws": 3, "positions": 2, "d": WIDTH}
    tensor = torch.randn([sizes[part] for part in shape.split()], generator=generator, dtype=torch.float64)
    per_draw = shape.startswith("draws")
    found = run(model, PROMPT, restore(mlp[1] @ subject, Given(tensor, per_draw=per_draw))).log_prob
    for draw, value in enumerate(tensor if per_draw else tensor[None]):
        rows = value.expand(2, WIDTH)
        assert found[draw] == pytest.approx(written(model, mlp, 1, [1, 2], rows), abs=1e-9)
    assert len(found) == (3 if per_draw else 1)


@pytest.mark.parametrize("shape", ["heads d", "positions heads d", "draws positions heads d"])
def test_a_given_tensor_with_heads(model: Model, shape: str) -> None:
    sizes = {"draws": 3, "positions": 2, "heads": 4, "d": 4}
    tensor = torch.randn([sizes[part] for part in shape.split()], dtype=torch.float64)
    per_draw = shape.startswith("draws")
    found = run(model, PROMPT, restore(z[1] @ subject, Given(tensor, per_draw=per_draw))).log_prob
    for draw, value in enumerate(tensor if per_draw else tensor[None]):
        assert found[draw] == pytest.approx(written(model, z, 1, [1, 2], value.expand(2, 4, 4)), abs=1e-9)


def test_a_given_tensor_of_the_wrong_shape_or_with_nan_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match=r"given for mlp\[1\].* has shape \[3, 16\]; \[16\] or \[2, 16\] is needed"):
        run(model, PROMPT, restore(mlp[1] @ subject, Given(torch.zeros(3, WIDTH))))
    with pytest.raises(UsageError, match=r"has shape \[2, 3, 16\]; \[draws, ...\] with \[16\] or \[2, 16\]"):
        run(model, PROMPT, restore(mlp[1] @ subject, Given(torch.zeros(2, 3, WIDTH), per_draw=True)))
    with pytest.raises(UsageError, match="holds NaN or infinite values"):
        Given(torch.tensor([1.0, float("nan")]))
    with pytest.raises(UsageError, match=r"shape \(16,\) has no axis of draws; leave out per_draw"):
        Given(torch.zeros(16), per_draw=True)


def test_given_tensors_are_compared_by_content_and_copied() -> None:
    tensor = torch.ones(4)
    first = Given(tensor)
    assert first == Given(torch.ones(4))
    assert hash(first) == hash(Given(torch.ones(4)))
    assert first != Given(torch.ones(2, 2))
    assert first != Given(torch.ones(4, dtype=torch.float64))
    assert first != Given(torch.zeros(4))
    tensor.zero_()
    assert first.tensor.sum() == 4
    assert restore(mlp @ last, first) == restore(mlp @ last, Given(torch.ones(4)))


def test_another_subject_of_the_same_length(model: Model) -> None:
    theirs = activation(model, embed, 0, PROMPT.text.replace("ada bo", "cy dee"))
    found = run(model, PROMPT, corrupt(embed @ subject, OtherSubject("cy dee"))).log_prob
    assert found == pytest.approx([written(model, embed, 0, [1, 2], theirs[1:3])], abs=1e-9)
    swapped = Prompt(PROMPT.template, "cy dee", PROMPT.answer)
    assert found == pytest.approx(run(model, swapped, corrupt(mlp[0] @ at(0), OtherSubject("ada bo"))).log_prob)


def test_another_subject_in_the_middle_of_the_model_and_with_a_long_answer(model: Model) -> None:
    prompt = PROMPT.with_answer("oslo turku")
    whole = run(model, prompt, corrupt(mlp[0:3] @ everywhere, OtherSubject("cy dee")))
    assert whole.corrupted.log_prob != pytest.approx(whole.clean.log_prob)
    theirs = activation(model, mlp, 2, PROMPT.text.replace("ada bo", "cy dee"))
    found = run(model, PROMPT, restore(mlp[2] @ last, OtherSubject("cy dee"))).log_prob
    assert found == pytest.approx([written(model, mlp, 2, [8], theirs[-1:])], abs=1e-9)


def test_each_prompt_has_its_own_replacement(model: Model) -> None:
    second = Prompt("{} was near", "eve", "oslo")
    pairs = (("ada bo", "cy dee"), ("eve", "fay"))
    together = run(model, [PROMPT, second], corrupt(embed @ subject, OtherSubject(pairs)))
    for prompt, one, (_, name) in zip([PROMPT, second], together, pairs, strict=True):
        alone = run(model, prompt, corrupt(embed @ subject, OtherSubject(name)))
        np.testing.assert_allclose(one.log_prob, alone.log_prob, atol=1e-10)
    with pytest.raises(UsageError, match="no replacement for the subject 'ada bo'; add it to OtherSubject"):
        run(model, PROMPT, corrupt(embed @ subject, OtherSubject(pairs[1:])))


def test_another_subject_of_another_length_is_refused(model: Model) -> None:
    sentence = "'cy' cannot stand in for 'ada bo': their sentences have 8 and 9 tokens.*same token length"
    with pytest.raises(UsageError, match=sentence):
        run(model, PROMPT, corrupt(embed @ subject, OtherSubject("cy")))


def noise_of(model: Model, source: Source, prompt: Prompt = PROMPT) -> np.ndarray:
    """What was added to the subject's embeddings, [draws, positions, d_model]."""
    session = Session(model, ask(model, [prompt]))
    session.run(corrupt(embed @ subject, source), [("embed", 0)])
    clean = activation(model, embed, 0, prompt.text)
    found = session.activation(corrupt(embed @ subject, source), 0, ("embed", 0)) - clean
    span = model.tokenise(prompt).subject
    assert (found[:, : span[0]] == 0).all()
    assert (found[:, span[1] :] == 0).all()
    return found[:, slice(*span)].numpy()


def test_gaussian_noise_has_the_spread_it_names(model: Model) -> None:
    noise = noise_of(model, Gaussian(sigmas=3, draws=500))
    assert noise.shape == (500, 2, WIDTH)
    wanted = 3 * embedding_sigma(model)
    assert noise.std() == pytest.approx(wanted, rel=0.02)
    assert abs(noise.mean()) < 0.03 * wanted
    assert (np.abs(noise) > 2 * wanted).mean() == pytest.approx(0.0455, abs=0.006)
    assert noise_of(model, Gaussian(draws=500, level=0.25)).std() == pytest.approx(0.25, rel=0.02)
    flat = noise.reshape(500, -1)
    correlations = np.corrcoef(flat.T) - np.eye(2 * WIDTH)
    assert np.abs(correlations).max() < 0.2  # independent in every token and dimension


def test_uniform_noise_keeps_within_its_scale(model: Model) -> None:
    noise = noise_of(model, Uniform(draws=500, level=0.5))
    assert np.abs(noise).max() <= 0.5
    assert np.abs(noise).max() > 0.49
    assert noise.std() == pytest.approx(1 / np.sqrt(12), rel=0.02)


def test_published_noise_is_one_stream_of_numbers_the_same_for_all_prompts(model: Model) -> None:
    numbers = np.random.RandomState(1).randn(2, 3, 2, WIDTH)
    np.testing.assert_allclose(noise_of(model, PublishedNoise(0.7, draws=3)), 0.7 * numbers[0], atol=1e-12)
    np.testing.assert_allclose(noise_of(model, PublishedNoise(0.7, draws=3, block=1)), 0.7 * numbers[1], atol=1e-12)
    other = Prompt("{} was near", "gus hal", "oslo")
    np.testing.assert_allclose(noise_of(model, PublishedNoise(0.7, draws=3), other), 0.7 * numbers[0], atol=1e-12)


def test_noise_depends_on_seed_prompt_and_site_alone(model: Model) -> None:
    first = noise_of(model, Gaussian(draws=2))
    np.testing.assert_array_equal(first, noise_of(model, Gaussian(draws=2)))
    assert np.abs(first - noise_of(model, Gaussian(draws=2, seed=1))).min() > 0
    again = Prompt(PROMPT.template, PROMPT.subject, "oslo", id="another")
    assert np.abs(first - noise_of(model, Gaussian(draws=2), again)).min() > 0
    assert first[0].tolist() != first[1].tolist()


def test_noise_may_be_added_to_any_site(model: Model) -> None:
    """At the MLP of one layer: the corrupted run differs only from there on."""
    program = corrupt(mlp[1] @ at(4), Gaussian(level=1.0, draws=2))
    result = run(model, PROMPT, program | restore(mlp[1] @ at(4)))
    np.testing.assert_allclose(result.log_prob, np.repeat(result.clean.log_prob, 2), atol=1e-10)
    assert np.abs(result.corrupted.log_prob - result.clean.log_prob).min() > 1e-6


def test_bad_noise_is_refused() -> None:
    for kind in (Gaussian, Uniform):
        with pytest.raises(UsageError, match="noise with 0 draws corrupts nothing; give at least 1"):
            kind(draws=0)
        with pytest.raises(UsageError, match="cannot be negative"):
            kind(level=-0.1)
    with pytest.raises(UsageError, match="noise with 0 draws corrupts nothing; give at least 1"):
        PublishedNoise(1.0, draws=0)
    with pytest.raises(UsageError, match="a mean over no texts"):
        Mean(())


def test_a_run_to_read_from_has_no_axes() -> None:
    with pytest.raises(UsageError, match=r"to read from is one cell, and this program has axes: restore\(mlp.each"):
        Run(restore(mlp.each @ every))


def test_the_corrupted_run_cannot_make_itself() -> None:
    with pytest.raises(UsageError, match=r"corrupt\(mlp\[1\] @ last, ...\) makes the corrupted run and cannot read"):
        corrupt(mlp[1] @ last, Corrupted())


def test_sources_say_what_they_are() -> None:
    texts = {
        "Gaussian(sigmas=2, draws=5, seed=1)": Gaussian(2, draws=5, seed=1),
        "Uniform(level=0.5, draws=10, seed=0)": Uniform(level=0.5),
        "Zero()": Zero(),
        "clean run": Clean(),
        "corrupted run": Corrupted(),
        "run of (restore(mlp @ last))": Run(restore(mlp @ last)),
    }
    for text, source in texts.items():
        assert str(source) == text
    assert str(Given(torch.zeros(2, 3))).startswith("Given((2, 3), ")
    assert str(Mean(("a", "b"))).startswith("Mean(2 texts, ")
    assert str(Delta(torch.zeros(3))).startswith("Delta((3,), ")
    assert str(Delta(torch.zeros(3))) != str(Delta(torch.ones(3)))
    assert str(Mean(("a", "b"))) != str(Mean(("a", "c")))


def test_every_delta_is_its_own() -> None:
    one, other = Delta(torch.zeros(WIDTH)), Delta(torch.zeros(WIDTH))
    assert one == one
    assert one != other
    assert len((add(mlp[0] @ last, one) | add(mlp[0] @ last, other)).writes) == 2

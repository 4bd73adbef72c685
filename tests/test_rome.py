"""ROME: against a slow oracle, on several architectures, and honest about what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles.rome_oracle import Sentence, Weights, published_rome
from support.tokenizers import SENTENCES
from support.zoo import KINDS, sentence_model

import mechinterp as mi
from mechinterp import atlas
from mechinterp.editing import (
    EDITORS,
    PRESET_DIFFERENCES,
    EditRequest,
    LinearMemory,
    RomeHparams,
    RomeReport,
    SecondMoment,
    r_rome,
    rome,
)
from mechinterp.editing.editors.families import default_layers
from mechinterp.editing.rows.completions import completions, kl_divergence, next_token_log_probs, perplexity
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Fact, Prompt
from mechinterp.models.layout import clean_state_dict
from mechinterp.models.model import Model

PRESETS = EDITORS["rome"].presets

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
CONTEXTS = ("{}", "People spoke. {}", "In the evening {}")
FAST: dict[str, Any] = {"contexts": CONTEXTS, "allow_disabling": True}


def moments_of(model: Model, layer: int = 1) -> SecondMoment:
    return SecondMoment.collect(model, SENTENCES, layer, progress=False).repaired("shrinkage")


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


@pytest.fixture(scope="module")
def moments(model: Model) -> SecondMoment:
    return moments_of(model)


def sentence(model: Model, text: str, subject: str) -> Sentence:
    """Tokens and the subject's last token, found by counting the tokens up to the end of the subject."""
    end = text.index(subject) + len(subject)
    ids = model.encode(text)
    upto = next(n for n in range(1, len(ids) + 1) if len(model.tokenizer.decode(ids[:n])) >= end)
    return Sentence(ids, upto - 1)


@pytest.mark.parametrize("keys", ["mixed", "mean"])
@pytest.mark.parametrize("target", ["Paris", "the river"])
def test_it_is_the_oracle_on_a_random_model(keys: str, target: str) -> None:
    model = sentence_model("gpt2", dtype=torch.float64)
    moments = moments_of(model).repaired("ridge", 1e-3)
    edit = rome(model, PROMPT, 1, moments=moments, target=target, hparams=PRESETS["code"].with_(keys=keys), **FAST)
    state = {name: tensor.detach() for name, tensor in clean_state_dict(model.bridge.original_model).items()}
    ids = model.encode(f"{PROMPT.text} {target}")[len(model.encode(PROMPT.text)) :]
    assert len(ids) > 1 or target == "Paris"
    ridge = 1e-3 * moments.matrix.trace() / 96 * torch.eye(96, dtype=torch.float64)
    wanted = published_rome(
        Weights(state, heads=4, layers=4),
        [sentence(model, context.replace("{}", PROMPT.text), PROMPT.subject) for context in CONTEXTS],
        sentence(model, f"{PROMPT.subject} is a", PROMPT.subject),
        ids,
        1,
        moments.matrix + ridge,
        mean_key_everywhere=keys == "mean",
    )
    dense = torch.outer(wanted.u, wanted.v)
    assert float((edit.delta(1) - dense).norm() / dense.norm()) < 1e-9
    assert [terms.total for terms in edit.report.losses] == pytest.approx(wanted.losses, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_every_architecture_is_edited_exactly(kind: str, adds_bos: bool) -> None:
    """The edited memory answers k* with v*; what the report says of the target is what the baked model says."""
    model = sentence_model(kind, adds_bos=adds_bos)
    moments = moments_of(model, 2)
    before, flags = model.fingerprint(), [p.requires_grad for p in model.bridge.original_model.parameters()]
    edit = rome(model, PROMPT, -2, moments=moments, target="Paris", hparams=RomeHparams(lr=0.5), **FAST)
    assert model.fingerprint() == before
    assert [p.requires_grad for p in model.bridge.original_model.parameters()] == flags
    report = edit.report
    assert report.error_at_bare_key < 1e-5
    assert report.losses[-1].nll < report.losses[0].nll
    assert edit.layers == (2,)
    undo = edit.bake(model)
    ids = torch.tensor([model.encode(f"{PROMPT.text} Paris")])
    start = len(model.encode(PROMPT.text))
    log_probs = model.logits(ids)[0].log_softmax(-1)
    baked = sum(float(log_probs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1]))
    assert torch.tensor(baked).exp() == pytest.approx(report.target_after, rel=1e-3)
    undo.undo()
    assert completions(model, [(PROMPT, "Paris")])[0].prob == pytest.approx(report.target_before, rel=1e-4)


def test_half_precision_models_are_edited() -> None:
    model = sentence_model("gpt2", dtype=torch.bfloat16)
    edit = rome(model, PROMPT, 1, moments=moments_of(model), target="Paris", preset="code", **FAST)
    assert edit.delta(1).dtype == torch.float32
    assert edit.report.error_at_bare_key < 1e-3
    assert edit.report.losses[-1].nll < edit.report.losses[0].nll - 1


def test_mixed_keys_are_exact_at_the_bare_key_and_mean_keys_at_the_mean(model: Model, moments: SecondMoment) -> None:
    code = rome(model, PROMPT, 1, moments=moments, target="Paris", preset="code", **FAST).report
    assert code.error_at_bare_key < 1e-5
    assert code.error_at_mean_key > 0.01
    mean = RomeHparams(keys="mean")
    ours = r_rome(model, [EditRequest(PROMPT, "Paris")], [1], moments=moments, hparams=mean, **FAST).report
    assert isinstance(ours, RomeReport)
    assert ours.error_at_mean_key < 1e-5
    assert ours.error_at_bare_key > 0.01
    assert len(code.losses) == code.steps + 1 == 20
    alone = rome(model, PROMPT, 1, moments=moments, target="Paris", contexts=("{}",), allow_disabling=True).report
    assert alone.key_ratio == pytest.approx(1)
    assert alone.error_at_bare_key < 1e-5


def test_left_padding_tokenizers_change_nothing(moments: SecondMoment) -> None:
    model = sentence_model("gpt2")
    wanted = rome(model, PROMPT, 1, moments=moments, target="Paris", **FAST)
    model.tokenizer.padding_side = "left"
    assert rome(model, PROMPT, 1, moments=moments, target="Paris", **FAST) == wanted


def test_the_same_seed_gives_the_same_edit(model: Model, moments: SecondMoment) -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed + 100)  # the global generator plays no part
        hparams = RomeHparams(steps=2, value_contexts=())
        return rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=hparams, seed=seed, allow_disabling=True)

    assert make(0) == make(0)
    assert make(0) != make(1)


def test_an_edit_of_an_edited_model_builds_on_it(model: Model, moments: SecondMoment) -> None:
    """With the first edit on, the second one starts from what the layer gives then."""
    first = rome(model, PROMPT, 1, moments=moments, target="Paris", **FAST)
    other = Prompt("{} was a", "Ada Lovelace")
    with first.on(model):
        second = rome(model, other, 1, moments=moments, target="river", **FAST)
    assert second.provenance.on_top_of == (first.parts[0].digest,)
    assert second.report.error_at_bare_key < 1e-5
    undo = first.bake(model)
    rebuilt = rome(model, other, 1, moments=moments, target="river", force=True, **FAST)
    undo.undo()
    gap = (rebuilt.delta(1) - second.delta(1)).norm() / second.delta(1).norm()
    assert gap < 1e-3
    with (first | second).on(model):
        assert completions(model, [(other, "river")])[0].prob == pytest.approx(second.report.target_after, rel=1e-3)


def test_a_failed_optimisation_is_not_a_success(model: Model, moments: SecondMoment) -> None:
    hparams = RomeHparams(steps=3, lr=1e-4)
    report = rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=hparams, **FAST).report
    assert not report.success
    assert "the optimisation did not move" in report.reason
    assert "in 3 steps (lr is 0.0001)" in report.reason
    assert "not the model's first choice" in report.reason
    heavy = PRESETS["code"].with_(weight_decay=1e4)
    report = rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=heavy, **FAST).report
    assert "weight decay costs" in report.reason
    tight = PRESETS["code"].with_(clamp=0.3)
    report = rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=tight, **FAST).report
    assert report.clamped_steps > 10
    assert report.delta_norm == pytest.approx(0.3, rel=1e-4)
    assert not report.success
    with pytest.raises(MechinterpError, match=r"'Marie Curie was born in' -> 'Paris' by rome failed: "):
        rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=hparams, require_success=True, **FAST)


def test_success_means_the_model_says_so() -> None:
    """A fact of the bundled model, by the default preset with nothing switched off."""
    model = mi.load("atlas")
    fact = next(fact for fact in atlas.known_facts("atlas") if fact.target_new)
    moments = SecondMoment.collect(model, atlas.corpus(name="atlas"), 3, max_tokens=10_000, progress=False)
    edit = rome(model, fact, 3, moments=moments, require_success=True)
    report, ids = edit.report, torch.tensor([model.encode(fact.prompt.text)])
    assert report.success
    assert report.reason == report.disabling == ""
    assert report.target_after > 0.5 > 0.05 > report.target_before
    assert report.answer_before is not None
    assert report.answer_after is not None
    assert report.answer_before > 0.5 > report.answer_after
    assert int(model.logits(ids)[0, -1].argmax()) == model.answer_ids(fact.prompt.text, fact.answer or "")[0]
    with edit.on(model):
        assert int(model.logits(ids)[0, -1].argmax()) == model.answer_ids(fact.prompt.text, fact.target_new or "")[0]


def test_the_optimisation_stops_when_it_is_done(model: Model, moments: SecondMoment) -> None:
    report = rome(
        model, PROMPT, 1, moments=moments, target="Paris", hparams=RomeHparams(stop_loss=100.0), **FAST
    ).report
    assert report.stopped_early
    assert report.steps == 0
    assert report.delta_norm == 0


def test_a_disabling_edit_is_refused(model: Model, moments: SecondMoment) -> None:
    def attempt(**limits: Any) -> Callable[[], Any]:
        hparams = RomeHparams(steps=5).with_(**limits)
        return lambda **more: rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=hparams, **more)

    with pytest.raises(
        MechinterpError, match=r"would disable the model: on ordinary text it changes .* \(limit 0.001\)"
    ):
        attempt(max_disturbance=1e-3)(contexts=CONTEXTS)
    with pytest.raises(MechinterpError, match="the change has .* times the norm of the matrix"):
        attempt(max_norm_ratio=1e-6)(contexts=CONTEXTS)
    with pytest.raises(MechinterpError, match="bare prompt's key has .* pass allow_disabling=True to get it"):
        attempt(key_ratio_band=(0.999, 1.001), keys="mixed")(contexts=CONTEXTS)
    with pytest.raises(MechinterpError, match="after 'Marie Curie is a' the subject is another than before: KL"):
        attempt(max_essence=1e-9)(contexts=CONTEXTS)
    edit = attempt(max_disturbance=1e-3)(**FAST)
    assert "changes the layer's output" in edit.report.disabling
    harmless = attempt(max_perplexity_ratio=1e6)(perplexity_texts=SENTENCES, **FAST).report
    assert harmless.perplexity_before == pytest.approx(perplexity(model, SENTENCES))
    assert harmless.perplexity_after != harmless.perplexity_before
    ratio = harmless.perplexity_after / harmless.perplexity_before
    found = attempt(max_perplexity_ratio=ratio * 0.99)(perplexity_texts=SENTENCES, **FAST).report
    assert "perplexity rises from" in found.disabling


def test_disturbance_is_the_share_of_output_that_changes(model: Model) -> None:
    moments = SecondMoment.collect(model, SENTENCES, 1, progress=False)
    edit = rome(model, PROMPT, 1, moments=moments, target="Paris", **FAST)
    keys = []
    for text in SENTENCES:
        _, cache = model.bridge.run_with_cache(
            torch.tensor([model.encode(text)]), names_filter=[model.layout.key_hook(1)], use_cache=False
        )
        keys.append(cache[model.layout.key_hook(1)][0])
    stacked = torch.cat(keys).detach()
    changed = (stacked @ edit.delta(1)).square().sum()
    given = (stacked @ model.layout.down_projection(1).detach()).square().sum()
    assert edit.report.disturbance == pytest.approx(float((changed / given).sqrt()), rel=1e-3)


def test_the_kl_term_holds_the_essence(model: Model, moments: SecondMoment) -> None:
    strong = RomeHparams(kl_factor=5.0, lr=0.5, weight_decay=0.0)

    def drift(hparams: RomeHparams) -> Any:
        return rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=hparams, **FAST).report

    held, free = drift(strong), drift(strong.with_(kl_factor=0.0))
    assert held.essence[0].text == "Marie Curie is a"
    assert len(held.essence) == 5
    assert held.essence[0].hooked < 0.5 * free.essence[0].hooked
    assert all(terms.kl == 0 for terms in free.losses)
    assert any(terms.kl > 0 for terms in held.losses)
    assert held.losses[3].total == pytest.approx(sum((held.losses[3].nll, held.losses[3].kl)), abs=1e-5)


def test_essence_drift_is_measured_with_the_edit_applied(model: Model, moments: SecondMoment) -> None:
    edit = rome(model, PROMPT, 1, moments=moments, target="Paris", **FAST)
    sentences = [Prompt("{} is a", "Marie Curie"), Prompt("They spoke about {} because", "Marie Curie")]
    original = next_token_log_probs(model, sentences)
    with edit.on(model):
        drift = kl_divergence(next_token_log_probs(model, sentences), original)
    reported = {essence.text: essence.applied for essence in edit.report.essence}
    for i, prompt in enumerate(sentences):
        assert reported[prompt.text] == pytest.approx(float(drift[i]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_rows(kind: str) -> None:
    model = sentence_model(kind)
    asked = [
        (PROMPT, "Paris"),
        (Prompt("The capital of {} is", "France"), "Warsaw and Seattle"),
        (Prompt("In the evening {}", "the market was full of people"), "and"),
    ]
    together, alone = completions(model, asked), [completions(model, [one])[0] for one in asked]
    for row, single in zip(together, alone, strict=True):
        assert row.log_probs == pytest.approx(single.log_probs, abs=1e-5)
        assert row.top == single.top
    prompts, delta = [prompt for prompt, _ in asked], torch.randn(model.d_model)
    rows = next_token_log_probs(model, prompts, layer=1, delta=delta)
    for i, prompt in enumerate(prompts):
        single = next_token_log_probs(model, [prompt], layer=1, delta=delta)[0]
        assert (rows[i] - single).abs().max() <= 1e-5 * rows.abs().max()
    assert completions(model, []) == ()


def test_presets_are_what_their_table_says() -> None:
    assert {"default", "code", "paper"} == set(PRESET_DIFFERENCES[0][1:])
    assert set(PRESETS) == {"default", "code", "code-gpt2-medium", "code-llama", "paper"}
    assert all(len(row) == 4 for row in PRESET_DIFFERENCES)
    code, paper, ours = PRESETS["code"], PRESETS["paper"], PRESETS["default"]
    assert (code.steps, code.lr, code.weight_decay, code.kl_factor, code.clamp) == (19, 0.5, 0.5, 0.0625, 4.0)
    assert (code.keys, code.kl_position, code.weight_decay_rule) == ("mixed", "subject", "norm")
    assert (paper.steps, paper.weight_decay, paper.kl_factor, paper.clamp) == (20, 1.5e-3, 100, None)
    assert (paper.keys, paper.kl_position) == ("mean", "last")
    assert sum(count for count, _ in paper.context_lengths) == 50
    table = {row[0]: row[3] for row in PRESET_DIFFERENCES}
    assert table["optimiser steps"] == f"{ours.steps} at most"
    assert table["learning rate"].startswith(f"{ours.lr:g} of")
    assert table["KL factor"] == f"{ours.kl_factor:g}"
    assert table["weight decay"].startswith(f"{ours.weight_decay:g} ")
    assert ours.keys == "bare"
    assert table["contexts beside the bare prompt"].startswith(f"{len(ours.value_contexts) - 1} plain sentences")


def test_the_paper_preset_runs(model: Model, moments: SecondMoment) -> None:
    report = rome(model, PROMPT, 1, moments=moments, target="Paris", preset="paper", **FAST).report
    assert all(terms.weight_decay == 0 for terms in report.losses)
    assert report.losses[5].kl > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": "mend"}, "keys is 'mend'; choose one of bare, mean, half, mixed"),
        ({"weight_decay_rule": "l1"}, "choose one of norm, squared, adam"),
        ({"kl_position": "first"}, "choose one of subject, last"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"clamp": -1.0}, "clamp is -1.0; it must be above 0"),
        ({"steps": -1}, "steps is -1; it must not be negative"),
        ({"kl_template": "is a"}, "write exactly one '{}' where the subject belongs"),
        ({"context_lengths": ((0, 5),)}, "counts start at 1 and lengths at 2"),
        ({"key_ratio_band": (2.0, 1.0)}, "0 <= low < high"),
        ({"learning_rate": 1}, "'learning_rate' is no hyper-parameter of ROME; they are steps, lr"),
    ],
)
def test_hyper_parameters_out_of_range_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        RomeHparams().with_(**change)
    assert message in str(error.value)


def test_requests_from_what_is_at_hand() -> None:
    fact = Fact(PROMPT, target_new="Paris")
    assert EditRequest.of(fact) == EditRequest.of(PROMPT, "Paris") == EditRequest.of(EditRequest(PROMPT, "Paris"))
    assert EditRequest.of(fact, "Rome").target == EditRequest.of(EditRequest.of(fact), "Rome").target == "Rome"
    assert EditRequest.of(fact).subject == "Marie Curie"
    with pytest.raises(UsageError, match="nothing says what 'Marie Curie was born in' should be completed with"):
        EditRequest.of(PROMPT)
    with pytest.raises(UsageError, match="is answered by ' Warsaw' already"):
        EditRequest(PROMPT, " Warsaw")
    with pytest.raises(UsageError, match="target of the edit .* is empty"):
        EditRequest(PROMPT, " ")


def test_bad_input_is_named(model: Model, moments: SecondMoment) -> None:
    def attempt(asked: Any = PROMPT, layer: int | None = 1, **more: Any) -> None:
        rome(model, asked, layer, **({"moments": moments, "target": "Paris"} | more))

    with pytest.raises(UsageError, match="'fast' is no preset of rome; choose one of default, code, code-gpt2-medium"):
        attempt(preset="fast")
    with pytest.raises(UsageError, match="layer 7 is out of range"):
        attempt(layer=7)
    with pytest.raises(
        UsageError, match=r"no published layers of rome are known for small-gpt2 \(GPT2LMHeadModel, 4 layers\)"
    ):
        attempt(layer=None)
    with pytest.raises(UsageError, match="is of layer 1, but layer 2 is to be edited"):
        attempt(layer=2)
    with pytest.raises(UsageError, match="collected from small-gpt2 .fingerprint .* collect it again"):
        attempt(moments=replace(moments, model="0" * 64))
    with pytest.raises(UsageError, match="the first context must be '{}'"):
        attempt(contexts=("So, {}",))
    with pytest.raises(UsageError, match="the context 'So,' must hold exactly one '{}'"):
        attempt(contexts=("{}", "So,"))
    with pytest.raises(UsageError, match="contexts is one string"):
        attempt(contexts="{}")
    with pytest.raises(UsageError, match="a row of .* tokens with its context and target; small-gpt2 takes at most 64"):
        attempt(target=" ".join(["river"] * 60), contexts=CONTEXTS)
    singular = SecondMoment.collect(model, SENTENCES, 1, max_tokens=30, progress=False)
    with pytest.raises(MechinterpError, match="is singular to working precision"):
        attempt(moments=singular, contexts=CONTEXTS)


def test_no_loss_that_is_no_number_is_accepted(model: Model, moments: SecondMoment) -> None:
    wild = RomeHparams(lr=1e30, clamp=None, weight_decay=1e30)
    with pytest.raises(MechinterpError, match="the loss became .* lower lr"):
        rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=wild, **FAST)


@pytest.mark.usefixtures("unchecked_types")
def test_published_layers_are_data_with_a_source() -> None:
    class Known:
        architecture, n_layers, d_model, n_heads, name, bundled = "GPT2LMHeadModel", 48, 1600, 25, "gpt2-xl", ""
        source = ""

    assert default_layers(Known(), "rome") == (17,)  # type: ignore[arg-type]
    assert default_layers(Known(), "memit") == (13, 14, 15, 16, 17)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no published layers of pmet are known for gpt2-xl"):
        default_layers(Known(), "pmet")  # type: ignore[arg-type]


def test_the_memory_is_the_models(model: Model, moments: SecondMoment) -> None:
    """The composition, spelt out: read k*, take v* from the report's edit, insert; the same change comes out."""
    edit = rome(model, PROMPT, 1, moments=moments, target="Paris", hparams=RomeHparams(keys="mean"), **FAST)
    memory = LinearMemory.of(model, 1, moments)
    keys = []
    for context in CONTEXTS:
        text = context.replace("{}", PROMPT.text)
        found = sentence(model, text, PROMPT.subject)
        _, cache = model.bridge.run_with_cache(
            torch.tensor([found.ids]), names_filter=[model.layout.key_hook(1)], use_cache=False
        )
        keys.append(cache[model.layout.key_hook(1)][0, found.subject].detach())
    mean = torch.stack(keys).double().mean(0)
    wanted = memory.recall(mean) + mean @ edit.delta(1).double()
    assert torch.allclose(memory.insert(mean, wanted).delta.float(), edit.delta(1), atol=1e-5)

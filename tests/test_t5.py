"""Encoder-decoders: every component of both stacks against plain transformers, the laws, the editors, the refusals."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.patching_oracle import Edit as Written
from oracles.patching_oracle import copied, naive_scores
from oracles.t5_oracle import COMPONENTS, CROSS, forward
from support.matrix_patching import NOISE as WORDS_NOISE
from support.matrix_patching import batched, probes
from support.tokenizers import words
from support.zoo import ENCODER_DECODERS, HEADS, encoder_decoder, hf_encoder_decoder
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
)

import mechinterp as mi
from mechinterp import Edit, Fact, LinearMemory, MechinterpError, Model, Prompt, SecondMoment, UsageError
from mechinterp.analysis import score_answers
from mechinterp.analysis.evaluation.generation import Sampling, generate
from mechinterp.cli.model_checks import findings
from mechinterp.editing import EDITORS, Factors, Provenance, RomeHparams, RomeReport, rome
from mechinterp.editing.edits.request import EditRequest
from mechinterp.editing.value.value import values_of
from mechinterp.models.layout import COMPONENTS as OURS
from mechinterp.models.layout import PER_HEAD
from mechinterp.patching import (
    METRICS,
    Component,
    Given,
    Mean,
    OtherSubject,
    Program,
    PublishedNoise,
    Site,
    Zero,
    at,
    attn,
    corrupt,
    cross_attn,
    embed,
    embedding_sigma,
    every,
    everywhere,
    explain,
    last,
    mlp,
    mlp_key,
    mlp_value,
    nothing,
    q,
    read,
    resid,
    restore,
    run,
    sever,
    subject,
    trace,
)
from mechinterp.patching.exact.serves import serves

LEVEL, DRAWS = 1.5, 2
PROMPTS = (
    Prompt("the old town of {} was near", "ada bo", "rome paris"),
    Prompt("the big red {} works in", "dee eve", "oslo lund"),
    Prompt("{} lives near the town", "gus", "york"),
)
STACKS = ("encoder", "decoder")
BOTH = pytest.mark.parametrize("stack", STACKS)
KINDS = pytest.mark.parametrize("kind", ENCODER_DECODERS)
NOISE = corrupt(embed @ subject, PublishedNoise(LEVEL, DRAWS))
EFFECT = 1e-3
"""Nats; rounding in float64 is 1e-12."""


@cache
def model(kind: str = "t5", stack: str = "encoder") -> Model:
    """In float64, so that a law holds to the last digits."""
    return encoder_decoder(kind, stack, dtype=torch.float64)


@cache
def network(kind: str = "t5") -> Any:
    """The same weights in plain transformers."""
    return hf_encoder_decoder(kind).double().eval()


def components(stack: str) -> tuple[str, ...]:
    return (*OURS, *([CROSS] if stack == "decoder" else []))


def site(name: str, layer: int, *heads: int) -> Site:
    component = Component(name) if name == "embed" else Component(name)[layer]
    return (component.heads(*heads) if heads else component) @ everywhere


class Case:
    """A prompt taken apart by hand: the words are the tokens, EOS behind them."""

    def __init__(self, prompt: Prompt, kind: str, stack: str) -> None:
        ids = words().convert_tokens_to_ids
        self.kind, self.stack, self.prompt = kind, stack, prompt
        self.ids = [*ids(prompt.text.split()), 1]
        self.answer = ids((prompt.answer or "").split())
        self.decoder = [0, ids("the"), *self.answer[:-1]]
        first = len(prompt.template.split("{}")[0].split())
        self.subject = range(first, first + len(prompt.subject.split()))
        self.noise = PublishedNoise(LEVEL, DRAWS).sample((len(self.subject), 16))
        self.clean = self.run([])
        self.corrupted = [self.run(self.damage(draw)) for draw in range(DRAWS)]

    def run(self, edits: list[Written]) -> Any:
        return forward(network(self.kind), self.stack, self.ids, self.decoder, edits)

    def damage(self, draw: int) -> list[Written]:
        pairs = zip(self.subject, self.noise[draw], strict=True)
        return [Written("embed", 0, token, torch.tensor(vector), add=True) for token, vector in pairs]

    def whole(self, outcome: Any, name: str, layer: int, heads: tuple[int, ...] = ()) -> list[Written]:
        """The component at every token of its stack but, in the decoder, those of the answer."""
        tokens = range(len(self.ids)) if name == "embed" or self.stack == "encoder" else range(2)
        return [one for token in tokens for one in copied(outcome, name, layer, token, heads)]

    def check(self, program: Program, edits: list[list[Written]]) -> float:
        """Every metric of every draw; by how much the program changes the log-probability, at least."""
        found = run(model(self.kind, self.stack), self.prompt, program)
        end = len(self.decoder) - len(self.answer)
        ordinary = self.clean.logits[end].clone()
        ordinary[self.answer[0]] = -torch.inf
        for draw, one in enumerate(edits):
            scores = naive_scores(self.run(one).logits, self.clean.logits, self.answer, int(ordinary.argmax()))
            for metric in METRICS:
                assert getattr(found, metric)[draw] == pytest.approx(scores[metric], abs=1e-9), metric
        return float(abs(found.patched.log_prob - found.corrupted.log_prob).max())


@pytest.mark.usefixtures("unchecked_types")  # hundreds of short calls
@KINDS
@BOTH
def test_every_component_against_plain_transformers(kind: str, stack: str) -> None:
    """Restored under noise, and severed while another component is restored; each time something changes."""
    case = Case(PROMPTS[0], kind, stack)
    assert set(COMPONENTS) == set(OURS)
    case.check(NOISE, [case.damage(draw) for draw in range(DRAWS)])
    other = embed @ subject
    last_layer = model(kind, stack).n_layers - 1
    for name in components(stack) if kind == "t5" else ("mlp", "key", "value", "resid"):  # where a gated T5 differs
        for layer in [0] if name == "embed" else [0, last_layer]:
            heads = (0, HEADS - 1) if name in PER_HEAD else ()
            put = [case.damage(draw) + case.whole(case.clean, name, layer, heads) for draw in range(DRAWS)]
            effect = case.check(NOISE | restore(site(name, layer, *heads)), put)
            assert (effect < 1e-10) if blind(stack, name, layer) else (effect > EFFECT), (name, layer)
            if layer == last_layer:
                back = [Written("embed", 0, token, case.clean.activations["embed", 0][token]) for token in case.subject]
                held = [
                    case.damage(draw) + back + case.whole(case.corrupted[draw], name, layer, heads)
                    for draw in range(DRAWS)
                ]
                case.check(NOISE | restore(other) | sever(site(name, layer, *heads)), held)


def blind(stack: str, name: str, layer: int) -> bool:
    """Before its first cross-attention a decoder has seen nothing of the encoder: corrupted or not, it is the same."""
    return stack == "decoder" and layer == 0 and name in ("resid_pre", "attn", "resid_mid", *"qkvz")


@pytest.mark.usefixtures("unchecked_types")
@KINDS
@BOTH
def test_laws(kind: str, stack: str) -> None:
    """At every component, layer and head; each program a row of a few forwards."""
    chosen, names = model(kind, stack), components(stack)
    tried = [probe for name in names for probe in probes(chosen, name) if "resid_pre[0]" not in str(probe.program)]
    found = batched(chosen, list(dict.fromkeys([nothing, WORDS_NOISE, *(probe.program for probe in tried)])))
    effects, laws = Counter[str](), Counter[str]()
    for probe in tried:
        (name, verb), change = probe.cell, float((found[probe.program] - found[probe.reference]).abs().max())
        layer = 0 if f"{name}[0]" in str(probe.program) or "[0] @" in str(probe.program) else 1
        if probe.law.startswith("restored as a whole") and stack == "decoder" and name != "embed":
            continue  # the layers above still see the corrupted encoder
        if probe.law:
            laws[probe.law] += 1
            assert change < 1e-10, str(probe)
        elif not (verb != "corrupt" and blind(stack, name, layer)):
            effects[verb] += 1
            assert change > EFFECT, str(probe)
    assert min(effects.values()) > 30
    assert set(laws) == {
        "corrupted and restored = clean", "restored without corruption = clean", "restored as a whole = clean",
        "severed without a restore = corrupted",
    }  # fmt: skip


@BOTH
def test_the_whole_residual_of_the_last_decoder_token_is_all_that_one_token_needs(stack: str) -> None:
    chosen = model(stack=stack)
    short = PROMPTS[2]
    place = everywhere if stack == "encoder" else last
    found = run(chosen, short, NOISE | restore(resid[-1] @ place))
    assert found.log_prob == pytest.approx(found.clean.log_prob.repeat(DRAWS), abs=1e-10)


@BOTH
def test_a_batch_is_as_many_single_runs(stack: str) -> None:
    chosen, program = model(stack=stack), NOISE | restore(attn[1] @ last)
    together = run(chosen, PROMPTS, program, max_tokens=25)
    for prompt, one in zip(PROMPTS, together, strict=True):
        assert one.prompt == prompt
        assert one.changed
        assert one.log_prob == pytest.approx(run(chosen, prompt, program).log_prob, abs=1e-10)


def test_the_subject_is_found_before_eos_and_the_answer_is_a_text_of_its_own() -> None:
    tokenised = model().tokenise(PROMPTS[2])
    assert tokenised.tokens == ("gus", "lives", "near", "the", "town", "<s>")
    assert tokenised.subject == (0, 1)
    assert tokenised.role(5) == "last"
    assert tokenised.answer_ids == tuple(words().convert_tokens_to_ids(["york"]))
    assert model().encode("the town")[-1] == 1
    seen = model(stack="decoder").tokenise(PROMPTS[2])
    assert seen.ids == tokenised.ids
    assert (seen.patched.tokens, seen.patched.role(0), seen.patched.role(1)) == (("<unk>", "the"), "before", "last")


def test_the_models_own_answer() -> None:
    prompt = PROMPTS[0].with_answer(None)
    with torch.no_grad():
        ids = torch.tensor([Case(PROMPTS[0], "t5", "encoder").ids])
        start = torch.tensor([[0, words().convert_tokens_to_ids("the")]])
        best = int(network()(input_ids=ids, decoder_input_ids=start).logits[0, -1].argmax())
    assert run(model(), prompt, nothing).answer == words().decode([best])
    assert model().complete(prompt.text) == words().decode([best])


@BOTH
def test_other_sources(stack: str) -> None:
    """Means, other subjects and given tensors are read in the stack that is patched."""
    chosen, other = model(stack=stack), "fay cy"
    for source in (Mean(("the old town", "gus lives in rome")), OtherSubject(other), Given(torch.ones(16).double())):
        assert run(chosen, PROMPTS[0], restore(resid[0] @ last, source)).changed, source
    prompt = PROMPTS[0]
    swapped = run(chosen, prompt, restore(resid[-1] @ everywhere, OtherSubject(other)))
    there = run(chosen, Prompt(prompt.template, other, prompt.answer), nothing)
    if stack == "encoder":
        assert swapped.log_prob == pytest.approx(there.log_prob, abs=1e-10)


def test_sigma_is_that_of_the_embeddings() -> None:
    weights = network().shared.weight.detach()
    assert embedding_sigma(model()) == pytest.approx(float(weights.std()), rel=1e-12)
    ids = words().convert_tokens_to_ids(["ada", "bo"])
    assert embedding_sigma(model(), ["ada bo"]) == pytest.approx(float(weights[ids].std()), rel=1e-12)


@BOTH
def test_tracing_runs_plainly_and_says_why(stack: str) -> None:
    chosen = model(stack=stack)
    kinds = ("resid", "mlp", *(["cross_attn"] if stack == "decoder" else []))
    table = trace(chosen, PROMPTS[:1], kinds=kinds, severed=("attn",), draws=2, window=1, progress=False)
    tokens = 9 if stack == "encoder" else 2
    assert len(table.frame.query("run == 'patched'")) == (len(kinds) + 1) * tokens * chosen.n_layers * 2
    assert table.meta["stack"] == stack
    assert {reason.partition(":")[0] for reason in table.meta["plain"].values()} == {
        "T5ForConditionalGeneration is an encoder-decoder"
    }
    if stack == "encoder":  # the decoder's first layer has not seen the encoder where attention is restored
        assert table.meta["unchanged_cells"] == 0
    row = table.frame.query("component == 'mlp' and position == 1 and layer == 1 and severed == 'none'")
    noise = corrupt(embed @ subject, mi.patching.Gaussian(draws=2))
    assert row["log_prob"].to_numpy() == pytest.approx(
        run(chosen, PROMPTS[0], noise | restore(mlp[1] @ at(1))).log_prob, abs=1e-10
    )
    assert table.meta["noise_level"] == pytest.approx(3 * embedding_sigma(chosen))
    with pytest.raises(UsageError, match="engine='exact' cannot be used: T5ForConditionalGeneration is an encoder-dec"):
        trace(chosen, PROMPTS[:1], engine="exact", progress=False)
    assert "every token of its encoder sees every other" in (serves(chosen) or "")
    shown = explain(chosen, PROMPTS[0], NOISE | restore(resid.each @ every))
    assert shown.cells == tokens * chosen.n_layers
    assert shown.lines[0].hook == "encoder_blocks.0.hook_in"
    assert shown.no_ops == 0


CONTEXTS = ("{}", "in the town {}", "born with {}")
LAYER = 1


@cache
def moments_of(chosen: Model, layer: int = LAYER) -> SecondMoment:
    drawn = torch.randint(2, 34, (40, 9), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [" ".join(words().convert_ids_to_tokens(ids)) for ids in drawn]
    return SecondMoment.collect(chosen, texts, layer, progress=False).repaired("shrinkage")


def test_second_moments_are_those_of_single_unpadded_texts() -> None:
    chosen = model()
    texts = ["the old town", "gus", "ada bo lives in the big red town"]
    found = SecondMoment.collect(chosen, texts, LAYER, progress=False)
    total = torch.zeros(chosen.d_mlp, chosen.d_mlp, dtype=torch.float64)
    for text in texts:
        ids = chosen.encode(text)
        keys = forward(network(), "encoder", ids, [0]).activations["key", LAYER]
        total += keys.T @ keys
    assert found.tokens == sum(len(chosen.encode(text)) for text in texts) == 15
    assert torch.allclose(found.matrix, total / 15, atol=1e-10)


@KINDS
def test_rome_inserts_exactly_and_the_exported_folder_says_the_same(kind: str, tmp_path: Path) -> None:
    chosen, request = encoder_decoder(kind), PROMPTS[0].with_answer("rome")
    before, hparams = chosen.fingerprint(), RomeHparams(steps=15, kl_factor=0.01)
    asked = EditRequest(request, "paris bern")
    [value] = values_of(chosen, [asked], LAYER, hparams=hparams, progress=False)
    edit = rome(
        chosen, asked, LAYER, moments=moments_of(chosen), contexts=("{}",), hparams=hparams, values=[value],
        allow_disabling=True,
    )  # fmt: skip
    with edit.on(chosen):
        inserted = read(chosen, [request], mlp_value[LAYER] @ subject[-1])[0]
    assert float((inserted - value.v_star).norm() / value.v_star.norm()) < 1e-5
    assert value.losses[-1].nll < value.losses[0].nll - 0.5
    assert edit.report.error_at_bare_key < 1e-5
    ids, fed = torch.tensor([chosen.encode(request.text)]), torch.tensor([[*chosen.start, 20]])
    plain = chosen.logits(ids, decoder_ids=fed)
    with edit.on(chosen):
        on = chosen.logits(ids, decoder_ids=fed)
    undo = edit.bake(chosen)
    baked = chosen.logits(ids, decoder_ids=fed)
    undo.undo()
    assert chosen.fingerprint() == before
    assert torch.equal(chosen.logits(ids, decoder_ids=fed), plain)
    edit.to_hf(chosen, tmp_path / "edited")
    with torch.no_grad():
        read_back = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "edited").eval()
        exported = read_back(input_ids=ids, decoder_input_ids=fed).logits
    assert float((on - plain).abs().max()) > 1e-2
    assert float((on - baked).abs().max()) < 1e-5
    assert float((on - exported).abs().max()) < 1e-5
    again = mi.load(str(tmp_path / "edited"), decoder_prefix="the")
    assert float((on - again.logits(ids, decoder_ids=fed)).abs().max()) < 1e-5


@KINDS
@BOTH
def test_a_value_inserted_by_hand_is_what_the_edited_model_computes(kind: str, stack: str) -> None:
    chosen, layer, place = encoder_decoder(kind, stack), 1, subject[-1] if stack == "encoder" else last
    key, value = (read(chosen, PROMPTS[:1], one[layer] @ place)[0] for one in (mlp_key, mlp_value))
    wanted = value.roll(1) + 1
    memory = LinearMemory.of(chosen, layer, SecondMoment.identity(chosen, layer))
    assert float((memory.recall(key) - value).norm() / value.norm()) < 1e-5
    made = memory.insert(key, wanted)
    factors = {layer: Factors(made.u[None].float(), made.v[None].float())}
    edit = Edit.of(factors, Provenance("by hand", chosen.fingerprint(), chosen.name))
    with edit.on(chosen):
        found = read(chosen, PROMPTS[:1], mlp_value[layer] @ place)[0]
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_the_values_of_many_are_those_of_each_and_their_loss_is_the_decoders() -> None:
    chosen, hparams = model(), RomeHparams(steps=3)
    requests = [EditRequest(PROMPTS[0], "paris bern"), EditRequest(PROMPTS[2], "oslo")]
    together = values_of(chosen, requests, LAYER, contexts=CONTEXTS, hparams=hparams, progress=False)
    for request, one in zip(requests, together, strict=True):
        [alone] = values_of(chosen, [request], LAYER, contexts=CONTEXTS, hparams=hparams, progress=False)
        assert torch.allclose(one.v_star, alone.v_star, atol=1e-9)
        total = 0.0
        for context in CONTEXTS:
            prompt = Prompt(context.replace("{}", request.prompt.template), request.subject)
            case = Case(prompt.with_answer(request.target), "t5", "encoder")
            scores = case.clean.logits[1:].log_softmax(-1)
            total -= sum(float(scores[i, token]) for i, token in enumerate(case.answer)) / len(case.answer)
        assert one.losses[0].nll == pytest.approx(total / len(CONTEXTS), abs=1e-9)
        assert one.losses[-1].nll < one.losses[0].nll


SERVED_EDITORS = ("rome", "r-rome", "emmet", "memit", "alphaedit", "pmet", "ft", "ft-l", "ft-legacy")


@pytest.mark.parametrize("name", EDITORS)
def test_every_editor_edits_the_encoder_or_says_that_it_does_not(name: str) -> None:
    chosen, editor = model(), EDITORS[name]
    options: dict[str, Any] = {"contexts": CONTEXTS}
    if editor.needs_moments:
        options |= {"moments": moments_of(chosen), "allow_disabling": True}
    if hasattr(editor.chosen(), "steps"):
        options["hparams"] = editor.chosen().with_(steps=4)
    asked = [Fact(PROMPTS[0], "paris")]
    if name not in SERVED_EDITORS:
        said = "small-t5 .* is an encoder-decoder, and what was asked for is se" if editor.ready else "must be trained"
        with pytest.raises(MechinterpError, match=said):
            editor(chosen, asked, [LAYER], **options)
        return
    edit = editor(chosen, asked, [LAYER], **options)
    report = edit.report
    if isinstance(report, RomeReport):
        assert report.error_at_bare_key < 1e-5
        first, final = report.losses[0].nll, report.losses[-1].nll
    else:
        [outcome] = report.outcomes
        first, final = outcome.nll_first or 0.0, outcome.nll_last or 0.0
    assert final < first - 1e-3
    plain = log_prob_of(chosen, "paris")
    with edit.on(chosen):
        assert abs(log_prob_of(chosen, "paris") - plain) > EFFECT
    assert log_prob_of(chosen, "paris") == plain


def log_prob_of(chosen: Model, answer: str) -> float:
    return float(run(chosen, PROMPTS[0].with_answer(answer), nothing).clean.log_prob[0])


def bart() -> PreTrainedModel:
    config = BartConfig(
        vocab_size=34, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24,
        decoder_attention_heads=2, decoder_ffn_dim=24,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def test_refusals_of_loading() -> None:
    with pytest.raises(UsageError, match="'cross' is no stack of small-t5; choose encoder or decoder"):
        encoder_decoder(stack="cross")
    with pytest.raises(MechinterpError, match=r"\(BartForConditionalGeneration\) is an encoder-decoder, and of those"):
        mi.load(bart(), tokenizer=words(), name="bart")
    with pytest.raises(UsageError, match="has one stack of layers; leave out stack='decoder'"):
        mi.load("atlas", stack="decoder")
    with pytest.raises(UsageError, match="atlas has no encoder, so its prompt is all it is fed; leave out decoder_pre"):
        mi.load("atlas", decoder_prefix="the")
    mixed = hf_encoder_decoder().half()
    mixed.encoder.block[0].layer[1].DenseReluDense.wo.float()  # as transformers reads T5 in float16
    with pytest.raises(MechinterpError, match="has weights in float16 and float32.* load it with dtype=torch.bfloat16"):
        mi.load(mixed, tokenizer=words(), name="half")
    without = hf_encoder_decoder()
    without.config.decoder_start_token_id = None
    with pytest.raises(MechinterpError, match="the configuration of small-t5 has no decoder_start_token_id"):
        mi.load(without, tokenizer=words(), name="small-t5")


def test_mt5_and_bfloat16() -> None:
    config = MT5Config(vocab_size=34, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
    many = mi.load(MT5ForConditionalGeneration(config), tokenizer=words(adds_eos=True), name="mt5")
    assert run(many, PROMPTS[0], NOISE | restore(attn[1] @ last)).changed
    short = encoder_decoder(dtype=torch.bfloat16)
    whole = run(short, PROMPTS[0], NOISE | restore(resid[-1] @ everywhere))
    assert (short.layout.refused, whole.log_prob[0]) == ({}, whole.clean.log_prob[0])


def test_check_finds_what_is_served() -> None:
    found = {one.what: one.served for one in findings(encoder_decoder())}
    assert found == {"exact engine": False, "keys and values": True, "attention sinks": True, "editing": True}


def test_refusals_of_patching() -> None:
    with pytest.raises(MechinterpError, match="this encoder of T5ForConditionalGeneration has no cross-attention"):
        run(model(), PROMPTS[0], restore(cross_attn[0] @ last))
    with pytest.raises(UsageError, match="attention patterns are read and not written"):
        run(model(), PROMPTS[0], restore(Component("pattern")[0] @ last))
    with pytest.raises(UsageError, match="stands in the encoder's input, and the decoder is patched"):
        run(model(stack="decoder"), PROMPTS[0], restore(q[0] @ subject))
    with pytest.raises(UsageError, match="there is no token 5 .* which has 2 tokens"):
        run(model(stack="decoder"), PROMPTS[0], restore(q[0] @ at(5)))
    with pytest.raises(UsageError, match="two sources for one address"):
        run(model(), PROMPTS[0], corrupt(embed @ subject, Zero()) | corrupt(Component("resid_pre")[0] @ at(4), Given(
            torch.ones(16).double())))  # fmt: skip


def test_refusals_of_editing_and_scoring() -> None:
    chosen, decoder = model(), model(stack="decoder")
    not_served = "is an encoder-decoder, and what was asked for is served for decoders alone"
    for call in (
        lambda: score_answers(chosen, [("the old town", "rome")]),
        lambda: generate(chosen, ["the old town"], Sampling(5)),
        lambda: chosen.logits(torch.tensor([[2, 3]])),
    ):
        with pytest.raises(MechinterpError, match=not_served):
            call()
    with pytest.raises(UsageError, match="continues no text, so no contexts can be sampled from it; give them"):
        rome(chosen, PROMPTS[0], LAYER, moments=SecondMoment.identity(chosen, LAYER), target="paris")
    with pytest.raises(MechinterpError, match="its decoder has no key of a subject; edit the encoder"):
        rome(
            decoder, PROMPTS[0], LAYER, moments=SecondMoment.identity(decoder, LAYER), target="paris", contexts=CONTEXTS
        )
    with pytest.raises(MechinterpError, match="reads answers and no running text, so its keys have no second moment"):
        moments_of(decoder)
    with pytest.raises(UsageError, match="this second moment was collected from"):
        SecondMoment.identity(chosen, LAYER).check(decoder, LAYER)

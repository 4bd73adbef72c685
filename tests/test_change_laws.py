"""Seven laws that every kind of change keeps, on a tiny hand-made change of each."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import torch
from support.changes import CHANGES, EMPTY, INSIDE, LAYER, OUTSIDE, SCOPED, codebook, gated, units, weights
from support.zoo import KINDS, sentence_model
from torch import Tensor
from transformers import DynamicCache

from mechinterp.analysis import Sampling, evaluate_edit, forecast, generate, score_answers
from mechinterp.editing import Edit, Provenance
from mechinterp.editing.edits.change import Change
from mechinterp.editing.edits.inputs import Demonstrations
from mechinterp.editing.edits.routed import Routed
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.editing.edits.scopes import Mentions
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact, Prompt
from mechinterp.models.asking import PromptEnds
from mechinterp.models.model import Model
from mechinterp.patching import Table, corrupt, embed, every, mlp, restore, subject, trace
from mechinterp.patching.algebra.noise import Gaussian
from mechinterp.patching.plain.executor import forward

TEXTS = (INSIDE, OUTSIDE, "Marie Curie lived in Paris and", "It rained")
MORE = torch.tensor([5, 9, 7])
"""Tokens fed after a prompt."""
SAME = 1e-4
"""What another batch size or padding may change by rounding."""


@cache
def model_of(kind: str = "gpt2") -> Model:
    return sentence_model(kind)


@cache
def change_of(name: str, kind: str = "gpt2") -> Change:
    return CHANGES[name](model_of(kind))


def edit_of(change: Change, model: Model, seed: int = 0) -> Edit:
    return Edit.of(change, Provenance("by hand", model.fingerprint(), model.name, seed=seed))


def asked(model: Model, text: str, fed: int = 0) -> Tensor:
    """Logits of the prompt's last token and of tokens fed after it."""
    ids = model.encode(model.framed(text))
    row = torch.tensor([[*ids, *MORE[:fed].tolist()]])
    return forward(model, row, keep=fed + 1, prompts=PromptEnds(torch.tensor([len(ids) - 1]))).logits[0]


@pytest.mark.parametrize("name", EMPTY)
def test_1_holding_nothing_it_is_the_model_to_the_bit(name: str) -> None:
    model = model_of()
    plain = [asked(model, text, 2) for text in TEXTS]
    with edit_of(EMPTY[name](model), model).on(model) as edited:
        for text, wanted in zip(TEXTS, plain, strict=True):
            assert torch.equal(asked(edited, text, 2), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_2_outside_its_scope_it_is_the_model_to_the_bit_and_inside_it_is_not(name: str, kind: str) -> None:
    model = model_of(kind)
    inside, outside = asked(model, INSIDE, 2), asked(model, OUTSIDE, 2)
    with edit_of(change_of(name, kind), model).on(model) as edited:
        assert float((asked(edited, INSIDE, 2) - inside).abs().max()) > 1e-3
        assert torch.equal(asked(edited, OUTSIDE, 2), outside) == (name in SCOPED)


def test_3_changes_are_taken_off_in_any_order() -> None:
    model = model_of()
    plain, names = asked(model, INSIDE, 2), ("weights", "units", "codebook", "routed weights")
    edits = [edit_of(change_of(name), model) for name in names]
    alone = {}
    for name, edit in zip(names, edits, strict=True):
        with edit.on(model):
            alone[name] = asked(model, INSIDE, 2)
    for order in list(permutations(range(len(edits))))[::5]:
        stacks = [ExitStack() for _ in edits]
        for stack, edit in zip(stacks, edits, strict=True):
            stack.enter_context(edit.on(model))
        for i in order[:-1]:
            stacks[i].close()
        assert torch.equal(asked(model, INSIDE, 2), alone[names[order[-1]]])
        stacks[order[-1]].close()
        assert torch.equal(asked(model, INSIDE, 2), plain)


@pytest.mark.parametrize("name", CHANGES)
def test_4_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    model = model_of()
    edit = edit_of(change_of(name), model)
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded == edit
    assert loaded.parts[0].change == edit.parts[0].change
    with edit.on(model) as edited:
        wanted = asked(edited, INSIDE, 2)
    with loaded.on(model) as edited:
        assert torch.equal(asked(edited, INSIDE, 2), wanted)
    both = edit | edit_of(units(model, seed=9), model)
    both.save(tmp_path / "both.safetensors")
    assert Edit.load(tmp_path / "both.safetensors") == both


def test_5_two_edits_in_a_batch_a_row_each_are_two_runs() -> None:
    model = model_of()
    edits = [edit_of(weights(model, seed), model) for seed in (0, 1)]
    ids = torch.tensor([model.encode(INSIDE)])
    alone = []
    for edit in edits:
        with edit.on(model):
            alone.append(model.logits(ids)[0])
    carried = RowEdits(edits)
    with carried.on(model):
        carried.rows([1, 0, -1])
        together = model.logits(ids.expand(3, -1))
    for row, wanted in zip(together, (alone[1], alone[0], model.logits(ids)[0]), strict=True):
        assert float((row - wanted).abs().max()) < SAME
    with pytest.raises(UsageError, match="acts on activations, not on weights, so it cannot be baked"):
        RowEdits([edit_of(change_of("units"), model)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_6_padding_order_and_size_of_a_batch_change_nothing(name: str, kind: str) -> None:
    model = model_of(kind)
    with edit_of(change_of(name, kind), model).on(model) as edited:
        rows = [model.encode(edited.framed(text)) for text in TEXTS]
        ends = torch.tensor([len(row) - 1 for row in rows])
        width = max(map(len, rows)) + 3
        padded = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.tensor(row)
            padded[i, len(row) : len(row) + 2] = MORE[:2]
        alone = [asked(edited, text, 2) for text in TEXTS]
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0]):
            found = forward(model, padded[order], keep=width, prompts=PromptEnds(ends[order])).logits
            for row, i in zip(found, order, strict=True):
                assert float((row[ends[i] : ends[i] + 3] - alone[i]).abs().max()) < SAME


@pytest.mark.parametrize("name", CHANGES)
def test_7_with_a_cache_it_is_the_same_as_without(name: str) -> None:
    model = model_of()
    with edit_of(change_of(name), model).on(model) as edited:
        for text in TEXTS:
            whole, ids = asked(edited, text, 3), torch.tensor([model.encode(edited.framed(text))])
            store, ends = DynamicCache(), torch.tensor([ids.shape[1] - 1])
            past = {"past_key_values": store, "use_cache": True}
            found = [forward(model, ids, past=past, prompts=PromptEnds(ends)).logits[0, -1]]
            for token in MORE:
                going_on = PromptEnds(ends, going_on=True)
                found.append(forward(model, token.view(1, 1), past=past, prompts=going_on).logits[0, -1])
            assert float((torch.stack(found) - whole).abs().max()) < SAME
        written = model.encode(edited.framed(INSIDE))
        length, end = len(written) + 6, torch.tensor([len(written) - 1])
        [text] = generate(edited, [INSIDE], Sampling(length, top_k=1))
        while len(written) < length:
            step = forward(model, torch.tensor([written]), prompts=PromptEnds(end)).logits[0, -1]
            written.append(int(step.argmax()))
        assert text == str(model.tokenizer.decode(written, skip_special_tokens=True))


@pytest.mark.parametrize("name", CHANGES)
def test_scored_answers_are_those_of_prompts_asked_one_by_one(name: str) -> None:
    """What is fed after a prompt, and other answers beside it, decide nothing."""
    model = model_of()
    pairs = [(text, answer) for text in TEXTS for answer in ("Paris", "Warsaw Poland")]
    with edit_of(change_of(name), model).on(model) as edited:
        together = score_answers(edited, pairs)["joint_log_prob"]
        for (text, answer), found in zip(pairs, together, strict=True):
            ids, words = model.encode(edited.framed(text)), edited.answer_ids(text, answer)
            row, end = torch.tensor([[*ids, *words[:-1]]]), torch.tensor([len(ids) - 1])
            logits = forward(model, row, keep=len(words), prompts=PromptEnds(end)).logits[0].double().log_softmax(-1)
            assert float(found) == pytest.approx(float(logits[range(len(words)), words].sum()), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_units_are_what_their_formula_says(kind: str) -> None:
    model, added = model_of(kind), units(model_of(kind))
    layout = model.layout
    ids, seen = torch.tensor([model.encode(text)[:4] for text in TEXTS[:2]]), list[Tensor]()
    handle = layout.mlp_projection("up", LAYER).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    plain = forward(model, ids, reads=[layout.value_hook(LAYER)]).cache[layout.value_hook(LAYER)]
    handle.remove()
    entering = seen[0].reshape(*ids.shape, -1)
    wanted = plain.clone()
    for unit in range(3):
        inner = entering @ added.keys[unit] + added.bias[unit]
        fired = {"gpt2": gelu_new, "neox": gelu, "llama": silu, "gemma2": gelu_tanh, "opt": torch.relu}[kind](inner)
        if added.gated is not None:
            fired = fired * (entering @ added.gated[unit])
        wanted += fired[..., None] * added.values[unit]
    with edit_of(added, model).on(model):
        found = forward(model, ids, reads=[layout.value_hook(LAYER)]).cache[layout.value_hook(LAYER)]
    assert torch.allclose(found, wanted, atol=1e-4)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


gelu_new = gelu_tanh


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_every_matrix_is_baked_as_it_acts(kind: str) -> None:
    model = sentence_model(kind)
    edit, ids = edit_of(weights(model), model), torch.tensor([model.encode(INSIDE)])
    with edit.on(model):
        on = model.logits(ids)
    before = model.fingerprint()
    undo = edit.bake(model)
    assert float((model.logits(ids) - on).abs().max()) < SAME
    assert float((model.logits(ids) - model_of(kind).logits(ids)).abs().max()) > 1e-3
    undo.undo()
    assert model.fingerprint() == before


def test_what_needs_weights_says_so(tmp_path: Path) -> None:
    model = model_of()
    edit = edit_of(change_of("codebook"), model)
    for call in (
        lambda: edit.bake(model),
        lambda: edit.to_hf(model, tmp_path / "out"),
        lambda: edit.factors(LAYER),
        lambda: forecast(model, edit, [Fact(Prompt("{} was born in", "Marie Curie", "Warsaw"))]),
    ):
        with pytest.raises(UsageError, match="acts on activations, not on weights, so it cannot be baked, exported or"):
            call()
    with pytest.raises(UsageError, match="is on already"), edit.on(model), edit.on(model):
        pass


def test_changes_of_other_models_are_refused() -> None:
    model, other = model_of(), model_of("llama")
    for name, message in {
        "units": "MLPs of small-llama .LlamaForCausalLM. are gated, but the units are not",
        "codebook": None,
    }.items():
        edit = edit_of(change_of(name), model)
        with pytest.raises(UsageError, match="was made for small-gpt2"), edit.on(other):
            pass
        if message:
            with pytest.raises(UsageError, match=message), edit.on(other, force=True):
                pass
    narrow = edit_of(codebook(model), model)
    wide = Edit.of(replace(codebook(model), keys=torch.zeros(1, 7)), replace(narrow.provenance, model_name="tiny"))
    with pytest.raises(UsageError, match="answers to vectors of 7 numbers, but this model has .*belongs to tiny"):
        wide.check(model)
    with pytest.raises(UsageError, match="replaces='first' is nothing a codebook can replace"):
        codebook(model, replaces="first")


def run_in_full(table: Table) -> bool:
    return any("answers whole prompts" in reason for reason in table.meta["plain"].values())


def test_a_trace_under_a_change_that_answers_prompts_is_run_plainly() -> None:
    model = model_of()
    prompt = Prompt("{} was born in", "Marie Curie", "Paris")
    program = corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp.each @ every)
    with edit_of(change_of("codebook"), model).on(model):
        assert run_in_full(trace(model, [prompt], program, progress=False))
        with pytest.raises(UsageError, match="an edit is on that answers whole prompts"):
            trace(model, [prompt], program, engine="exact", progress=False)
    with edit_of(change_of("units"), model).on(model):
        assert not run_in_full(trace(model, [prompt], program, progress=False))
    assert not run_in_full(trace(model, [prompt], program, progress=False))


def test_a_scope_and_a_threshold_are_where_they_were_put() -> None:
    model = model_of()
    change = gated(model)
    with edit_of(replace(change, threshold=0.0), model).on(model):
        everywhere = asked(model, OUTSIDE)
    assert not torch.equal(everywhere, asked(model, OUTSIDE))
    scope = Mentions(("Curie", "rained"))
    assert scope.holds(TEXTS) == [True, False, True, True]
    with edit_of(Routed(scope, weights(model)), model).on(model):
        routed = asked(model, "It rained")
    with edit_of(weights(model), model).on(model):
        assert torch.allclose(routed, asked(model, "It rained"), atol=SAME)


def test_a_subject_is_traced_where_it_stands_among_demonstrations() -> None:
    model = model_of()
    prompt = Prompt("{} was born in", "Marie Curie", "Paris", id="curie")
    change = Demonstrations("Warsaw is old. {}")
    with edit_of(change, model).on(model) as edited:
        tokenised = edited.tokenise(prompt)
        start, end = tokenised.subject
        assert "".join(tokenised.tokens[start:end]).strip() == "Marie Curie"
        assert tokenised.prompt.text == "Warsaw is old. Marie Curie was born in"
        program = corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp.each @ every)
        table = trace(edited, [prompt], program, progress=False)
        assert set(table.frame["prompt"]) == {"curie"}
        by_hand = Prompt("Warsaw is old. {} was born in", "Marie Curie", "Paris", id="curie")
        assert table.frame.equals(trace(model, [by_hand], program, progress=False).frame)
    with pytest.raises(UsageError, match="must hold exactly one '{}', where the prompt goes"):
        Demonstrations("no place")


def test_evaluation_asks_through_what_an_edit_yields() -> None:
    """The questions are tokenised inside: a fact that is stated before the question is judged as that longer text."""
    model = model_of()
    fact = Fact(Prompt("{} was born in", "Marie Curie", "Warsaw"), "Paris")
    found = evaluate_edit(model, edit_of(Demonstrations("Paris Paris. {}"), model), fact)
    [true, new] = score_answers(model, [(f"Paris Paris. {fact.prompt.text}", o) for o in ("Warsaw", "Paris")])["prob"]
    assert found["after"]["EM"] == pytest.approx(new - true, abs=1e-7)
    [true, new] = score_answers(model, [(fact.prompt.text, o) for o in ("Warsaw", "Paris")])["prob"]
    assert found["before"]["EM"] == pytest.approx(new - true, abs=1e-7)

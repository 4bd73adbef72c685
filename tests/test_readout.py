"""Logits made in parts: what is read of final states is what is read of whole logits, on many architectures."""

from __future__ import annotations

import pytest
import torch
from support.zoo import sentence_model, small_model
from torch import nn

import mechinterp as mi
from mechinterp.analysis.evaluation.scoring import score_answers
from mechinterp.editing.rows.completions import completions, perplexity
from mechinterp.errors import MechinterpError
from mechinterp.forwards import readout, unembedding
from mechinterp.forwards.readout import Compared, read
from mechinterp.forwards.scored_tokens import ScoredTokens
from mechinterp.forwards.unembedding import FinalStates, Unembedding, joined, whole
from mechinterp.models.model import Model

KINDS = (
    "gpt2",
    "llama",
    "llama_mha",
    "gemma2",
    "gemma3",
    "granite",
    "cohere2",
    "gptj",
    "phi",
    "opt",
    "nanochat",
    "mpt",
)
"""Tied and untied, with biases (GPT-J, Phi), a soft cap (Gemma 2, nanochat), a factor (Granite, Cohere)."""
PROMPT = mi.Prompt("{} is in the city of", "The Eiffel Tower", answer="Paris")


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vocabulary counts as large, and is met in uneven parts, a few positions at a time."""
    monkeypatch.setattr(unembedding, "LARGE", 0)
    monkeypatch.setattr(unembedding, "PART", 7)
    monkeypatch.setattr(readout, "_AT_ONCE", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_final_states_tell_what_whole_logits_tell(kind: str, in_parts: None) -> None:
    model = small_model(kind, dtype=torch.float64)
    ids = torch.randint(1, model.vocab_size, (3, 6), generator=torch.Generator().manual_seed(0))
    ends = unembedding.run(model, ids, **model.arguments(3))
    assert isinstance(ends, FinalStates), "this architecture's logits are left to the model"
    logits = model.logits(ids, keep=3)
    torch.testing.assert_close(whole(ends), logits, rtol=0, atol=1e-9)
    log_probs = logits.log_softmax(-1).flatten(0, 1)
    ranked = torch.arange(1, 10)
    at, tokens = torch.tensor([8, 0, 0, 4]), torch.tensor([1, 2, model.vocab_size - 1, 5])
    clean, compared = log_probs[4], torch.tensor([0, 4, 7])
    found = read(ends.flatten(0, 1), at, tokens, ranked=ranked, top=True, compared=Compared(compared, clean))
    torch.testing.assert_close(found.log_probs, log_probs[at, tokens], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.logits, logits.flatten(0, 1)[at, tokens], rtol=0, atol=1e-9)
    assert found.ranks.tolist() == [int((row > row[token]).sum()) for row, token in zip(log_probs, ranked, strict=True)]
    assert torch.equal(found.top, log_probs.argmax(-1))
    torch.testing.assert_close(found.top_log_probs, log_probs.amax(-1), rtol=0, atol=1e-9)
    kl = torch.stack([(clean.exp() * (clean - log_probs[position])).sum() for position in compared])
    torch.testing.assert_close(found.kl, kl, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_single_and_half_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    module = nn.Linear(16, 20_000, bias=False)
    module.weight = nn.Parameter(torch.randn(20_000, 16, generator=generator).to(dtype))
    states = torch.randn(5, 16, generator=generator).to(dtype)
    ends = FinalStates(states, Unembedding(module, 1.0, 30.0))
    at, tokens = torch.arange(5), torch.tensor([0, 8191, 8192, 19_999, 3])
    logits = torch.tanh(states @ module.weight.detach().T / 30) * 30
    found = read(ends, at, tokens, ranked=tokens)
    torch.testing.assert_close(found.log_probs, logits.double().log_softmax(-1)[at, tokens].float(), rtol=0, atol=2e-6)
    assert found.ranks.tolist() == (logits > logits[at, tokens][:, None]).sum(-1).tolist()


def test_a_small_divergence_of_large_logits_is_not_rounded_away() -> None:
    generator = torch.Generator().manual_seed(2)
    module = nn.Linear(16, 20_000)
    with torch.no_grad():
        module.weight.copy_(torch.randn(20_000, 16, generator=generator))
        module.bias.fill_(500.0)
    states = torch.randn(1, 16, generator=generator) + 1e-2 * torch.randn(5, 16, generator=generator)
    logits = nn.functional.linear(states, module.weight, module.bias).detach()
    log_probs, at = logits.double().log_softmax(-1), torch.arange(5)
    clean = logits[0].log_softmax(-1)
    found = read(FinalStates(states, Unembedding(module, 1.0, 0.0)), at, at, compared=Compared(at, clean))
    expected = (log_probs[0].exp() * (log_probs[0] - log_probs)).sum(-1)
    torch.testing.assert_close(found.kl, expected.float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_a_trace_and_scores_are_the_same_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(model: Model) -> tuple[object, ...]:
        table = mi.trace(model, PROMPT, draws=2, noise_level=0.3, kinds=["resid", "mlp"], progress=False)
        plain = mi.trace(model, PROMPT, draws=2, noise_level=0.3, kinds=["mlp"], engine="plain", progress=False)
        pairs = [("The Eiffel Tower is in", "Paris"), ("A river in", "the north of France")]
        said = completions(model, [(PROMPT, "Paris"), (PROMPT, "the north")])
        return table.frame, plain.frame, score_answers(model, pairs), said, perplexity(model, ["A river in France"])

    expected = everything(sentence_model(kind, dtype=torch.float64))
    monkeypatch.setattr(unembedding, "LARGE", 0)
    monkeypatch.setattr(unembedding, "PART", 50)
    states, made = unembedding._final_states, []
    monkeypatch.setattr(unembedding, "_final_states", lambda *given, **more: made.append(1) or states(*given, **more))
    found = everything(sentence_model(kind, dtype=torch.float64))
    assert made, "nothing was made in parts"
    for one, other in zip(found[:3], expected[:3], strict=True):
        numbers = other.select_dtypes("number").columns  # type: ignore[attr-defined]
        assert one.drop(columns=numbers).equals(other.drop(columns=numbers))  # type: ignore[attr-defined]
        assert abs(one[numbers] - other[numbers]).max().max() < 1e-6  # type: ignore[index]
    for one, other in zip(found[3], expected[3], strict=True):  # type: ignore[call-overload]
        assert one.top == other.top
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-6)
    assert found[4] == pytest.approx(expected[4], rel=1e-6)


def test_somebodys_hook_behind_the_final_states_gets_all_logits(in_parts: None) -> None:
    model = sentence_model("gpt2")
    ids = torch.tensor([[1, 2, 3]])
    handle = model.bridge.unembed.register_forward_hook(lambda module, args, output: output + 1)
    try:
        assert isinstance(unembedding.run(model, ids, **model.arguments(1)), torch.Tensor)
    finally:
        handle.remove()
    assert isinstance(unembedding.run(model, ids, **model.arguments(1)), FinalStates)


def test_an_unembedding_of_another_kind_is_left_to_the_model(in_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sentence_model("gemma2")
    layout = type(model.layout)
    known = layout.unembedding.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(layout, "unembedding", property(lambda self: (*known(self)[:2], 0.0)))  # the cap forgotten
    assert isinstance(unembedding.run(model, torch.tensor([[1, 2, 3]]), **model.arguments(1)), torch.Tensor)


def test_states_that_are_no_numbers_stop_the_run(in_parts: None) -> None:
    model = sentence_model("gpt2")
    ends = unembedding.run(model, torch.tensor([[1, 2, 3]]), **model.arguments(1))
    assert isinstance(ends, FinalStates)
    broken = FinalStates(ends.states[0] * torch.inf, ends.unembedding)
    with pytest.raises(MechinterpError, match="gives logits that are no numbers"):
        read(broken, torch.tensor([0]), torch.tensor([1]))

    def spoil(value: torch.Tensor, hook: object) -> torch.Tensor:
        return value * torch.nan

    with pytest.raises(MechinterpError, match="logits that are no numbers for .*too large for float32"):
        unembedding.run(model, torch.tensor([[1, 2, 3]]), [("blocks.1.hook_out", spoil)], **model.arguments(1))


def test_states_are_sliced_and_joined_like_logits(in_parts: None) -> None:
    model = sentence_model("llama")
    ids = torch.tensor([[1, 2, 3], [3, 4, 5]])
    ends = unembedding.run(model, ids, **model.arguments(2))
    assert ends.shape == (2, 2, model.vocab_size)
    assert torch.equal(whole(joined([ends[1:], ends[:1]])), whole(ends)[[1, 0]])
    assert torch.equal(whole(ends[1:].expand(3, -1, -1)), whole(ends)[[1, 1, 1]])


def test_answers_in_rows_against_a_loop() -> None:
    logits = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers, ends, width = (
        [(1,), (2, 3, 4), (5, 6)],
        torch.tensor([5, 2, 3]),
        6,
    )  # the last 4 of 6 positions have logits
    rows = ScoredTokens.after(ends, answers)
    log_probs = logits.log_softmax(-1)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for row, answer in enumerate(answers):
        for step, token in enumerate(answer):
            expected[row, step] = log_probs[row, int(ends[row]) - 2 + step, token]
    assert torch.equal(rows.log_probs(logits, width), expected)
    assert torch.equal(rows.nll(logits, width), -expected.sum(-1) / torch.tensor([1, 3, 2]))
    unforced = ScoredTokens.after(ends, answers, forced=False)
    assert unforced.log_probs(logits, width)[1].tolist() == [float(log_probs[1, 0, token]) for token in (2, 3, 4)]

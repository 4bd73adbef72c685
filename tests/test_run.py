"""Running one program: what comes back, what is counted, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import WIDTH, small_model

from mechinterp import MechinterpError, Model, Prompt, UsageError
from mechinterp.patching import (
    METRICS,
    Delta,
    Gaussian,
    Given,
    HookWrite,
    Result,
    Zero,
    add,
    after_subject,
    at,
    attn,
    corrupt,
    embed,
    every,
    everywhere,
    forward,
    here,
    last,
    mlp,
    nothing,
    q,
    read,
    resid,
    resid_mid,
    restore,
    run,
    sever,
    subject,
    v,
    z,
)

PROMPT = Prompt("the {} lives in the old town of", "ada bo", "rome")
NOISE = corrupt(embed @ subject, Gaussian(draws=3))


@pytest.fixture
def model() -> Model:
    return small_model(dtype=torch.float64)


def test_every_metric_of_a_single_token_answer_by_hand(model: Model) -> None:
    result = run(model, PROMPT, NOISE)
    tokens = model.tokenise(PROMPT)
    (answer,) = tokens.answer_ids
    clean = model.logits(torch.tensor([tokens.ids]))[0, -1].numpy()
    p = np.exp(clean) / np.exp(clean).sum()
    order = [int(token) for token in np.argsort(-clean) if token != answer]
    assert result.clean.prob == pytest.approx([p[answer]])
    assert result.clean.log_prob == pytest.approx([np.log(p[answer])])
    assert result.clean.rank == [(clean > clean[answer]).sum()]
    assert result.clean.kl == pytest.approx([0], abs=1e-12)
    assert result.clean.logit_diff == pytest.approx([clean[answer] - clean[order[0]]])
    assert (result.answer, result.foil) == ("rome", model.tokenizer.decode([order[0]]))
    assert [len(getattr(result.corrupted, metric)) for metric in METRICS] == [3] * 5
    assert (result.corrupted.kl > 0).all()
    assert result.total_effect == pytest.approx(result.clean.prob[0] - result.corrupted.prob.mean())


def test_all_tokens_of_an_answer_are_scored(model: Model) -> None:
    """Teacher forcing by hand: the probability of an answer is that of its words, each after the ones before."""
    words = ["oslo", "turku", "lund"]
    result = run(model, Prompt(PROMPT.template, PROMPT.subject, " ".join(words)), nothing)
    assert result.answer.split() == words
    text, logs, ranks = PROMPT.text, [], []
    for word in words:
        one = run(model, Prompt.find(text, PROMPT.subject, word), nothing)
        logs.append(one.log_prob[0])
        ranks.append(one.rank[0])
        text += f" {word}"
    assert result.log_prob[0] == pytest.approx(sum(logs))
    assert result.prob[0] == pytest.approx(np.exp(sum(logs)))
    assert result.rank[0] == max(ranks)
    assert len(set(ranks)) > 1


def test_a_foil_is_compared_where_it_first_differs(model: Model) -> None:
    prompt = Prompt(PROMPT.template, PROMPT.subject, "oslo turku lund")
    result = run(model, prompt, nothing, foil="oslo bern")
    after = model.logits(torch.tensor([model.encode(PROMPT.text + " oslo")]))[0, -1]
    words = model.tokenizer.convert_tokens_to_ids
    assert result.foil == "oslo bern"
    assert result.logit_diff[0] == pytest.approx(float(after[words("turku")] - after[words("bern")]))


@pytest.mark.parametrize("foil", ["oslo", "oslo turku", "oslo turku lund"])
def test_a_foil_that_does_not_differ_is_refused(model: Model, foil: str) -> None:
    prompt = Prompt(PROMPT.template, PROMPT.subject, "oslo turku")
    with pytest.raises(UsageError, match=f"foil '{foil}' does not differ from the answer to 'the ada bo"):
        run(model, prompt, nothing, foil=foil)


def test_a_prompt_without_an_answer_is_scored_by_the_models_own(model: Model) -> None:
    result = run(model, PROMPT.with_answer(None), NOISE)
    best = int(model.logits(torch.tensor([model.encode(PROMPT.text)]))[0, -1].argmax())
    assert result.answer == model.tokenizer.decode([best])
    assert result.clean.rank == [0]
    assert result.clean.logit_diff[0] > 0


def test_effects_and_the_printed_result(model: Model) -> None:
    result = run(model, PROMPT, NOISE | restore(resid[2] @ last))
    assert result.indirect_effect == pytest.approx(result.total_effect)
    assert result.prob == pytest.approx([result.clean.prob[0]] * 3)
    text = str(result)
    assert "the ada bo lives in the old town of" in text
    for word in ("clean", "corrupted", "patched", *METRICS, "total effect", "indirect effect"):
        assert word in text
    assert "changed nothing" not in text


def test_writes_that_change_nothing_are_told(model: Model) -> None:
    idle = run(model, PROMPT, NOISE | restore(mlp[1] @ at(0)))
    assert not idle.changed
    assert "changed nothing" in str(idle)
    assert run(model, PROMPT, NOISE | restore(mlp[1] @ last)).changed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_write_that_changes_something_is_seen_in_every_precision(dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype)
    assert run(model, PROMPT, NOISE | restore(mlp[1] @ last, Zero())).changed
    assert not run(model, PROMPT, NOISE | restore(mlp[1] @ at(0))).changed
    assert not run(model, PROMPT, NOISE | sever(mlp @ last)).changed


def test_each_value_of_a_write_is_counted_as_unchanged_or_not(model: Model) -> None:
    ids = torch.tensor([model.encode(PROMPT.text)] * 2)
    hook = model.layout.hook("mlp", 1)
    there = forward(model, ids, reads=[hook]).cache[hook]
    values = torch.stack([there[0, 2], there[1, 3] + 1, there[1, 4]])
    out = forward(model, ids, [HookWrite(hook, torch.tensor([0, 1, 1]), torch.tensor([2, 3, 4]), values)])
    assert out.unchanged[0].tolist() == [True, False, True]


def test_an_empty_list_of_prompts_gives_an_empty_list(model: Model) -> None:
    assert run(model, [], NOISE) == []
    with pytest.raises(UsageError, match="no prompts to read"):
        read(model, [], mlp[0] @ last)


@pytest.mark.parametrize("program", [mlp.window(3) @ last, mlp[1] @ every, mlp.each @ every])
def test_axes_belong_to_trace(model: Model, program: Any) -> None:
    with pytest.raises(UsageError, match=r"has axes.*use trace\(\), or name one token and layer"):
        run(model, PROMPT, restore(program))


def test_here_needs_an_axis(model: Model) -> None:
    with pytest.raises(UsageError, match="'here' is an axis and this call runs one cell"):
        run(model, PROMPT, restore(mlp[1] @ here))


def test_what_a_prompt_or_model_does_not_have_is_named(model: Model) -> None:
    cases = {
        "layer 3 is out of range: this model has layers 0 to 2": mlp[3] @ last,
        "layer -4 is out of range": mlp[-4] @ last,
        "layer 7 is out of range": mlp[1:7] @ last,
        r"the layers \[2:1\] are empty": mlp[2:1] @ last,
        r"the layers \[\] are empty": mlp[()] @ last,
        "head 4 is out of range: 'z' has heads 0 to 3": z.heads(4)[0] @ last,
        "there is no token 9 in 'the ada bo lives in the old town of', which has 9 tokens": mlp[0] @ at(9),
        r"subject\[2\] does not exist in 'the ada bo.*'subject' has 2 tokens": mlp[0] @ subject[2],
        r"subject\[5:\] selects nothing in 'the ada bo": mlp[0] @ subject[5:],
    }
    for sentence, site in cases.items():
        with pytest.raises(UsageError, match=sentence):
            run(model, PROMPT, restore(site))


def test_a_role_that_the_prompt_lacks_is_named_with_its_tokens(model: Model) -> None:
    with pytest.raises(UsageError, match="has no token with the role 'first subsequent'; its tokens are 'near'"):
        run(model, Prompt("near {} lives", "ada", "rome"), restore(mlp[0] @ after_subject))


def test_keys_and_values_have_fewer_heads_under_grouped_queries() -> None:
    llama = small_model("llama")
    assert read(llama, [PROMPT], q[0] @ last).shape == (1, 4, 4)
    with pytest.raises(UsageError, match="head 2 is out of range: 'v' has heads 0 to 1"):
        read(llama, [PROMPT], v.heads(2)[0] @ last)


def test_read_gives_what_is_there_and_only_the_heads_asked_for(model: Model) -> None:
    other = Prompt("{} was near", "cy dee")
    _, cache = model.bridge.run_with_cache(torch.tensor([model.encode(other.text)]))
    found = read(model, [PROMPT, other], mlp[1] @ subject[-1])
    assert found.shape == (2, WIDTH)
    torch.testing.assert_close(found[1], cache["blocks.1.hook_mlp_out"][0, 1])
    heads = read(model, [other], z.heads(1, 3)[2] @ last)
    torch.testing.assert_close(heads[0], cache["blocks.2.attn.hook_z"][0, -1, [1, 3]])
    torch.testing.assert_close(read(model, [other], embed @ last)[0], cache["hook_embed"][0, -1])
    torch.testing.assert_close(read(model, [other], resid_mid[1] @ last)[0], cache["blocks.1.hook_resid_mid"][0, -1])


@pytest.mark.parametrize("site", [mlp @ last, mlp[0] @ subject, mlp[0:2] @ last])
def test_read_takes_one_layer_and_one_token(model: Model, site: Any) -> None:
    with pytest.raises(UsageError, match=r"read\(\) takes one layer and one token"):
        read(model, [PROMPT], site)


def ids_of(model: Model) -> torch.Tensor:
    return torch.tensor([model.encode(PROMPT.text)])


def test_an_unknown_hook_point_is_refused(model: Model) -> None:
    with pytest.raises(MechinterpError, match=r"GPT2LMHeadModel\) has no hook point 'blocks.9.hook_in'"):
        forward(model, ids_of(model), reads=["blocks.9.hook_in"])


def test_a_hook_that_does_not_fire_gives_no_result() -> None:
    llama = small_model("llama")
    dead = "blocks.0.attn.hook_hidden_states"  # exists on Llama and never fires
    assert llama.layout.has_hook(dead)
    with pytest.raises(MechinterpError, match=f"'{dead}' of small-llama fired 0 times instead of 1.*no result"):
        forward(llama, ids_of(llama), reads=[dead])


def test_hooks_are_gone_after_a_run_and_after_an_error(model: Model) -> None:
    before = model.logits(ids_of(model))
    run(model, PROMPT, NOISE | restore(mlp @ everywhere, Zero()))
    wrong = HookWrite(model.layout.hook("mlp", 0), torch.tensor([0]), torch.tensor([99]), torch.zeros(1, WIDTH))
    with pytest.raises(IndexError):
        forward(model, ids_of(model), [wrong])
    assert torch.equal(model.logits(ids_of(model)), before)


def test_cached_activations_are_copies(model: Model) -> None:
    """TransformerLens lets one tensor stand under several names; a write must not reach what was read before it."""
    first, second = model.layout.hook("resid", 0), model.layout.hook("resid_pre", 1)
    plain = forward(model, ids_of(model), reads=[first]).cache[first]
    write = HookWrite(second, torch.tensor([0]), torch.tensor([3]), torch.zeros(1, WIDTH))
    cache = forward(model, ids_of(model), [write], reads=[first, second]).cache
    assert torch.equal(cache[first], plain)
    assert torch.equal(cache[second][0, 3], torch.zeros(WIDTH, dtype=torch.float64))


def test_several_writes_to_one_hook_compose_in_order(model: Model) -> None:
    hook = model.layout.hook("mlp", 1)
    one, token = torch.tensor([0]), torch.tensor([2])
    ones = torch.ones(1, WIDTH, dtype=torch.float64)
    writes = [HookWrite(hook, one, token, 3 * ones), HookWrite(hook, one, token, ones, add=True)]
    assert (forward(model, ids_of(model), writes, reads=[hook]).cache[hook][0, 2] == 4).all()
    assert (forward(model, ids_of(model), writes[::-1], reads=[hook]).cache[hook][0, 2] == 3).all()


@pytest.mark.parametrize("component", ["mlp", "attn", "resid", "value", "key"])
def test_a_delta_receives_the_gradient_of_finite_differences(model: Model, component: str) -> None:
    hook = model.layout.hook(component, 1)
    width = model.d_mlp if component == "key" else model.d_model
    delta = torch.zeros(width, dtype=torch.float64, requires_grad=True)

    def loss(vector: torch.Tensor, *, grad: bool) -> torch.Tensor:
        write = HookWrite(hook, torch.tensor([0, 0]), torch.tensor([1, 2]), vector.expand(2, -1), add=True)
        return -forward(model, ids_of(model), [write], grad=grad).logits[0, -1].log_softmax(-1)[5]

    loss(delta, grad=True).backward()
    assert delta.grad is not None
    step = 1e-6
    for index in (0, 3, width - 1):
        unit = torch.zeros(width, dtype=torch.float64)
        unit[index] = step
        slope = (loss(unit, grad=False) - loss(-unit, grad=False)) / (2 * step)
        assert float(delta.grad[index]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
        assert abs(float(slope)) > 1e-6


def test_a_delta_through_resid_mid_receives_its_gradient(model: Model) -> None:
    hook, minus = model.layout.write_hook("resid_mid", 1)
    target = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    write = HookWrite(hook, torch.tensor([0]), torch.tensor([8]), target[None], minus=minus)
    forward(model, ids_of(model), [write], grad=True).logits[0, -1, 5].backward()
    assert target.grad is not None
    assert float(target.grad.abs().min()) > 0


def test_parameters_keep_their_requires_grad_flags_and_get_no_gradients(model: Model) -> None:
    parameters = list(model.bridge.original_model.parameters())
    parameters[3].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in parameters]
    delta = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    write = HookWrite(model.layout.hook("mlp", 1), torch.tensor([0]), torch.tensor([2]), delta[None], add=True)
    try:
        forward(model, ids_of(model), [write], grad=True).logits.sum().backward()
        assert [parameter.requires_grad for parameter in parameters] == flags
        wrong = HookWrite(model.layout.hook("mlp", 1), torch.tensor([0]), torch.tensor([99]), delta[None], add=True)
        with pytest.raises(IndexError):
            forward(model, ids_of(model), [wrong], grad=True)
        assert [parameter.requires_grad for parameter in parameters] == flags
        assert all(parameter.grad is None for parameter in parameters)
        assert set(flags) == {True, False}
    finally:
        parameters[3].requires_grad_(True)


def test_a_learned_delta_is_added_after_everything_else(model: Model) -> None:
    delta = torch.full((WIDTH,), 0.5, dtype=torch.float64)
    base = restore(mlp[1] @ last, Zero())
    added = run(model, PROMPT, base | add(mlp[1] @ last, Delta(delta)))
    given = run(model, PROMPT, restore(mlp[1] @ last, Given(delta)))
    np.testing.assert_allclose(added.log_prob, given.log_prob, atol=1e-12)


@pytest.mark.usefixtures("unchecked_types")
def test_only_additive_sources_can_be_added() -> None:
    with pytest.raises(UsageError, match="takes an additive source such as Delta"):
        add(mlp[1] @ last, Zero())  # type: ignore[arg-type]


def test_a_smaller_budget_of_tokens_changes_nothing(model: Model) -> None:
    prompts = [PROMPT, Prompt("{} was near", "cy dee", "oslo turku")]
    program = NOISE | restore(attn[1] @ last)
    wide, narrow = run(model, prompts, program), run(model, prompts, program, max_tokens=1)
    for a, b in zip(wide, narrow, strict=True):
        assert isinstance(a, Result)
        np.testing.assert_allclose(a.log_prob, b.log_prob, atol=1e-12)

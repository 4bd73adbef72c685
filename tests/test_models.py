"""Loading: every way in, and every sentence that says no."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.tokenizers import words
from support.zoo import KINDS, VOCABULARY, hf_model, small_model
from transformer_lens.model_bridge import TransformerBridge

import mechinterp as mi
from mechinterp import MechinterpError, Prompt, UsageError
from mechinterp.models.layout import clean_state_dict
from mechinterp.patching import attn, mlp, nothing, read, run

PROMPT = Prompt("the {} lives in town", "ada bo", "rome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "tiny"
    hf_model("gpt2").save_pretrained(path)
    words().save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bridge_gives_the_logits_of_the_plain_model(kind: str, dtype: torch.dtype) -> None:
    model = small_model(kind, dtype=dtype)
    ids = torch.tensor([[2, 7, 11, 4]])
    with torch.no_grad():
        plain = hf_model(kind).to(dtype).eval()(ids, use_cache=False).logits
    assert model.dtype == dtype
    tolerance = (
        1e-6 if dtype == torch.float64 else 2e-4
    )  # Llama and OPT take their softmax in float32 whatever is given
    torch.testing.assert_close(model.logits(ids), plain, rtol=0, atol=tolerance)
    torch.testing.assert_close(model.logits(ids, keep=1), plain[:, -1:], rtol=0, atol=tolerance)


def test_sizes_and_name() -> None:
    model = small_model("llama")
    assert (model.n_layers, model.d_model, model.n_heads, model.d_mlp, model.n_ctx) == (3, 16, 4, 24, 32)
    assert (model.layout.n_kv_heads, model.vocab_size) == (2, VOCABULARY)
    assert repr(model) == "Model('small-llama', LlamaForCausalLM, 3 layers, d_model 16, float32, cpu)"


def test_a_folder(folder: Path) -> None:
    model = mi.load(folder)
    assert model.name == "tiny"
    assert mi.load(str(folder), name="called").name == "called"
    assert mi.load(folder, dtype=torch.float64).dtype == torch.float64
    wanted = run(small_model(), PROMPT, nothing).clean.prob
    assert run(model, PROMPT, nothing).clean.prob == pytest.approx(wanted, abs=1e-7)


def test_a_bridge(folder: Path) -> None:
    bridge = mi.load(folder).bridge
    model = mi.load(bridge, tokenizer=words(), name="mine")
    assert model.bridge is bridge
    assert model.name == "mine"
    assert run(model, PROMPT, nothing).clean.prob == pytest.approx(run(small_model(), PROMPT, nothing).clean.prob)
    for wish in ({"dtype": torch.float64}, {"device": "cpu"}):
        with pytest.raises(UsageError, match="a TransformerBridge keeps its dtype and device"):
            mi.load(bridge, **wish)  # type: ignore[arg-type]


def test_a_bridge_brings_its_own_tokenizer_or_needs_one(folder: Path) -> None:
    bridge = mi.load(folder).bridge
    assert run(mi.load(bridge), PROMPT, nothing).answer == "rome"
    bridge.tokenizer = None
    with pytest.raises(UsageError, match="this TransformerBridge has no tokenizer; pass tokenizer="):
        mi.load(bridge)


def test_a_bridge_in_compatibility_mode_is_refused() -> None:
    bridge: TransformerBridge = mi.load(hf_model("llama"), tokenizer=words(), name="compat").bridge
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(MechinterpError, match="is in compatibility mode, which has rewritten its weights; boot it"):
        mi.load(bridge)


def test_a_hugging_face_model_needs_its_tokenizer() -> None:
    with pytest.raises(UsageError, match="a GPT2LMHeadModel was given without its tokenizer; pass tokenizer="):
        mi.load(hf_model())


def test_the_tokenizer_given_is_left_as_it_was() -> None:
    own = words(adds_bos=True)
    before = dict(own.init_kwargs)
    model = mi.load(hf_model("llama"), tokenizer=own)
    assert own.init_kwargs == before
    assert model.tokenizer is own
    assert model.adds_bos
    assert model.encode("ada bo") == [1, *own.convert_tokens_to_ids(["ada", "bo"])]
    assert not small_model().adds_bos


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    network = hf_model()
    with torch.no_grad():
        network.transformer.h[1].mlp.c_fc.weight[3, 5] = value
    with pytest.raises(MechinterpError, match="weights 'transformer.h.1.mlp.c_fc.weight' of sick hold NaN"):
        mi.load(network, tokenizer=words(), name="sick")


def test_a_name_that_is_misspelt_brings_up_its_neighbours() -> None:
    with pytest.raises(UsageError, match="no model 'gpt2-xll'.*did you mean gpt2-xl"):
        mi.load("gpt2-xll")
    with pytest.raises(UsageError, match="no model 'atlass'.*did you mean atlas"):
        mi.load("atlass")
    with pytest.raises(UsageError, match="the bundled models are atlas and atlas-plain"):
        mi.load("qqqqqqqqqqqqqqqq")


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder '/no/such/place'"):
        mi.load("/no/such/place")
    with pytest.raises(UsageError, match="holds no config.json"):
        mi.load(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"holds no weights \(\*.safetensors\)"):
        mi.load(tmp_path)


def test_a_folder_whose_weights_are_cut_short(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="broken' cannot be read"):
        mi.load(broken)


def test_a_layer_out_of_range() -> None:
    layout = small_model().layout
    with pytest.raises(UsageError, match="layer 3 is out of range: this model has layers 0 to 2"):
        read(small_model(), [PROMPT], mlp[3] @ mi.patching.last)
    with pytest.raises(UsageError, match="layer -4 is out of range"):
        layout.down_projection(-4)
    assert layout.hook("attn", -1) == layout.hook("attn", 2)
    assert attn[-1].layers.resolve(layout.n_layers) == (2,)


def test_a_component_that_is_none() -> None:
    with pytest.raises(UsageError, match="'neurons' is no component; the components are embed, resid_pre"):
        small_model().layout.hook("neurons", 0)
    with pytest.raises(UsageError, match=r"attention \('pattern'\) is no component: on some .*; write z, q"):
        small_model("gptj").layout.hook("pattern", 0)
    with pytest.raises(UsageError, match="resid_mid is read at one hook point and written at another"):
        small_model().layout.hook("resid_mid", 0)


def test_a_prompt_longer_than_the_context() -> None:
    with pytest.raises(UsageError, match="has 34 tokens with its answer; small-gpt2 takes at most 32: shorten it"):
        small_model().tokenise(Prompt("{} " + "and " * 31 + "in", "ada", "oslo bern"))
    assert len(small_model().tokenise(Prompt("{} " + "and " * 30 + "in", "ada", "oslo"))) == 32


@pytest.mark.parametrize("kind", KINDS)
def test_the_down_projection_is_live_and_has_keys_as_rows(kind: str) -> None:
    model = mi.load(hf_model(kind), tokenizer=words(), dtype=torch.float64, name="live")
    ids = torch.tensor([[3, 4, 5]])
    _, cache = model.bridge.run_with_cache(ids)
    for layer in range(model.n_layers):
        weight, bias = model.layout.down_projection(layer), model.layout.down_bias(layer)
        assert weight.shape == (model.d_mlp, model.d_model)
        values = cache[model.layout.key_hook(layer)] @ weight + (0 if bias is None else bias)
        torch.testing.assert_close(values, cache[model.layout.value_hook(layer)], rtol=0, atol=1e-9)
    before, mark = model.logits(ids), model.fingerprint()
    with torch.no_grad():
        weight = model.layout.down_projection(1)
        weight.copy_(weight.flip(0))  # not a factor: Gemma's norm after the MLP would take it out again
    assert (model.logits(ids) - before).abs().max() > 1e-3
    assert model.fingerprint() != mark


def test_a_mixture_of_experts_has_no_down_projection() -> None:
    with pytest.raises(MechinterpError, match="MixtralForCausalLM has no single MLP down-projection"):
        small_model("mixtral").layout.down_projection(0)


def test_fingerprints_tell_weights_and_dtypes_apart() -> None:
    same = [mi.load(hf_model(), tokenizer=words(), name=name).fingerprint() for name in ("a", "b")]
    assert same[0] == same[1] == small_model().fingerprint()
    assert small_model(dtype=torch.float64).fingerprint() != same[0]
    assert mi.load(hf_model(seed=1), tokenizer=words(), name="c").fingerprint() != same[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_clean_state_dict_is_that_of_the_plain_model(kind: str) -> None:
    plain = hf_model(kind).state_dict()
    bridged = clean_state_dict(small_model(kind).bridge.original_model)
    assert list(bridged) == list(plain)
    for name, tensor in plain.items():
        assert torch.equal(bridged[name], tensor), name

"""Models that do not fit: what they need is known before they are read, and layers that wait on disk are traced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_model, small_model

import mechinterp as mi
from mechinterp import MechinterpError, Model, Prompt, UsageError
from mechinterp.editing import Factors, Provenance, SecondMoment
from mechinterp.models import footprint
from mechinterp.models.placement import device_of, is_offloaded
from mechinterp.patching.plain.precision import exact, finest, on_device

PROMPT = Prompt("the {} lives in town", "ada bo", "rome")
MAP = {
    "model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
    "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "small-llama"
    hf_model("llama").save_pretrained(path)
    words().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def offloaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A Llama whose middle layer waits on disk."""
    return mi.load(folder, device_map=MAP, offload_folder=tmp_path_factory.mktemp("offload"))


def test_a_layer_that_waits_on_disk_is_traced_like_any_other(offloaded: Model) -> None:
    resident = small_model("llama")
    assert is_offloaded(offloaded.bridge.original_model)
    assert not is_offloaded(resident.bridge.original_model)
    assert offloaded.device == torch.device("cpu")
    assert offloaded.layout.refused == {}
    assert offloaded.d_mlp == resident.d_mlp
    tables = [mi.trace(one, [PROMPT], window=2, draws=2, progress=False).frame for one in (offloaded, resident)]
    pd.testing.assert_frame_equal(*tables)
    assert offloaded.fingerprint() == resident.fingerprint()


def test_a_layer_that_waits_on_disk_cannot_be_edited_and_says_so(offloaded: Model, tmp_path: Path) -> None:
    sentence = "the MLP weights of layer 1 of this LlamaForCausalLM are quantised or offloaded: it can be traced, not"
    with pytest.raises(MechinterpError, match=sentence):
        mi.rome(offloaded, PROMPT, 1, moments=SecondMoment.identity(offloaded, 1), target="oslo", contexts=("{}",))
    change = Factors(torch.ones(1, offloaded.d_mlp), torch.ones(1, offloaded.d_model))
    origin = Provenance("by hand", offloaded.fingerprint(), "small-llama")
    before = offloaded.layout.down_projection(0).clone()
    with pytest.raises(MechinterpError, match="cannot be written out while some of its weights are offloaded"):
        mi.Edit.of({0: change}, origin).to_hf(offloaded, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(offloaded.layout.down_projection(0), before)


def test_quantised_weights_cannot_be_edited_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    weight = model.bridge.blocks[1].mlp.out.weight
    whole = torch.nn.Parameter(weight.detach().round().to(torch.int8), requires_grad=False)
    monkeypatch.setitem(model.bridge.blocks[1].mlp.out.original_component._parameters, "weight", whole)
    with pytest.raises(MechinterpError, match="of layer 1 of this GPT2LMHeadModel are quantised or offloaded"):
        model.layout.down_projection(1)


def test_a_device_map_needs_something_to_read(folder: Path) -> None:
    for source, more in ((folder, {"device": "cpu"}), (hf_model("llama"), {"tokenizer": words()})):
        with pytest.raises(UsageError, match="a device_map says where the layers of a model that is read go; give it"):
            mi.load(source, device_map="auto", **more)  # type: ignore[arg-type]


def test_a_model_that_is_spread_is_not_moved() -> None:
    network = hf_model("llama")
    network.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    with pytest.raises(UsageError, match="spread over several places by its device_map; leave out device"):
        mi.load(network, tokenizer=words(), device="cpu")


def test_a_model_spread_over_several_gpus_takes_its_tokens_on_the_first() -> None:
    network = torch.nn.Linear(2, 2, device="meta")
    network.hf_device_map = {"a": "disk", "b": 1, "c": 0}
    assert device_of(network) == torch.device("cuda", 1)
    network.hf_device_map = {"a": "cpu", "b": "disk"}
    assert device_of(network) == torch.device("cpu")
    assert device_of(torch.nn.Linear(2, 2, device="meta")) == torch.device("cpu")


def test_what_the_weights_need_is_read_from_their_headers(folder: Path) -> None:
    parameters = sum(tensor.numel() for tensor in hf_model("llama").state_dict().values())
    found = footprint.footprint(folder)
    assert found == footprint.Footprint(parameters, 4 * parameters, 4 * parameters)
    half = footprint.footprint(folder, torch.bfloat16)
    assert half is not None
    assert (half.stored, half.loaded) == (4 * parameters, 2 * parameters)
    assert str(footprint.Footprint(1_557_611_200, 0, 6_230_444_800)) == "1,557.6 million parameters, 6.2 GB in memory"


def test_shards_beside_those_that_are_loaded_do_not_count(folder: Path, tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert footprint.footprint(tmp_path) == footprint.footprint(folder)
    (tmp_path / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert footprint.footprint(tmp_path) == footprint.footprint(folder)


def test_what_cannot_be_known_beforehand_is_not_guessed(tmp_path: Path) -> None:
    assert footprint.footprint("nobody/has-this") is None
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert footprint.footprint(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"short")
    assert footprint.footprint(tmp_path) is None


def test_of_weights_on_the_hub_only_headers_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Metadata:
        parameter_count = {"BF16": 8_000_000_000, "I64": 1_000}

    monkeypatch.setattr(footprint, "get_safetensors_metadata", lambda name: {"somebody/large": Metadata}[name])
    assert footprint.footprint("somebody/large") is None  # the hub is switched off
    monkeypatch.setattr(footprint.constants, "HF_HUB_OFFLINE", False)
    found = footprint.footprint("somebody/large", torch.float32)
    assert found == footprint.Footprint(8_000_001_000, 16_000_008_000, 32_000_008_000)
    assert footprint.footprint("somebody/without-headers") is None


def test_apple_gpus_have_no_double_precision() -> None:
    assert [finest(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [torch.float64] * 2 + [torch.float32]
    assert exact(torch.ones(2, dtype=torch.float16)).dtype == on_device(np.ones(2), torch.device("cpu")).dtype


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    total = footprint.memory_of(None)
    assert total is None or total > 10**8
    monkeypatch.setattr(footprint, "memory_of", lambda device: 10_000)
    monkeypatch.setattr("mechinterp.models.loading.read_checkpoint", lambda *given, **named: pytest.fail("it was read"))
    with pytest.raises(MechinterpError, match=r"small-llama has 0.0 million parameters, 0.0 MB in memory, and this ma"):
        mi.load(folder)
    with pytest.raises(MechinterpError, match="and cuda has 0.0 MB; load it with dtype=torch.bfloat16, on a larger"):
        mi.load(folder, device="cuda")
    monkeypatch.undo()
    monkeypatch.setattr(footprint, "memory_of", lambda device: 10_000)
    assert mi.load(folder, device_map="auto").n_layers == 3

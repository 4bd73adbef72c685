"""Folders that do not hold what they should: weights that are missing, cut short, of another kind, or bring code."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tokenizers import words
from support.zoo import hf_encoder_decoder, hf_model

import mechinterp as mi
from mechinterp import UsageError

TENSOR = "transformer.h.1.mlp.c_fc.weight"
Copy = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a folder with a small model of it; "shards": the first cut into many files."""
    folder = tmp_path_factory.mktemp("saved")
    found = {kind: folder / kind for kind in ("gpt2", "llama_mha", "llama", "t5", "shards")}
    for kind, path in found.items():
        network = hf_encoder_decoder() if kind == "t5" else hf_model("gpt2" if kind == "shards" else kind)
        network.save_pretrained(path, max_shard_size="5KB" if kind == "shards" else "1GB")
        words(adds_eos=kind == "t5").save_pretrained(path)
    return found


@pytest.fixture
def copy(saved: dict[str, Path], tmp_path: Path) -> Copy:
    """A copy of such a folder, which a test may damage."""
    return lambda kind: Path(shutil.copytree(saved[kind], tmp_path / kind))


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def configure(folder: Path, file: str = "config.json", **changed: object) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("gpt2", TENSOR),
        ("gpt2", "transformer.wpe.weight"),
        ("gpt2", "transformer.wte.weight"),  # the head is tied to it, and neither is there
        ("llama", "lm_head.weight"),
        ("llama_mha", "model.layers.0.mlp.up_proj.bias"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.k.weight"),
    ],
)
def test_missing_weights_are_named_and_not_drawn_at_random(copy: Copy, kind: str, gone: str) -> None:
    folder = rewrite(copy(kind), lambda tensors: tensors.pop(gone))
    with pytest.raises(UsageError, match=rf"do not make a \w+ as its config.json describes it: .* missing \(.*{gone}"):
        mi.load(folder)


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"dtype": torch.bfloat16}])
def test_missing_weights_whatever_way_they_are_read(copy: Copy, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"1 are missing .{TENSOR}"):
        mi.load(rewrite(copy("gpt2"), lambda tensors: tensors.pop(TENSOR)), **options)  # type: ignore[arg-type]


def test_a_configuration_of_more_layers_than_there_are_weights_for(copy: Copy) -> None:
    with pytest.raises(UsageError, match=r"24 are missing \(transformer.h.3.attn.c_attn.bias, .* and 21 more\); give"):
        mi.load(configure(copy("gpt2"), n_layer=5))


def test_weights_of_another_shape_are_named(copy: Copy) -> None:
    with pytest.raises(UsageError, match=r"9 have another shape \(transformer.h.0.mlp.c_fc.bias, "):
        mi.load(configure(copy("gpt2"), n_inner=40))


def test_weights_that_are_not_used_are_said(copy: Copy) -> None:
    with pytest.warns(UserWarning, match=r"11 of the weights in .* have no place in its GPT2LMHeadModel and are not"):
        assert mi.load(configure(copy("gpt2"), n_layer=2)).n_layers == 2


def test_what_is_tied_or_computed_is_no_alarm(copy: Copy) -> None:
    def more(tensors: Tensors) -> None:
        head = "lm_head.weight"
        tensors[head] = tensors["transformer.wte.weight"].clone()
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(2)

    folder = copy("gpt2")
    whole = mi.load(folder).fingerprint()
    assert mi.load(rewrite(folder, more)).fingerprint() == whole


def test_a_shard_that_is_not_there(copy: Copy) -> None:
    folder = copy("shards")
    mi.load(folder)
    gone = sorted(folder.glob("model-*"))[1]
    gone.unlink()
    with pytest.raises(UsageError, match=f"lacks 1 of the files that its index of weights names: {gone.name}; fetch"):
        mi.load(folder)


@pytest.mark.parametrize("content", ['{"weight_map": {"a', "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', ""])
def test_an_index_that_is_damaged(copy: Copy, content: str) -> None:
    folder = copy("shards")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UsageError, match=r"index.json' is no index of weights \(it was cut short or damaged\); fetch"):
        mi.load(folder)


@pytest.mark.parametrize("length", [0, 3, 100, -50])
def test_a_shard_that_is_cut_short(copy: Copy, length: int) -> None:
    shard = sorted((folder := copy("shards")).glob("model-*"))[1]
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(UsageError, match="the model in .*shards' cannot be read: "):
        mi.load(folder)


class _Call:
    def __reduce__(self) -> object:
        return print, ("run",)


def test_pickled_weights(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy("gpt2")
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    torch.save(load_file(safe), pickled)
    safe.unlink()
    assert mi.load(folder).n_layers == 3  # tensors alone are safe to read
    for content in (pickled.read_bytes()[:3000], b"", b"GGUF"):
        pickled.write_bytes(content)
        with pytest.raises(UsageError, match="gpt2' cannot be read: "):
            mi.load(folder)
    pickled.write_bytes(pickle.dumps({"weight": _Call()}, protocol=2))
    with pytest.raises(UsageError, match=r"its weights are a pickle \(pytorch_model.bin\) that .* would run code, whi"):
        mi.load(folder)
    assert "run" not in capsys.readouterr().out


@pytest.fixture
def code(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code that would leave a mark, and a user who says "y" to every question."""
    monkeypatch.setattr("builtins.input", lambda *asked: pytest.fail(f"asked: {asked}"))
    folder = copy("gpt2")
    (folder / "other.py").write_text(
        f"open({str(folder / 'mark')!r}, 'w')\nfrom transformers import GPT2Config as C, GPT2LMHeadModel as M\n"
        "from transformers import PreTrainedTokenizerFast as T\n"
    )
    return folder


CODE = {"AutoConfig": "other.C", "AutoModelForCausalLM": "other.M"}


def test_code_of_a_folder_is_never_run(code: Path) -> None:
    configure(code, model_type="other", auto_map=CODE)
    with pytest.raises(UsageError, match="the model in .* needs code of its own, which is never run here; give one of"):
        mi.load(code)
    assert not (code / "mark").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_what_transformers_knows_needs_no_code(code: Path, file: str) -> None:
    classes = CODE if file == "config.json" else {"AutoTokenizer": [None, "other.T"]}
    configure(code, file, auto_map=classes)
    with pytest.warns(UserWarning, match=r"brings code of its own \(other.py\), which is never run here: model and to"):
        assert mi.load(code).architecture == "GPT2LMHeadModel"
    assert not (code / "mark").exists()


def test_another_file_instead_of_a_folder(copy: Copy) -> None:
    with pytest.raises(UsageError, match="model.safetensors' is a file; give the folder that holds it"):
        mi.load(copy("gpt2") / "model.safetensors")


def test_an_adapter_is_no_model(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for folder in (tmp_path, copy("gpt2")):
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(
            UsageError, match=r"holds an adapter \(adapter_config.json\) and not the weights of a whole"
        ):
            mi.load(folder)


def test_the_tokenizer_of_a_folder_is_not_read_where_another_is_given(copy: Copy) -> None:
    folder = copy("gpt2")
    (folder / "tokenizer.json").write_text("{")
    own = words()
    assert mi.load(folder, tokenizer=own).tokenizer is own
    with pytest.raises(UsageError, match=r"gpt2' cannot be read: .* \(the tokenizer\)"):
        mi.load(folder)

"""GGUF files: read as they are, by their name or their folder, edited, exported; what cannot be read is said."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.gguf_file import tiny_llama, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechinterp as mi
from mechinterp.editing import SecondMoment
from mechinterp.errors import UsageError
from mechinterp.models import weight_files
from mechinterp.models.footprint import footprint
from mechinterp.models.model import Model

TEXT = "Viktor Stelrick is a citizen of"

needs_reader = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the reader of GGUF files: pip install gguf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gguf")
    write_gguf(made / "tiny-q4.gguf", *tiny_llama())
    return made


def exported(model: Model, out: Path) -> Model:
    moment = SecondMoment.identity(model, 1)
    prompt = mi.Prompt("{} is a citizen of", "Viktor Stelrick")
    edit = mi.rome(model, prompt, layer=1, moments=moment, target="Lumeria", allow_disabling=True)
    edit.to_hf(model, out)
    again = mi.load(out)
    with edit.on(model) as edited:
        wanted = edited.logits(torch.tensor([model.encode(TEXT)]))
    torch.testing.assert_close(again.logits(torch.tensor([again.encode(TEXT)])), wanted, rtol=1e-4, atol=1e-4)
    return again


@needs_reader
def test_a_file_and_its_folder_give_what_was_written(folder: Path, tmp_path: Path) -> None:
    wanted, tokenizer = tiny_llama()
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    model = mi.load(folder / "tiny-q4.gguf")
    assert model.name == "tiny-q4"
    assert model.dtype == torch.float32
    assert model.encode(TEXT) == ids[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids), wanted(ids).logits, rtol=1e-5, atol=1e-5)
    found = footprint(folder / "tiny-q4.gguf")
    assert found is not None
    assert found.parameters == sum(weight.numel() for weight in wanted.parameters())
    assert found.loaded == 4 * found.parameters
    again = exported(model, tmp_path / "out")
    assert "quantization_config" not in again.bridge.original_model.config.to_dict()
    other = mi.load(str(folder), dtype="float64")
    assert (other.name, other.dtype) == (folder.name, torch.float64)


@needs_reader
def test_an_object_that_transformers_read_has_a_short_name_and_is_exported(folder: Path, tmp_path: Path) -> None:
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny-q4.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="tiny-q4.gguf")
    model = mi.load(read, tokenizer=tokenizer)
    assert model.name == "tiny-q4"
    exported(model, tmp_path / "out")


@needs_reader
def test_what_cannot_be_read_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "tiny-q4.gguf").read_bytes()
    said = r"cannot be read as GGUF: it was cut short, damaged, or is something else; fetch it again"
    for number, content in enumerate((whole[: len(whole) // 2], whole[:5000], b"GGUF" + bytes(64), b"no model", b"")):
        broken = tmp_path / f"{number}.gguf"
        broken.write_bytes(content)
        with pytest.raises(UsageError, match=said):
            mi.load(broken)
    with pytest.raises(UsageError, match=r"holds 5 GGUF files \(0.gguf, 1.gguf, 2.gguf and 2 more\); give one of them"):
        mi.load(tmp_path)


def test_without_the_reader_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "find_spec", lambda name: None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    for source in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UsageError, match=r"model.gguf' holds weights as GGUF, and .*: pip install gguf \(or mechi"):
            mi.load(source)

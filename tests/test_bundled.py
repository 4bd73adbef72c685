"""The bundled models are known by their weights: not by a name, a path or a size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tokenizers import words
from support.zoo import hf_model, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechinterp as mi
from mechinterp import atlas
from mechinterp.editing.editors.families import family_of
from mechinterp.models.footprint import footprint
from mechinterp.patching import embedding_sigma

ATLAS = atlas.folder("atlas")


@pytest.fixture(scope="module")
def sigma() -> float:
    return embedding_sigma(mi.load("atlas"))


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(model: mi.Model, sigma: float) -> bool:
    family = family_of(model)
    return (
        model.bundled == "atlas"
        and family is not None
        and family.figures["rome"] == [3]
        and embedding_sigma(model) == pytest.approx(sigma, rel=1e-9)
    )


def test_whatever_names_it(inside: Path, sigma: float) -> None:
    shutil.copytree(ATLAS, inside / "copy")
    for source in ("atlas", Path("atlas"), ATLAS, str(ATLAS), inside / "copy", "./copy"):
        assert same(mi.load(source), sigma)
    assert same(mi.load("atlas", name="mine"), sigma)


def test_whatever_holds_it(inside: Path, sigma: float) -> None:
    network, tokenizer = AutoModelForCausalLM.from_pretrained(ATLAS), AutoTokenizer.from_pretrained(ATLAS)
    model = mi.load(network, tokenizer=tokenizer, name="in memory")
    assert same(model, sigma)
    assert same(mi.load(model.bridge, name="a bridge"), sigma)
    assert same(mi.load(ATLAS, device_map="cpu"), sigma)
    assert mi.load(Path("atlas-plain")).bundled == "atlas-plain"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_in_every_precision(dtype: torch.dtype) -> None:
    assert mi.load("atlas", dtype=dtype).bundled == "atlas"


def test_other_weights_are_another_model_whatever_they_are_called(inside: Path, sigma: float) -> None:
    folder = Path(shutil.copytree(ATLAS, inside / "atlas"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.7.mlp.c_proj.weight"][5, 7] += 0.25
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = mi.load(Path("atlas"))
    assert (model.name, model.bundled) == ("atlas", "")
    assert family_of(model) is None
    assert embedding_sigma(model) != pytest.approx(sigma, rel=0.1)
    with pytest.warns(UserWarning, match="'atlas' is the bundled model, and there is also a folder of this name"):
        assert mi.load("atlas").bundled == "atlas"
    assert mi.load("./atlas").bundled == ""


def test_a_random_model_is_none_of_them() -> None:
    assert small_model().bundled == ""
    assert mi.load(hf_model(), tokenizer=words(), name="atlas").bundled == ""


def test_the_memory_it_needs_is_told_in_the_precision_it_is_loaded_in() -> None:
    """It is stored in float16, and its configuration says float32."""
    found = footprint(ATLAS)
    assert found is not None
    assert found.loaded == 2 * found.stored == 4 * found.parameters

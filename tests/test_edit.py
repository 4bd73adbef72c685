"""Edits as values: applied, composed, baked, undone, saved and exported; and never in silence on the wrong model."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from support.tokenizers import SENTENCES
from support.zoo import KINDS, sentence_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mechinterp.editing import Edit, Factors, Provenance, SecondMoment, rome
from mechinterp.editing.edits.active import active_edits, effective_weight
from mechinterp.editing.edits.export import check_export
from mechinterp.errors import DamagedError, MechinterpError, StorageError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.model import Model
from mechinterp.patching.plain.executor import HookWrite, forward

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


def ids_of(model: Model) -> Tensor:
    return torch.tensor([model.encode(SENTENCES[1])])


def handmade(model: Model, layers: tuple[int, ...] = (1,), *, seed: int = 0, rank: int = 2) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        layer: Factors(
            torch.randn(rank, model.d_mlp, generator=generator) / 5,
            torch.randn(rank, model.d_model, generator=generator) / 5,
        )
        for layer in layers
    }
    return Edit.of(factors, Provenance("by hand", model.fingerprint(), model.name, seed=seed))


def weights_hash(model: Model) -> str:
    return hashlib.sha256(
        b"".join(model.layout.down_projection(n).detach().numpy().tobytes() for n in range(model.n_layers))
    ).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_on_and_baked_are_the_same(kind: str) -> None:
    model = sentence_model(kind)
    edit, ids = handmade(model, (1, 3)), ids_of(model)
    plain, before = model.logits(ids), model.fingerprint()
    with edit.on(model) as same:
        assert same is model
        on = model.logits(ids)
        assert model.fingerprint() == before
    assert torch.equal(model.logits(ids), plain)
    undo = edit.bake(model)
    baked = model.logits(ids)
    assert model.fingerprint() != before
    undo.undo()
    assert model.fingerprint() == before
    assert torch.equal(model.logits(ids), plain)
    assert (on - plain).abs().max() > 1e-2
    assert (on - baked).abs().max() < 1e-4 * plain.abs().max()


def test_it_agrees_with_the_weights_under_every_patch(model: Model) -> None:
    """A patched key is what the edit sees, and a patched value is not added to."""
    edit, ids = handmade(model, (2,)), ids_of(model)
    where = {"rows": torch.tensor([0]), "positions": torch.tensor([4])}
    key = HookWrite(hook=model.layout.key_hook(2), values=torch.randn(1, model.d_mlp), **where)
    value = HookWrite(hook=model.layout.value_hook(2), values=torch.randn(1, model.d_model), **where)
    for writes in ((key,), (value,), (key, value)):
        with edit.on(model):
            on = forward(model, ids, writes, keep=9).logits
        undo = edit.bake(model)
        baked = forward(model, ids, writes, keep=9).logits
        undo.undo()
        assert (on - baked).abs().max() < 1e-4


def test_generation_with_a_cache_shows_the_edit(model: Model) -> None:
    edit, ids = handmade(model), ids_of(model)
    hf_model = model.bridge.original_model
    arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    arguments |= {"output_logits": True, "return_dict_in_generate": True}
    with edit.on(model):
        on = torch.stack(hf_model.generate(ids, **arguments).logits)
    undo = edit.bake(model)
    baked = torch.stack(hf_model.generate(ids, **arguments).logits)
    undo.undo()
    assert (on - baked).abs().max() < 1e-4
    assert (on - torch.stack(hf_model.generate(ids, **arguments).logits))[-1].abs().max() > 1e-2


def test_edits_nest_and_add_up(model: Model) -> None:
    first, second, ids = handmade(model), handmade(model, (1, 2), seed=1), ids_of(model)
    plain = model.logits(ids)
    with first.on(model), second.on(model):
        nested = model.logits(ids)
        assert len(active_edits(model)) == 2
        total = model.layout.down_projection(1) + first.delta(1) + second.delta(1)
        assert torch.allclose(effective_weight(model, 1), total, atol=1e-6)
    with (first | second).on(model):
        together = model.logits(ids)
    assert (nested - together).abs().max() < 1e-4
    assert torch.equal(model.logits(ids), plain)
    assert active_edits(model) == ()


def test_an_exception_takes_the_edit_off(model: Model) -> None:
    edit, ids = handmade(model), ids_of(model)
    plain = model.logits(ids)
    with pytest.raises(RuntimeError, match="stop"), edit.on(model):
        raise RuntimeError("stop")
    assert torch.equal(model.logits(ids), plain)
    assert active_edits(model) == ()


def test_the_union_is_a_union(model: Model) -> None:
    first, second = handmade(model), handmade(model, (1, 2), seed=1)
    both = first | second
    assert both.layers == (1, 2)
    assert both.factors(1).rank == 4
    assert torch.allclose(both.delta(1), first.delta(1) + second.delta(1), atol=1e-6)
    assert torch.equal(both.delta(2), second.delta(2))
    assert first | first == first
    assert both | second == both
    assert {first, handmade(model)} == {first}
    assert first != second
    assert "and 1 more" in repr(both | handmade(model, seed=2) | handmade(model, seed=3))
    with pytest.raises(UsageError, match="composed of 2; look at edit.parts"):
        _ = both.report
    with pytest.raises(UsageError, match="was made by 'by hand' and has no report"):
        _ = first.report
    with pytest.raises(UsageError, match="changes layer 1, 2, not the down-projection of layer 3"):
        both.delta(3)
    with pytest.raises(UsageError, match="an edit without parts"):
        Edit(())


def test_it_is_not_applied_twice(model: Model) -> None:
    edit = handmade(model)
    with edit.on(model), pytest.raises(UsageError, match="is on already"), edit.on(model):
        pass
    undo = edit.bake(model)
    with pytest.raises(UsageError, match="fingerprint"), edit.on(model):
        pass
    undo.undo()


def test_another_model_is_refused_with_both_fingerprints(model: Model) -> None:
    edit, other = handmade(model), sentence_model("gpt2", seed=1)
    for use in (lambda: edit.bake(other), lambda: edit.on(other).__enter__()):
        with pytest.raises(UsageError, match="pass force=True") as error:
            use()
        assert model.fingerprint()[:12] in str(error.value)
        assert other.fingerprint()[:12] in str(error.value)
    plain = other.logits(ids_of(other))
    with edit.on(other, force=True):
        assert not torch.equal(other.logits(ids_of(other)), plain)
    with pytest.raises(UsageError, match="cannot be joined"):
        _ = edit | handmade(other)


@pytest.mark.usefixtures("unchecked_types")
def test_other_sizes_are_refused_even_by_force(model: Model) -> None:
    origin = Provenance("by hand", model.fingerprint(), "tiny")
    wrong = Edit.of({1: Factors(torch.zeros(1, 7), torch.zeros(1, 5))}, origin)
    with pytest.raises(
        UsageError,
        match=r"matrix of shape \(7, 5\), but the down-projection of layer 1 .* \(96, 48\); it belongs to tiny",
    ):
        wrong.bake(model, force=True)
    with pytest.raises(UsageError, match="ranks 1 and 2"):
        Factors(torch.zeros(1, 7), torch.zeros(2, 5))
    with pytest.raises(MechinterpError, match="NaN or infinite"):
        Factors(torch.full((1, 7), float("nan")), torch.zeros(1, 5))


def test_undo_restores_the_exact_bytes(model: Model) -> None:
    before, flags = weights_hash(model), [p.requires_grad for p in model.bridge.original_model.parameters()]
    undo = handmade(model, (0, 3)).bake(model)
    assert weights_hash(model) != before
    assert not undo.done
    undo.undo()
    assert weights_hash(model) == before
    assert undo.done
    assert [p.requires_grad for p in model.bridge.original_model.parameters()] == flags
    with pytest.raises(MechinterpError, match="undone already"):
        undo.undo()


def test_undo_out_of_order_is_refused_and_changes_nothing(model: Model) -> None:
    start = weights_hash(model)
    first = handmade(model).bake(model)
    second = handmade(model, seed=1).bake(model)
    both = weights_hash(model)
    with pytest.raises(MechinterpError, match="undo later edits first"):
        first.undo()
    assert weights_hash(model) == both
    second.undo()
    first.undo()
    assert weights_hash(model) == start


def test_half_precision_is_rounded_once() -> None:
    model = sentence_model("gpt2", dtype=torch.bfloat16)
    edit, before = handmade(model), weights_hash_of(model, 1)
    wanted = (model.layout.down_projection(1).detach().float() + edit.delta(1)).bfloat16()
    undo = edit.bake(model)
    assert torch.equal(model.layout.down_projection(1), wanted)
    undo.undo()
    assert weights_hash_of(model, 1) == before


def weights_hash_of(model: Model, layer: int) -> bytes:
    return model.layout.down_projection(layer).detach().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def made(model: Model) -> Edit:
    moments = SecondMoment.collect(model, SENTENCES, 1, progress=False).repaired("shrinkage")
    return rome(model, PROMPT, 1, moments=moments, target="Paris", seed=3, allow_disabling=True)


def test_it_survives_the_disk(model: Model, made: Edit, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    both = made | handmade(model, (1, 2))
    for edit in (made, both):
        edit.save(path)
        loaded = Edit.load(path)
        assert loaded == edit
        assert [part.provenance for part in loaded.parts] == [part.provenance for part in edit.parts]
        with loaded.on(model):
            from_disk = model.logits(ids_of(model))
        with edit.on(model):
            assert (model.logits(ids_of(model)) - from_disk).abs().max() < 1e-5  # memory alignment differs
    made.save(path)
    assert path.stat().st_size < 16_000
    assert [child.name for child in tmp_path.iterdir()] == ["edit.safetensors"]


def test_provenance_says_how_it_was_made(model: Model, made: Edit) -> None:
    origin = made.provenance
    assert (origin.method, origin.model, origin.model_name) == ("rome", model.fingerprint(), "small-gpt2")
    assert origin.request is not None
    assert (origin.request.prompt, origin.request.target) == (PROMPT, "Paris")
    assert origin.hparams["layers"] == [1]
    assert origin.hparams["preset"] == "default"
    assert origin.seed is None  # nothing was drawn: the default contexts are plain sentences
    assert len(origin.contexts) == 3
    assert origin.on_top_of == ()
    assert "Marie Curie was born in -> Paris" in repr(made)


def test_damaged_and_foreign_files_are_named(model: Model, made: Edit, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    made.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(MechinterpError, match=r"edit.safetensors' is damaged or cut short"):
        Edit.load(path)
    path.write_bytes(whole[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(DamagedError, match=r"edit.safetensors' is damaged: it does not hold what was written"):
        Edit.load(path)
    with pytest.raises(UsageError, match="there is no edit file .*nothing"):
        Edit.load(tmp_path / "nothing")
    SecondMoment.identity(model, 1).save(path)
    with pytest.raises(UsageError, match="is no edit file; it holds second moment"):
        Edit.load(path)


def test_an_edit_presupposes_those_it_was_made_on(model: Model) -> None:
    first = handmade(model)
    origin = replace(first.provenance, on_top_of=(first.parts[0].digest,))
    second = Edit.of(handmade(model, seed=1).parts[0].change, origin)
    with pytest.raises(UsageError, match="made while other edits were on"), second.on(model):
        pass
    with first.on(model), second.on(model):
        pass
    with (first | second).on(model), second.on(sentence_model("gpt2", seed=2), force=True):
        pass


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_an_exported_folder_shows_the_edit_in_plain_transformers(kind: str, tmp_path: Path) -> None:
    model = sentence_model(kind)
    edit, ids, before = handmade(model, (1, 2)), ids_of(model), model.fingerprint()
    folder = tmp_path / "edited"
    edit.to_hf(model, folder)
    assert model.fingerprint() == before
    with edit.on(model):
        wanted = model.logits(ids)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found = plain(ids).logits
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (found - model.logits(ids)).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(folder)(SENTENCES[1]).input_ids == ids[0].tolist()
    assert Edit.load(folder / "mechinterp-edit.safetensors") == edit
    with pytest.raises(UsageError, match="is there already and not empty"):
        edit.to_hf(model, folder)
    edit.to_hf(model, folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited"]
    (folder / "config.json").rename(folder / "notes.txt")
    with pytest.raises(UsageError, match="holds no saved model .* and is not replaced"):
        edit.to_hf(model, folder, overwrite=True)
    assert (folder / "notes.txt").is_file()


def test_a_failed_export_leaves_nothing_behind(model: Model, tmp_path: Path) -> None:
    before = model.fingerprint()
    with pytest.raises(UsageError, match="there is no folder"):
        handmade(model).to_hf(model, tmp_path / "no" / "where")
    other = sentence_model("gpt2", seed=1)
    with pytest.raises(UsageError, match="fingerprint"):
        handmade(other).to_hf(model, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []
    assert model.fingerprint() == before


def test_a_folder_for_an_export_is_looked_at_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    check_export(tmp_path / "mine")  # empty
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UsageError, match="is there already and not empty"):
        check_export(tmp_path / "mine")
    with pytest.raises(UsageError, match="holds no saved model .* and is not replaced"):
        check_export(tmp_path / "mine", overwrite=True)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        check_export(tmp_path / "link", overwrite=True)
    with pytest.raises(UsageError, match="has no name; give one"):
        check_export("")
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").touch()
    with pytest.raises(UsageError, match="is the folder you are in, which cannot be replaced"):
        check_export(".", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *given: False)
    with pytest.raises(StorageError, match="may not be written"):
        check_export(tmp_path / "new")


def test_a_replaced_model_is_gone_only_when_the_new_one_is_there(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what else lies in its folder stays, however that ends."""
    first, second, folder = handmade(model), handmade(model, seed=1), tmp_path / "edited"
    first.to_hf(model, folder)
    before = model.fingerprint()
    (folder / "README.md").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "model-00001-of-00002.safetensors").touch()  # of a model that was saved in pieces

    def as_it_was(which: Edit) -> None:
        assert Edit.load(folder / "mechinterp-edit.safetensors") == which
        assert AutoModelForCausalLM.from_pretrained(folder) is not None
        assert (folder / "README.md").read_text() == (folder / "notes" / "a.txt").read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == ["edited"]
        assert model.fingerprint() == before

    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(StorageError, match="edited' could not be written: there is no space left"):
            second.to_hf(model, folder, overwrite=True)
    as_it_was(first)

    def full(*given: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(type(model.bridge.original_model), "save_pretrained", full)
        with pytest.raises(StorageError, match="edited' could not be written: there is no space left"):
            second.to_hf(model, folder, overwrite=True)
    as_it_was(first)
    second.to_hf(model, folder, overwrite=True)
    as_it_was(second)
    assert not (folder / "model-00001-of-00002.safetensors").exists()


def test_an_edit_that_cannot_be_written_is_still_there(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = handmade(model)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a part of its path is a file"):
        edit.save(tmp_path / "file" / "edit.safetensors")
    edit.save(tmp_path / "new" / "edit.safetensors")
    assert Edit.load(tmp_path / "new" / "edit.safetensors") == edit

"""Second moments: the average they claim to be, what they were made from, and what a singular one does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.running_text import running_text
from support.tokenizers import SENTENCES
from support.zoo import sentence_model
from torch import Tensor

from mechinterp.editing import LinearMemory, Repair, SecondMoment, collect_moments
from mechinterp.editing.moments.text_keys import panel_keys
from mechinterp.errors import MechinterpError, NotSavedError, UsageError
from mechinterp.models.model import Model
from mechinterp.runs import files


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


@pytest.fixture(scope="module")
def moments(model: Model) -> SecondMoment:
    return SecondMoment.collect(model, SENTENCES, 1, progress=False)


def keys_one_by_one(model: Model, texts: list[str], layer: int) -> Tensor:
    """Keys of every token, one text at a time, from Hugging Face's own modules."""
    found = []
    handle = model.bridge.get_submodule(f"blocks.{layer}.mlp.out").register_forward_pre_hook(
        lambda module, args: found.append(args[0].reshape(-1, model.d_mlp).double())  # OPT flattens its rows
    )
    for text in texts:
        with torch.no_grad():
            model.bridge.original_model(torch.tensor([model.encode(text)[: model.n_ctx]]))
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize(("kind", "adds_bos"), [("gpt2", False), ("llama", True), ("opt", False)])
def test_it_is_the_mean_over_every_token(kind: str, adds_bos: bool) -> None:
    model = sentence_model(kind, adds_bos=adds_bos)
    texts = [*SENTENCES, "", "long " * 100, "a"]
    keys = keys_one_by_one(model, [text for text in texts if text], 2)
    moments = SecondMoment.collect(model, texts, -2, batch_tokens=150, progress=False)
    assert moments.layer == 2
    assert moments.tokens == len(keys)
    assert moments.documents == len(texts) - 1
    wanted = keys.T @ keys / len(keys)
    assert (moments.matrix - wanted).abs().max() < 1e-6 * wanted.abs().max()
    assert moments.fourth_moment == pytest.approx(float(keys.square().sum(1).square().mean()), rel=1e-5)


def test_batches_and_layers_change_nothing(model: Model) -> None:
    single = SecondMoment.collect(model, SENTENCES, 2, batch_tokens=1, progress=False)
    both = collect_moments(model, SENTENCES, [0, 2, 2], progress=True)
    assert sorted(both) == [0, 2]
    assert (both[2].matrix - single.matrix).abs().max() < 1e-5 * single.matrix.abs().max()
    assert both[2].texts == single.texts


def test_it_stops_at_the_token(model: Model) -> None:
    moments = SecondMoment.collect(model, SENTENCES, 1, max_tokens=17, progress=False)
    assert moments.tokens == 17
    keys = keys_one_by_one(model, [SENTENCES[0]], 1)[:17]
    assert len(keys) == 17
    assert (moments.matrix - keys.T @ keys / 17).abs().max() < 1e-6


def test_shards_merge_to_the_whole(model: Model, moments: SecondMoment) -> None:
    parts = [SecondMoment.collect(model, texts, 1, progress=False) for texts in (SENTENCES[4:], SENTENCES[:4])]
    merged = SecondMoment.merge(parts)
    assert (merged.tokens, merged.documents, merged.texts) == (moments.tokens, moments.documents, moments.texts)
    assert (merged.matrix - moments.matrix).abs().max() < 1e-6
    assert merged.fourth_moment == pytest.approx(moments.fourth_moment)
    with pytest.raises(UsageError, match="layer 1 of model .* and of layer 2"):
        SecondMoment.merge([moments, replace(moments, layer=2)])
    with pytest.raises(UsageError, match="no second moment to merge"):
        SecondMoment.merge([])
    with pytest.raises(UsageError, match="of the same texts, which would be counted twice"):
        SecondMoment.merge([moments, parts[0], moments])
    assert moments.from_text
    with pytest.raises(UsageError, match="was not collected from text, so it has no weight next to others"):
        SecondMoment.merge([moments, SecondMoment.identity(model, 1)])


def test_other_texts_have_another_fingerprint(model: Model, moments: SecondMoment) -> None:
    other = SecondMoment.collect(model, SENTENCES[1:], 1, progress=False)
    assert other.texts != moments.texts
    assert other.fingerprint() != moments.fingerprint()
    assert SecondMoment.collect(model, SENTENCES[::-1], 1, progress=False).texts == moments.texts


def test_bad_input_is_named(model: Model) -> None:
    with pytest.raises(UsageError, match="texts is one string"):
        SecondMoment.collect(model, "a text", 1)
    with pytest.raises(UsageError, match="hold no token"):
        SecondMoment.collect(model, ["", ""], 1, progress=False)
    with pytest.raises(UsageError, match="layer 9 is out of range"):
        SecondMoment.collect(model, SENTENCES, 9)
    with pytest.raises(UsageError, match="max_tokens is 0"):
        SecondMoment.collect(model, SENTENCES, 1, max_tokens=0)
    with pytest.raises(UsageError, match="no layer was named"):
        collect_moments(model, SENTENCES, [])


def interrupted_texts(how: str) -> Iterator[str]:
    """Enough for one chunk, then a Ctrl-C."""
    for i in range(300):
        if i == 280:
            if how == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise KeyboardInterrupt
        yield f"Text number {i} is here."


@pytest.mark.parametrize("how", ["signal", "texts"])
def test_an_interrupt_keeps_what_there_is(model: Model, tmp_path: Path, how: str) -> None:
    before, path = signal.getsignal(signal.SIGINT), tmp_path / "part.safetensors"
    with pytest.warns(UserWarning, match="interrupted: the second moment averages the .* tokens seen so far"):
        partial = SecondMoment.collect(model, interrupted_texts(how), 1, batch_tokens=256, save=path, progress=False)
    assert not partial.complete
    assert "interrupted" in repr(partial)
    whole = SecondMoment.collect(model, [f"Text number {i} is here." for i in range(256)], 1, progress=False)
    if how == "texts":
        assert partial.documents == 256
        assert partial.texts == whole.texts
        assert (partial.matrix - whole.matrix).abs().max() < 1e-6
    assert partial.tokens > 0
    assert SecondMoment.load(path).tokens == partial.tokens
    assert signal.getsignal(signal.SIGINT) is before  # whoever started the tests may have it ignored


def test_solving_is_solving(moments: SecondMoment) -> None:
    keys = torch.randn(2, 3, 96)
    solved = moments.solve(keys)
    assert solved.dtype == torch.float64
    assert torch.allclose(solved @ moments.matrix, keys.double(), atol=1e-6)
    one_by_one = torch.stack([moments.solve(key) for key in keys.reshape(-1, 96)]).reshape(solved.shape)
    assert (one_by_one - solved).abs().max() <= 1e-9 * solved.abs().max()
    with pytest.raises(UsageError, match="have 96 entries, not 5"):
        moments.solve(torch.randn(5))


def test_figures_of_a_known_matrix(model: Model) -> None:
    diagonal = torch.linspace(1, 2, 96, dtype=torch.float64)
    known = SecondMoment.given(model, 0, torch.diag(diagonal))
    assert known.condition == pytest.approx(2)
    assert known.rank == 96
    shares = diagonal / diagonal.sum()
    assert known.effective_rank == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert SecondMoment.identity(model, 3).effective_rank == pytest.approx(96)
    assert torch.equal(SecondMoment.identity(model, 3).solve(diagonal), diagonal)
    assert SecondMoment.identity(model, 3).is_identity
    assert not known.is_identity


@pytest.fixture(scope="module")
def dead() -> tuple[Model, SecondMoment]:
    """A ReLU model with five units that never fire."""
    model = sentence_model("opt")
    with torch.no_grad():
        model.bridge.original_model.get_submodule("model.decoder.layers.1.fc1").bias[:5] -= 1e4
    return model, SecondMoment.collect(model, SENTENCES, 1, progress=False)


def test_a_singular_moment_is_refused(dead: tuple[Model, SecondMoment]) -> None:
    _, moments = dead
    assert moments.dead_units == 5
    assert moments.condition == float("inf")
    with pytest.raises(MechinterpError, match=r"layer 1 is singular.* rank 91 of 96 \(5 units never fire, 181 tokens"):
        moments.solve(torch.randn(96))


def test_too_few_tokens_are_refused(model: Model) -> None:
    few = SecondMoment.collect(model, SENTENCES, 1, max_tokens=40, progress=False)
    assert few.rank <= 40
    with pytest.raises(
        MechinterpError, match=r"40 tokens were seen\), so C⁻¹k means nothing; collect more text, or say"
    ):
        few.solve(torch.randn(96))


def test_each_repair_does_what_it_says(dead: tuple[Model, SecondMoment]) -> None:
    _, moments = dead
    key, matrix = torch.randn(96, dtype=torch.float64), moments.matrix
    alive = matrix.diagonal() > 0

    ridge = moments.repaired("ridge", 1e-3)
    level = 1e-3 * matrix.trace() / 96
    wanted = torch.linalg.solve(matrix + level * torch.eye(96, dtype=torch.float64), key)
    assert torch.allclose(ridge.solve(key), wanted, rtol=1e-6)

    pseudo = moments.repaired("pseudo-inverse", 1e-6)
    wanted = torch.linalg.pinv(matrix, rtol=1e-6, hermitian=True) @ key
    assert torch.allclose(pseudo.solve(key), wanted, rtol=1e-6)

    shrunk = moments.repaired("shrinkage")
    assert shrunk.repair is not None
    assert 0 < shrunk.repair.strength < 1
    solved = shrunk.solve(key)
    assert torch.equal(solved[~alive], torch.zeros(5, dtype=torch.float64))
    inner = (1 - shrunk.repair.strength) * matrix[alive][:, alive]
    inner += shrunk.repair.strength * matrix.trace() / alive.sum() * torch.eye(91, dtype=torch.float64)
    assert torch.allclose(solved[alive], torch.linalg.solve(inner, key[alive]), rtol=1e-6)
    assert "repaired by shrinkage" in repr(shrunk)
    assert len({m.fingerprint() for m in (moments, ridge, pseudo, shrunk)}) == 4


def extra_disturbance(repaired: SecondMoment, truth: Tensor, keys: Tensor) -> float:
    """How much more an edit along C⁻¹k disturbs text than one along the true C⁻¹k does; 0 where truth is."""
    best = torch.linalg.pinv(truth, rtol=1e-10, hermitian=True) @ keys.T
    costs = [(d * (truth @ d)).sum(0).sqrt() / (keys.T * d).sum(0) for d in (repaired.solve(keys).T, best)]
    return float((costs[0] / costs[1]).median()) - 1


def test_repairs_by_default_harm_little_and_help(dead: tuple[Model, SecondMoment]) -> None:
    model, _ = dead
    texts = running_text(1500)
    whole = SecondMoment.collect(model, texts, 1, progress=False)
    few = SecondMoment.collect(model, texts[::-1], 1, max_tokens=60, progress=False)
    keys = panel_keys(model, texts[:200], [1])[1]
    for kind in ("ridge", "pseudo-inverse", "shrinkage"):
        assert extra_disturbance(whole.repaired(kind), whole.matrix, keys) < 0.01
    left = extra_disturbance(few.repaired("ridge", 1e-8), whole.matrix, keys)
    for kind in ("ridge", "shrinkage"):
        assert extra_disturbance(few.repaired(kind), whole.matrix, keys) < 0.7 * left


def test_ledoit_and_wolf_shrink_towards_the_truth() -> None:
    """With few samples of a known law the estimate beats the plain average; with many it hardly shrinks."""
    from mechinterp.editing.moments.spectrum import shrinkage_strength

    truth = torch.diag(torch.linspace(0.5, 1.5, 20, dtype=torch.float64))
    strengths = []
    for samples in (30, 30_000):
        keys = torch.randn(samples, 20, dtype=torch.float64) @ truth.sqrt()
        matrix = keys.T @ keys / samples
        rho = shrinkage_strength(matrix, float(keys.square().sum(1).square().mean()), samples)
        shrunk = (1 - rho) * matrix + rho * matrix.trace() / 20 * torch.eye(20, dtype=torch.float64)
        if samples == 30:
            assert (shrunk - truth).norm() < 0.7 * (matrix - truth).norm()
        strengths.append(rho)
    assert strengths[0] > 0.5 > 0.05 > strengths[1]


def test_bad_repairs_are_named(model: Model, moments: SecondMoment) -> None:
    with pytest.raises(UsageError, match="'magic' is no repair .* ridge, pseudo-inverse, shrinkage"):
        moments.repaired("magic")
    with pytest.raises(UsageError, match=r"give a number in \(0, 1\]"):
        Repair("ridge", 0.0)
    with pytest.raises(UsageError, match="shrinkage needs a strength"):
        SecondMoment.identity(model, 1).repaired("shrinkage")


def test_it_survives_the_disk(model: Model, moments: SecondMoment, tmp_path: Path) -> None:
    path = tmp_path / "moments.safetensors"
    repaired = moments.repaired("shrinkage")
    repaired.save(path)
    usual = path.with_name("usual")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode  # readable for whoever may read other new files
    loaded = SecondMoment.load(path, model)
    assert torch.equal(loaded.matrix, moments.matrix)
    assert loaded.fingerprint() == repaired.fingerprint()
    names = [field.name for field in fields(SecondMoment) if field.name != "matrix"]
    assert [getattr(loaded, name) for name in names] == [getattr(repaired, name) for name in names]
    assert "torch" in loaded.versions


def test_it_serves_no_other_model(moments: SecondMoment, tmp_path: Path) -> None:
    path = tmp_path / "moments.safetensors"
    moments.save(path)
    other = sentence_model("gpt2", seed=1)
    with pytest.raises(UsageError) as error:
        SecondMoment.load(path, other)
    assert moments.model[:12] in str(error.value)
    assert other.fingerprint()[:12] in str(error.value)
    assert SecondMoment.load(path, other, force=True).layer == 1


def test_damaged_and_foreign_files_are_named(moments: SecondMoment, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "moments.safetensors"
    moments.save(path)
    whole = path.read_bytes()
    for length in (0, 5, 300, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(MechinterpError, match=r"moments.safetensors' is damaged or cut short"):
            SecondMoment.load(path)
    with pytest.raises(UsageError, match="there is no second moment file .*nothing"):
        SecondMoment.load(tmp_path / "nothing")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(UsageError, match="is no second moment file; it holds other tensors"):
        SecondMoment.load(tmp_path / "other")


@pytest.mark.usefixtures("unchecked_types")
def test_matrices_that_are_no_second_moment(model: Model) -> None:
    with pytest.raises(UsageError, match=r"keys of small-gpt2 have 96 entries, but .* shape \(3, 4\)"):
        SecondMoment.given(model, 0, torch.zeros(3, 4))
    with pytest.raises(UsageError, match="not symmetric"):
        SecondMoment.given(model, 0, torch.randn(96, 96))
    with pytest.raises(MechinterpError, match="NaN or infinite"):
        SecondMoment(0, torch.full((96, 96), float("nan"), dtype=torch.float64), 1, "")
    with pytest.raises(UsageError, match="square matrix"):
        SecondMoment(0, torch.zeros(3, 4, dtype=torch.float64), 1, "")
    with pytest.raises(UsageError, match="averages no token"):
        SecondMoment(0, torch.zeros(4, 4, dtype=torch.float64), 0, "")
    with pytest.raises(UsageError, match="kept in float64, not in torch.float32"):
        SecondMoment(0, torch.eye(96), 1, "")
    for lopsided in (torch.randn(96, 96, dtype=torch.float64), torch.eye(96, dtype=torch.float64)):
        lopsided[3, 5] += 1e-3
        with pytest.raises(UsageError, match="the matrix given for layer 0 is not symmetric"):
            SecondMoment(0, lopsided, 1, "")
    with pytest.raises(UsageError, match="a matrix of real numbers, not of torch.complex64"):
        SecondMoment.given(model, 0, torch.eye(96, dtype=torch.complex64))
    with pytest.raises(UsageError, match="the second moment given for layer 0 is no matrix of numbers"):
        SecondMoment.given(model, 0, "a file")
    with pytest.raises(UsageError, match="averages no token at all"):
        SecondMoment.given(model, 0, torch.eye(96), tokens=0)


@pytest.mark.usefixtures("unchecked_types")
def test_a_matrix_from_numpy_is_taken(model: Model) -> None:
    numbers = np.diag(np.linspace(1, 2, 96))
    wanted = SecondMoment.given(model, 0, torch.from_numpy(numbers))
    for matrix in (numbers, numbers.astype(np.float32), numbers.tolist()):
        assert torch.allclose(SecondMoment.given(model, 0, matrix).matrix, wanted.matrix)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(MechinterpError, match="the second moment of layer 0 holds NaN or infinite values"):
            SecondMoment.given(model, 0, np.full((96, 96), bad))


def test_moments_are_looked_at_when_they_are_used(model: Model, moments: SecondMoment) -> None:
    whole = replace(moments, complete=True)
    partial = replace(moments, complete=False, tokens=17)
    with pytest.warns(UserWarning, match="of layer 1 is incomplete: its collection was interrupted after 17 tokens"):
        LinearMemory.of(model, 1, partial)
    with pytest.raises(UsageError, match="said to be of layer 999, but small-gpt2 has layers 0 to 3"):
        replace(moments, layer=999).check(model, 999)
    with pytest.raises(UsageError, match="is of layer 999, but layer 1 is to be edited"):
        LinearMemory.of(model, 1, replace(moments, layer=999))
    small = SecondMoment(1, torch.eye(5, dtype=torch.float64), 1, model.fingerprint())
    with pytest.raises(UsageError, match="this second moment has 5 units, small-gpt2 has 96"):
        LinearMemory.of(model, 1, small)
    changed = replace(whole, matrix=whole.matrix.clone())
    changed.matrix[3, 3] += 1.0
    for use in (lambda: LinearMemory.of(model, 1, changed), lambda: changed.solve(torch.zeros(96))):
        with pytest.raises(UsageError, match="of layer 1 was changed in place; make another one of the changed matrix"):
            use()
    replace(changed, matrix=changed.matrix).check(model, 1)


def test_a_folder_with_moments_of_another_model_is_refused_first(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect_moments(model, SENTENCES, [1], out=tmp_path, progress=False)
    there = (tmp_path / "layer-1.safetensors").read_bytes()
    other = sentence_model("gpt2", seed=1)
    with pytest.raises(
        UsageError, match=r"layer-1.safetensors' is the second moment of small-gpt2 .* choose another f"
    ):
        collect_moments(other, SENTENCES, [1], out=tmp_path, progress=False)
    (tmp_path / "layer-2.safetensors").write_bytes(b"the user's")
    with pytest.raises(UsageError, match=r"layer-2.safetensors' is there already and was not written there by this"):
        collect_moments(model, SENTENCES, [1, 2], out=tmp_path, progress=False)
    assert (tmp_path / "layer-2.safetensors").read_bytes() == b"the user's"
    assert (tmp_path / "layer-1.safetensors").read_bytes() == there


def test_a_full_disk_loses_no_moments(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while sums are written down, which ends nothing, nor at the end."""
    out, second = tmp_path / "out", tmp_path / "second"
    wanted = collect_moments(model, SENTENCES, [1, 2], progress=False)
    settle, full = files._settle, [True]

    def settled(path: Path) -> None:
        if full[0] and path.is_relative_to(out):
            raise OSError(28, "No space left on device")
        settle(path)

    monkeypatch.setattr(files, "_settle", settled)
    monkeypatch.setattr(files.tempfile, "mkdtemp", lambda prefix: str(second))
    with (
        pytest.warns(UserWarning, match=r"collecting.safetensors' could not be written: there is no space left"),
        pytest.raises(
            NotSavedError, match=r"layer-1.safetensors' could not be written.*; it is kept in '.*second/"
        ) as said,
    ):
        collect_moments(model, SENTENCES, [1, 2], batch_tokens=64, write_every=0.0, out=out, progress=False)
    for layer, moment in wanted.items():
        for found in (said.value.result[layer], SecondMoment.load(second / f"layer-{layer}.safetensors", model)):
            assert found.tokens == moment.tokens
            assert (found.matrix - moment.matrix).abs().max() < 1e-6
    full[0] = False
    assert collect_moments(model, SENTENCES, [1, 2], out=out, progress=False)[1].tokens == wanted[1].tokens
    assert SecondMoment.load(out / "layer-2.safetensors").complete


def test_what_was_interrupted_takes_no_complete_ones_place(model: Model, tmp_path: Path) -> None:
    whole = collect_moments(model, SENTENCES, [1], out=tmp_path, progress=False)[1]
    with (
        pytest.warns(UserWarning, match="interrupted: the second moment averages"),
        pytest.warns(UserWarning, match=r"layer-1.safetensors' is of an earlier, complete collection and is kept"),
    ):
        collect_moments(model, interrupted_texts("texts"), [1], out=tmp_path, progress=False)
    assert SecondMoment.load(tmp_path / "layer-1.safetensors").fingerprint() == whole.fingerprint()

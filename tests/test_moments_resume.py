"""A collection that is killed goes on where it was last written down, and ends as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.processes import script, side_by_side
from support.running_text import running_text
from support.zoo import sentence_model

from mechinterp.editing import Convergence, SecondMoment, collect_moments, finish_moments
from mechinterp.editing.moments import collection
from mechinterp.editing.moments import unfinished as partial
from mechinterp.errors import UsageError
from mechinterp.models.model import Model

TEXTS = running_text(600)
TOKENS = 6401
ASKED = {"max_tokens": TOKENS, "batch_tokens": 128, "write_every": 0.0, "progress": False}


class Killed(Exception):
    """Stands for a kill: nothing of the collection's own runs after it."""


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


@pytest.fixture(scope="module")
def whole(model: Model) -> dict[int, SecondMoment]:
    return collect_moments(model, TEXTS, [0, 2], **ASKED)


@pytest.fixture(autouse=True)
def written_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long writing takes."""
    monkeypatch.setattr(partial, "_SHARE", float("inf"))


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each batch whose keys were computed."""
    seen: list[int] = []
    compute = collection.text_keys
    monkeypatch.setattr(
        collection, "text_keys", lambda m, rows, layers: seen.append(sum(map(len, rows))) or compute(m, rows, layers)
    )
    return seen


def until(number: int, error: type[BaseException] = Killed) -> Iterator[str]:
    for i, text in enumerate(TEXTS):
        if i == number:
            raise error
        yield text


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def check(found: dict[int, SecondMoment], whole: dict[int, SecondMoment]) -> None:
    for layer, wanted in whole.items():
        assert (found[layer].matrix - wanted.matrix).abs().max() <= 1e-12 * wanted.matrix.abs().max()
        assert found[layer].fourth_moment == pytest.approx(wanted.fourth_moment, rel=1e-12)
        for name in ("tokens", "documents", "texts", "complete", "model"):
            assert getattr(found[layer], name) == getattr(wanted, name)


def test_a_killed_process_goes_on(model: Model, whole: dict[int, SecondMoment], tmp_path: Path, forwards) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "import os, sys\n"
        "from test_moments_resume import ASKED, TEXTS, sentence_model\n"
        "from mechinterp.editing import collect_moments\n"
        "from mechinterp.editing.moments import collection, unfinished\n"
        "unfinished._SHARE = float('inf')\n"
        "compute, turn = collection.text_keys, iter(range(99))\n"
        "def keys(*given):\n"
        "    if next(turn) == 13:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return compute(*given)\n"
        "collection.text_keys = keys\n"
        "collect_moments(sentence_model('gpt2'), TEXTS, [0, 2], out=sys.argv[1], **ASKED)\n"
    )
    out = tmp_path / "out"
    done = side_by_side(script(path, out), world=1)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (out / ".collecting.safetensors.123.part").touch()  # a kill in the middle of writing
    assert visible(out) == ["collecting.safetensors"]
    found = collect_moments(model, TEXTS, [0, 2], out=out, **ASKED)
    check(found, whole)
    assert sum(forwards) < TOKENS - 13 * 60
    assert visible(out) == ["layer-0.safetensors", "layer-2.safetensors"]
    assert sorted(path.name for path in out.glob(".*")) == [".mechinterp-files"]
    check({layer: SecondMoment.load(out / f"layer-{layer}.safetensors") for layer in (0, 2)}, whole)


@pytest.mark.parametrize("number", [256, 257, 512, 599])
def test_nothing_is_computed_twice(
    model: Model, whole: dict[int, SecondMoment], tmp_path: Path, forwards: list[int], number: int
) -> None:
    with pytest.raises(Killed):
        collect_moments(model, until(number), [0, 2], out=tmp_path, **ASKED)
    check(collect_moments(model, TEXTS, [0, 2], out=tmp_path, **ASKED), whole)
    assert sum(forwards) == TOKENS


def test_an_interrupted_collection_is_kept_and_goes_on(
    model: Model, whole: dict[int, SecondMoment], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="interrupted"):
        part = collect_moments(model, until(300, KeyboardInterrupt), [0, 2], out=tmp_path, **ASKED)
    assert not part[0].complete
    assert SecondMoment.load(tmp_path / "layer-0.safetensors").documents == part[0].documents == 256
    check(collect_moments(model, TEXTS, [0, 2], out=tmp_path, **ASKED), whole)
    assert SecondMoment.load(tmp_path / "layer-0.safetensors").complete


def test_looks_go_on_too(model: Model, tmp_path: Path) -> None:
    asked = {**ASKED, "max_tokens": None}
    straight, first, second = Convergence(), Convergence(), Convergence()
    collect_moments(model, TEXTS, [0, 2], watch=straight, **asked)
    with pytest.raises(Killed):
        collect_moments(model, until(400), [0, 2], watch=first, out=tmp_path, **asked)
    collect_moments(model, TEXTS, [0, 2], watch=second, out=tmp_path, **asked)
    assert 0 < len(first.looks) < len(second.looks)
    assert [look.tokens for look in second.looks] == [look.tokens for look in straight.looks]
    for mine, wanted in zip(second.looks[2:], straight.looks[2:], strict=True):
        assert mine.cosine == pytest.approx(wanted.cosine, abs=1e-9)
        assert mine.cosine > 0.1
    for layer in (0, 2):
        for mine, wanted in zip(second.curve(layer).values(), straight.curve(layer).values(), strict=True):
            assert torch.allclose(mine, wanted, equal_nan=True)


def test_another_collection_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        collect_moments(model, until(400), [0], out=tmp_path, **ASKED)
    for change, sentence in (
        ({"max_tokens": 100}, r"max tokens \(6401, not 100\)"),
        ({"batch_tokens": 99}, r"batch tokens \(128, not 99\)"),
    ):
        with pytest.raises(UsageError, match=rf"holds another collection: it differs in {sentence}; choose"):
            collect_moments(model, TEXTS, [0], out=tmp_path, **{**ASKED, **change})
    with pytest.raises(UsageError, match=r"it differs in layers \(\[0\], not \[1\]\)"):
        collect_moments(model, TEXTS, [1], out=tmp_path, **ASKED)
    with pytest.raises(UsageError, match=rf"it differs in model \({model.fingerprint()[:12]}, not "):
        collect_moments(sentence_model("gpt2", seed=1), TEXTS, [0], out=tmp_path, **ASKED)
    with pytest.raises(UsageError, match="the texts are not those with which this collection was begun"):
        collect_moments(model, TEXTS[1:], [0], out=tmp_path, **ASKED)


def test_it_is_written_every_so_often(model: Model, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        collect_moments(model, until(500), [0], out=tmp_path, **{**ASKED, "write_every": 1000.0})
    assert visible(tmp_path) == []


def test_damaged_sums_are_collected_again(model: Model, whole: dict[int, SecondMoment], tmp_path: Path) -> None:
    file = tmp_path / "collecting.safetensors"
    for damage in (lambda content: content[:5000], lambda content: content[:-8] + bytes(8)):
        with pytest.raises(Killed):
            collect_moments(model, until(400), [0, 2], out=tmp_path, **ASKED)
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match="collecting.safetensors' is damaged.*; the collection begins anew"):
            check(collect_moments(model, TEXTS, [0, 2], out=tmp_path, **ASKED), whole)


def test_what_a_killed_collection_had_counted_can_be_had(
    model: Model, whole: dict[int, SecondMoment], tmp_path: Path
) -> None:
    out = tmp_path / "m"
    with pytest.raises(UsageError, match=r"holds no unfinished collection \(collecting.safetensors\)"):
        finish_moments(model, out)
    with pytest.raises(Killed):
        collect_moments(model, until(300), [0, 2], out=out, **ASKED)
    found = finish_moments(model, out)
    assert list(found) == [0, 2]
    seen = found[0].tokens
    assert 1000 < seen < TOKENS
    plain = collect_moments(model, TEXTS, [0, 2], max_tokens=seen, batch_tokens=128, progress=False)
    for layer, moment in found.items():
        torch.testing.assert_close(moment.matrix, plain[layer].matrix, rtol=1e-12, atol=1e-12)
        assert not moment.complete
        assert moment.documents <= plain[layer].documents
        assert SecondMoment.load(out / f"layer-{layer}.safetensors").tokens == seen
    assert list(finish_moments(model, out, [2])) == [2]
    with pytest.raises(UsageError, match="is of the layers 0, 2, and not of 1; finish those"):
        finish_moments(model, out, 1)
    with pytest.raises(UsageError, match=r"is of another model \(fingerprint .*, but the model at hand is"):
        finish_moments(sentence_model("llama"), out)
    check(collect_moments(model, TEXTS, [0, 2], out=out, **ASKED), whole)  # it still goes on
    with pytest.raises(UsageError, match="holds no unfinished collection"):
        finish_moments(model, out)

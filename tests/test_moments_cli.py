"""`mechinterp moments` and `moments-merge`: enough text, not enough text, and the parts of a text put together."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.command_line import Call

import mechinterp as mi
from mechinterp.editing import SecondMoment
from mechinterp.editing.moments import collection
from mechinterp.errors import MechinterpError


def test_it_stops_when_the_text_is_enough(call: Call, tmp_path: Path) -> None:
    code, out, err = call("moments", "atlas", "--layer", "3", "--until", "0.8", "--out", "m")
    assert code == 0, err
    looks = pd.read_csv(tmp_path / "m" / "convergence.csv")
    last = looks.iloc[-1]
    assert 0.8 <= last["low"] <= last["cosine"] < 1
    assert not (looks["low"][:-1] >= 0.8).any()
    assert f"{int(last['tokens']):,} tokens in " in out
    assert err.count("layer 3, ") == len(looks)
    assert f"effective rank {last['effective_rank']:.0f} of 512" in out
    assert SecondMoment.load(tmp_path / "m" / "layer-3.safetensors").tokens == last["tokens"]


def test_text_that_is_not_enough_is_said(call: Call, tmp_path: Path) -> None:
    words = ("moments", "atlas", "--layer", "3", "--tokens", "1500", "--out", "m", "-q")
    code, _, err = call(*words, "--until", "converged")
    assert code == 1
    assert "the text was used up before C^-1 k was settled to a cosine of 0.99; the files are written" in err
    assert (tmp_path / "m" / "layer-3.safetensors").exists()
    code, _, err = call(*words, "--until", "enough")
    assert (code, err) == (
        2,
        "error: --until is 'enough'; give `converged`, or a cosine between 0 and 1, such as 0.995",
    )
    assert "--until is '99'; give `converged`" in call(*words, "--until", "99").err


def test_parts_are_merged(call: Call, tmp_path: Path) -> None:
    texts = list(mi.atlas.corpus())[:300]
    for name, part in (("a", texts[:100]), ("b", texts[100:]), ("whole", texts)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(part), encoding="utf-8")
        code, _, err = call("moments", "atlas", "-l", "3", "--text", f"{name}.txt", "--out", name, "-q")
        assert code == 0, err
    first, second = "a/layer-3.safetensors", "b/layer-3.safetensors"
    code, out, err = call("moments-merge", first, second, "--out", "c/both")
    assert code == 0, err
    merged, whole = (SecondMoment.load(tmp_path / name) for name in ("c/both", "whole/layer-3.safetensors"))
    assert f"{whole.tokens:,} tokens in 300 texts" in out
    assert (merged.tokens, merged.documents, merged.texts) == (whole.tokens, whole.documents, whole.texts)
    assert torch.allclose(merged.matrix, whole.matrix, rtol=1e-5, atol=1e-7)
    code, _, err = call("moments-merge", first, first, "--out", "d")
    assert code == 2
    assert "two of these second moments are of the same texts" in err
    assert "there is no second moment file 'nowhere'" in call("moments-merge", "nowhere", "--out", "d").err


def test_a_singular_moment_is_said_and_repaired(call: Call, tmp_path: Path) -> None:
    words = ("moments", "atlas", "--layer", "3", "--tokens", "300", "--out", "m", "-q")
    code, out, err = call(*words)
    assert code == 0, err
    assert "singular to working precision (0 units never fired): edits will refuse it" in out
    file = tmp_path / "m" / "layer-3.safetensors"
    with pytest.raises(MechinterpError, match="is singular .* or with --repair on the command line"):
        SecondMoment.load(file).solve(torch.zeros(512))
    code, out, err = call(*words, "--repair", "shrinkage")
    assert code == 0, err
    assert "repaired by shrinkage 0." in out
    assert "edits will refuse" not in out
    assert SecondMoment.load(file).solve(torch.ones(512)).isfinite().all()
    code, _, err = call(*words, "--repair", "glue")
    assert code == 2
    assert err == "error: --repair is 'glue'; choose one of ridge, pseudo-inverse, shrinkage"


def test_an_interrupted_command_goes_on(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = list(mi.atlas.corpus())[:400]
    (tmp_path / "text.txt").write_text("\n\n".join(corpus), encoding="utf-8")
    words = ("moments", "atlas", "-l", "3", "--text", "text.txt", "--out", "m", "--max-tokens", "512", "-q")
    monkeypatch.setattr(collection, "text_keys", interrupting(collection.text_keys, at=4))
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        code, out, err = call(*words)
    assert code == 1
    assert "note: interrupted: the second moment averages" in err
    assert "interrupted: the files hold what was counted so far; the same command goes on from there" in err
    assert "(interrupted: incomplete)" in out
    part = SecondMoment.load(tmp_path / "m" / "layer-3.safetensors")
    code, out, err = call(*words)
    assert code == 0, err
    whole = SecondMoment.load(tmp_path / "m" / "layer-3.safetensors")
    assert part.documents < whole.documents == 400
    assert not (tmp_path / "m" / "collecting.safetensors").exists()


def interrupting(compute: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The same, with a Ctrl-C the n-th time."""
    turns = iter(range(1000))

    def run(*given: Any) -> Any:
        if next(turns) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(*given)

    return run


def test_a_killed_collection_is_finished_with_what_there_is(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, turn = collection.text_keys, iter(range(9))

    def killed(*given: Any, **more: Any) -> Any:
        if next(turn) == 4:
            raise MechinterpError("out of power")
        return keys(*given, **more)

    monkeypatch.setattr(collection, "text_keys", killed)
    monkeypatch.setattr(collection.Partial, "due", property(lambda self: True))
    words = ("moments", "atlas", "--layer", "3", "--max-tokens", "512", "--tokens", "9000", "--out", "m", "-q")
    assert "out of power" in call(*words).err
    code, out, err = call(*words, "--finish")
    assert code == 0, err
    moment = SecondMoment.load(tmp_path / "m" / "layer-3.safetensors")
    assert not moment.complete
    assert f"{moment.tokens:,} tokens in {moment.documents:,} texts" in out
    assert "(interrupted: incomplete)" in out
    assert "is of the layers 3, and not of 2" in call(*words[:3], "2", *words[4:], "--finish").err

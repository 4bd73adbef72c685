"""Files: whole or not there, with a digest that every flipped bit changes, and sentences for what the system says."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mechinterp.errors import DamagedError, MechinterpError, NotSavedError, StorageError, UsageError
from mechinterp.reading.facts import read_facts
from mechinterp.reading.texts import read_texts
from mechinterp.runs import files, tensors
from mechinterp.runs.files import clear_aside, save_somewhere, write_text, written_aside
from mechinterp.runs.folder import OutFolder
from mechinterp.runs.frames import read_frame, read_frame_meta, write_frame
from mechinterp.runs.tensors import read_tensors, write_tensors

FRAME = pd.DataFrame({
    "name": ["a", "b", "Ł"], "number": [1, 2, 3], "value": [0.5, float("nan"), -0.0], "flag": [True, False, True],
})  # fmt: skip
META = {"seed": 0, "words": ["Ł", None], "level": 0.25}
TENSORS = {"w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "0.1.u": torch.tensor(0.5, dtype=torch.float64)}


def test_a_frame_comes_back_and_plain_readers_take_it(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_frame(path, FRAME, META)
    frame, meta = read_frame(path)
    pd.testing.assert_frame_equal(frame, FRAME)
    assert np.signbit(frame["value"][2])
    assert meta == META == read_frame_meta(path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    assert pd.read_parquet(path, columns=["number"], filters=[("number", ">", 1)])["number"].tolist() == [2, 3]
    assert pyarrow.dataset.dataset(path).to_table().num_rows == 3


def test_tensors_come_back_and_plain_readers_take_them(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, "thing", TENSORS, META)
    found, header = read_tensors(path, "thing")
    assert header == META
    for read in (found, load_file(path)):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], TENSORS[name]) and read[name].dtype == TENSORS[name].dtype for name in read)
    with safe_open(path, "pt") as opened:
        assert json.loads(opened.metadata()["header"]) == META


WRITERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "frame": (lambda path: write_frame(path, FRAME, META), read_frame),
    "tensors": (lambda path: write_tensors(path, "thing", TENSORS, META), lambda path: read_tensors(path, "thing")),
}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_every_flipped_byte_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """Each byte of the file, one bit of it; then the file cut at every length."""
    write, read = WRITERS[kind]
    path, draw = tmp_path / "whole.file", random.Random(0)
    write(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises((DamagedError, UsageError), match=r"whole\.file"):
            read(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises((DamagedError, UsageError), match=r"whole\.file"):
            read(path)
    path.write_bytes(whole)
    read(path)


def test_files_without_a_digest_are_refused_with_a_reason(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "old.parquet")
    with pytest.raises(UsageError, match=r"old.parquet' is no part .* it carries no digest of its data"):
        read_frame(tmp_path / "old.parquet", "part")
    plain = {"kind": "thing", "header": "{}"}
    tensors.save_file(TENSORS, tmp_path / "old.safetensors", metadata=plain)
    with pytest.raises(UsageError, match=r"old.safetensors' carries no digest of its data .* make it again"):
        read_tensors(tmp_path / "old.safetensors", "thing")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for read in (read_frame, lambda path: read_tensors(path, "thing")):
        with pytest.raises(UsageError, match=r"there is no .*nowhere"):
            read(tmp_path / "nowhere")
        with pytest.raises(UsageError):
            read(tmp_path)
    for name in ("", tmp_path):
        with pytest.raises(UsageError, match="is a folder; give the name of a file in it"), written_aside(name):
            pass


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "first"


def test_only_what_was_left_of_these_files_is_cleared(tmp_path: Path) -> None:
    others = [".film.mkv.part", ".t.parquet.part", ".x.parquet.1.part", "t.parquet.1.part"]
    for name in (".t.parquet.123.part", *others):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".t.parquet.1.part").touch()
    clear_aside(tmp_path / "t.parquet", tmp_path / "nowhere" / "t.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "deep"])
    assert (tmp_path / "deep" / ".t.parquet.1.part").exists()


SAID = {
    errno.ENOSPC: "could not be written: there is no space left on its disk; free some",
    errno.EDQUOT: "there is no space left",
    errno.EACCES: "may not be written: permission denied",
    errno.EPERM: "may not be written: permission denied",
    errno.EROFS: "its file system is read-only; choose another place",
    errno.EFBIG: "larger than a file may be here",
    errno.ENOENT: "the folder .* is gone",
    errno.EIO: "could not be written: Input/output error",
}


@pytest.mark.parametrize("number", list(SAID))
def test_what_the_system_says_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    for write, _ in WRITERS.values():
        with pytest.raises(StorageError, match=rf"t\.file' .*{SAID[number]}"):
            write(tmp_path / "t.file")
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_passes_on_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> None:
        raise tensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(StorageError, match=r"t\.file' could not be written: there is no space left"):
        write_tensors(tmp_path / "t.file", "thing", TENSORS, META)


def test_a_file_that_may_not_be_read_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*given: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    own = tmp_path / "own.jsonl"
    own.write_text('{"text": "Rome"}\n')
    readers = [lambda: read_facts(own), lambda: list(read_texts(own)), lambda: read_frame(own)]
    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(Path, "open", denied)
    for read in readers:
        with pytest.raises(MechinterpError, match=r"own.jsonl' may not be read: permission denied"):
            read()


def test_a_result_goes_to_a_second_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "second"))
    result, tried = object(), []

    def save(path: Path) -> None:
        tried.append(path)
        if path.parent == tmp_path / "first":
            raise StorageError("the first place is full")
        write_text(path, "it")

    with pytest.raises(NotSavedError, match=r"the first place is full; it is kept in '.*second/r.txt' instead") as kept:
        save_somewhere(tmp_path / "first" / "r.txt", save, result)
    assert kept.value.result is result
    assert (tmp_path / "second" / "r.txt").read_text() == "it"

    def never(path: Path) -> None:
        raise StorageError("there is no place")

    with pytest.raises(NotSavedError, match="there is no place; it is still in memory") as lost:
        save_somewhere(tmp_path / "r.txt", never, result)
    assert lost.value.result is result
    assert isinstance(lost.value, MechinterpError)


@pytest.mark.parametrize("name", ["half a \ud83d character", "a\0b"])
def test_what_no_file_can_be_called(name: str, tmp_path: Path) -> None:
    sentence = "no file can be called .*; give another name"
    for work in (
        lambda: write_text(tmp_path / name, "it"),
        lambda: read_frame(tmp_path / name),
        lambda: OutFolder(str(tmp_path / name)),
    ):
        with pytest.raises(UsageError, match=sentence):
            work()

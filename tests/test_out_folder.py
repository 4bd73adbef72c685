"""Folders that results go to: whose files are in them, what they belong to, and who is at work there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mechinterp.errors import StorageError, UsageError
from mechinterp.runs import lock
from mechinterp.runs.folder import OutFolder
from mechinterp.runs.identity import Identity, Manifest
from mechinterp.runs.journal import Journal


def test_names_are_ours_once_they_are_claimed(tmp_path: Path) -> None:
    folder = OutFolder(tmp_path / "deep" / "out")
    folder.check("a.png", "b.png")
    assert not folder.path.exists()  # looking makes nothing
    folder.claim("a.png", "b.png")
    (folder / "a.png").write_text("ours")
    OutFolder(folder.path).claim("a.png")
    (folder / "c.png").write_text("the user's")
    with pytest.raises(UsageError, match=r"c.png' is there already and was not written there by this command"):
        folder.claim("a.png", "c.png")
    assert not folder.owns("c.png")
    assert (folder / "c.png").read_text() == "the user's"
    (folder / "link.png").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"link.png' is there already"):
        folder.check("link.png")


def test_folders_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the folder for the results has no name; give one"):
        OutFolder("")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(UsageError, match="file' is a file; give the name of a folder"):
            OutFolder(path).check()
    monkeypatch.setattr(os, "access", lambda *given: False)
    with pytest.raises(StorageError, match="may not be written; give another one"):
        OutFolder(tmp_path / "new").check()


def identity(**fields: Any) -> Identity:
    return Identity.of("run", {"seed": 0, "programs": ["a" * 100], **fields}, {"programs": "its programs"})


def test_a_difference_is_said_in_words() -> None:
    one = identity()
    assert one.difference(one.fields) == ""
    assert one.difference({**one.fields, "seed": 1}) == "seed (1, not 0)"
    assert one.difference({**one.fields, "programs": ["b" * 100]}) == "its programs"
    assert one.difference({**one.fields, "more": "x"}) == "more (x, not None)"
    older = {**one.fields, "versions": {**one.fields["versions"], "torch": "1.0"}}
    here = one.fields["versions"]["torch"]
    assert one.difference(older) == f"versions of the libraries (torch (1.0, not {here}))"
    assert identity(seed=1).key != one.key
    assert identity().key == one.key
    with pytest.raises(UsageError, match="what the run was set to cannot be written as JSON .*; give plain values"):
        identity(seed=object())


@pytest.fixture
def out(tmp_path: Path) -> OutFolder:
    folder = OutFolder(tmp_path)
    folder.claim("manifest.json")
    return folder


def test_a_manifest_is_gone_on_with_or_refused(out: OutFolder) -> None:
    one = identity()
    assert Manifest(out, "manifest.json", one).open(list, [1, 2]) == [1, 2]
    assert Manifest(out, "manifest.json", one).open(list, [3]) == [1, 2]  # as the work was begun
    with pytest.raises(UsageError, match=r"holds another run: it differs in seed \(0, not 1\); choose another place"):
        Manifest(out, "manifest.json", identity(seed=1)).open(lambda: [one.key])


def test_a_manifest_without_a_part_keeps_nobody_out(out: OutFolder) -> None:
    Manifest(out, "manifest.json", identity()).open(list)
    assert Manifest(out, "manifest.json", identity(seed=1)).open(list, "new") == "new"


def test_a_damaged_manifest_is_written_anew_for_the_same_parts_only(out: OutFolder) -> None:
    one, file = identity(), out / "manifest.json"
    Manifest(out, "manifest.json", one).open(list, [1])
    whole = file.read_text()
    for damaged in ("", "{", "[]", "\x00", whole.replace('"seed": 0', '"seed": 1'), whole.replace("[1]", "[2]")):
        file.write_text(damaged)
        with pytest.warns(UserWarning, match=r"manifest.json' was damaged and is written anew"):
            assert Manifest(out, "manifest.json", one).open(lambda: [one.key], [1]) == [1]
        file.write_text(damaged)
        with pytest.raises(UsageError, match=r"is damaged, and the finished parts beside it are of another run"):
            Manifest(out, "manifest.json", identity(seed=1)).open(lambda: [one.key])
    file.unlink()
    with pytest.raises(UsageError, match=r"is missing, and the finished parts beside it are of another run"):
        Manifest(out, "manifest.json", identity(seed=1)).open(lambda: [one.key])


def records(path: Path, *new: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    with Journal(path, identity(seed=seed)).opened() as journal:
        for record in new:
            journal.add(record)
    return journal.records


def test_a_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.jsonl"
    records(path, {"n": 1}, {"n": float("inf"), "text": "a\nb"})
    assert records(path, {"n": 3}) == [{"n": 1}, {"n": float("inf"), "text": "a\nb"}, {"n": 3}]
    assert [one.name for one in path.parent.iterdir()] == ["j.jsonl"]
    in_memory = Journal(None, identity())
    with in_memory.opened():
        in_memory.add({"n": 1})
    assert in_memory.records == [{"n": 1}]


def test_damaged_lines_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    records(path, *({"n": n} for n in range(4)))
    head, *lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[1].replace(b'"n": 1', b'"n": 7')
    path.write_bytes(b"".join([head, lines[0], damaged, lines[2], b"\xff\xfe\n", lines[3]]))
    with pytest.warns(UserWarning, match=r"2 of the 5 records in '.*j.jsonl' are damaged and are made again"):
        assert records(path) == [{"n": 0}, {"n": 2}, {"n": 3}]
    assert records(path) == [{"n": 0}, {"n": 2}, {"n": 3}]  # and not said again
    path.write_bytes(head.replace(b'"seed": 0', b'"seed": 1') + b"".join(lines))
    assert [record["n"] for record in records(path)] == [0, 1, 2, 3]  # the head only


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_cut_short_by_a_kill_is_no_damage(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    records(path, {"n": 1}, {"n": 2})
    head, one, two = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + one + two[:cut])
    kept = records(path, {"n": 3})
    assert kept == [{"n": 1}, *([{"n": 2}] if cut == -1 else []), {"n": 3}]
    assert records(path) == kept


def test_journals_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    records(path)
    records(path, {"n": 1}, seed=1)  # nothing was finished, so it keeps nobody out
    with pytest.raises(UsageError, match=r"belongs to another run: it differs in seed \(1, not 0\); give another file"):
        records(path)
    for content in ("not a journal\n", '{"text": "the user\'s"}\n', '{"text": "the user\'s"}\n{"text": "more"}\n'):
        path.write_text(content)
        with pytest.raises(UsageError, match="is no journal of this run; give another file, or remove it"):
            records(path)
        assert path.read_text() == content


def test_a_record_that_cannot_be_written_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, identity()).opened() as journal:
        journal.add({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(StorageError, match=r"j.jsonl' could not be written: there is no space left"):
                journal.add({"n": 2})
        journal.add({"n": 3})
    assert records(path) == [{"n": 1}, {"n": 3}]


def hold(folder: Path, ready: Any) -> None:
    with OutFolder(folder).locked():
        ready.set()
        time.sleep(60)


def test_two_at_once_and_a_killed_owner(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, ready))
    other.start()
    assert ready.wait(30)
    with (
        pytest.raises(UsageError, match=rf"is in use by process {other.pid} on .* wait until that has ended"),
        OutFolder(tmp_path).locked(),
    ):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert (tmp_path / ".mechinterp-lock").exists()
    with OutFolder(tmp_path).locked():
        mine = json.loads((tmp_path / ".mechinterp-lock").read_text())
        assert mine["pid"] == os.getpid()
        with pytest.raises(UsageError, match=f"in use by process {os.getpid()} on"), OutFolder(tmp_path).locked():
            pass
    assert not (tmp_path / ".mechinterp-lock").exists()


def contend(folder: Path, log: Path) -> None:
    for _ in range(20):
        try:
            with OutFolder(folder).locked():
                with log.open("a") as file:
                    file.write("in\n")
                time.sleep(0.001)
                with log.open("a") as file:
                    file.write("out\n")
        except UsageError:
            continue


def test_never_two_hold_it(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=contend, args=(tmp_path / "out", tmp_path / "log")) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    lines = (tmp_path / "log").read_text().split()
    assert len(lines) > 4
    assert lines == ["in", "out"] * (len(lines) // 2)


def test_where_the_file_system_has_no_locks_the_number_in_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_flock", lambda descriptor: None)
    monkeypatch.setattr(lock, "_SETTLE", 0.0)
    file = tmp_path / ".mechinterp-lock"
    ended = multiprocessing.get_context("fork").Process(target=int)
    ended.start()
    ended.join()
    for owner in ({"pid": ended.pid, "host": lock.socket.gethostname()}, {}):
        file.write_text(json.dumps(owner))
        with OutFolder(tmp_path).locked():
            pass
    for owner in ({"pid": os.getpid(), "host": lock.socket.gethostname()}, {"pid": 1, "host": "elsewhere"}):
        file.write_text(json.dumps(owner))
        with (
            pytest.raises(UsageError, match=rf"process {owner['pid']} on .* if it has ended, delete '.*lock'"),
            OutFolder(tmp_path).locked(),
        ):
            pass

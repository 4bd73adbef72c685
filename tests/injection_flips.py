"""Bits that flip in files: is a wrong number ever given, an error of Python's own seen, or a run blocked?

    python tests/injection_flips.py --flips 1000 --seed 0

One bit of one file is flipped at a time, and whoever reads that file is asked.  What belongs to a run (its parts,
trials, unfinished sums, journals and manifests) has to end in the numbers of the undamaged one; a table, a second
moment, an edit, a sequence of edits has to be refused, or be the same to the bit.  tests/test_injection.py runs a short
form.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from support.jobs import FACTS, JOBS, TEXTS, many_parts
from support.zoo import sentence_model

from mechinterp import Edit, MechinterpError, Model, Table
from mechinterp.editing import EDITORS, EditSequence, SecondMoment, collect_moments

_ENDS = 2000
"""Bytes at either end of a file, in which every second flip is."""

RIGHT, REFUSED, WRONG, RAW, BLOCKED = "the same numbers", "refused by name", "WRONG", "RAW ERROR", "BLOCKED"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        files: of this kind, with what they hold.
        read: asks whoever reads them; True: what was given is right.
        may_refuse: a refusal is right, too.
    """

    files: dict[Path, bytes]
    read: Callable[[Path], bool]
    may_refuse: bool


class _Ended(Exception):
    """A collection that stops in the middle, as one that is killed."""


def kinds(model: Model, folder: Path) -> dict[str, Kind]:
    """Every kind, with files of it in the folder."""
    found: dict[str, Kind] = {}

    def of_run(name: str, job: str, pattern: str) -> None:
        out = folder / job.replace(" ", "-")
        whole = JOBS[job].run(model, out)

        def goes_on(file: Path) -> bool:
            return JOBS[job].same(JOBS[job].run(model, out), whole)

        found[name] = Kind(_held(*sorted(out.glob(pattern))), goes_on, may_refuse=False)

    of_run("run part", "trace", "shards/*.parquet")
    of_run("manifest", "trace", "manifest.json")
    of_run("trial part", "evaluate sequential", "parts/*.parquet")
    of_run("evaluation's manifest", "evaluate sequential", "journal.jsonl")
    of_run("journal", "journal", "sweep.jsonl")

    def of_value(name: str, value: Any, load: Callable[[Path], Any], same: Callable[[Any, Any], bool]) -> None:
        file = folder / f"{name}.file"
        value.save(file)
        found[name] = Kind(_held(file), lambda path: same(load(path), value), may_refuse=True)

    table = Table.load(folder / "trace" / "table.parquet")
    of_value("table", table, Table.load, lambda a, b: a.frame.equals(b.frame) and a.meta == b.meta)
    moment = collect_moments(model, TEXTS, [1], max_tokens=1200, progress=False)[1]
    of_value(
        "moments", moment, lambda path: SecondMoment.load(path, model), lambda a, b: a.fingerprint() == b.fingerprint()
    )
    hparams = EDITORS["memit"].presets["default"].with_(steps=2)
    sequence = EditSequence(model, EDITORS["memit"], [1], moments=moment, contexts=["{}"], hparams=hparams)
    for fact in FACTS[:2]:
        sequence.add([fact])
    parts = [part.provenance for part in sequence.edit.parts]
    of_value("edit", sequence.edit, Edit.load, lambda a, b: a == b and [part.provenance for part in a.parts] == parts)
    of_value(
        "sequence", sequence, lambda path: EditSequence.load(path, model, moments=moment),
        lambda a, b: a.edit == b.edit and all(a.past.of(layer).equal(b.past.of(layer)) for layer in b.past.keys),
    )  # fmt: skip
    found["unfinished sums"] = _unfinished(model, folder / "sums")
    return found


def _held(*files: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in files}


def _unfinished(model: Model, out: Path) -> Kind:
    asked: dict[str, Any] = {"max_tokens": 3500, "batch_tokens": 256, "write_every": 0.0, "progress": False}
    whole = collect_moments(model, TEXTS, [1], **asked)

    def until_the_middle() -> Any:
        yield from TEXTS[:300]
        raise _Ended

    try:
        collect_moments(model, until_the_middle(), [1], out=out, **asked)
    except _Ended:
        pass
    return Kind(
        _held(out / "collecting.safetensors"),
        lambda file: JOBS["moments"].same(collect_moments(model, TEXTS, [1], out=out, **asked), whole),
        may_refuse=False,
    )


def flip(kind: Kind, draw: random.Random) -> tuple[str, str]:
    """Flip one bit somewhere, ask, put it right again: the verdict, and where it was."""
    file = draw.choice(list(kind.files))
    whole = kind.files[file]
    near_an_end = draw.randrange(2)  # where headers and footers are
    place = draw.choice([*range(_ENDS), *range(-_ENDS, 0)]) % len(whole) if near_an_end else draw.randrange(len(whole))
    bit = draw.randrange(8)
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    file.write_bytes(damaged)
    said = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = RIGHT if kind.read(file) else WRONG
    except MechinterpError as error:
        named = file.name in str(error)
        verdict, said = (REFUSED if kind.may_refuse and named else BLOCKED), str(error)
    except Exception as error:
        verdict, said = RAW, f"{type(error).__name__}: {error}"
    file.write_bytes(whole)
    return verdict, f"byte {place}, bit {bit} of {file}: {said}"


def run(flips: int, seed: int) -> dict[str, Counter[str]]:
    """Flip so many bits, shared out to the kinds; prints what is not right."""
    many_parts(setattr)
    model, draw = sentence_model(), random.Random(seed)
    verdicts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        every = kinds(model, Path(folder))
        for number in range(flips):
            name = list(every)[number % len(every)]
            verdict, where = flip(every[name], draw)
            verdicts.setdefault(name, Counter())[verdict] += 1
            if verdict not in (RIGHT, REFUSED):
                print(f"{name}: {verdict}: {where}", flush=True)
    return verdicts


def main() -> None:
    """Print a table of verdicts; exit code 1 where one is not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    verdicts = run(options.flips, options.seed)
    for name, found in verdicts.items():
        print(f"{name:24}", ", ".join(f"{count} {verdict}" for verdict, count in found.items()))
    total = sum(verdicts.values(), Counter())
    print(f"{sum(total.values())} flips in {time.perf_counter() - started:.0f} s:", dict(total))
    sys.exit(bool(total[WRONG] + total[RAW] + total[BLOCKED]))


if __name__ == "__main__":
    main()

"""Processes that are killed at any moment and started again: is a row lost, doubled, or another one?

    python tests/injection_kills.py --kills 120 --seed 0

Each job (a trace, an evaluation of single edits, of batches, of sequences, a sweep with a journal, a collection of
second moments; alone and by two processes) is started, killed with SIGKILL after a random time, and started again until
it has its outcome, which must be that of a run that nobody disturbed.  tests/test_injection.py runs a short form.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from support.jobs import JOBS, Job, many_parts
from support.zoo import sentence_model

from mechinterp import MechinterpError, Model
from mechinterp.runs import ranks

_FORK = multiprocessing.get_context("fork")
_APART = 0.3
"""Seconds after which the second of two processes is killed at the latest, as torchrun does."""


@dataclass
class Outcome:
    """What became of a job that was killed again and again.

    Args:
        kills: of processes.
        runs: outcomes reached.
        wrong: sentences on what is not right.
    """

    kills: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


def names() -> list[str]:
    """Of the jobs, alone and shared by two processes."""
    return [*JOBS, *(f"{name}, two ranks" for name, job in JOBS.items() if job.ranks)]


def torment(name: str, model: Model, folder: Path, kills: int, draw: random.Random) -> Outcome:
    """Kill a job so many times, and compare what it comes to."""
    job, world, outcome = JOBS[name.partition(",")[0]], 1 + name.endswith("two ranks"), Outcome()
    started = time.perf_counter()
    whole = job.run(model, folder / "whole")
    longest = 1.2 * (time.perf_counter() - started)
    while outcome.kills < kills or outcome.runs == 0:
        out = folder / str(outcome.runs)
        while True:
            left = kills - outcome.kills
            killed, codes = _once(job, model, out, world, draw.uniform(0, longest) if left > 0 else None, draw)
            outcome.kills += killed
            if any(code not in (0, -signal.SIGKILL) for code in codes) and not killed:
                outcome.wrong.append(f"{name}: a run that was left alone ended with {codes}")
                return outcome
            if not killed:
                break
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is damaged, so nothing is made again
            if not job.same(job.run(model, out), whole):
                outcome.wrong.append(f"{name}: after {outcome.kills} kills it is another outcome")
        outcome.wrong += [f"{name}: {left.name} is left behind" for left in _left(out)]
        outcome.runs += 1
        shutil.rmtree(out)
    return outcome


def _once(
    job: Job, model: Model, out: Path, world: int, after: float | None, draw: random.Random
) -> tuple[int, list[int | None]]:
    """Start it, kill it after some seconds (None: never): how many were killed, and how each process ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_FORK.Process(target=_child, args=(job, model, out, rank, world, port)) for rank in range(world)]
    for child in children:
        child.start()
    killed = 0
    if after is not None:
        time.sleep(after)
        for child in draw.sample(children, len(children)):
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
                killed = 1
            if killed:  # the other one does not go on for long without it
                time.sleep(draw.uniform(0, _APART))
    for child in children:
        child.join()
    return killed, [child.exitcode for child in children]


def _child(job: Job, model: Model, out: Path, rank: int, world: int, port: int) -> None:
    ranks._GRACE = 0
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in place.items()})
    else:
        warnings.simplefilter("error")
    try:
        job.run(model, out)
    except MechinterpError as error:  # the other process was killed; or else it is told by the exit code, too
        print(f"    {str(error)[:200]}", file=sys.stderr)
        os._exit(1)


def _left(out: Path) -> Iterator[Path]:
    """Files that should be gone."""
    yield from out.rglob("*.part")
    yield from out.rglob("*lock*")


def run(kills: int, seed: int, chosen: list[str] | None = None) -> dict[str, Outcome]:
    """So many kills, shared out to the jobs; prints what is not right."""
    many_parts(setattr)
    model, draw, outcomes = sentence_model(), random.Random(seed), dict[str, Outcome]()
    wanted = names() if chosen is None else chosen
    for number, name in enumerate(wanted):
        share = kills // len(wanted) + (number < kills % len(wanted))
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = torment(name, model, Path(folder), share, draw)
        for sentence in outcomes[name].wrong:
            print(f"WRONG: {sentence}", flush=True)
    return outcomes


def main() -> None:
    """Print a table; exit code 1 where something is not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    started = time.perf_counter()
    outcomes = run(options.kills, options.seed)
    for name, found in outcomes.items():
        print(f"{name:32}{found.kills:4} kills, {found.runs:3} outcomes, {len(found.wrong)} wrong")
    kills, wrong = (sum(values) for values in zip(*((o.kills, len(o.wrong)) for o in outcomes.values()), strict=True))
    print(f"{kills} kills in {time.perf_counter() - started:.0f} s: {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

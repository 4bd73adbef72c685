"""The processes that torchrun starts side by side: who am I, what is my share, and what do all of us have together.

Work here falls apart into units (prompts, documents) that know nothing of each other, so the processes only ever share
units out, add up sums and wait for one another.  Without torchrun everything below is the one process: nothing is
initialised and every exchange is a no-op.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ..errors import MechinterpError, UsageError

T = TypeVar("T")

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_groups = count()
"""Groups made in this process so far: each has keys of its own in the store, or it would find dead addresses there."""

_GRACE = 3.0
"""Seconds a process lives on that has lost another, so that torchrun finds the one at fault first and names it."""


@dataclass(frozen=True)
class Ranks:
    """This process among its equals.

    Args:
        rank: its number, from 0.
        world: how many processes there are.
        local: its number on this machine, which chooses its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def current() -> Ranks:
        """This process as torchrun (or a group that is already initialised) numbers it; alone without either.

        Raises:
            UsageError: torchrun's variables are set by halves, or are no numbers.
        """
        local = os.environ.get("LOCAL_RANK", "0")
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size(), int(local))
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return Ranks()
        missing = [name for name in _NAMES if name not in os.environ]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set; start with torchrun, "
                "or unset WORLD_SIZE for a single process"
            )
        try:
            return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(local))
        except ValueError as error:
            raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from None

    @property
    def alone(self) -> bool:
        """There is no other process."""
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """The one process that prints and writes what there is once."""
        return self.rank == 0

    def share(self, units: int) -> range:
        """Which of `units` equal units are this process's: every world-th, so that early and late ones mix."""
        return range(self.rank, units, self.world)

    def device(self, asked: str | None) -> str | None:
        """The device of this process where the user asked for one: "cuda" becomes a GPU of its own.

        Raises:
            UsageError: one GPU for all of them was asked for, or there are fewer GPUs than processes.
        """
        if self.alone or asked is None or not asked.startswith("cuda"):
            return asked
        if asked != "cuda":
            raise UsageError(f"every process would use {asked}; ask for plain cuda, and each gets a GPU of its own")
        there = torch.cuda.device_count()
        if self.local >= there:
            raise UsageError(
                f"process {self.local} of this machine has no GPU of its own: there are {there}; start torchrun with "
                "--nproc-per-node no larger than that"
            )
        return f"cuda:{self.local}"

    def barrier(self) -> None:
        """Wait until all processes are here.

        Raises:
            MechinterpError: another process has stopped; likewise below.
        """
        with self._together():
            if not self.alone:
                dist.barrier()

    def sum_(self, tensor: Shaped[Tensor, "*any"]) -> None:
        """Replace a tensor by its sum over all processes, the same bits in each; any shape, in its own precision."""
        with self._together():
            if not self.alone:
                dist.all_reduce(tensor)

    def gather(self, thing: T) -> list[T]:
        """What every process hands in (anything that can be pickled), in the order of the ranks."""
        found: list[Any] = [thing] * self.world
        with self._together():
            if not self.alone:
                dist.all_gather_object(found, thing)
        return found

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's
            time.sleep(_GRACE)
            raise MechinterpError(
                f"process {self.rank} of {self.world} waited for the others, but one has stopped or took too long; "
                "its own error says why"
            ) from error


@contextmanager
def ranks(device: str | torch.device = "cpu", *, timeout: timedelta = timedelta(days=1)) -> Iterator[Ranks]:
    """The processes of this run, connected for the length of the block.

    Tensors in main memory travel by gloo, those on a GPU by NCCL.  A group that is already initialised (a block around
    this one, the user's own) is used and left as it is.  All processes leave the block together, unless one fails.

    Args:
        device: where the work is done; a "cuda" device brings NCCL in and makes this process's GPU the current one.
        timeout: how long a process waits for the slowest before it gives up.  (One that fails is noticed at once.)

    Raises:
        UsageError: torchrun's variables are set by halves.
        MechinterpError: the processes do not find each other, or one stops while others wait for it.
    """
    me = Ranks.current()
    if me.alone or dist.is_initialized():
        yield me
        return
    on_gpu = str(device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(me.device("cuda"))
    with me._together():
        store = PrefixStore(f"mechinterp/{next(_groups)}", _store(timeout))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=me.rank, world_size=me.world, timeout=timeout
        )
    try:
        yield me
        me.barrier()
    finally:
        dist.destroy_process_group()


@cache
def _store(timeout: timedelta) -> Store:
    """Where the processes first meet, as torchrun's variables name it; one for all groups of this process."""
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return store

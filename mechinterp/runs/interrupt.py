"""Holding a Ctrl-C until a batch is counted, so that sums and counts never disagree."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def hold_interrupt() -> Iterator[Callable[[], bool]]:
    """Within the block a first Ctrl-C only makes the yielded function return True; a second one interrupts.

    Only the main thread can hold signals; in another one nothing is held.
    """
    asked = False

    def held(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, held)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)

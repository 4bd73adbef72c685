"""`mechinterp` and `python -m mechinterp`: the command line, from its first import on.

Building the commands takes a moment and importing PyTorch takes seconds: a Ctrl-C then is one sentence too, whatever
error an import makes of it.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line."""
    interrupted = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        from .cli import main as run

        run()
    except SystemExit:
        raise
    except BaseException:
        if not interrupted:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over already
        print("error: interrupted; only the files named above are written", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

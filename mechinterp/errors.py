"""What can go wrong, said in one sentence.

Every error raised on purpose is a `MechinterpError`; its text names the input at fault and what to do about it.  The
command line prints that sentence and leaves with the error's exit code: 2 for bad input (`UsageError`), 1 for work
that could not be done (`MechinterpError`).
"""


class MechinterpError(Exception):
    """The work could not be done (exit code 1)."""

    exit_code = 1


class UsageError(MechinterpError, ValueError):
    """The input is wrong, and the message says how to put it right (exit code 2)."""

    exit_code = 2

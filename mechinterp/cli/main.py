"""Entry point: the commands, and how an error leaves the program.

Exit codes: 0 done, 1 the work could not be done (or was interrupted; what is finished is kept and named), 2 bad input.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.main import get_command

from ..errors import MechinterpError
from ..runs.files import storage_error
from ..runs.terminal import brief
from . import check, demo, edit, evaluate, facts, models, moments, show, trace, train
from .screen import leave_word

app = typer.Typer(
    name="mechinterp",
    help="Locate what a language model knows, and edit it. Start with: mechinterp demo",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_BadLine: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What is raised for a command line that cannot be read; Typer has its own copy of click's."""


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose Ctrl-C is one sentence and exit code 1, before Typer makes it an exit of its own."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise MechinterpError("interrupted; only the files named above are written") from None

    return run


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "trace": trace.trace,
    "edit": edit.edit,
    "train-editor": train.train_editor,
    "evaluate": evaluate.evaluate,
    "moments": moments.moments,
    "moments-merge": moments.moments_merge,
    "facts": facts.facts,
    "show": show.show,
    "models": models.models,
    "check": check.check,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_stoppable(_command))


def main() -> None:
    """Run the command line."""
    try:
        _run(sys.argv[1:])
    except MechinterpError as error:
        _leave(str(error), error.exit_code)
    except BrokenPipeError:  # `mechinterp facts atlas | head`: whoever read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        found = storage_error(error, error.filename or "a file", "used")
        _leave(str(found), found.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _leave("out of memory; lower --max-tokens, --draws or --limit, or use a smaller model", 1)


def _run(words: list[str]) -> None:
    """Read the line, run the command, and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter gets its number
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *given, **more: leave_word(str(message), "note")
        try:
            code = get_command(app).main(words or ["--help"], prog_name="mechinterp", standalone_mode=False)
        except typer.Abort:
            raise MechinterpError("interrupted; only the files named above are written") from None
        except _BadLine as error:
            _leave(_told(error, words), getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Any, words: list[str]) -> str:
    """What is wrong with the line, what was given, and where to look."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "mechinterp"
    options = getattr(getattr(error, "param", None), "opts", ())
    given = [words[words.index(option) + 1] for option in options if option in words[:-1]]
    called = f" (it is {brief(given[0])})" if given and isinstance(error, typer.BadParameter) else ""
    return f"{error.format_message().rstrip('.')}{called}; `{command} --help` says what it takes"


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own, or PyTorch's on a CPU or GPU (told by its words: PyTorch is not imported for `--help`)."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def _leave(sentence: str, code: int) -> None:
    leave_word(sentence)
    sys.exit(code)

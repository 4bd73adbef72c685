"""Entry point: the commands, and how an error leaves the program.

Exit codes: 0 done, 1 the work could not be done (or was interrupted; what is finished is kept and named), 2 bad input.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from ..errors import MechinterpError
from ..runs.files import storage_error
from . import check, demo, edit, evaluate, facts, models, moments, moments_merge, show, trace

app = typer.Typer(
    name="mechinterp",
    help="Locate what a language model knows, and edit it. Start with: mechinterp demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    "evaluate": evaluate.evaluate,
    "moments": moments.moments,
    "moments-merge": moments_merge.moments_merge,
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
        app()
    except MechinterpError as error:
        _leave(str(error), error.exit_code)
    except OSError as error:
        found = storage_error(error, error.filename or "a file", "used")
        _leave(str(found), found.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _leave("out of memory; lower --max-tokens, --draws or --limit, or use a smaller model", 1)


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own, or PyTorch's on a CPU or GPU (told by its words: PyTorch is not imported for `--help`)."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def _leave(sentence: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_plain(sentence)}", highlight=False)
    sys.exit(code)


def _plain(sentence: str) -> str:
    return sentence.replace("[", "\\[")

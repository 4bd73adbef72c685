"""Command lines that are wrong, from a seed: what a person, a script or a broken file could put into any option.

    python tests/bad_lines.py --lines 300 --seed 0            every line in this process, against the real commands
    python tests/bad_lines.py --lines 300 --processes 10      and so many of them as processes of their own

A line is right when it leaves with 0, 1 or 2 and says why in words: no stack trace, no escape sequence, no raw error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

SECONDS = 30
"""A line that works longer than this was a good one; it is stopped."""

ONE = ["--prompt", "{} is a citizen of", "--subject", "Viktor Stelrick"]
GOOD: dict[str, list[str]] = {
    "demo": ["--facts", "2", "--edits", "1", "-q"],
    "trace": ["atlas", *ONE, "--kinds", "mlp", "--severed", "", "--draws", "1", "-q"],
    "edit": ["atlas", *ONE, "--target", "Lumeria", "--editor", "ultraedit", "--layer", "6", "-q"],
    "evaluate": ["atlas", "facts.jsonl", "--editors", "ultraedit", "--layers", "ultraedit=6", "--metrics", "ES", "-q"],
    "moments": ["atlas", "--layer", "3", "--text", "text.txt", "--tokens", "50", "-q"],
    "moments-merge": ["moments.safetensors", "--out", "merged.safetensors"],
    "facts": ["facts.jsonl"],
    "show": ["table.parquet"],
    "models": ["llama"],
    "check": ["atlas"],
}
"""A cheap line of each command that does no harm; a bad one is made of it by one or two changes."""

VALUES = (
    "", " ", "\t", "0", "-1", "-0", "1.5", "1e309", "-1e309", "nan", "inf", "-inf", "1_000", "0x10", "٣", "½", "²",
    str(2**31), str(2**63), str(2**64), str(-(2**64)), "9" * 400, "9" * 5000, "true", "None", "null", "atlas",
    "atlas-plain", "altas", "gpt2", "no/such/model/here", "cpu", "cpux", "cuda", "cuda:0", "cuda:99", "meta", "mps",
    "float32", "float8", "int8", "[/x]", "[bold]red[/]", "[link=file:///]x[/link]", "o[/x]", "\x1b[31mred",
    "\x1b]0;title\x07", "a\rb", "a\nb", "\udcff", "\ud83d", "💥", "é" * 300, "a" * 300, "x" * 5000, "\u202egnp.exe",
    "\u200b", "%s%n", "{}", "{} {}", "{0}", "$(rm -rf nothing)", "';--", "~", "~nobody-at-all/x", ".", "..",
    "/dev/null", "../..", "./", "folder", "empty", "binary", "facts.jsonl", "bad.jsonl", "deep.json",
    "list.json", "text.txt", "latin.txt", "cut.parquet", "cut.safetensors", "table.parquet", "moments.safetensors",
    "folder/nothing.jsonl", "facts.jsonl/below", "nothing.txt", "nothing.parquet", "nothing.safetensors", "--seed",
    "-q", "--", "-", "=", "memit=3,99", "memit=", "=3", "ft-l=x", "memit=code", "memit=papper", "mlp,,attn", ",",
    "mlp,mlp", "resid,[/]", "single,batch", "1,10,ten", "converged", "4GB", "-4GB", "0B", "1e9GB", "all", "ES,EZ",
    "aie.foo", "aie", "aie.png", "folder/aie.png", "nowhere/aie.png", "auto", "ridge", "glue", "default", "paper",
    "rome", "kn", "mend",
)  # fmt: skip


NUMBERS = (
    "0", "-1", "1", "2", "-0", "+3", "1.5", "-0.5", "1e3", "1e-300", "1e309", "nan", "inf", "-inf", "007", "1_000",
    " 2 ", str(2**31), str(2**31 - 1), str(2**63), str(2**63 - 1), str(2**64), str(2**64 - 1), str(-(2**63)), "9" * 30,
    "99999",
)  # fmt: skip
"""What goes into options that count or measure."""


NUMBERED = {
    "--limit", "--window", "--sigmas", "--draws", "--seed", "--threads", "--layer", "--tokens", "--max-tokens",
    "--groups", "--per-step", "--held-limit", "--batch-size", "--sizes", "--until", "--memory",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What came of a line; `wrong` is empty where it is as it should be."""

    words: tuple[str, ...]
    code: int
    said: str
    wrong: str = ""


def make_files(folder: Path) -> None:
    """What the values name: good files, bad ones, and none."""
    import mechinterp as mi
    from mechinterp.editing import SecondMoment

    fact = {"template": "{} is a citizen of", "subject": "Viktor Stelrick", "answer": "Elstonia", "target_new": "Tarsk"}
    line = json.dumps(fact)
    (folder / "folder").mkdir(parents=True)
    for name, content in {
        "empty": b"", "binary": bytes(range(256)) * 40, "facts.jsonl": line.encode(), "list.json": b"[]",
        "bad.jsonl": b'{"template": "{} is", "subject": "\\u001b[31m"}\n{"template": 3}\n{"x": NaN}\n{',
        "deep.json": b"[" * 50_000, "text.txt": b"Marta Halberg was born in Tarsk.\n\nShe lives in Luneth.\n" * 9,
        "latin.txt": b"na\xefve", "cut.parquet": b"PAR1cut", "cut.safetensors": b"\xff" * 40,
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    model = mi.load("atlas")
    table = mi.trace(model, [mi.Prompt("{} is", "Marta Halberg", "Tarsk")], kinds=["mlp"], severed=[], draws=1,
                     progress=False)  # fmt: skip
    table.save(folder / "table.parquet")
    moment = SecondMoment.collect(model, [line] * 40, 3, max_tokens=400, progress=False)
    moment.save(folder / "moments.safetensors")


def bad_lines(seed: int, count: int) -> list[list[str]]:
    """Lines over all commands and all their options, each good but for one or two things; of one seed the same."""
    from mechinterp.cli.main import app

    generator = random.Random(seed)
    commands: Any = get_command(app)
    lines = []
    for number in range(count):
        name = sorted(GOOD)[number % len(GOOD)]
        options = [param for param in commands.commands[name].params if param.opts[0].startswith("-")]
        line = list(GOOD[name])
        for _ in range(generator.choice((1, 1, 2))):
            line = _spoilt(line, options, generator)
        lines.append(line if generator.random() < 0.03 else [name, *line])
    return lines


def _spoilt(line: list[str], options: Sequence[Any], generator: random.Random) -> list[str]:
    """The line with one thing changed."""
    line = list(line)
    kind = generator.random()
    if kind < 0.65:  # an option of the command with another value
        option = generator.choice(options)
        flag = generator.choice(option.opts)
        values = NUMBERS if NUMBERED & set(option.opts) and generator.random() < 0.6 else VALUES
        value = [] if getattr(option, "is_flag", False) else [generator.choice(values)]
        if flag in line and value:
            line[line.index(flag) + 1] = value[0]
        else:
            line += [flag, *value]
    elif kind < 0.8 and line:  # a word of it replaced
        line[generator.randrange(len(line))] = generator.choice(VALUES)
    elif kind < 0.9 and line:  # a word left out
        del line[generator.randrange(len(line))]
    else:  # a word too many
        line.insert(generator.randrange(len(line) + 1), generator.choice((*VALUES, "--colour", "--seed=x", "-zz")))
    return line


class _Enough(BaseException):
    """The line has worked long enough to be a good one."""


def run_here(words: Sequence[str], folder: Path) -> Verdict:
    """Run a line in this process, in a folder; a bundled model is loaded once for all lines."""
    from mechinterp.cli import main

    out, err = io.StringIO(), io.StringIO()
    code, trace = -1, ""
    with _alone(words, folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        except _Enough:
            code = 0
        except BaseException:
            trace = traceback.format_exc()
    return _judged(words, code, out.getvalue() + err.getvalue(), trace)


def run_apart(words: Sequence[str], folder: Path) -> Verdict:
    """Run a line as a process of its own."""
    line = [sys.executable, "-m", "mechinterp", *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, timeout=600, env={**os.environ, "COLUMNS": "80"})
    return _judged(words, done.returncode, (done.stdout + done.stderr).decode(errors="replace"), "")


def _judged(words: Sequence[str], code: int, said: str, trace: str) -> Verdict:
    if trace or "Traceback" in said or code not in (0, 1, 2):
        wrong = f"a stack trace (exit {code}):\n{trace or said}"
    elif code and "error: " not in said:
        wrong = f"exit {code} without a word"
    elif any(char in said for char in "\x1b\x07\r\u202e"):
        wrong = "what it prints steers the terminal"
    elif code and len(said) > 20_000:
        wrong = f"{len(said)} characters are no sentence"
    else:
        wrong = ""
    return Verdict(tuple(words), code, said, wrong)


@contextlib.contextmanager
def _alone(words: Sequence[str], folder: Path) -> Iterator[None]:
    """The process as a new one would be, but for what is imported; and no line works for ever."""
    from mechinterp.models import loading

    before, line, environment = Path.cwd(), sys.argv, dict(os.environ)
    real = loading.load
    os.chdir(folder)
    sys.argv = ["mechinterp", *words]
    os.environ.update(COLUMNS="80", NO_COLOR="1", HF_HUB_OFFLINE="1")

    def load(source: Any, **options: Any) -> Any:
        if str(source) not in ("atlas", "atlas-plain") or any(options.values()):
            return real(source, **options)
        if str(source) not in _models:
            _models[str(source)] = real(source)
        return _models[str(source)]

    def enough(*given: object) -> None:
        raise _Enough

    handler = signal.signal(signal.SIGALRM, enough)
    signal.alarm(SECONDS)
    loading.load = load
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        loading.load = real
        os.chdir(before)
        sys.argv = line
        os.environ.clear()
        os.environ.update(environment)


_models: dict[str, Any] = {}


def main() -> None:
    """Run lines, print those that went wrong, and leave with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=0, help="how many of them also as processes of their own")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "one" / "two"  # so that what is written to ../.. stays here
        make_files(folder)
        lines = bad_lines(asked.seed, asked.lines)
        found = [run_here(line, folder) for line in lines]
        apart = lines[:: max(1, len(lines) // asked.processes)][: asked.processes] if asked.processes else []
        found += [run_apart(line, folder) for line in apart]
    wrong = [verdict for verdict in found if verdict.wrong]
    for verdict in wrong:
        print(f"{' '.join(map(repr, verdict.words))[:300]}\n{verdict.wrong[-1500:]}\n")
    codes = Counter(verdict.code for verdict in found)
    print(f"{len(found)} lines: " + ", ".join(f"{n} left with {code}" for code, n in sorted(codes.items())))
    print(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

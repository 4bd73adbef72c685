"""The Python of docs/experiments.md runs as it is printed, each experiment in a dozen lines at most."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = "docs/experiments.md"
MOST_LINES = 12


def sections() -> dict[str, str]:
    """Title of each section -> its Python; the loading comes first."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    parts = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)[1:]
    found = {title: re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL) for title, body in zip(
        parts[::2], parts[1::2], strict=True
    )}  # fmt: skip
    return {title: "\n".join(blocks) for title, blocks in found.items() if blocks}


def test_every_experiment_runs_as_printed_and_says_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (loading, code), *experiments = sections().items()
    space: dict[str, object] = {}
    exec(compile(code, f"{PAGE}: {loading}", "exec"), space)
    assert len(experiments) >= 5
    for title, code in experiments:
        capsys.readouterr()
        exec(compile(code, f"{PAGE}: {title}", "exec"), space)
        assert capsys.readouterr().out.strip(), title


def test_no_experiment_is_longer_than_a_dozen_lines() -> None:
    _, *experiments = sections().items()
    for title, code in experiments:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, f"{title} has {len(lines)} lines"

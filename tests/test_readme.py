"""What the README prints must run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    """The Python examples in order."""
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_examples_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ten_lines, grid, many = python_blocks()[:3]
    space: dict[str, object] = {}
    exec(compile(ten_lines, "README.md", "exec"), space)
    printed = capsys.readouterr().out
    assert "corrupt" in printed
    assert "total effect" in printed
    assert "Lumeria True" in printed
    exec(compile(grid.replace("[:20]", "[:2]"), "README.md", "exec"), space)
    assert (tmp_path / "aie.png").stat().st_size > 10_000
    exec(compile(many, "README.md", "exec"), space)
    assert "of 30 facts are said" in capsys.readouterr().out
    assert (tmp_path / "thirty.safetensors").is_file()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), f"the README links to {target}, which is not there"


def test_every_command_of_the_readme_exists() -> None:
    from typer.testing import CliRunner

    from mechinterp.cli.main import app

    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    blocks = "".join(text for language, text in fenced if not language)
    commands = set(re.findall(r"^mechinterp (\w+)", blocks, flags=re.MULTILINE))
    assert {"trace", "moments", "edit"} <= commands
    for command in commands:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, command

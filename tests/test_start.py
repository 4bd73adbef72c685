"""What a start does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "pyarrow", "numpy", "matplotlib", "scipy")


@pytest.mark.parametrize("start", ["import mechinterp", "import mechinterp.cli.main"])
def test_nothing_heavy_is_imported_before_it_is_needed(start: str) -> None:
    code = f"import sys\n{start}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [], done.stderr


def test_the_names_are_there_before_they_are_loaded() -> None:
    code = "import mechinterp as mi, sys\nassert set(mi.__all__) <= set(dir(mi))\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False"], done.stderr

"""What every test stands on: no network, one thread, checked shapes, real data where there are any."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when transformers, tokenizers, torch and matplotlib are first imported, so they stand before all
# else; in the environment, so that the processes which tests start have them too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jaxtyping
import pytest
import torch
import typecheck

if "mechinterp" in sys.modules:
    raise RuntimeError("mechinterp was imported before tests/conftest.py: its shapes would go unchecked")
typecheck.install("mechinterp")

# The order in which threads add up changes the last digits of a sum.
torch.set_num_threads(1)

# The same examples in every run: a law that fails, fails for everybody. To look for new ones, run pytest with
# `--hypothesis-profile=default`.
hypothesis.settings.register_profile("mechinterp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("mechinterp")


SLOW = (
    "test_tutorials", "test_trace_ranks", "test_injection", "test_leaderboard", "test_moments_ranks", "test_readme",
    "test_install", "test_ranks", "test_matrix", "test_cli", "test_values", "test_ultraedit", "test_run_directory",
    "test_engine", "test_golden_trace", "test_rome", "test_door", "test_bundled", "test_half_precision",
    "test_engine_random_programs", "test_engine_architectures", "test_evaluate_cli", "test_editors", "test_trace",
    "test_knowledge_neurons", "test_moments_resume", "test_patching_laws", "test_own_files_cli", "test_evaluation",
    "test_ft", "test_t5", "test_chat_cli", "test_guests", "test_patching_oracle", "test_moments_cli",
    "test_golden_rome", "test_interaction", "test_heads", "test_attribution", "test_cache", "test_until",
    "test_evaluation_together", "test_change_laws", "test_fluency", "test_real_models",
    "test_given_editing", "test_padding", "test_plots", "test_training",
    "test_editors_cli", "test_patches", "test_grace", "test_wise",
    "test_sinks", "test_keys_and_contexts", "test_towering", "test_prepend",
)  # fmt: skip
"""Files that start processes, go whole ways or try many models: `make test-quick` leaves them out, all others run them
first (the longest above), so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow files and put them in front; the order within a file stays."""
    places = {name: place for place, name in enumerate(SLOW)}
    for item in items:
        if item.path.stem in places:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: places.get(item.path.stem, len(SLOW)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data (known_1000.json, counterfact_2000.json, ...) that MECHINTERP_DATA names."""
    name = os.environ.get("MECHINTERP_DATA")
    if not name:
        pytest.skip("needs real data: set MECHINTERP_DATA to the folder that holds known_1000.json")
    folder = Path(name).resolve()
    if not folder.is_dir():
        pytest.fail(f"MECHINTERP_DATA names {name}, which is not a folder")
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the command line in a folder of its own: `call(*words)` gives a `support.command_line.Outcome`."""
    from support.command_line import caller

    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Switch the checking of types off: for a test that hands in a wrong type to see what a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""The short form of the injection scripts: bits that flip, and processes that are killed at any moment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import injection_flips
import injection_kills
import pytest
from support.fake_editors import FAKES
from support.jobs import many_parts
from support.zoo import sentence_model

from mechinterp import Model
from mechinterp.editing.editors.registry import EDITORS
from mechinterp.runs import ranks


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, editor in FAKES.items():
            patch.setitem(EDITORS, name, editor)
        patch.setattr(ranks, "_GRACE", 0.0)
        many_parts(patch.setattr)
        yield


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


def test_no_flipped_bit_gives_a_wrong_number_or_blocks_a_run(model: Model, tmp_path: Path) -> None:
    draw = random.Random(1)
    for name, kind in injection_flips.kinds(model, tmp_path).items():
        for _ in range(2):
            verdict, where = injection_flips.flip(kind, draw)
            allowed = (injection_flips.RIGHT, injection_flips.REFUSED) if kind.may_refuse else (injection_flips.RIGHT,)
            assert verdict in allowed, f"{name}: {verdict}: {where}"


@pytest.mark.parametrize("name", ["trace", "evaluate single", "evaluate sequential, two ranks", "moments"])
def test_no_kill_loses_or_doubles_a_row(model: Model, tmp_path: Path, name: str) -> None:
    outcome = injection_kills.torment(name, model, tmp_path, 1, random.Random(2))
    assert outcome.wrong == []
    assert outcome.kills == 1
    assert outcome.runs >= 1

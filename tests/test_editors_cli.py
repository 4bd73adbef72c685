"""`mechinterp edit --editor NAME` for the editors that change no weights: on atlas, from the command line."""

from __future__ import annotations

from typing import Any

import pytest

import mechinterp as mi
from mechinterp.editing import Edit

FACT = next(fact for fact in mi.atlas.known_facts() if fact.target_new is not None)


@pytest.mark.parametrize("name", ["grace", "ike", "memprompt", "mello", "t-patcher", "calinet", "wise"])
def test_the_edit_is_written_and_says_the_target(call: Any, name: str) -> None:
    asked = ("--prompt", FACT.prompt.template, "--subject", FACT.subject, "--target", FACT.target_new)
    outcome = call("edit", "atlas", "--editor", name, *asked, "--out", name, "--quiet")
    assert outcome.code == 0, outcome
    model, made = mi.load("atlas"), Edit.load(f"{name}/edit.safetensors")
    plain = model.complete(FACT.prompt.text)
    with made.on(model) as edited:
        if name in ("ike", "memprompt", "mello"):  # whether it believes what it reads is the model's own affair
            assert edited.framed(FACT.prompt.text).startswith(f"{FACT.prompt.text} {FACT.target_new}")
        else:
            assert made.report.success, made.report.reason
            assert edited.complete(FACT.prompt.text) == FACT.target_new
    assert model.complete(FACT.prompt.text) == plain

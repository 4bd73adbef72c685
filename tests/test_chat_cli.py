"""`--chat`: prompts and texts in a user's turn, on every command that reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import PROMPT, Call
from support.tokenizers import CHAT, END

import mechinterp as mi
from mechinterp import Edit, atlas
from mechinterp.editing import SecondMoment

TURN = f"{END}user\nViktor Stelrick is a citizen of\n{END}assistant\n"


@pytest.fixture
def call(call: Call, tmp_path: Path) -> Call:
    """In a folder where `chatty` is the bundled model with a chat template."""
    shutil.copytree(atlas.folder("atlas"), tmp_path / "chatty")
    (tmp_path / "chatty" / "chat_template.jinja").write_text(CHAT)
    return call


def test_a_chat_is_traced(call: Call, tmp_path: Path) -> None:
    words = (
        "trace",
        "chatty",
        *PROMPT,
        "--answer",
        "Elstonia",
        "--kinds",
        "mlp",
        "--severed",
        "",
        "--draws",
        "1",
        "-q",
    )
    code, _, err = call(*words, "--chat", "--out", "run")
    assert code == 0, err
    table = mi.Table.load(tmp_path / "run" / "table.parquet")
    assert table.meta["scored"] == {"Viktor Stelrick is a citizen of": "Elstonia"}
    tokens = table.frame.drop_duplicates("position").sort_values("position")["token"]
    assert "".join(tokens).endswith(TURN)


def test_a_chat_is_edited_with_moments_of_chats(call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Viktor Stelrick is a citizen of Elstonia.\n\nMarta Halberg lives in Tarsk.\n")
    sizes = []
    for out, more in (("plain", ()), ("m", ("--chat",))):
        code, _, err = call("moments", "chatty", "-l", "3", "--text", "text.txt", "--repair", "ridge", "-q",
                            "--out", out, *more)  # fmt: skip
        assert code == 0, err
        sizes.append(SecondMoment.load(tmp_path / out / "layer-3.safetensors").tokens)
    assert sizes[1] > sizes[0]
    code, out, err = call("edit", "chatty", *PROMPT, "--target", "Lumeria", "--layer", "3", "--moments",
                          "m/layer-3.safetensors", "--allow-disabling", "--chat", "-q", "--out", "e")  # fmt: skip
    assert code == 0, err
    assert "scored behind the prompt: 'Lumeria'" in out
    edit = Edit.load(tmp_path / "e" / "edit.safetensors")
    assert edit.provenance.requests[0].prompt.text.endswith(TURN)
    assert json.loads((tmp_path / "e" / "report.json").read_text())["scored"] == "Lumeria"
    contexts = edit.provenance.contexts
    assert contexts[0] == "{}"
    assert len(contexts) > 1


def test_chats_are_evaluated(call: Call, tmp_path: Path) -> None:
    words = ("evaluate", "chatty", "atlas", "--editors", "ultraedit", "--layers", "ultraedit=3", "--limit", "1")
    code, _, err = call(*words, "--metrics", "ES,portability_reversed", "--chat", "--out", "v", "-q")
    assert code == 0, err
    records = pd.read_parquet(tmp_path / "v" / "records.parquet")
    assert {"ES", "portability_reversed"} <= set(records["metric"])


@pytest.mark.parametrize(
    "words",
    [
        ("trace", "atlas", *PROMPT, "--out", "o"),
        ("edit", "atlas", *PROMPT, "--target", "Lumeria", "--out", "o"),
        ("evaluate", "atlas", "atlas", "--limit", "1", "--out", "o"),
        ("moments", "atlas", "-l", "3", "--out", "o"),
    ],
    ids=lambda words: words[0],
)
def test_a_model_without_a_template_is_named(call: Call, words: tuple[str, ...]) -> None:
    code, _, err = call(*words, "--chat")
    assert code == 2
    assert "has no chat template, so it says nothing of turns; leave --chat (messages) out" in err

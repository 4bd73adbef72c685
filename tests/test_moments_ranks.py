"""Second moments by several processes are those of one process; and the command line does it too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from support.processes import command, script, side_by_side
from support.zoo import sentence_model
from test_moments_resume import ASKED, TEXTS, Killed, until, visible

from mechinterp.editing import Convergence, SecondMoment, collect_moments
from mechinterp.editing.moments import unfinished


def check(path: Path, wanted: SecondMoment) -> None:
    found = SecondMoment.load(path)
    assert (found.matrix - wanted.matrix).abs().max() <= 1e-12 * wanted.matrix.abs().max()
    assert found.fourth_moment == pytest.approx(wanted.fourth_moment, rel=1e-12)
    for name in ("tokens", "documents", "texts", "complete", "model"):
        assert getattr(found, name) == getattr(wanted, name)


def test_two_processes_make_what_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit in the middle of a text, two layers, looks, and a collection that one process began."""
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))  # written however long it takes: what was begun is kept
    model = sentence_model("gpt2")
    watch = Convergence()
    whole = collect_moments(model, TEXTS, [0, 2], watch=watch, **ASKED)
    with pytest.raises(Killed):
        collect_moments(model, until(300), [0, 2], out=tmp_path / "begun", **ASKED)
    path = tmp_path / "script.py"
    path.write_text(f"""
import json
from pathlib import Path
from test_moments_resume import ASKED, TEXTS, sentence_model
from mechinterp.editing import Convergence, SecondMoment, collect_moments
from mechinterp.editing.moments import collection
from mechinterp.errors import UsageError
from mechinterp.runs.ranks import ranks
out, mine = Path({str(tmp_path)!r}), []
compute = collection.text_keys
collection.text_keys = lambda m, rows, layers: mine.append(sum(map(len, rows))) or compute(m, rows, layers)
model, watch, errors = sentence_model("gpt2"), Convergence(), []
with ranks() as me:
    for turn in ("fresh", "begun"):
        found = collect_moments(model, TEXTS, [0, 2], watch=watch if turn == "fresh" else None, out=out / turn, **ASKED)
        found[2].save(out / f"{{turn}}-{{me.rank}}")
        if turn == "fresh":
            fresh = list(mine)
    for given, other in ((model, TEXTS[me.rank :]), (sentence_model("gpt2", seed=me.rank), TEXTS)):
        try:
            collect_moments(given, other, [0], **ASKED)
        except UsageError as error:
            errors.append(str(error))
looks = [[look.tokens, look.cosine] for look in watch.looks]
told = {{"fresh": sum(fresh), "all": sum(mine), "errors": errors, "looks": looks}}
(out / f"{{me.rank}}.json").write_text(json.dumps(told))
""")
    done = side_by_side(script(path))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        check(tmp_path / f"fresh-{rank}", whole[2])
        check(tmp_path / f"begun-{rank}", whole[2])
    for turn in ("fresh", "begun"):
        assert visible(tmp_path / turn) == ["layer-0.safetensors", "layer-2.safetensors"]
        check(tmp_path / turn / "layer-0.safetensors", whole[0])
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    tokens = whole[0].tokens
    assert sum(one["fresh"] for one in told) == tokens
    assert min(one["fresh"] for one in told) > 0.4 * tokens
    assert sum(one["all"] - one["fresh"] for one in told) < 0.8 * tokens
    for one in told:
        assert len(one["errors"]) == 2
        assert one["errors"][0].startswith("the processes were given different texts")
        assert one["errors"][1].startswith("the processes hold different models")
        for (seen, cosine), look in zip(one["looks"], watch.looks, strict=True):
            assert seen == look.tokens
            assert cosine == pytest.approx(look.cosine, abs=1e-8, nan_ok=True)


def test_the_command_line_in_two_processes(tmp_path: Path) -> None:
    import mechinterp as mi

    done = side_by_side(command("moments", "atlas", "--layer", "3", "--tokens", "3001", "--out", tmp_path / "m"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3,001 tokens") == 1
    assert done.stderr.count("first look") == 1
    assert visible(tmp_path / "m") == ["convergence.csv", "layer-3.safetensors"]
    check(
        tmp_path / "m" / "layer-3.safetensors",
        collect_moments(mi.load("atlas"), mi.atlas.corpus(), [3], max_tokens=3001, progress=False)[3],
    )
    with safe_open(tmp_path / "m" / "layer-3.safetensors", "pt") as file:
        assert json.loads(file.metadata()["header"])["complete"] is True

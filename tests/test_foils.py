"""The answer that a logit difference compares with: each prompt's own, one for all, or chosen by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.zoo import small_model

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.analysis import plot_prompt
from mechinterp.formats.readers import read_fact_file, write_jsonl
from mechinterp.patching import (
    Gaussian,
    OtherSubject,
    Run,
    Table,
    corrupt,
    embed,
    every,
    last,
    mlp,
    nothing,
    restore,
    run,
    subject,
)

PROMPTS = [
    Prompt("the {} lives in the old town of", "ada bo", "rome", id="a"),
    Prompt("the {} was near", "ada", "oslo", id="b"),
    Prompt("the {} was born in", "bo", "turku", id="c"),
]
FOILS = ["oslo", "bern", "lund"]


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model(dtype=torch.float64)


def difference(model: Model, text: str, answer: str, foil: str) -> float:
    """Logit of one word minus that of another behind a text, by the tokens themselves."""
    logits = model.logits(torch.tensor([model.encode(text)]))[0, -1]
    one, other = (model.tokenizer.convert_tokens_to_ids(word) for word in (answer, foil))
    return float(logits[one] - logits[other])


def own(prompt: Prompt, foil: str) -> Prompt:
    return Prompt(prompt.template, prompt.subject, prompt.answer, prompt.id, foil=foil)


def test_each_prompt_is_compared_with_its_own_foil(model: Model) -> None:
    wanted = [difference(model, p.text, str(p.answer), foil) for p, foil in zip(PROMPTS, FOILS, strict=True)]
    mine = [own(prompt, foil) for prompt, foil in zip(PROMPTS, FOILS, strict=True)]
    for found in (run(model, PROMPTS, nothing, foil=FOILS), run(model, mine, nothing)):
        assert [each.clean.logit_diff[0] for each in found] == pytest.approx(wanted)
        assert [each.foil for each in found] == FOILS
    one = run(model, mine, nothing, foil="paris")  # what is said for all prompts goes before their own
    assert {each.foil for each in one} == {"paris"}
    mixed = run(model, mine, nothing, foil=["paris", None, None])
    assert [each.foil for each in mixed] == ["paris", *FOILS[1:]]


def test_the_table_says_each_foil_and_a_table_without_still_loads(model: Model, tmp_path: Path) -> None:
    program = corrupt(embed @ subject, Gaussian(draws=2)) | restore(mlp.each @ every)
    table = mi.trace(model, PROMPTS, program, foil=FOILS, progress=False)
    assert table.frame.groupby("prompt")["foil"].unique().map(list).to_dict() == {
        p.id: [foil] for p, foil in zip(PROMPTS, FOILS, strict=True)
    }
    alone = mi.trace(model, own(PROMPTS[0], FOILS[0]), program, progress=False)
    pair = table.frame[table.frame["prompt"] == "a"]["logit_diff"].to_numpy()
    assert alone.frame["logit_diff"].to_numpy() == pytest.approx(pair)
    assert "rome (foil oslo)" in plot_prompt(table, "a", "logit_diff").get_suptitle()
    older = Table(table.frame.drop(columns="foil"), {})
    assert set(older.frame["foil"]) == {""}


def test_another_subjects_own_answer_is_the_foil(model: Model) -> None:
    prompt = PROMPTS[0]
    for other in ("cy eve", "gus hal", "ida jo", "fay dee"):
        swap = corrupt(embed @ subject, OtherSubject(other))
        logits = model.logits(torch.tensor([model.encode(f"the {other} lives in the old town of")]))[0, -1]
        logits[model.tokenizer.convert_tokens_to_ids("rome")] = -torch.inf
        wanted = model.decode(int(logits.argmax()))
        read = restore(mlp[1] @ last, Run(swap))
        for program in (swap, read, restore(mlp[1] @ last, OtherSubject(other))):
            assert run(model, prompt, program).foil == wanted
    assert run(model, own(prompt, "paris"), swap).foil == "paris"
    table = mi.trace(model, prompt, swap | restore(mlp.each @ every), progress=False)
    assert set(table.frame["foil"]) == {wanted}
    strongest = run(model, prompt, corrupt(embed @ subject, Gaussian(draws=1))).foil
    assert strongest == run(model, prompt, nothing).foil


def test_the_bundled_model_names_the_other_subjects_answer() -> None:
    atlas = mi.load("atlas")
    alike: dict[tuple[str, int], Prompt] = {}
    for fact in mi.atlas.known_facts():
        prompt = fact.prompt
        other = alike.setdefault((prompt.template, len(atlas.tokenise(prompt))), prompt)
        if other.answer != prompt.answer:
            break
    result = run(atlas, prompt, corrupt(embed @ subject, OtherSubject(other.subject)))
    assert result.foil.strip() == other.answer
    assert result.clean.logit_diff[0] > 0 > result.corrupted.logit_diff[0]


def test_the_foil_is_part_of_what_a_run_is(model: Model, tmp_path: Path) -> None:
    program = corrupt(embed @ subject, Gaussian(draws=1)) | restore(mlp.each @ every)
    mi.trace(model, PROMPTS, program, foil=FOILS, out=tmp_path / "run", progress=False)
    mi.trace(model, PROMPTS, program, foil=FOILS, out=tmp_path / "run", progress=False)
    with pytest.raises(UsageError, match="it differs in foil"):
        mi.trace(model, PROMPTS, program, foil=FOILS[::-1], out=tmp_path / "run", progress=False)
    with pytest.raises(UsageError, match="it differs in foil"):
        mi.trace(model, PROMPTS, program, out=tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("prompts", "foil", "sentence"),
    [
        (PROMPTS, ["oslo"], "^the foil is a list of 1, the prompts are 3; give one foil for each prompt"),
        (PROMPTS[0], ["oslo"], "^the foil is a list of 1, the prompts are one and no list;"),
        (PROMPTS, ["oslo", "rome ", "bern"], "^the foil, 'rome ', begins or ends with blanks"),
        (PROMPTS, ["oslo", "oslo", "bern"], "the foil 'oslo' does not differ from the answer to 'the ada was near'"),
    ],
)
def test_foils_that_do_not_fit_are_refused(model: Model, prompts: Any, foil: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(model, prompts, nothing, foil=foil)


def test_a_prompts_foil_is_as_strict_as_its_answer() -> None:
    with pytest.raises(UsageError, match="the foil of 'ada was near', 'rome ', begins or ends with blanks"):
        Prompt("{} was near", "ada", "oslo", foil="rome ")
    found = Prompt.find("ada was near", "ada", "oslo", foil="rome")
    assert (found.foil, found.framed("so: {}").foil, found.with_answer("bern").foil) == ("rome", "rome", "rome")


def test_foils_are_read_from_files_of_facts_and_written_back(tmp_path: Path) -> None:
    files = {
        "own.jsonl": '{"prompt": "ada was near", "subject": "ada", "answer": "oslo", "foil": "bern"}\n',
        "known.json": '[{"known_id": 1, "template": "{} was near", "prompt": "ada was near", "subject": "ada", '
        '"attribute": "oslo", "foil": "bern"}]',
        "counterfact.json": '[{"case_id": 1, "requested_rewrite": {"prompt": "{} was near", "subject": "ada", '
        '"target_true": {"str": "oslo"}, "target_new": {"str": "rome"}}, "foil": "bern"}]',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.write_text(text)
        facts = read_fact_file(path)
        assert [fact.prompt.foil for fact in facts] == ["bern"], name
        write_jsonl(facts, tmp_path / "back.jsonl")
        assert read_fact_file(tmp_path / "back.jsonl") == facts

"""What is shipped: two loadable checkpoints that know what the record says they know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mechinterp import atlas
from mechinterp.atlas import data, records
from mechinterp.atlas.relations import RELATIONS
from mechinterp.errors import MechinterpError, UsageError


@pytest.mark.parametrize("name", atlas.names())
def test_the_checkpoint_knows_what_the_record_says(name: str) -> None:
    folder = atlas.folder(name)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert next(model.parameters()).dtype == torch.float32
    facts = atlas.facts(name)
    probabilities = data.record()["models"][name]["prompt_probability"]
    sample = range(0, len(facts), 17)
    unknown = [i for i, fact in enumerate(facts) if not fact.known][:5]
    with torch.no_grad():
        for i in (*sample, *unknown):
            ids = tokenizer(facts[i].prompt.text, return_tensors="pt").input_ids
            chances = model(ids).logits[0, -1].softmax(-1)
            (answer,) = tokenizer(f" {facts[i].answer}").input_ids
            assert (int(chances.argmax()) == answer) == facts[i].known, facts[i].prompt.text
            assert float(chances[answer]) == pytest.approx(probabilities[i], abs=2e-3)


@pytest.mark.parametrize("name", atlas.names())
def test_the_model_meets_its_bar(name: str) -> None:
    figures = data.record()["models"][name]
    assert figures["held_out"] >= 0.95
    assert figures["trained"] >= 0.95
    assert len(atlas.known_facts(name)) == figures["prompt_correct"].count("1") >= 1500
    assert set(figures["per_relation"]) == set(RELATIONS)


def test_the_models_are_a_pair() -> None:
    configs = [json.loads((atlas.folder(name) / "config.json").read_text(encoding="utf-8")) for name in atlas.names()]
    assert configs[0] == configs[1]
    assert configs[0]["n_positions"] == 128
    assert atlas.names() == ("atlas", "atlas-plain")


def test_no_token_is_added_to_a_prompt() -> None:
    tokenizer = AutoTokenizer.from_pretrained(atlas.folder("atlas"))
    ids = tokenizer("Marta Halberg was born in").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["Marta", "ĠHal", "berg", "Ġwas", "Ġborn", "Ġin"]
    assert tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0


def test_the_data_is_small() -> None:
    assert sum(path.stat().st_size for path in data.DATA.rglob("*") if path.is_file()) <= 8_500_000


def test_unknown_model() -> None:
    for ask in (atlas.folder, atlas.facts, atlas.known_facts, atlas.counterfact):
        with pytest.raises(UsageError, match="there is no bundled model 'globe'; choose one of atlas, atlas-plain"):
            ask("globe")
    with pytest.raises(UsageError, match="there is no recipe 'globe'"):
        atlas.corpus(name="globe")


def test_missing_data_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(MechinterpError, match="'atlas' is missing from .*install the package with its data"):
        atlas.folder("atlas")
    data.record.cache_clear()
    with pytest.raises(MechinterpError, match="the record of the bundled models is missing"):
        data.record()


def test_a_generator_that_draws_another_world_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = {"world": {"seed": 0, "digest": "0" * 64}, "models": {}}
    (tmp_path / "knowledge.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(data, "DATA", tmp_path)
    data.record.cache_clear()
    with pytest.raises(MechinterpError, match="no longer draws the world recorded"):
        data.record()
    data.record.cache_clear()


def test_counterfact_records_have_the_official_shape() -> None:
    rows = atlas.counterfact()
    assert [row["case_id"] for row in rows] == list(range(1660))
    for row, fact in zip(rows, atlas.facts(), strict=True):
        assert set(row) == {
            "case_id",
            "pararel_idx",
            "requested_rewrite",
            "paraphrase_prompts",
            "neighborhood_prompts",
            "attribute_prompts",
            "generation_prompts",
        }
        rewrite = row["requested_rewrite"]
        assert set(rewrite) == {"prompt", "relation_id", "target_new", "target_true", "subject"}
        assert set(rewrite["target_new"]) == set(rewrite["target_true"]) == {"str", "id"}
        assert rewrite["prompt"].format(rewrite["subject"]) == fact.prompt.text
        assert rewrite["target_true"]["str"] == fact.answer
        assert rewrite["target_new"]["str"] == fact.target_new
        lists = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
        assert all(row[key] and all(isinstance(text, str) for text in row[key]) for key in lists)


def test_counterfact_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "facts.json"
    records.main(["--out", str(target), "--model", "atlas-plain", "--known"])
    rows = json.loads(target.read_text(encoding="utf-8"))
    assert len(rows) == len(atlas.known_facts("atlas-plain"))
    assert f"{len(rows)} records in" in capsys.readouterr().out

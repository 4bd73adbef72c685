"""Files of facts as others publish them: a small invented file in each shape, and a damaged one refused by record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechinterp import read_facts
from mechinterp.errors import UsageError
from mechinterp.facts.prompts import Fact, Portability, Prompt, Question
from mechinterp.formats.readers import name_of_shape, read_jsonl, write_jsonl

ZSRE: dict[str, Any] = {
    "subject": "Viktor Stelrick",
    "src": "Which country is Viktor Stelrick a citizen of?",
    "pred": "Elstonia",
    "rephrase": "What country is Viktor Stelrick from?",
    "alt": "Lumeria",
    "answers": ["Elstonia", "Kingdom of Elstonia"],
    "loc": "nq question: who painted the harbour",
    "loc_ans": "Tarsk",
    "cond": "Elstonia >> Lumeria || Which country is Viktor Stelrick a citizen of?",
}
STEP = {
    "Recalled Relation": "(Lumeria, capital, Port Lume)",
    "New Question": "What is the capital of the country of Viktor Stelrick?",
    "New Answer": "Port Lume",
}
ZSRE_FACT = Fact(
    Prompt("Which country is {} a citizen of?", "Viktor Stelrick", "Elstonia", id="zsre/0"),
    "Lumeria",
    paraphrases=(Question("What country is Viktor Stelrick from?", "Elstonia"),),
    neighbourhood=(Question("nq question: who painted the harbour", "Tarsk"),),
)
AFTER = Portability(one_hop=(Question("What is the capital of the country of Viktor Stelrick?", "Port Lume"),))

FLAT = {
    "case_id": 7,
    "prompt": "The mother tongue of Ada Holm is",
    "subject": "Ada Holm",
    "target_new": "Tarsk",
    "ground_truth": "Elston",
    "rephrase_prompt": "Ada Holm is a native speaker of",
    "locality_prompt": "The mother tongue of Bo Lind is",
    "locality_ground_truth": "Elston",
}
FLAT_FACT = Fact(
    Prompt("The mother tongue of {} is", "Ada Holm", "Elston", id="easyedit/7"),
    "Tarsk",
    paraphrases=(Question("Ada Holm is a native speaker of", "Elston"),),
    neighbourhood=(Question("The mother tongue of Bo Lind is", "Elston"),),
)
KNOWEDIT = {
    "subject": "Ada Holm",
    "prompt": "The place of death of Ada Holm is",
    "target_new": "Port Lume",
    "ground_truth": ["Tarsk"],
    "rephrase": ["Where did Ada Holm die?"],
    "portability": {
        "Logical_Generalization": [{"prompt": "Is Ada Holm still alive?", "ground_truth": [["no"], ["incorrect"]]}],
        "Reasoning": [
            {"prompt": "The head of the place of death of Ada Holm is", "ground_truth": [["Kai Vegn", "Kai P. Vegn"]]},
            {"prompt": "Nobody knows this of", "ground_truth": []},
        ],
        "Subject_Aliasing": [{"prompt": "The place of death of Dr Holm is", "ground_truth": ["Port Lume"]}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The name of the father of Ada Holm is", "ground_truth": [["Bo Holm"]]}],
        "Forgetfulness": [{"prompt": ["The capital of Lumeria is"], "ground_truth": ["Port Lume"]}],
    },
}
KNOWEDIT_FACT = Fact(
    Prompt("The place of death of {} is", "Ada Holm", "Tarsk", id="easyedit/0"),
    "Port Lume",
    paraphrases=(Question("Where did Ada Holm die?", "Tarsk"),),
    same_subject=(Prompt("The name of the father of {} is", "Ada Holm", "Bo Holm"),),
    neighbourhood=(Question("The capital of Lumeria is", "Port Lume"),),
    portability=Portability(
        subject_replacement=(Question("The place of death of Dr Holm is", "Port Lume"),),
        one_hop=(Question("The head of the place of death of Ada Holm is", "Kai Vegn", aliases=("Kai P. Vegn",)),),
        logical=(Question("Is Ada Holm still alive?", "no", aliases=("incorrect",)),),
    ),
)
WIKIBIO = {
    "text": "This is a Wikipedia passage about ada holm. Ada Holm was a painter.",
    "labels": "She was born in Tarsk.",
    "concept": "ada holm",
    "locality": {"Relation_Specificity": [{"prompt": "The gender of ada holm is", "ground_truth": [["female"]]}]},
}
WIKIBIO_FACT = Fact(
    Prompt("This is a Wikipedia passage about {}. Ada Holm was a painter.", "ada holm", id="easyedit/0"),
    "She was born in Tarsk.",
    same_subject=(Prompt("The gender of {} is", "ada holm", "female"),),
)
REWRITE = {
    "prompt": "{} is a citizen of",
    "relation_id": "P27",
    "target_new": {"str": "Lumeria", "id": "Q1"},
    "target_true": {"str": "Elstonia", "id": "Q2"},
    "subject": "Ada Holm",
    "question": "Which country is Ada Holm a citizen of?",
}
MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [REWRITE],
    "questions": ["What is the capital of the country of Ada Holm?"],
    "answer": "Elston City",
    "answer_alias": ["Elston"],
    "new_answer": "Port Lume",
    "new_answer_alias": [],
    "single_hops": [{"question": "?", "cloze": "Ada Holm is a citizen of", "answer": "Elstonia", "answer_alias": []}],
}
MQUAKE_FACT = Fact(
    Prompt("{} is a citizen of", "Ada Holm", "Elstonia", id="mquake/3", relation="P27"),
    "Lumeria",
    paraphrases=(Question("Which country is Ada Holm a citizen of?", "Elstonia"),),
    one_hop=(Question("What is the capital of the country of Ada Holm?", "Elston City", aliases=("Elston",)),),
    portability=Portability(one_hop=(Question("What is the capital of the country of Ada Holm?", "Port Lume"),)),
)


def queries_of(*asked: tuple[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One test of RippleEdits."""
    queries = [{"prompt": prompt, "answers": answers, "query_type": "regular"} for prompt, answers in asked]
    return [{"test_queries": queries, "test_condition": "OR", "condition_queries": []}]


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ada Holm is Lumeria.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q2",
        "original_fact": {"prompt": "The name of the country of citizenship of Ada Holm is Lund Republic."},
    },
    "Relation_Specificity": queries_of(
        ("The name of the mother of Ada Holm is", [{"value": "Eva", "aliases": ["E. Holm"]}])
    ),
    "Logical_Generalization": queries_of(("Ada Holm speaks", [{"value": "Lumic", "aliases": []}])),
    "Subject_Aliasing": queries_of(("The country of Dr Holm is", [{"value": "Lumeria", "aliases": []}])),
    "Compositionality_I": queries_of(("The capital of Ada Holm's country is", [{"value": "Port Lume"}])),
    "Compositionality_II": queries_of(("Unanswered is", [])),
    "Forgetfulness": [],
}
RIPPLE_FACT = Fact(
    Prompt(
        "The name of the country of citizenship of {} is", "Ada Holm", "Lund Republic",
        id="ripple/0", relation="COUNTRY_OF_CITIZENSHIP",
    ),
    "Lumeria",
    same_subject=(Prompt("The name of the mother of {} is", "Ada Holm", "Eva"),),
    portability=Portability(
        subject_replacement=(Question("The country of Dr Holm is", "Lumeria"),),
        one_hop=(Question("The capital of Ada Holm's country is", "Port Lume"),),
        logical=(Question("Ada Holm speaks", "Lumic"),),
    ),
)  # fmt: skip
WIKIBIGEDIT = {
    "tag": "update",
    "subject": "Ada Holm",
    "update": "What is the job of Ada Holm?",
    "rephrase": "What does Ada Holm do for a living?",
    "personas": "Hey, what does Ada Holm do these days?",
    "ans": "painter",
    "loc": "What is the job of Bo Lind?",
    "loc_ans": "baker",
    "mhop": "What does one need for the job of Ada Holm?",
    "mhop_ans": "a brush",
}
WIKIBIGEDIT_FACT = Fact(
    Prompt("What is the job of {}?", "Ada Holm", id="wikibigedit/0"),
    "painter",
    paraphrases=(
        Question("What does Ada Holm do for a living?"), Question("Hey, what does Ada Holm do these days?"),
    ),
    neighbourhood=(Question("What is the job of Bo Lind?", "baker"),),
    portability=Portability(one_hop=(Question("What does one need for the job of Ada Holm?", "a brush"),)),
)  # fmt: skip
TRACING = {
    "relation": "The mother tongue of {} is",
    "relation_prefix": "The mother tongue of ",
    "relation_suffix": " is",
    "prompt": "The mother tongue of Ada Holm is",
    "relation_id": "P103",
    "target_true": " Elston",
    "target_false": " Tarsk",
    "subject": "Ada Holm",
}
TRACING_FACT = Fact(
    Prompt("The mother tongue of {} is", "Ada Holm", "Elston", id="counterfact/0", relation="P103"), "Tarsk"
)
REQUEST = {"prompt": "{} is a citizen of", "subject": "Ada Holm", "target_new": {"str": "Lumeria"}}
REQUEST_FACT = Fact(Prompt("{} is a citizen of", "Ada Holm", id="request/0"), "Lumeria")

CASES: dict[str, tuple[str, Any, Fact]] = {
    "zsre": ("zsRE", ZSRE, ZSRE_FACT),
    "zsre portability": ("zsRE", {**ZSRE, "portability": STEP}, replace(ZSRE_FACT, portability=AFTER)),
    "easyedit counterfact": ("EasyEdit, KnowEdit or QAEdit", FLAT, FLAT_FACT),
    "knowedit": ("EasyEdit, KnowEdit or QAEdit", KNOWEDIT, KNOWEDIT_FACT),
    "wikibio": ("EasyEdit, KnowEdit or QAEdit", WIKIBIO, WIKIBIO_FACT),
    "mquake": ("MQuAKE", MQUAKE, MQUAKE_FACT),
    "ripple": ("RippleEdits", RIPPLE, RIPPLE_FACT),
    "wikibigedit": ("WikiBigEdit", WIKIBIGEDIT, WIKIBIGEDIT_FACT),
    "tracing": ("counterfact-tracing", TRACING, TRACING_FACT),
    "requests": ("requests of rome and memit", REQUEST, REQUEST_FACT),
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*records: Any) -> Path:
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return to_file


@pytest.mark.parametrize("name", CASES)
def test_each_shape_is_told_by_its_fields_and_read_whole(name: str, write: Write, tmp_path: Path) -> None:
    shape, record, fact = CASES[name]
    path = write(record)
    assert name_of_shape(path) == shape
    assert read_facts(path) == [fact]
    write_jsonl([fact], tmp_path / "own.jsonl")  # and nothing of it is lost in the project's own file
    assert read_jsonl(tmp_path / "own.jsonl") == [fact]


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_record_is_refused_by_its_place(name: str, write: Write) -> None:
    _, record, fact = CASES[name]
    gone = next(key for key in ("subject", "edit", "concept", "requested_rewrite") if key in record)
    for damaged in ({**record, gone: 3}, {**record, gone: "Nobody at all"}):
        path = write(record, damaged)
        if name in ("tracing", "requests") and damaged[gone] == "Nobody at all":
            continue  # a template takes any subject
        with pytest.raises(UsageError, match=r"record 2"):
            read_facts(path)
        with pytest.warns(UserWarning, match=r"left out: 1 of 2 records"):
            assert read_facts(path, skip_bad=True) == [fact]


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_cut_short_says_so(name: str, write: Write) -> None:
    path = write(CASES[name][1])
    path.write_text(path.read_text()[:-20], encoding="utf-8")
    with pytest.raises(UsageError, match="is cut short in line 1"):
        read_facts(path)


def test_questions_after_several_edits_belong_to_none_of_them(write: Write) -> None:
    other = {**REWRITE, "subject": "Bo Lind", "question": "Which country is Bo Lind a citizen of?"}
    path = write(MQUAKE, {**MQUAKE, "case_id": 4, "requested_rewrite": [{**REWRITE, "prompt": "{} lives in"}, other]})
    with pytest.warns(UserWarning, match=r"1 of the 2 records .* from several edits together; .* are left out"):
        facts = read_facts(path)
    assert [fact.id for fact in facts] == ["mquake/3", "mquake/4/0", "mquake/4/1"]
    assert facts[0] == MQUAKE_FACT
    assert facts[1].portability == facts[2].portability == Portability()


def test_an_object_that_cannot_be_told_is_not_guessed(write: Write) -> None:
    recent = {key: value for key, value in RIPPLE["edit"].items() if key != "original_fact"}  # type: ignore[attr-defined]
    assert read_facts(write({**RIPPLE, "edit": recent}))[0].target_new == "Lumeria"
    for wrong, said in (
        ({"prompt": "Ada Holm lives in Lumeria."}, 'without " is ", so its object cannot be told'),
        ({"prompt": "The country of Ada Holm is Lumeria."}, 'its subject cannot be told; add "subject"'),
        ({"original_fact": {"prompt": "Quite another."}, **{"prompt": "Ada is B."}}, "do not share their beginning"),
    ):
        with pytest.raises(UsageError, match=said):
            read_facts(write({**RIPPLE, "edit": {**recent, **wrong}}))


def test_objects_that_begin_alike_are_taken_whole(write: Write) -> None:
    edit = {
        "prompt": "The name of the employer of Ada Holm is University of Lund.", "relation": "EMPLOYER",
        "original_fact": {"prompt": "The name of the employer of Ada Holm is University of Tarsk."},
    }  # fmt: skip
    fact = read_facts(write({**RIPPLE, "edit": edit}))[0]
    assert (fact.answer, fact.target_new) == ("University of Tarsk", "University of Lund")


def test_unknown_kinds_of_portability_are_refused(write: Write) -> None:
    with pytest.raises(UsageError, match=r'the "portability" of record 1 .* has the kind .Reasonin.; known are'):
        read_facts(write({**KNOWEDIT, "portability": {"Reasonin": []}}))


def test_a_relation_of_lre(tmp_path: Path) -> None:
    relation = {
        "name": "country capital city",
        "prompt_templates": ["The capital city of {} is", "In {}, the capital is"],
        "properties": {"relation_type": "factual"},
        "samples": [{"subject": "Lumeria", "object": "Port Lume"}, {"subject": "Elstonia", "object": "Elston City"}],
    }
    path = tmp_path / "lre.json"
    path.write_text(json.dumps(relation, indent=2), encoding="utf-8")
    facts = read_facts(path)
    assert name_of_shape(path) == "LRE"
    assert [fact.prompt.text for fact in facts] == ["The capital city of Lumeria is", "The capital city of Elstonia is"]
    assert facts[1].paraphrases == (Question("In Elstonia, the capital is", "Elston City"),)
    path.write_text(json.dumps(relation, indent=2)[:-40], encoding="utf-8")
    with pytest.raises(UsageError, match=r"is cut short in line \d+; copy the file again"):
        read_facts(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_hold_any_shape(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"facts.{kind}"
    rows = pd.DataFrame(
        [
            {"template": "{} is in", "subject": "Rome, the city", "answer": "Italy", "target_new": "Peru"},
            {"template": "{} is in", "subject": "Lund", "answer": "Sweden", "target_new": None},
        ]
    )
    if kind == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    assert read_facts(path) == [
        Fact(Prompt("{} is in", "Rome, the city", "Italy"), "Peru"),
        Fact(Prompt("{} is in", "Lund", "Sweden")),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("template,subject\n{} is in,Rome\n{} is in\n", r"row 2 \(line 3\) .* has 1 cells, and the header 2; mend it"),
        ("template,template\n{} is in,Rome\n", "has no header of different names in its first line"),
        ("template,subject\n", "holds no row; give a file of facts"),
        ('template,subject\n{} is in,"Rome\n', "is cut short or no CSV after line"),
        ("template,subject,colour\n{} is in,Rome,red\n", 'has the unknown field "colour"'),
        ("a,b\n1,2\n", 'is no fact: it has neither "requested_rewrite"'),
    ],
)
def test_a_table_that_is_wrong_says_where(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_facts(path)
    (tmp_path / "facts.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="is cut short or no parquet"):
        read_facts(tmp_path / "facts.parquet")


def test_a_plain_question_has_the_facts_answer_also_behind_one_with_its_own(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    asked = [{"text": "Rome stands in", "answer": "Latium"}, "Rome is found in"]
    path.write_text(json.dumps({"template": "{} is in", "subject": "Rome", "answer": "Italy", "paraphrases": asked}))
    assert [question.answer for question in read_facts(path)[0].paraphrases] == ["Latium", "Italy"]


def test_aliases_stand_beside_an_answer() -> None:
    with pytest.raises(UsageError, match="has aliases and no answer"):
        Question("Rome is in", aliases=("Italia",))
    with pytest.raises(UsageError, match="an alias of the answer to 'Rome is in'"):
        Question("Rome is in", "Italy", aliases=("",))

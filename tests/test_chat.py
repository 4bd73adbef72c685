"""Chats: messages as prompts, the subject kept to the character, the answer where the template puts a reply, and the
contexts of an edit within the user's turn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from support.tokenizers import CHAT, END, chatting, sentences
from support.zoo import chat_model, sentence_model

import mechinterp as mi
from mechinterp import Fact, Model, Prompt, Question, UsageError
from mechinterp.analysis import Portability, ask_facts, portability_of
from mechinterp.analysis.evaluation.metric_table import DISTRACTING
from mechinterp.editing import EditRequest, SecondMoment, collect_moments, memit, rome, sample_contexts
from mechinterp.editing.rows.contexts import in_contexts
from mechinterp.facts.chat import in_turns
from mechinterp.facts.spans import tokenise
from mechinterp.facts.templates import rendered
from mechinterp.formats.readers import read_jsonl, write_jsonl
from mechinterp.patching import Gaussian, OtherSubject, corrupt, embed, mlp, nothing, restore, run, subject

BEFORE = f"{END}system\nBe brief.\n{END}user\n"
AFTER = f"\n{END}assistant\n"
PLAIN = Prompt("{} was born in", "Marie Curie", "Warsaw", relation="born_in")


@pytest.fixture(scope="module")
def model() -> Model:
    return chat_model()


def spelt(model: Model, prompt: Prompt) -> tuple[str, str]:
    """Subject and answer from their tokens."""
    found = model.tokenise(prompt)
    return model.decode(found.ids[slice(*found.subject)]), model.decode(found.answer_ids)


# ---- from messages ------------------------------------------------------------------------------------------------


def test_a_prompt_from_messages(model: Model) -> None:
    said = [{"role": "user", "content": "{} was born in"}]
    prompt = Prompt.from_messages(said, "Marie Curie", "Warsaw", tokenizer=model, relation="born_in")
    assert prompt == model.chat(PLAIN)
    assert prompt.text == BEFORE + "Marie Curie was born in" + AFTER
    assert prompt.text == model.tokenizer.apply_chat_template(
        [{"role": "user", "content": PLAIN.text}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.text[slice(*prompt.subject_chars)] == "Marie Curie"
    assert prompt.template[slice(*prompt.turn or (0, 0))] == "{} was born in"
    assert prompt.name == "Marie Curie was born in"
    assert spelt(model, prompt) == ("Marie Curie", "Warsaw")
    assert prompt.join == ""
    assert Prompt.from_messages(said, "Marie Curie", tokenizer=model.tokenizer, id="x").name == "x"


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_tokens_are_those_of_the_template(adds_bos: bool) -> None:
    tokenizer = chatting(sentences(adds_bos=adds_bos))
    messages = [
        {"role": "system", "content": "People spoke about the river."},
        {"role": "user", "content": "Where is the river?"},
        {"role": "assistant", "content": "In Poland."},
        {"role": "user", "content": "Where was Marie Curie born?"},
    ]
    found = tokenise(tokenizer, Prompt.from_messages(messages, "Marie Curie", "Warsaw", tokenizer=tokenizer))
    assert (
        list(found.ids)
        == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    assert tokenizer.decode(found.ids[slice(*found.subject)]).strip() == "Marie Curie"
    assert tokenizer.decode(found.answer_ids) == "Warsaw"


def test_a_reply_begun_goes_on(model: Model) -> None:
    said = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "{} was born in"}]
    prompt = Prompt.from_messages(said, "Marie Curie", "Warsaw", tokenizer=model)
    assert prompt.text == f"{BEFORE}Tell me.\n{END}assistant\nMarie Curie was born in"
    assert spelt(model, prompt) == ("Marie Curie", " Warsaw")
    assert prompt.turn is None  # the subject is in no turn of the user's


@pytest.mark.parametrize(
    ("template", "join"),
    [
        ("{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' "
         "else ' ' + m['content'] }}{% endfor %}", " "),
        (CHAT, ""),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
         "{% if add_generation_prompt %}assistant: {% endif %}", ""),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}\n\n{% endif %}", ""),
        ("{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
         "{{ m['content'] }}|{% endfor %}", None),
    ],
    ids=["inst", "smol", "plain", "lines", "refusing"],
)  # fmt: skip
def test_the_answer_stands_where_the_template_puts_a_reply(template: str, join: str | None) -> None:
    tokenizer = chatting(sentences(), template)
    prompt = Prompt.from_messages([{"role": "user", "content": "{} lives"}], "Marie", "Warsaw", tokenizer=tokenizer)
    assert prompt.join == join


def test_messages_that_are_none(model: Model, unchecked_types: None) -> None:
    user = {"role": "user", "content": "{} lives"}
    for messages, match in (
        ("{} lives", "messages is .* which is no list of messages; give a list such as"),
        ([], "which is no list of messages"),
        (user, "which is no list of messages"),
        ([{"role": "user"}], "has no role and content"),
        (["{} lives"], "has no role and content"),
        ([{"role": "user", "content": 3}], "the content of a message is 3, which is no text"),
        ([{"role": "user", "content": "who lives"}], "none of the messages holds a place for the subject 'Marie'"),
        ([user, user], "2 of the messages hold a place for the subject 'Marie'; write exactly one"),
        ([{"role": "user", "content": "{} and {}"}], "has 2 places for the subject"),
        ([{"role": "user", "content": "Marie met Marie"}], "the subject 'Marie' stands 2 times"),
        ([{"role": "user", "content": "{} and Annabel"}, {"role": "x", "content": "{}"}], "2 of the messages hold"),
    ):
        with pytest.raises(UsageError, match=match):
            Prompt.from_messages(messages, "Marie", tokenizer=model)  # type: ignore[arg-type]
    trims = chatting(sentences(), "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(UsageError, match="the chat template does not leave the words .* as they are"):
        Prompt.from_messages([user], "Marie", tokenizer=trims)
    refuses = chatting(sentences(), "{{ raise_exception('no system role here') }}")
    with pytest.raises(UsageError, match="refuses these messages: no system role here"):
        Prompt.from_messages([user], "Marie", tokenizer=refuses)


def test_a_model_without_a_template() -> None:
    model = sentence_model("gpt2")
    for call in (
        lambda: model.chat(PLAIN),
        lambda: model.chat("a text"),
        lambda: Prompt.from_messages([{"role": "user", "content": "{}"}], "Marie", tokenizer=model),
        lambda: list(in_turns(model.tokenizer, ["a text"])),
    ):
        with pytest.raises(UsageError, match=r"has no chat template.*; leave --chat \(messages\) out"):
            call()


# ---- whole facts --------------------------------------------------------------------------------------------------

FACT = Fact(
    PLAIN,
    "Paris",
    paraphrases=(Question("The town of Marie Curie is"),),
    neighbourhood=(Question("Ada Lovelace was born in", "London"),),
    same_subject=(Prompt("{} was a", "Marie Curie", "writer"),),
    one_hop=(Question("The country of Marie Curie is", "Poland"),),
    reverse=(Question("In Warsaw was born", "Marie Curie"),),
    generation=("Marie Curie was",),
    attribute=(Question("The river was in", "Paris"),),
)


def test_a_fact_with_all_its_questions(model: Model) -> None:
    chat = model.chat(FACT)
    assert chat.id == FACT.id
    assert chat.prompt == model.chat(PLAIN)
    assert [one.text for one in chat.paraphrases] == [f"{BEFORE}The town of Marie Curie is{AFTER}"]
    assert chat.neighbourhood[0].words == "Ada Lovelace was born in"
    assert chat.generation == (f"{BEFORE}Marie Curie was{AFTER}",)
    assert chat.same_subject[0].name == "Marie Curie was a"
    assert model.chat(Fact(PLAIN, " Paris")).target_new == "Paris"
    for again in (chat, chat.prompt, chat.paraphrases[0]):
        with pytest.raises(UsageError, match="is a chat already"):
            model.chat(again)
    assert Question.of(chat.prompt).words == PLAIN.text


def test_what_is_no_chat(model: Model, unchecked_types: None) -> None:
    with pytest.raises(UsageError, match="cannot be put to a chat model; give a text, a Prompt"):
        model.chat(3)  # type: ignore[type-var]


def test_a_chat_goes_round_by_file(model: Model, tmp_path: Path) -> None:
    facts = [model.chat(FACT), FACT]
    write_jsonl([Fact(Prompt(**{**vars(one.prompt), "id": str(i)}), one.target_new, one.paraphrases)
                 for i, one in enumerate(facts)], tmp_path / "facts.jsonl")  # fmt: skip
    back = read_jsonl(tmp_path / "facts.jsonl")
    assert [one.prompt.turn for one in back] == [facts[0].prompt.turn, None]
    assert [one.prompt.text for one in back] == [one.prompt.text for one in facts]
    assert [one.paraphrases for one in back] == [one.paraphrases for one in facts]


def test_running_text_as_turns(model: Model) -> None:
    assert list(in_turns(model.tokenizer, ["Marie Curie.", "a {}"])) == [f"{BEFORE}Marie Curie.\n", f"{BEFORE}a {{}}\n"]
    texts = list(in_turns(model.tokenizer, ["People spoke about the river."]))
    found = collect_moments(model, texts, 1, progress=False)[1]
    assert found.tokens == len(model.encode(texts[0]))


# ---- run, traced, edited, evaluated -------------------------------------------------------------------------------


def test_a_chat_is_run_and_traced(model: Model) -> None:
    chat, by_hand = model.chat(PLAIN), Prompt(BEFORE + "{} was born in" + AFTER, "Marie Curie", "Warsaw", id="by hand")
    program = corrupt(embed @ subject, Gaussian(level=0.5, draws=2)) | restore(mlp[1] @ subject[-1])
    ids = torch.tensor([model.encode(chat.text)])
    wanted = model.logits(ids)[0, -1].softmax(-1)[model.pieces("Warsaw")[0]]
    for one in (chat, by_hand):
        assert run(model, one, program).clean.log_prob[0] == pytest.approx(
            run(model, by_hand, nothing).clean.log_prob[0], abs=1e-12
        )
    if len(model.pieces("Warsaw")) == 1:
        assert run(model, chat, nothing).clean.prob[0] == pytest.approx(float(wanted), abs=1e-12)
    table = mi.trace(model, [chat, by_hand], kinds="mlp", severed=(), draws=2, progress=False)
    assert table.prompts == ["Marie Curie was born in", "by hand"]
    assert table.meta["scored"] == {"Marie Curie was born in": "Warsaw", "by hand": "Warsaw"}
    assert set(table.frame["role"]) >= {"first subject", "last subject", "last"}
    other = OtherSubject("Ada Lovelace").prompt_for(chat)
    assert other.text == BEFORE + "Ada Lovelace was born in" + AFTER
    assert other.join == ""


def test_contexts_go_into_the_users_turn(model: Model) -> None:
    chat = model.chat(PLAIN)
    found = in_contexts(model, chat, ("{}", "By the way, {}"))
    assert [one.text for one in found] == [chat.text, BEFORE + "By the way, Marie Curie was born in" + AFTER]
    assert found[1].template[slice(*found[1].turn or (0, 0))] == "By the way, {} was born in"
    assert all(spelt(model, one.with_answer("Warsaw"))[0].strip() == "Marie Curie" for one in found)
    assert chat.reworded("The life of {}").text == BEFORE + "The life of Marie Curie" + AFTER


def test_contexts_of_a_chat_rendered_by_hand_are_refused(model: Model) -> None:
    by_hand = Prompt(BEFORE + "{} was born in" + AFTER, "Marie Curie", "Warsaw")
    moments = SecondMoment.identity(model, 1)
    with pytest.raises(
        UsageError, match=r"would stand before the first turn of a chat.*; make the prompt with model.chat"
    ):
        rome(model, by_hand, 1, moments=moments, target="Paris", contexts=("{}", "So, {}"))
    begun = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "{} was born in"}]
    with pytest.raises(UsageError, match="would stand before the first turn of a chat"):
        memit(
            model, EditRequest(Prompt.from_messages(begun, "Marie Curie", tokenizer=model), "Paris"), 1, moments=moments
        )
    edit = rome(model, by_hand, 1, moments=moments, target="Paris", contexts=("{}",), allow_disabling=True)
    assert edit.report.scored == "Paris"


def test_an_edit_of_a_chat_is_saved_and_read(model: Model, tmp_path: Path) -> None:
    request = EditRequest(model.chat(PLAIN), "Paris")
    contexts = sample_contexts(model, ((2, 4),))
    edit = rome(
        model, request, 1, moments=SecondMoment.identity(model, 1), contexts=contexts, allow_disabling=True,
    )  # fmt: skip
    assert edit.report.scored == "Paris"
    edit.save(tmp_path / "edit.safetensors")
    back = mi.Edit.load(tmp_path / "edit.safetensors")
    assert back.provenance.requests == (request,)
    assert back.report == edit.report
    with back.on(model):
        after = run(model, request.prompt.with_answer("Paris"), nothing).clean.prob[0]
    assert after == pytest.approx(edit.report.target_after, rel=1e-6)


def test_a_chat_is_evaluated_in_its_turns(model: Model) -> None:
    chat = model.chat(FACT)
    metrics = ["ES", "PS", "NS", "same_subject", "one_hop", "NS_distracting"]
    asked = ask_facts(model, chat, metrics)
    texts = dict(zip(asked["kind"], asked["text"], strict=True))
    assert texts[DISTRACTING] == f"{BEFORE}Marie Curie was born in Paris. Ada Lovelace was born in{AFTER}"
    assert all(text.endswith(AFTER) and text.count(f"{END}user") == 1 for text in asked["text"])
    assert set(asked["scored_new"].dropna()) == {"Paris"}
    assert ask_facts(model, FACT, "ES")["scored_new"].tolist() == [" Paris"]
    moved = portability_of(FACT, aliases={"Marie Curie": "Ada"})[FACT.id].each(model.chat)
    assert isinstance(moved, Portability)
    assert moved.subject_replacement[0].text == BEFORE + "Ada was born in" + AFTER
    answers = ask_facts(model, chat, "portability_subject", portability={chat.id: moved})
    assert answers["text"].tolist() == [moved.subject_replacement[0].text]


# ---- a real model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm() -> Model:
    folder = Path(os.environ.get("MECHINTERP_REAL", "")) / "smollm2-135m"
    if not (folder / "config.json").exists():
        pytest.skip("needs real models: set MECHINTERP_REAL to the folder that holds smollm2-135m")
    return mi.load(folder)


def test_a_real_template(smollm: Model) -> None:
    messages = [{"role": "user", "content": "In which country is Paris? Answer in one word."}]
    prompt = Prompt.from_messages(messages, "Paris", "France", tokenizer=smollm)
    found = smollm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    tokenised = smollm.tokenise(prompt)
    assert list(tokenised.ids) == found["input_ids"]
    assert smollm.decode(tokenised.ids[slice(*tokenised.subject)]) == " Paris"
    assert tokenised.answer is not None
    assert (tokenised.answer.text, tokenised.answer.splits) == ("France", True)
    assert 0 < run(smollm, prompt, nothing).clean.prob[0] < 1


def test_rendered_knows_the_words(model: Model) -> None:
    found = rendered(model.tokenizer, [{"role": "user", "content": "a {} b"}], 0)
    assert (found.before, found.after, found.join) == (BEFORE, AFTER, "")

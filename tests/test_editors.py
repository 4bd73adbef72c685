"""The editors whole: against MEMIT written out, against each other, on top of each other, and to disk and back."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.editors_oracle import OracleFact, published_memit, residual_target
from oracles.rome_oracle import Sentence, Weights
from support.tokenizers import SENTENCES
from support.zoo import sentence_model

import mechinterp as mi
from mechinterp.editing import (
    EDITORS,
    BatchReport,
    Edit,
    EditRequest,
    EditSequence,
    EmmetHparams,
    MemitHparams,
    NotMade,
    RomeHparams,
    RomeReport,
    SecondMoment,
    alphaedit,
    collect_moments,
    edit_each,
    editor,
    emmet,
    memit,
    pmet,
    rome,
)
from mechinterp.editing.editors import many_facts as spread
from mechinterp.editing.editors.families import default_layers
from mechinterp.editing.editors.memit import MEMIT_CODE
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import clean_state_dict
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "rain"),
    EditRequest(Prompt("{} wrote about", "Ada Lovelace"), "music"),
]
CONTEXTS = ("{}", "People spoke. {}", "In the evening {}")
SOLVED = ("r-rome", "emmet", "memit", "alphaedit", "pmet")
BATCHED = ("emmet", "memit", "alphaedit", "pmet")


@cache
def model_of(dtype: torch.dtype = torch.float64) -> Model:
    return sentence_model("gpt2", dtype=dtype)


@cache
def moments() -> dict[int, SecondMoment]:
    found = collect_moments(model_of(), SENTENCES, [0, 1, 2], progress=False)
    return {layer: moment.repaired("ridge", 1e-2) for layer, moment in found.items()}


def quick(name: str, **more: Any) -> Any:
    """Few steps, and limits that random models keep to."""
    changes = {"steps": 5, "lr": 0.5} | more
    if name in BATCHED:
        changes = {"max_disturbance": 1e9, "max_essence": None, "weight": 1.0} | changes
    else:
        changes = {"max_disturbance": 1e9, "key_ratio_band": (0.0, 1e9)} | changes
    return EDITORS[name].presets["default"].with_(**changes)


def layers_of(name: str) -> list[int]:
    return [1] if name in ("r-rome", "rome", "emmet") else [0, 1, 2]


def edit_by(name: str, requests: list[EditRequest], **more: Any) -> Edit:
    return EDITORS[name](
        model_of(), requests, more.pop("layers", layers_of(name)), moments=moments(), contexts=CONTEXTS,
        hparams=quick(name, **more.pop("changes", {})), **more,
    )  # fmt: skip


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def sentence(model: Model, text: str, subject: str) -> Sentence:
    end = text.index(subject) + len(subject)
    ids = model.encode(text)
    upto = next(n for n in range(1, len(ids) + 1) if len(model.tokenizer.decode(ids[:n])) >= end)
    return Sentence(ids, upto - 1)


def test_memit_is_the_published_formulas_on_the_golden_checkpoint(data_dir: Path) -> None:
    """Both steps written out, on the checkpoint and the facts of the golden outputs, with their second moment."""
    toy = mi.load(data_dir / "toy", dtype=torch.float64)
    meta = json.loads((data_dir / "golden" / "meta.json").read_text(encoding="utf-8"))
    with np.load(data_dir / "golden" / "rome_f64.npz") as arrays:
        golden = torch.from_numpy(arrays["C_layer1"])
    texts = json.loads((data_dir / "toy" / "texts.json").read_text(encoding="utf-8"))
    first = SecondMoment.collect(toy, texts, 0, max_tokens=5000, progress=False)
    known = {0: first, 1: SecondMoment.given(toy, 1, golden)}
    hparams = MEMIT_CODE.with_(steps=4, weight=50.0, max_disturbance=1e9)
    contexts = ["{}", *[context for context in meta["contexts"] if context != "{}"][:2]]
    requests = [
        EditRequest(mi.Prompt(asked["prompt"], asked["subject"], asked["true"]), asked["target_new"])
        for asked in meta["edits"]
    ]
    made = memit(toy, requests, [0, 1], moments=known, hparams=hparams, contexts=contexts)

    state = {name: tensor.detach() for name, tensor in clean_state_dict(toy.bridge.original_model).items()}
    config: Any = toy.bridge.original_model.config
    w = Weights(state, heads=config.n_head, layers=config.n_layer)
    facts = [
        OracleFact(
            [sentence(toy, context.replace("{}", r.prompt.text), r.subject) for context in contexts],
            sentence(toy, f"{r.subject} is a", r.subject),
            list(toy.answer_ids(r.prompt.text, r.target)),
        )
        for r in requests
    ]
    targets = [
        residual_target(w, fact, 1, steps=4, lr=0.5, weight_decay=0.5, kl_factor=0.0625, clamp=0.75) for fact in facts
    ]
    matrices = {layer: moment.matrix for layer, moment in known.items()}
    wanted = published_memit(w, facts, targets, [0, 1], matrices, 50.0)
    for layer, delta in wanted.items():
        assert gap(made.delta(layer), delta) < 1e-8


def test_emmet_of_one_fact_is_r_rome() -> None:
    changes = {"steps": 5, "lr": 0.5, "clamp": 4.0, "max_disturbance": 1e9}
    for request in REQUESTS:
        one = rome(
            model_of(), request, 1, moments=moments()[1], contexts=CONTEXTS,
            hparams=RomeHparams(**changes, keys="mean", key_ratio_band=(0.0, 1e9)),
        )  # fmt: skip
        other = emmet(
            model_of(), [request], [1], moments=moments(), contexts=CONTEXTS,
            hparams=EmmetHparams(**changes, keys="mean", max_essence=None, weight=7.0),
        )  # fmt: skip
        assert gap(other.delta(1), one.delta(1)) < 1e-10


def test_memit_of_one_layer_and_one_fact_tends_to_r_rome() -> None:
    """Without decay and limit, which count in other norms, both seek the same δ; the ridge is all that is left."""
    same = {"steps": 5, "lr": 0.5, "lr_rule": "absolute", "weight_decay": 0.0, "clamp": None, "max_disturbance": 1e9}
    one = rome(
        model_of(), REQUESTS[0], 1, moments=moments()[1], contexts=("{}",),
        hparams=RomeHparams(**same, key_ratio_band=(0.0, 1e9)),
    )  # fmt: skip
    gaps = []
    for weight in (1.0, 1e-2, 1e-4, 1e-8):
        hparams = MemitHparams(**same, weight=weight, max_essence=None)
        found = memit(model_of(), REQUESTS[:1], [1], moments=moments(), contexts=("{}",), hparams=hparams)
        gaps.append(gap(found.delta(1), one.delta(1)))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


@pytest.mark.parametrize("name", SOLVED)
def test_an_edit_goes_to_disk_and_off_the_model_without_a_trace(name: str, tmp_path: Path) -> None:
    model = model_of()
    before = {key: tensor.clone() for key, tensor in clean_state_dict(model.bridge.original_model).items()}
    made = edit_by(name, REQUESTS[:1] if name == "r-rome" else REQUESTS)
    ids = torch.tensor([model.encode("Marie Curie was born in the")])
    with made.on(model):
        on = model.logits(ids)
    made.save(tmp_path / "edit.safetensors")
    again = Edit.load(tmp_path / "edit.safetensors")
    assert again == made
    assert again.provenance == made.provenance
    for layer in made.layers:
        assert torch.equal(again.delta(layer), made.delta(layer))
    undo = again.bake(model)
    assert torch.allclose(model.logits(ids), on, atol=1e-10)
    undo.undo()
    after = clean_state_dict(model.bridge.original_model)
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_the_order_of_edits_of_different_layers_does_not_matter() -> None:
    model = model_of()
    first, second = edit_by("emmet", REQUESTS[:2], layers=[0]), edit_by("emmet", REQUESTS[2:], layers=[2])
    ids = torch.tensor([model.encode("Marie Curie was born in the")])
    found = []
    for one, other in ((first, second), (second, first)):
        undos = [one.bake(model), other.bake(model, force=True)]
        found.append({layer: model.layout.down_projection(layer).clone() for layer in (0, 2)})
        for undo in reversed(undos):
            undo.undo()
        with (one | other).on(model):
            found.append({0: model.logits(ids)})
    assert all(torch.equal(found[0][layer], found[2][layer]) for layer in (0, 2))
    assert torch.equal(found[1][0], found[3][0])


@pytest.mark.parametrize("name", BATCHED)
def test_many_facts_are_said_after_one_edit(name: str) -> None:
    model = mi.load("atlas")
    facts = [fact for fact in mi.atlas.known_facts() if fact.target_new is not None][:200:40]
    known = collect_moments(model, mi.atlas.corpus(), [2, 3, 4], max_tokens=4000, progress=False)
    known = {layer: moment.repaired("shrinkage") for layer, moment in known.items()}
    made = EDITORS[name](model, facts, moments=known, contexts=("{}",))
    report = made.report
    assert isinstance(report, BatchReport)
    assert report.success, report.reason
    assert all(outcome.answer_after < 0.3 * outcome.answer_before for outcome in report.outcomes)
    assert tuple(change.layer for change in report.layers) == made.layers
    assert all(change.disturbance is not None for change in report.layers)
    assert made.provenance.requests == tuple(EditRequest.of(fact) for fact in facts)
    with made.on(model):
        said = [model.complete(fact.prompt.text) for fact in facts]
    assert [fact.target_new.startswith(word) for fact, word in zip(facts, said, strict=True)] == [True] * len(facts)


def test_each_alone_is_each_alone() -> None:
    for name in SOLVED:
        together = edit_each(
            model_of(), EDITORS[name], REQUESTS, layers_of(name), moments=moments(), contexts=CONTEXTS,
            hparams=quick(name), progress=False,
        )  # fmt: skip
        for request, made in zip(REQUESTS, together, strict=True):
            assert isinstance(made, Edit)
            alone = edit_by(name, [request])
            for layer in alone.layers:
                assert gap(made.delta(layer), alone.delta(layer)) < 1e-9


def test_one_that_cannot_be_made_leaves_the_others() -> None:
    strict = quick("memit", max_disturbance=1e-12)
    made = edit_each(
        model_of(), EDITORS["memit"], REQUESTS[:2], [1], moments=moments(), contexts=CONTEXTS, hparams=strict,
        progress=False,
    )  # fmt: skip
    assert all(
        isinstance(each, NotMade) and "would disable the model: on ordinary text" in each.reason for each in made
    )


def test_a_sequence_owns_its_state() -> None:
    """Two at once, step by step in turn, equal each alone; and a step is an edit made while the others are on."""
    model = model_of()

    def start(name: str) -> EditSequence:
        return EditSequence(model, EDITORS[name], [1], moments=moments(), contexts=CONTEXTS, hparams=half)

    half = quick("alphaedit", keys="half")
    one, other = start("alphaedit"), start("alphaedit")
    for request in REQUESTS:
        one.add([request])
    alone = start("alphaedit")
    for i, request in enumerate(reversed(REQUESTS)):
        other.add([request])
        alone.add([REQUESTS[i]])
    assert alone.edit == one.edit
    assert other.edit != one.edit
    assert len(one) == 3
    assert one.after(2) == one.steps[0] | one.steps[1]
    with one.after(2).on(model):
        third = alphaedit(
            model, REQUESTS[2:], [1], moments=moments(), contexts=CONTEXTS, hparams=half,
            past=PastOf(one, 2),
        )  # fmt: skip
    assert gap(third.delta(1), one.steps[2].delta(1)) < 1e-10
    with pytest.raises(UsageError, match="this sequence has 3 steps; ask for 1 to 3, not 4"):
        one.after(4)
    with pytest.raises(UsageError, match="was made while other edits were on"), one.steps[1].on(model):
        pass


def PastOf(sequence: EditSequence, steps: int) -> Any:
    """The keys of the first steps, read one sentence at a time with those steps on."""
    from mechinterp.editing.memory.past_keys import PastKeys

    model, past = sequence.model, PastKeys()
    hook = model.layout.key_hook(1)
    for i in range(steps):
        request, read = REQUESTS[i], []
        for context in CONTEXTS:
            found = sentence(model, context.replace("{}", request.prompt.text), request.subject)
            _, cache = model.bridge.run_with_cache(torch.tensor([found.ids]), names_filter=[hook], use_cache=False)
            read.append(cache[hook][0, found.subject].detach())
        past = past.joined({1: ((read[0] + (read[1] + read[2]) / 2) / 2)[None]})
    return past


def test_the_memory_of_a_sequence_keeps_earlier_edits() -> None:
    """Later edits at keys that look like an earlier one disturb it less where its key is remembered."""
    model, near = model_of(), [REQUESTS[0], EditRequest(Prompt("{} wrote about", "Marie Curie"), "music")]
    kept = {}
    for remember in (True, False):
        hparams = quick("memit", remember=remember, weight=1e-3)
        sequence = EditSequence(model, EDITORS["memit"], [1], moments=moments(), contexts=CONTEXTS, hparams=hparams)
        for request in near:
            sequence.add([request])
        key = PastOf(sequence, 1).of(1)
        first = sequence.steps[0].delta(1)
        both = sequence.edit.delta(1)
        kept[remember] = float((key @ both - key @ first).norm() / (key @ first).norm())
    assert kept[True] < 0.8 * kept[False]


def test_contradictions_are_found_before_anything_is_edited() -> None:
    poland = Prompt("The capital of {} is", "Poland", relation="capital")
    asked = [EditRequest(poland, "rain"), EditRequest(poland, "music")]
    with pytest.raises(
        UsageError, match="requests 0 and 1 contradict each other: 'The capital of Poland is' -> 'rain'"
    ):
        edit_by("memit", asked)
    reworded = EditRequest(Prompt("{} has the capital", "Poland", relation="capital"), "music")
    with pytest.raises(UsageError, match="requests 0 and 1 contradict each other"):
        edit_by("emmet", [asked[0], reworded])
    with pytest.raises(UsageError, match="requests 0 and 1 are the same"):
        edit_by("memit", [asked[0], asked[0]])
    allowed = edit_by("memit", asked, allow_conflicts=True)
    assert isinstance(allowed.report, BatchReport)
    assert (
        "the keys of 'The capital of Poland is' -> 'rain' and 'The capital of Poland is' -> 'music' are nearly"
        in str(allowed.report.warnings)
    )
    assert edit_by("memit", [asked[0], EditRequest(reworded.prompt, "rain")]).layers == (0, 1, 2)


def test_targets_that_begin_like_the_answer_are_named() -> None:
    request = EditRequest(Prompt("{} was born in", "Marie Curie", "the river"), "the rain")
    report = edit_by("memit", [request]).report
    assert isinstance(report, BatchReport)
    assert "the target 'the rain' and the answer 'the river' begin with the same token" in report.warnings[0]


def test_disabling_edits_are_refused() -> None:
    with pytest.raises(
        MechinterpError, match="'The capital of Poland is' -> 'rain' by memit would disable the model: on"
    ):
        edit_by("memit", REQUESTS[1:2], changes={"max_disturbance": 1e-9})
    drifting = {"max_essence": 1e-9, "steps": 10}
    with pytest.raises(MechinterpError, match="after '{} is a' the subjects are others than before: KL"):
        edit_by("emmet", REQUESTS, changes=drifting)
    allowed = edit_by("emmet", REQUESTS, changes=drifting, allow_disabling=True)
    assert "the subjects are others than before" in allowed.report.disabling


@pytest.mark.usefixtures("unchecked_types")
def test_what_an_editor_cannot_take_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no editor 'slack'; the editors are rome, r-rome, emmet, memit"):
        editor("slack")
    with pytest.raises(UsageError, match="r-rome writes one fact at a time, not 3; edit them one after the other"):
        edit_by("r-rome", REQUESTS)
    with pytest.raises(UsageError, match="memit was given no request"):
        edit_by("memit", [])
    with pytest.raises(UsageError, match="memit needs the second moments of the layers it edits"):
        EDITORS["memit"](model_of(), REQUESTS, [1])
    with pytest.raises(UsageError, match="no second moment of layer 3 was given"):
        edit_by("memit", REQUESTS, layers=[1, 3])
    with pytest.raises(UsageError, match="no list of different layers"):
        edit_by("memit", REQUESTS, layers=[1, 1])
    with pytest.raises(UsageError, match=r"emmet writes one layer, not \[1, 2\]"):
        edit_by("emmet", REQUESTS, layers=[1, 2])
    with pytest.raises(UsageError, match="'fast' is no preset of memit; choose one of default, code"):
        EDITORS["memit"](model_of(), REQUESTS, [1], moments=moments(), preset="fast")
    with pytest.raises(UsageError, match="memit takes MemitHparams, not RomeHparams"):
        EDITORS["memit"](model_of(), REQUESTS, [1], moments=moments(), hparams=RomeHparams())
    with pytest.raises(UsageError, match="1 values were given for 3 requests"):
        edit_by("memit", REQUESTS, layers=[1], values=edit_values("memit")[:1])
    with pytest.raises(UsageError, match="an editor takes no moment=; it takes moments, contexts, past"):
        EDITORS["memit"](model_of(), REQUESTS, [1], moment=moments())


def test_values_behind_a_norm_cannot_be_spread() -> None:
    gemma = sentence_model("gemma2")
    known = {1: SecondMoment.collect(gemma, SENTENCES, 1, progress=False).repaired("ridge")}
    for make in (memit, pmet):
        with pytest.raises(MechinterpError, match="changes what its MLPs write before it is added to the residual"):
            make(gemma, REQUESTS[:1], [1], moments=known, contexts=CONTEXTS)
    hparams = quick("emmet").with_(steps=2)
    assert emmet(gemma, REQUESTS[:1], [1], moments=known, contexts=CONTEXTS, hparams=hparams).layers == (1,)


def test_every_editor_has_its_papers_on_it() -> None:
    for name, each in EDITORS.items():
        assert each.name == name
        assert "default" in each.presets
        assert all(isinstance(preset, each.hparams_type) for preset in each.presets.values())
        assert any(year in each.source for year in ("2018", "2020", "2021", "2022", "2023", "2024", "2025", "2026"))


def test_rome_reports_as_before_under_the_shared_protocol() -> None:
    made = edit_by("r-rome", REQUESTS[:1])
    assert isinstance(made.report, RomeReport)
    plain = rome(model_of(), REQUESTS[0], 1, moments=moments()[1], contexts=CONTEXTS, hparams=quick("r-rome"))
    assert plain.provenance.method == "rome"  # with the keys of r-ROME it does what r-ROME does
    assert made == plain


def test_a_name_stands_for_one_method() -> None:
    """Own hyper-parameters do not turn one editor into another, and no preset says what its editor is not."""
    with pytest.raises(UsageError, match="hyper-parameters are of rome, not of r-rome; use that editor, or change"):
        EDITORS["r-rome"](model_of(), REQUESTS[:1], [1], moments=moments(), hparams=RomeHparams(keys="mixed"))
    for name, each in EDITORS.items():
        assert all(not preset.editors or name in preset.editors for preset in each.presets.values())


@pytest.mark.usefixtures("unchecked_types")
def test_presets_are_those_of_the_family() -> None:
    class Known:
        architecture, n_layers, d_model, n_heads = "GPT2LMHeadModel", 48, 1600, 25
        name, bundled, source = "my-gpt2", "", "openai-community/gpt2-xl"

    model: Any = Known()
    assert EDITORS["memit"].chosen("code", None, model) == EDITORS["memit"].presets["code-gpt2-xl"]
    assert EDITORS["memit"].chosen("default", None, model) == EDITORS["memit"].presets["default"]
    model.n_layers, model.d_model, model.n_heads, model.source = 24, 1024, 16, "gpt2-medium"
    assert getattr(EDITORS["rome"].chosen("code", None, model), "clamp", None) == 3.0


@pytest.mark.usefixtures("unchecked_types")
def test_a_family_is_known_by_its_name_and_sizes_and_a_bundled_model_by_its_weights() -> None:
    """A model of a published one's shape that is called otherwise, or is only called like it, has no layers."""

    class Known:
        architecture, n_layers, d_model, n_heads = "LlamaForCausalLM", 32, 4096, 32
        name, bundled, source = "atlas", "", "meta-llama/Llama-2-7b-hf"

    model: Any = Known()
    for source in (
        "meta-llama/Llama-2-7b-hf",
        "/x/Llama-2-7B-hf/",
        "/hub/models--meta-llama--Llama-2-7b-hf/snapshots/1a",
    ):
        model.source = source
        assert default_layers(model, "rome") == (5,)
    for source in ("lmsys/vicuna-7b-v1.5", "/x/mine", ""):
        model.source = source
        with pytest.raises(
            UsageError,
            match=r"for atlas .*, which has the shape of LLaMA 7B and 8B and not its name \(there: 5\); trace it and "
            r"pass the layers .* \.3 to \.4 of the depth: layers 10 to 13",
        ):
            default_layers(model, "rome")
    for size, other in (("d_model", 16), ("n_heads", 2), ("n_layers", 31), ("architecture", "MistralForCausalLM")):
        changed: Any = type("Changed", (Known,), {size: other})()
        with pytest.raises(UsageError, match="no published layers of rome are known for atlas .*; trace it and pass"):
            default_layers(changed, "rome")
        changed.bundled = "atlas"
        assert default_layers(changed, "rome") == (3,)


def test_the_preset_is_in_the_provenance() -> None:
    made = EDITORS["emmet"](model_of(), REQUESTS[:1], [1], moments=moments(), contexts=("{}",), allow_disabling=True)
    assert made.provenance.hparams["preset"] == "default"
    assert edit_by("emmet", REQUESTS[:1]).provenance.hparams["preset"] == "own"


def test_values_of_something_else_are_refused() -> None:
    found = edit_values("memit")
    for wrong, what in (
        (found[::-1], "request"),
        (edit_values("r-rome"), "component"),
        (edit_values("pmet", 2), "layer"),
    ):
        with pytest.raises(UsageError, match=f"was found for another {what}"):
            edit_by("memit", REQUESTS, layers=[1], values=wrong)
    with pytest.raises(UsageError, match="was found for another number of contexts"):
        edit_by("memit", REQUESTS, layers=[1], values=edit_values("memit", contexts=CONTEXTS[:2]))


def edit_values(name: str, layer: int = 1, contexts: Any = CONTEXTS) -> Any:
    method = EDITORS[name]
    known = SecondMoment.identity(model_of(), layer)
    job = method.job(model_of(), REQUESTS, [layer], hparams=quick(name), moments=known, contexts=contexts)
    return method.values(job)


def test_one_fact_whose_loss_is_no_number_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = spread.values_of

    def failing(model: Model, requests: Any, *args: Any, **options: Any) -> Any:
        if any(request.target == "rain" for request in requests):
            raise MechinterpError("the loss became nan")
        return whole(model, requests, *args, **options)

    monkeypatch.setattr(spread, "values_of", failing)
    made = edit_each(
        model_of(), EDITORS["memit"], REQUESTS, [1], moments=moments(), contexts=CONTEXTS, hparams=quick("memit"),
        progress=False,
    )  # fmt: skip
    assert [type(each) for each in made] == [Edit, NotMade, Edit]


def test_weights_that_are_held_unchanged_cannot_be_baked_into() -> None:
    model, made = model_of(), edit_by("emmet", REQUESTS[:1])
    with model.unchanged():
        assert model.fingerprint() == model.fingerprint()
        with pytest.raises(MechinterpError, match="is in use by something that holds its weights unchanged"):
            made.bake(model)
    made.bake(model).undo()

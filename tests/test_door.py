"""Every forward is of the model as it was loaded: in eval mode, in its own precision, one thread at a time."""

from __future__ import annotations

import ast
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.running_text import running_text
from support.tokenizers import words
from support.zoo import encoder_decoder, hf_model, sentence_model

import mechinterp as mi
from mechinterp import Model, Prompt, UsageError
from mechinterp.editing import EDITORS, Edit, EditRequest, SecondMoment, collect_moments
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.editing.gradients.integrated_gradients import integrated_gradients
from mechinterp.editing.rows.completions import completions
from mechinterp.models.bridging import check_weights
from mechinterp.models.door import settled
from mechinterp.patching import Gaussian, corrupt, embed, last, mlp, restore, run, subject, trace

PROMPT = Prompt("{} was born in", "Marie Curie", "Warsaw")
OTHER = Prompt("The capital of {} is", "Poland", "Warsaw")
PROGRAM = corrupt(embed @ subject, Gaussian(draws=3, seed=1)) | restore(mlp[1] @ subject[-1])
REQUEST = EditRequest(PROMPT, "Paris")
FAST: dict[str, Any] = {"contexts": ("{}",), "allow_disabling": True, "progress": False}
TEXTS = running_text(20)

Around = Callable[[], AbstractContextManager[Any]]


@pytest.fixture
def model() -> Model:
    return sentence_model()


def moments_of(model: Model) -> dict[int, SecondMoment]:
    return {layer: SecondMoment.identity(model, layer) for layer in range(model.n_layers)}


def numbers(model: Model) -> dict[str, np.ndarray]:
    """Some of everything that runs the model."""
    table = trace(model, [PROMPT], draws=2, progress=False).frame
    plain = trace(model, [OTHER], draws=1, progress=False, engine="plain", kinds=("mlp",), severed=()).frame
    return {
        "run": run(model, PROMPT, PROGRAM).log_prob,
        "exact": table["log_prob"].to_numpy(),
        "plain": plain["log_prob"].to_numpy(),
        "moments": collect_moments(model, TEXTS, [1], progress=False)[1].matrix.numpy(),
        "said": np.array([each.prob for each in completions(model, [(PROMPT, "Paris")])]),
        "token": np.array([model.next_token(model.encode(PROMPT.text))]),
        "rome": edited(model, "rome"),
        "ft": edited(model, "ft"),
        "kn": integrated_gradients(model, PROMPT, model.answer_ids(PROMPT.text, "Warsaw"), [0, 2], steps=3).numpy(),
    }


def edited(model: Model, name: str) -> np.ndarray:
    edit = made_by(model, name, moments_of(model))
    return np.concatenate([factors.dense.detach().numpy().ravel() for factors in edit.weights.factors.values()])


def made_by(model: Model, name: str, moments: dict[int, SecondMoment], request: EditRequest = REQUEST) -> Edit:
    editor = EDITORS[name]
    hparams = editor.presets["default"]
    if hasattr(hparams, "steps"):
        hparams = hparams.with_(steps=3)
    given = {"moments": moments} if editor.needs_moments else {}
    return editor(model, [request], [1], hparams=hparams, **FAST, **given)


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
)
def test_what_stands_around_a_call_changes_no_number(model: Model, around: Around) -> None:
    wanted = numbers(model)
    with around():
        found = numbers(model)
    assert_same(found, wanted)


def test_train_mode_changes_no_number_and_is_left_as_it_was(model: Model) -> None:
    wanted = numbers(model)
    network: Any = model.bridge.original_model
    for module in (network, model.bridge, network.transformer.h[1].mlp):
        network.eval()
        model.bridge.eval()
        module.train()
        before = [each.training for each in (*model.bridge.modules(), *network.modules())]
        assert_same(numbers(model), wanted)
        assert [each.training for each in (*model.bridge.modules(), *network.modules())] == before
        assert any(before)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_train_mode_of_an_encoder_decoder(stack: str) -> None:
    model = encoder_decoder(stack=stack)
    prompt, program = Prompt("the {} lives in town", "ada bo", "rome"), restore(mlp[1] @ last)
    wanted = run(model, prompt, program).log_prob
    model.bridge.train()
    try:
        assert run(model, prompt, program).log_prob == wanted
        assert model.bridge.original_model.training
    finally:
        model.bridge.eval()


def test_the_mode_is_put_back_after_an_error(model: Model) -> None:
    model.bridge.train()
    seen: list[bool] = []
    with pytest.raises(ZeroDivisionError), settled(model.bridge):
        seen.append(model.bridge.original_model.training or 1 // 0)
    assert seen == []
    assert model.bridge.original_model.training


def test_gradients_of_parameters_are_left_alone(model: Model) -> None:
    needed = [parameter.requires_grad for parameter in model.bridge.original_model.parameters()]
    numbers(model)
    assert [parameter.requires_grad for parameter in model.bridge.original_model.parameters()] == needed
    assert all(parameter.grad is None for parameter in model.bridge.original_model.parameters())


@pytest.mark.parametrize("name", sorted(name for name, one in EDITORS.items() if one.ready))
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_every_editor_works_without_gradients_around_it(model: Model, name: str, around: Around) -> None:
    C = moments_of(model)
    wanted = made_by(model, name, C)
    with around():
        found = made_by(model, name, C)
    assert found == wanted
    with found.on(model):  # what was made there can take part in gradients, and be baked
        made_by(model, "rome", C, EditRequest(OTHER, "rain"))
    if found.is_weights:
        found.bake(model).undo()


def test_models_and_inference_mode(tmp_path: Path) -> None:
    network = hf_model()
    network.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    with torch.inference_mode():
        model = mi.load(tmp_path)
        made = hf_model()
    assert not any(parameter.is_inference() for parameter in model.bridge.original_model.parameters())
    with pytest.raises(mi.MechinterpError, match=r"weights of it were made inside torch.inference_mode\(\), so th"):
        check_weights(made, "it")
    with pytest.raises(mi.MechinterpError, match="were made inside"):
        mi.load(made, tokenizer=words())


def test_threads_wait_for_each_other(model: Model) -> None:
    """Runs, grids, keys, edits that are tried and rows that carry edits: each thread gets its own right numbers."""
    C = moments_of(model)
    edit = made_by(model, "rome", C)

    def under_rows() -> list[float]:
        rows = RowEdits([edit, edit])
        with rows.on(model):
            rows.rows([0, -1])
            ids = torch.tensor([model.encode(PROMPT.text)] * 2)
            return model.logits(ids, keep=1)[:, -1, :3].flatten().tolist()

    jobs: list[Callable[[], Any]] = [
        lambda: run(model, PROMPT, PROGRAM).log_prob,
        lambda: trace(model, [OTHER], draws=2, progress=False).frame["log_prob"].to_numpy(),
        lambda: collect_moments(model, TEXTS, [1, 2], progress=False)[2].matrix.numpy(),
        lambda: edited(model, "rome"),
        lambda: edited(model, "memit"),
        lambda: edited(model, "ft"),
        under_rows,
        lambda: model.logits(torch.tensor([model.encode(OTHER.text)])).numpy(),
    ]
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job(), jobs * 2))
    for found, wanted in zip(together, alone * 2, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_an_edit_that_is_on_is_on_for_all_threads_and_nobody_waits(model: Model) -> None:
    edit = made_by(model, "rome", moments_of(model))
    plain = run(model, PROMPT, PROGRAM).log_prob
    with edit.on(model), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: run(model, PROMPT, PROGRAM).log_prob, range(4)))
        wanted = run(model, PROMPT, PROGRAM).log_prob
    assert all((each == wanted).all() for each in found)
    assert (wanted != plain).any()


def test_a_thread_may_take_the_model_again(model: Model) -> None:
    with model.alone(), model.unchanged(), model.alone():
        assert len(run(model, [PROMPT, OTHER], PROGRAM)) == 2


def test_two_bridges_of_one_model_are_one_model() -> None:
    network = hf_model()
    first = mi.load(network, tokenizer=words())
    second = mi.load(first.bridge)
    with ThreadPoolExecutor(1) as pool:
        with first.alone():
            waiting = pool.submit(lambda: second.logits(torch.tensor([[1, 2]])))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            first.logits(torch.tensor([[1, 2]]))
        assert waiting.result(timeout=60).shape[:2] == (1, 2)


def test_tokens_without_a_row_are_named() -> None:
    more = deepcopy(words())
    more.add_tokens(["zanzibar"])
    model = mi.load(hf_model(), tokenizer=more, name="small")
    sentence = r"small has 34 tokens, and no row for 'zanzibar' \(number 34\), which its tokenizer has: resize its emb"
    for prompt in (Prompt("the {} lives in", "zanzibar", "rome"), Prompt("the {} lives in", "ada", "zanzibar")):
        with pytest.raises(UsageError, match=sentence):
            run(model, prompt, restore(mlp[1] @ last))
    with pytest.raises(UsageError, match=sentence):
        model.logits(torch.tensor([[1, 34]]))
    with pytest.raises(UsageError, match=sentence):
        collect_moments(model, ["ada zanzibar"], [0], progress=False)


def test_there_is_one_door() -> None:
    """No file but these calls a bridge, or says whether gradients are recorded."""
    root = Path(mi.__file__).parent
    allowed = {
        "models/model.py", "models/door.py", "models/hook_checks.py", "models/bridging.py", "editing/edits/bake.py",
        # networks of their own, which learn or do not
        "editing/training/mend_network.py", "editing/training/malmen_network.py", "editing/editors/learnt.py",
    }  # fmt: skip
    watched = {"run_with_hooks", "run_with_cache", "no_grad", "enable_grad", "set_grad_enabled", "bridge"}
    found = set()
    for file in (*root.glob("*/**/*.py"), *root.glob("*.py")):
        name = file.relative_to(root).as_posix()
        if name.startswith("atlas/"):  # trains and measures a network of its own
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in watched:
                found.add(name)
    assert found - allowed == set()
    assert {"models/model.py", "models/door.py"} <= found

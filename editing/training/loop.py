"""Training a network: steps of Adam on drawn edits, validation on held-out subjects, the best kept, resumable.

Everything that is drawn depends on the seed and the number of the step alone, so a run that was killed goes on from its
last validation to the very weights it would have had.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.model import Model
from ...runs.files import write_text
from ...runs.progress import progress_bar
from ...runs.tensors import read_tensors, write_tensors
from ..hyperparameters import Hparams
from .examples import Drawn, Examples

STATE_FILE, LOG_FILE = "training.safetensors", "training.json"
_KIND = "training state"


@dataclass(frozen=True)
class TrainingHparams(Hparams):
    """How a network is trained.

    Args:
        steps: of Adam at most.
        lr: of Adam.
        edits: how many edits are made at once in each draw.
        accumulate: draws whose gradients add up to a step (their mean).
        clip: the gradient's norm is cut back to this; None: never.
        edit_weight: of the NLL of rephrases.
        local_weight: of KL(before || after) on other texts.
        every: steps between validations.
        patience: steps without a better validation after which training ends.
        validation: edits that are validated on, one after another.
        held_out: share of subjects that are validated on and never learnt from.

    Raises:
        UsageError: a value outside its range.
    """

    steps: int = 1500
    lr: float = 1e-4
    edits: int = 1
    accumulate: int = 10
    clip: float | None = 100.0
    edit_weight: float = 0.1
    local_weight: float = 1.0
    every: int = 100
    patience: int = 500
    validation: int = 60
    held_out: float = 0.1

    def __post_init__(self) -> None:
        self._above_zero("steps", "lr", "edits", "accumulate", "clip", "every", "patience", "validation", "held_out")
        self._not_negative("edit_weight", "local_weight")
        if not self.held_out < 1:
            raise UsageError(f"held_out is {self.held_out}; it is a share of the subjects, below 1")


class Step(Protocol):
    """What a draw gave: `total` has the gradient."""

    @property
    def total(self) -> Tensor: ...
    @property
    def edit(self) -> float: ...
    @property
    def local(self) -> float: ...
    @property
    def said(self) -> float: ...


class Network(Protocol):
    """What can be trained."""

    parameters: dict[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]: ...


@dataclass(eq=False)
class Course:
    """How training stands.

    Args:
        network: as it is now.
        best: the state with the best validation.
        step: steps done.
        best_step: the step of `best`.
        log: a row for each validation.
        seconds: spent so far, over all runs.
    """

    network: Network
    best: Mapping[str, Tensor]
    step: int = 0
    best_step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best_loss(self) -> float:
        """Of `best`."""
        return min((row["total"] for row in self.log), default=math.inf)


def train(
    model: Model,
    network: Network,
    restored: Callable[[Mapping[str, Tensor]], Network],
    losses: Callable[[Network, Drawn, bool], Step],
    examples: tuple[Examples, Examples],
    hparams: TrainingHparams,
    rates: Sequence[tuple[str, float]],
    *,
    folder: Path,
    seed: int,
    progress: bool,
) -> Course:
    """Train a network, or go on where a killed run stopped.

    More parameters than eight: each belongs to one caller alone, the editor's `train`.

    Args:
        model: the model.
        network: at its beginning.
        restored: a network of its state.
        losses: of a network on a draw; the last argument says whether it learns.
        examples: to learn from, and to validate on.
        hparams: of the training.
        rates: (beginning of a name, learning rate): an Adam each, for the parameters whose name begins so.
        folder: where the state is kept after each validation.
        seed: of what is drawn.
        progress: show a bar.

    Raises:
        UsageError: the folder holds a training of something else.
        MechinterpError: a loss became NaN or infinite.
    """
    about = _identity(model, network, examples, hparams, rates, seed)
    file = folder / STATE_FILE
    course = Course(network, network.state)
    adams = _adams(network, rates)
    if file.is_file():
        course, adams = _resumed(file, about, restored, rates)
    started = time.monotonic() - course.seconds
    with progress_bar("training steps", hparams.steps, shown=progress) as advance:
        advance(course.step)
        while course.step < hparams.steps and course.step - course.best_step < hparams.patience:
            _step(course, adams, losses, examples[0], hparams, seed)
            advance(1)
            if course.step % hparams.every == 0 or course.step == hparams.steps:
                _validate(course, losses, examples[1], hparams)
                course.seconds = time.monotonic() - started
                _keep(file, about, course, adams)
    write_text(folder / LOG_FILE, json.dumps(course.log, indent=1))
    return course


def _step(
    course: Course,
    adams: Sequence[torch.optim.Adam],
    losses: Callable[[Network, Drawn, bool], Step],
    examples: Examples,
    hparams: TrainingHparams,
    seed: int,
) -> None:
    parameters = [one for _, one in sorted(course.network.parameters.items())]  # a file keeps no order
    for one in parameters:
        one.grad = None
    for part in range(hparams.accumulate):
        drawn = examples.draw(hparams.edits, f"{seed} {course.step} {part}")
        found = losses(course.network, drawn, True)
        if not math.isfinite(float(found.total.detach())):
            raise MechinterpError(
                f"the loss became {float(found.total.detach())} at step {course.step} of training; lower lr (it is "
                f"{hparams.lr:g})"
            )
        found.total.backward(torch.full_like(found.total, 1 / hparams.accumulate))
    if hparams.clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, hparams.clip, error_if_nonfinite=True)
    for adam in adams:
        adam.step()
    course.step += 1


def _validate(
    course: Course, losses: Callable[[Network, Drawn, bool], Step], examples: Examples, hparams: TrainingHparams
) -> None:
    rows = [losses(course.network, examples.draw(hparams.edits, f"held {i}"), False) for i in range(hparams.validation)]
    means = {
        name: sum(float(getattr(row, name)) for row in rows) / len(rows) for name in ("total", "edit", "local", "said")
    }
    if means["total"] < course.best_loss:
        course.best, course.best_step = {n: t.clone() for n, t in course.network.state.items()}, course.step
    course.log.append({"step": course.step, **means})


def _adams(network: Network, rates: Sequence[tuple[str, float]]) -> list[torch.optim.Adam]:
    return [
        torch.optim.Adam([one for name, one in sorted(network.parameters.items()) if name.startswith(prefix)], lr=rate)
        for prefix, rate in rates
    ]


def _identity(
    model: Model,
    network: Network,
    examples: tuple[Examples, Examples],
    hparams: TrainingHparams,
    rates: Sequence[tuple[str, float]],
    seed: int,
) -> dict[str, Any]:
    """What makes a training the same one; how many steps it may take is no part of it."""
    plain = {name: value for name, value in hparams.plain().items() if name not in ("steps", "patience")}
    every = sorted(repr(fact) for part in examples for fact in part.facts)  # how they are split, the seed says
    facts = hashlib.sha256(repr(every).encode()).hexdigest()
    shapes = {name: list(one.shape) for name, one in network.parameters.items()}
    return {
        "model": model.fingerprint(), "hparams": plain, "facts": facts, "shapes": shapes, "seed": seed,
        "rates": [list(pair) for pair in rates],
    }  # fmt: skip


def _keep(file: Path, about: Mapping[str, Any], course: Course, adams: Sequence[torch.optim.Adam]) -> None:
    tensors = {f"now {name}": tensor for name, tensor in course.network.state.items()}
    tensors |= {f"best {name}": tensor for name, tensor in course.best.items()}
    for number, adam in enumerate(adams):
        for index, own in adam.state_dict()["state"].items():
            tensors |= {f"adam {number} {index} {name}": torch.as_tensor(value) for name, value in own.items()}
    header = {
        "about": about, "step": course.step, "best_step": course.best_step, "log": course.log,
        "seconds": course.seconds,
    }  # fmt: skip
    write_tensors(file, _KIND, {name: tensor.clone() for name, tensor in tensors.items()}, header)


def _resumed(
    file: Path,
    about: Mapping[str, Any],
    restored: Callable[[Mapping[str, Tensor]], Network],
    rates: Sequence[tuple[str, float]],
) -> tuple[Course, list[torch.optim.Adam]]:
    tensors, header = read_tensors(file, _KIND)
    if header["about"] != json.loads(json.dumps(about)):
        differing = [
            name for name, value in json.loads(json.dumps(about)).items() if header["about"].get(name) != value
        ]
        raise UsageError(
            f"{str(file.parent)!r} holds another training (it differs in {', '.join(differing)}); give another folder"
        )
    network = restored(_part(tensors, "now "))
    adams = _adams(network, rates)
    for number, adam in enumerate(adams):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, f"adam {number} ").items():
            index, _, what = name.partition(" ")
            state.setdefault(int(index), {})[what] = tensor
        adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
    course = Course(
        network, _part(tensors, "best "), header["step"], header["best_step"], header["log"], header["seconds"]
    )
    return course, adams


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

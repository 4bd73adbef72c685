"""Editors whose change is made by a network: how it is trained, and how a trained one becomes an editor."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, final

import torch
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Fact
from ...given import Wholes, several, whole
from ...models.model import Model
from ...public import public
from ...runs.folder import OutFolder
from ..training.examples import Drawn, split_subjects
from ..training.loop import LOG_FILE, STATE_FILE, Course, Network, Step, TrainingHparams, train
from ..training.trained import TRAINED_FILE, Trained
from .protocol import Editor, Job, Made

T = TypeVar("T", bound=TrainingHparams)


@dataclass(frozen=True, eq=False)
class LearntEditor(Editor[T]):
    """An editor that needs training before it can edit.

    Args:
        trained: the network, once it is trained (`with_trained`).
    """

    trained: Trained | None = None

    @abstractmethod
    def fresh(self, model: Model, layers: Sequence[int], hparams: T, seed: int) -> Network:
        """A network at its beginning."""

    @abstractmethod
    def restored(self, model: Model, layers: Sequence[int], hparams: T, state: Mapping[str, Tensor]) -> Network:
        """A network of its state."""

    @abstractmethod
    def losses(self, model: Model, network: Network, drawn: Drawn, hparams: T, *, learning: bool) -> Step:
        """Of what the network makes of some edits."""

    @abstractmethod
    def made(self, job: Job[T], network: Network) -> Made:
        """The change that the network makes of a job."""

    def rates(self, hparams: T) -> list[tuple[str, float]]:
        """(beginning of a parameter's name, learning rate) of each Adam."""
        return [("", hparams.lr)]

    @final
    def with_trained(self, trained: Trained) -> Self:
        """This editor with a network; its `default` preset is what the network was trained with.

        Raises:
            UsageError: a network of another editor.
        """
        if trained.editor != self.name:
            raise UsageError(f"this network was trained for {trained.editor}, not for {self.name}")
        own: Any = self.hparams_type(**_plain(trained.hparams))
        return replace(self, trained=trained, presets={**self.presets, "default": own})

    @final
    @public
    def train(
        self,
        model: Model,
        facts: Iterable[Fact],
        out: str | Path,
        layers: Wholes | None = None,
        *,
        preset: str = "default",
        hparams: T | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> Self:
        """Train a network on facts, a share of whose subjects is held out to validate on.

        A folder that holds a training of the same things is gone on with: a run that was killed ends with the very
        weights it would have had.

        Args:
            model: the model, without edits.
            facts: each with a target_new, an answer and paraphrases; those without are left out.
            out: the folder for the network (`trained.safetensors`), the state and the log.
            layers: whose MLPs are edited; default: the last three.
            preset: a name in `presets`.
            hparams: of your own, in place of a preset.
            seed: of everything random.
            progress: show a bar.

        Returns:
            the editor with the network that did best on the held-out subjects.

        Raises:
            UsageError: too few facts, or a folder with another training in it.
            MechinterpError: a loss became NaN or infinite.
        """
        chosen = self.chosen(preset, hparams, model)
        at = self.layers(model, layers, chosen)
        if model.is_encoder_decoder:
            raise UsageError(f"{model.name} is an encoder-decoder; {self.name} is trained for decoders alone")
        known = several(facts, Fact, "facts", "facts, such as mi.atlas.facts()")
        examples = split_subjects(known, chosen.held_out, whole(seed, "seed"))
        OutFolder(Path(out)).claim(TRAINED_FILE, STATE_FILE, LOG_FILE)
        started = time.monotonic()
        with model.unchanged():
            course = train(
                model,
                self.fresh(model, at, chosen, seed),
                lambda state: self.restored(model, at, chosen, state),
                lambda network, drawn, learning: self.losses(model, network, drawn, chosen, learning=learning),
                examples,
                chosen,
                self.rates(chosen),
                folder=Path(out),
                seed=seed,
                progress=progress,
            )
        held = sorted({fact.prompt.subject for fact in examples[1].facts})
        found = Trained(
            self.name, model.fingerprint(), model.name, model.dtype_name, at, chosen.plain(), dict(course.best),
            _report(course, time.monotonic() - started, held, seed),
        )  # fmt: skip
        found.save(out)
        return self.with_trained(found)

    @property
    def ready(self) -> bool:
        return self.trained is not None

    def usual_layers(self, model: Model, hparams: T) -> tuple[int, ...]:
        """Those it was trained for; before that, the last three, as published for GPT models."""
        return self.trained.layers if self.trained else tuple(range(max(0, model.n_layers - 3), model.n_layers))

    @final
    def make(self, job: Job[T]) -> Made:
        """The change that the trained network makes.

        Raises:
            UsageError: it is not trained, or on another model, for other layers or with other hyper-parameters.
        """
        if self.trained is None:
            raise UsageError(
                f"{self.name} has a network that must be trained first: mechinterp train-editor {self.name} MODEL "
                f"FACTS --out FOLDER, or EDITORS[{self.name!r}].train(...); then pass --trained FOLDER, or use what "
                "train() returned"
            )
        self.trained.check(job.model)
        if job.layers != self.trained.layers:
            raise UsageError(
                f"this {self.name} was trained for the layers {', '.join(map(str, self.trained.layers))}, not for "
                f"{', '.join(map(str, job.layers))}; leave layers= out"
            )
        state = {name: tensor.to(job.model.device) for name, tensor in self.trained.tensors.items()}
        with torch.no_grad():
            return self.made(job, self.restored(job.model, job.layers, job.hparams, state))


def _plain(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}


def _report(course: Course, seconds: float, held: Sequence[str], seed: int) -> dict[str, Any]:
    return {
        "steps": course.step, "best_step": course.best_step, "seconds": round(course.seconds or seconds, 1),
        "parameters": sum(one.numel() for one in course.network.parameters.values()), "log": course.log,
        "held_out": list(held), "seed": seed,
    }  # fmt: skip

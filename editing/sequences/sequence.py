"""Editing one batch after the other: each edit is made on the model as the earlier ones have left it.

The state is this object's own: the edits so far, and what the method remembers of them.  Nothing is kept in a module,
two sequences on one model know nothing of each other, and the model is itself again whenever no edit is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ...errors import UsageError
from ...given import Wholes
from ...models.model import Model
from ..editors.protocol import Editor, Moments, Requests
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..value.hparams import Hparams, ValueHparams
from .singles import sampled_contexts


class EditSequence:
    """A model edited again and again by one method.

    Args:
        model: the model; it must be the same throughout.
        editor: the method.
        layers, moments, contexts, preset, hparams, seed, allow_disabling, force: as of `Editor`, for every edit.
        allow_conflicts: accept requests within one batch that contradict each other (a later batch may always
            overwrite an earlier one).

    Raises:
        UsageError: bad input.
    """

    def __init__(
        self,
        model: Model,
        editor: Editor,
        layers: Wholes | None = None,
        *,
        moments: Moments | None = None,
        contexts: Sequence[str] | None = None,
        preset: str = "default",
        hparams: Hparams | None = None,
        seed: int = 0,
        allow_conflicts: bool = False,
        allow_disabling: bool = False,
        force: bool = False,
    ) -> None:
        self.model, self.editor = model, editor
        self.hparams = editor.chosen(preset, hparams, model)
        if editor.contexts and contexts is None and isinstance(self.hparams, ValueHparams):
            contexts = sampled_contexts(model, self.hparams, seed)  # once: of the unedited model, for every edit
        self.contexts = contexts
        self._layers = layers
        self._options: dict[str, Any] = {
            "moments": moments, "contexts": contexts, "hparams": self.hparams, "seed": seed, "force": force,
            "allow_disabling": allow_disabling, "allow_conflicts": allow_conflicts,
        }  # fmt: skip
        self._steps: list[Edit] = []
        self.past: Any = None

    def add(self, requests: Requests, *, progress: bool = False) -> Edit:
        """Edit once more.

        Args:
            requests: of this step: one, or as many as the method takes.
            progress: show bars.

        Returns:
            this step's edit; it presupposes the earlier ones.

        Raises:
            UsageError: bad input.
            MechinterpError: the edit cannot be made or is disabling; the sequence is as it was.
        """
        asked = EditRequest.all_of(requests, self.editor.name)
        with self.model.unchanged(), self.edit.on(self.model) if self._steps else nullcontext():
            made = self._make(asked, progress)
        self._steps.append(made)
        return made

    def _make(self, asked: list[EditRequest], progress: bool) -> Edit:
        made = self.editor(self.model, asked, self._layers, past=self.past, progress=progress, **self._options)
        if self.editor.remember is not None:
            self.past = self.editor.remember(
                self.model, made, asked, hparams=self.hparams, contexts=self.contexts, past=self.past
            )
        return made

    @property
    def steps(self) -> tuple[Edit, ...]:
        """The edits made, in order; each presupposes those before it."""
        return tuple(self._steps)

    @property
    def edit(self) -> Edit:
        """All edits together.

        Raises:
            UsageError: none was made yet.
        """
        return self.after(len(self._steps))

    def after(self, steps: int) -> Edit:
        """The first so many edits together.

        Raises:
            UsageError: fewer were made, or none is asked for.
        """
        if not 1 <= steps <= len(self._steps):
            raise UsageError(
                f"this sequence has {len(self._steps)} steps; ask for 1 to {len(self._steps)}, not {steps}"
            )
        joined = self._steps[0]
        for step in self._steps[1:steps]:
            joined = joined | step
        return joined

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"EditSequence({self.editor.name} on {self.model.name}, {len(self)} steps)"

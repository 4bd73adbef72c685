"""Editing one batch after the other: each edit is made on the model as the earlier ones have left it.

The state is this object's own: the edits so far, and what the method remembers of them.  Nothing is kept in a module,
two sequences on one model know nothing of each other, and the model is itself again whenever no edit is on.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Unpack

from ...errors import UsageError
from ...given import Wholes
from ...models.model import Model
from ..editors.protocol import Editor
from ..editors.supplies import Given, Requests
from ..edits.edit import Edit
from ..hyperparameters import Hparams


class EditSequence:
    """A model edited again and again by one method.

    Args:
        model: the model; it must be the same throughout.
        editor: the method.
        layers, preset, hparams, given: as of `Editor`, for every edit.  `allow_conflicts` accepts requests within one
            batch that contradict each other (a later batch may always overwrite an earlier one).

    Raises:
        UsageError: bad input.
    """

    def __init__(
        self,
        model: Model,
        editor: Editor[Any],
        layers: Wholes | None = None,
        *,
        preset: str = "default",
        hparams: Hparams | None = None,
        **given: Unpack[Given],
    ) -> None:
        self.model, self.editor = model, editor
        self.hparams = editor.chosen(preset, hparams, model)
        # Contexts are sampled once, of the unedited model, and serve every edit.
        seed, contexts = given.get("seed", 0), given.get("contexts")
        self.contexts = editor.contexts(model, self.hparams, contexts, seed)
        self._layers = layers
        self._given: Given = {**given, "contexts": self.contexts or None}
        self._steps: list[Edit] = []
        self.past: Any = given.get("past")

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
        given: Given = {**self._given, "past": self.past, "progress": progress}
        with self.model.unchanged(), self.edit.on(self.model) if self._steps else nullcontext():
            job = self.editor.job(self.model, requests, self._layers, hparams=self.hparams, **given)
            made = self.editor.edit(job)
            if self.editor.remembers:
                self.past = self.editor.remember(job, made)
        self._steps.append(made)
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

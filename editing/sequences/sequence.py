"""Editing one batch after the other: each edit is made on the model as the earlier ones have left it.

The state is this object's own: the edits so far, and what the method remembers of them.  Nothing is kept in a module,
two sequences on one model know nothing of each other, and the model is itself again whenever no edit is on.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Unpack

from ...errors import UsageError
from ...given import Wholes
from ...models.model import Model
from ...public import public
from ..editors.protocol import Editor
from ..editors.registry import editor as named
from ..editors.supplies import Given, Moments, Requests
from ..edits.edit import Edit
from ..hyperparameters import Hparams
from .saved import SavedSequence, fingerprints

_SETTINGS = (
    "contexts", "templates", "perplexity_texts", "seed", "force", "allow_conflicts", "allow_disabling",
    "require_success",
)  # fmt: skip
"""Of what was given, all that a file can keep."""


class EditSequence:
    """A model edited again and again by one method.

    Args:
        model: the model; it must be the same throughout.
        editor: the method, or its name in `EDITORS`.
        layers, preset, hparams, given: as of `Editor`, for every edit.  `allow_conflicts` accepts requests within one
            batch that contradict each other (a later batch may always overwrite an earlier one).

    Raises:
        UsageError: bad input.
    """

    @public
    def __init__(
        self,
        model: Model,
        editor: Editor[Any] | str,
        layers: Wholes | None = None,
        *,
        preset: str = "default",
        hparams: Hparams | None = None,
        **given: Unpack[Given],
    ) -> None:
        self.model: Model = model
        self.editor: Editor[Any] = editor if isinstance(editor, Editor) else named(editor)
        self.hparams = self.editor.chosen(preset, hparams, model)
        # Contexts are sampled once, of the unedited model, and serve every edit.
        seed, contexts = given.get("seed", 0), given.get("contexts")
        self.contexts = self.editor.contexts(model, self.hparams, contexts, seed)
        self._layers = None if layers is None else list(model.layout.check_layers(layers))
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
            past = self.editor.remember(job, made) if self.editor.remembers else self.past
        self._steps, self.past = [*self._steps, made], past  # both or, interrupted, neither
        return made

    @public
    def save(self, path: str | Path) -> None:
        """Write the edits made so far, all settings, and what the method remembers, so that `load` goes on from here.

        Of second moments is written only which they were.

        Raises:
            UsageError: what a method of your own remembers is of a kind that cannot be written.
            StorageError: it cannot be written; the sequence is still in memory.
        """
        settings = {name: value for name, value in self._given.items() if name in _SETTINGS}
        SavedSequence(
            editor=self.editor.name,
            model=self.model.fingerprint(),
            model_name=self.model.name,
            model_dtype=self.model.dtype_name,
            hparams=self.hparams.plain(),
            moments=fingerprints(self._given.get("moments")),
            options={"layers": self._layers, **settings},
            steps=self.steps,
            past=self.past,
        ).write(path)

    @staticmethod
    @public
    def load(
        path: str | Path, model: Model, *, moments: Moments | None = None, editor: Editor[Any] | None = None
    ) -> EditSequence:
        """Go on with a saved sequence: the next edit is the one that would have been made had it never been saved.

        Args:
            path: the file.
            model: the unedited model.
            moments: the second moments it was begun with, where its method needs any.
            editor: a method of your own; default: that of `EDITORS` with its name.

        Raises:
            UsageError: no such file, no sequence, or one of another model, other second moments or another method.
            DamagedError: the file does not hold what was written, or is cut short.
        """
        saved = SavedSequence.read(path)
        saved.check(path, model, moments)
        method = named(saved.editor) if editor is None else editor
        if method.name != saved.editor:
            raise UsageError(f"the sequence {str(path)!r} was made by {saved.editor}, not by {method.name}; give that")
        hparams = method.presets["default"].with_(**saved.figures())
        sequence = EditSequence(model, method, moments=moments, hparams=hparams, **saved.options)
        sequence._steps, sequence.past = list(saved.steps), saved.past
        return sequence

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

"""Answers under many edits at once: every row carries its own edit, and what no edit reaches is computed once.

Below the first edited layer all edits leave the model as it is.  So a text is run through these layers once, with the
unedited answer as a by-product, and the rows of all its edits enter at the first edited layer.  Whether a model can be
entered there is tried on the first rows; one that cannot is run whole for every edit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...editing.edits.row_edits import UNEDITED, RowEdits
from ...errors import MechinterpError
from ...forwards import unembedding
from ...forwards.tolerances import same_logits
from ...forwards.unembedding import Logits, whole
from ...models.layout import RESID_PRE
from ...models.model import Model
from ...patching.plain.executor import forward
from .answer_rows import AnswerRows, Sheet


def score_under_edits(
    model: Model, rows: AnswerRows, edits: RowEdits, asked: Sequence[tuple[int, int]], *, batch_size: int = 64
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score answers without an edit, and under the edits they are asked under.

    Args:
        model: the unedited model.
        rows: the answers.
        edits: the edits.
        asked: (answer, edit) by number: this answer is wanted under this edit.
        batch_size: rows per forward.

    Returns:
        The scores of all answers without an edit, and those of `asked` in its order; columns as of
        `score_answers`, without the words.

    Raises:
        UsageError: the edits were made for another model.
        MechinterpError: log-probabilities that are not finite.
    """
    unedited = Sheet(rows, range(len(rows.answers)))
    edited = Sheet(rows, [answer for answer, _ in asked])
    read: dict[int, list[int]] = defaultdict(list)
    for answer, row in enumerate(rows.row):
        read[row].append(answer)
    wanted: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # row -> edit -> entries
    for entry, (answer, edit) in enumerate(asked):
        wanted[rows.row[answer]][edit].append(entry)
    upper = _Upper(model, edits)
    with edits.on(model):
        for batch, keep in rows.batches(batch_size):
            ids = torch.tensor([rows.ids[row] for row in batch])
            logits, states = upper.lower(ids, keep)
            unedited.enter(logits, [(answer, i) for i, row in enumerate(batch) for answer in read[row]])
            runs = [(i, edit, entries) for i, row in enumerate(batch) for edit, entries in wanted[row].items()]
            for start in range(0, len(runs), batch_size):
                some = runs[start : start + batch_size]
                source = torch.tensor([i for i, _, _ in some])
                edits.rows([edit for _, edit, _ in some])
                found = upper.run(ids, states, source, keep)
                edited.enter(found, [(entry, at) for at, (_, _, entries) in enumerate(some) for entry in entries])
    return unedited.frame(), edited.frame()


class _Upper:
    """The layers from the first edited one on, entered with states that were computed before."""

    def __init__(self, model: Model, edits: RowEdits) -> None:
        self._model, self._edits = model, edits
        self._hook = model.layout.hook(RESID_PRE, edits.layers[0])
        self._enters: bool | None = None

    def lower(self, ids: Int[Tensor, "row pos"], keep: int) -> tuple[Logits, Float[Tensor, "row pos d_model"]]:
        """Unedited logits (or what they are made of), and the states that enter the first edited layer."""
        self._edits.rows([UNEDITED] * len(ids))
        plain = forward(self._model, ids, reads=[self._hook], keep=keep)
        states = plain.cache[self._hook]
        if self._enters is None:
            self._enters = self._tried(ids, states, plain.logits, keep)
        return plain.ends, states

    def run(
        self,
        ids: Int[Tensor, "row pos"],
        states: Float[Tensor, "row pos d_model"],
        source: Int[Tensor, " run"],
        keep: int,
    ) -> Logits:
        """Logits (or what they are made of) of rows that start from the states of their sources."""
        if not self._enters:
            return unembedding.run(self._model, ids[source], **self._model.arguments(keep))[:, -keep:]
        return self._enter(ids[:1], states[source.to(states.device)], keep)

    def _enter(self, ids: Int[Tensor, "1 pos"], states: Float[Tensor, "run pos d_model"], keep: int) -> Logits:
        """The lower layers see one row, so that mask and positions fit any number; then the states take its place."""
        fired: list[bool] = []

        def enter(value: Tensor, hook: object) -> Tensor:
            fired.append(True)
            return states

        hooks = [(self._hook, enter)]
        logits = unembedding.run(self._model, ids, hooks, use_cache=False, logits_to_keep=keep)
        if len(fired) != 1:
            raise MechinterpError(
                f"the hook point {self._hook!r} of {self._model.name} fired {len(fired)} times, not 1"
            )
        return logits

    def _tried(
        self,
        ids: Int[Tensor, "row pos"],
        states: Float[Tensor, "row pos d_model"],
        expected: Float[Tensor, "row kept vocab"],
        keep: int,
    ) -> bool:
        """Whether three unedited rows that enter half-way come out as they do from the whole model."""
        source = torch.tensor([0, len(ids) - 1, 0], device=states.device)
        self._edits.rows([UNEDITED] * 3)
        try:
            found = self._enter(ids[:1], states[source], keep)
        except RuntimeError:  # a mask or positions that were made for another number of rows
            return False
        if found.shape[0] != 3:
            return False
        return same_logits(whole(found), expected[source.to(expected.device)], dtype=expected.dtype)

"""What a leaderboard is asked for, as a frozen value: which edits of how many facts, by editors with which layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...editing.hyperparameters import Hparams
from ...editing.moments.moments import SecondMoment
from ...given import Names, Wholes, flag, names_of, seed_of, whole, wholes
from ..evaluation.measures import MeasureOptions

SINGLE, BATCH, SEQUENTIAL = "single", "batch", "sequential"
MODES = (SINGLE, BATCH, SEQUENTIAL)
"""Each fact by an edit of its own on the unedited model; all by one edit; one after another, judged after the last."""


class ContestOptions(MeasureOptions, total=False):
    """The keywords that `leaderboard` takes: the fields of `Contest` and of `Measures`."""

    edits: Names
    sizes: Wholes
    groups: int | None
    per_step: int
    retention: bool
    moments: Mapping[int, SecondMoment] | None
    layers: Mapping[str, Wholes] | None
    hparams: Mapping[str, Hparams] | None
    allow_disabling: bool
    allow_conflicts: bool
    seed: int


@dataclass(frozen=True)
class Contest:
    """Which edits are made.

    Args:
        edits: "single" (each fact by an edit of its own on the unedited model), "batch" (one edit of `size` facts),
            "sequential" (`size` facts one after the other, judged after the last), or several of them.
        sizes: of batches and sequences.  The facts are shared out to as many groups of a size as they fill; each group
            starts from the unedited model.
        groups: at most so many groups of each size above 1.
        per_step: facts edited together in each step of a sequence.
        retention: look at each editor's first sequence of the largest size on its way, too.
        moments: second moments by layer, for the editors that need them.
        layers: editor -> layers, where they are not to be the published ones.
        hparams: editor -> hyper-parameters, where they are not to be the default ones.
        allow_disabling: judge edits that endanger the model, so that their damage is in the figures; else they count as
            failed.  A failed edit is counted as no edit.
        allow_conflicts: accept batches whose requests contradict each other.
        seed: of contexts and editors.

    Raises:
        UsageError: something that is no number or no name.
    """

    edits: Names = SINGLE
    sizes: Wholes = (1, 10, 100)
    groups: int | None = None
    per_step: int = 1
    retention: bool = True
    moments: Mapping[int, SecondMoment] | None = None
    layers: Mapping[str, Wholes] | None = None
    hparams: Mapping[str, Hparams] | None = None
    allow_disabling: bool = True
    allow_conflicts: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(dict.fromkeys(names_of(self.edits, "edits"))))
        object.__setattr__(self, "sizes", wholes(self.sizes, "sizes"))
        object.__setattr__(self, "groups", None if self.groups is None else whole(self.groups, "groups"))
        object.__setattr__(self, "per_step", whole(self.per_step, "per_step"))
        object.__setattr__(self, "seed", seed_of(self.seed))
        for name in ("retention", "allow_disabling", "allow_conflicts"):
            object.__setattr__(self, name, flag(getattr(self, name), name))

    @property
    def modes(self) -> tuple[str, ...]:
        """The ways of editing."""
        return tuple(self.edits)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The sizes."""
        return wholes(self.sizes, "sizes")

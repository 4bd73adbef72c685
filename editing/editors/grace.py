"""GRACE: a codebook beside one matrix, an entry for each edit, nothing else changed (Hartvigsen et al. 2023).

The key is what enters the matrix at the prompt's last token; the value, trained by Adam until the model says the
target, stands in the place of what leaves it.  A prompt whose query lies in no entry's radius is answered by the model
itself, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import UsageError
from ...runs.progress import progress_bar
from ..edits.codebook import BEFORE, QUERY, REPLACED, Codebook
from ..edits.edit import Edit
from ..edits.report import BatchReport, RomeReport
from ..gradients.replaced import Replacing, at_ends, find_values, target_rows
from ..hyperparameters import LR_RULES, Hparams
from ..judging.told import Went, told
from ..rows.completions import completions
from .grace_entries import COVERAGE, EXPANSIONS, IGNORED, LABELS, MEANS, NEWEST_FIRST, TOKENS, Entries, Growth
from .protocol import Editor, Job, Made

_TOGETHER = 64
"""Requests whose values are trained in one batch."""
COLD, WARM = STARTS = ("cold", "warm")


@dataclass(frozen=True)
class GraceHparams(Hparams):
    """How a codebook is kept.

    Args:
        matrix: "up" or "down": whose inputs are keys and whose outputs are replaced.
        radius: ε₀, how far a new entry reaches.
        radius_rule: "absolute": as it is; "relative": in units of the key's norm.
        expand: what an entry does for a query of its own label: "coverage" or "moving average".
        labels: how labels are compared: "tokens", "means" (the authors' code) or "means, newest first" (EasyEdit's).
        replaces: "query", "before" or "all": the output at which of the prompt's tokens.
        steps: steps of Adam at most.
        lr: its learning rate.
        lr_rule: "absolute", or "relative": in units of the root mean square of what leaves the matrix there.
        start: of a value: "cold" (uniform in [0, 1)) or "warm" (what leaves the matrix).
        stop_loss: no further step once the NLL per target token is below this (nats).
        only_errors: edit only what the model does not say already.
        slack: see `Growth`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "GRACE"

    matrix: str = "down"
    radius: float = 0.2
    radius_rule: str = "relative"
    expand: str = COVERAGE
    labels: str = TOKENS
    replaces: str = QUERY
    steps: int = 50
    lr: float = 0.3
    lr_rule: str = "relative"
    start: str = WARM
    stop_loss: float = 0.02
    only_errors: bool = True
    slack: float = 1e-4

    def __post_init__(self) -> None:
        self._one_of(
            matrix=("up", "down"), radius_rule=LR_RULES, expand=EXPANSIONS, labels=LABELS, replaces=REPLACED,
            lr_rule=LR_RULES, start=STARTS,
        )  # fmt: skip
        self._above_zero("radius", "lr")
        self._not_negative("steps", "stop_loss", "slack")


_PUBLISHED = GraceHparams(
    matrix="up", radius=1.0, radius_rule="absolute", labels=MEANS, replaces=BEFORE, steps=100, lr=1.0,
    lr_rule="absolute", start=COLD, stop_loss=0.0, slack=0.0,
)  # fmt: skip
GRACE_PRESETS: dict[str, GraceHparams] = {
    "default": GraceHparams(),
    "paper": _PUBLISHED.with_(labels=TOKENS, replaces=QUERY),
    "published": _PUBLISHED,
    "easyedit": _PUBLISHED.with_(labels=NEWEST_FIRST, replaces=QUERY, steps=200, only_errors=False),
}
"""`published`: the authors' code, as it edits GPT-2 XL for the hallucination task.  It replaces what leaves the matrix
*before* the query token and not at it, and takes labels for equal whose ids (the prompt's -100 with them) have equal
means.  `paper`: without these two.  `easyedit`: the port, which reads labels in the wrong order from the second entry
on and edits what is said already.

In two things none follows the published code: whether an entry answers is decided once, at the prompt's last token,
and not anew at every generated one (so a cache, padding and what is fed change nothing); inference never changes a
codebook.

`default` is set by hand (docs/editors.md).
"""


@dataclass(frozen=True, eq=False)
class _Read:
    """What is known of a job's requests before anything is trained."""

    queries: Float64[Tensor, "request d_in"]
    outputs: Float[Tensor, "request d_out"]
    labels: tuple[tuple[int, ...], ...]
    said: tuple[bool, ...]

    def start(self, i: int, hparams: GraceHparams, seed: int) -> Float[Tensor, " d_out"]:
        """Where the value of a new entry begins."""
        if hparams.start == WARM:
            return self.outputs[i]
        drawn = torch.rand(self.outputs.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return drawn.to(self.outputs)

    def growth(self, i: int, hparams: GraceHparams) -> Growth:
        unit = float(self.queries[i].norm()) if hparams.radius_rule == "relative" else 1.0
        return Growth(hparams.radius * unit, hparams.expand, hparams.labels, slack=hparams.slack)

    def lr(self, i: int, hparams: GraceHparams) -> float:
        unit = float(self.outputs[i].square().mean().sqrt()) if hparams.lr_rule == "relative" else 1.0
        return hparams.lr * unit


class Grace(Editor[GraceHparams]):
    """GRACE; what it takes as `past` are the entries of earlier edits (`Entries`).

    The requests of one edit enter the codebook one after another.
    """

    hparams_type = GraceHparams
    decoders_only = True
    one_layer = True

    def make(self, job: Job[GraceHparams]) -> Made:
        """An entry of each request."""
        read, before = _read(job), _past(job)
        entries, went = before, list[Went | None]()
        with progress_bar("requests", len(job.requests), shown=job.options.progress) as advance:
            for i in range(len(job.requests)):
                if read.said[i]:
                    went.append(None)
                else:
                    entries, [one] = _trained(job, read, [i], [_grown(job, read, i, entries)])
                    went.append(one)
                advance(1)
        return _made(job, entries, before, went)

    def make_each(self, job: Job[GraceHparams]) -> list[Made]:
        """A codebook of each request alone, the values of many trained in one batch."""
        read, before = _read(job), _past(job)
        found = [_made(job.alone(i), before, before, [None]) for i in range(len(job.requests))]
        wrong = [i for i, said in enumerate(read.said) if not said]
        with progress_bar("requests", len(wrong), shown=job.options.progress) as advance:
            for begin in range(0, len(wrong), _TOGETHER):
                some = wrong[begin : begin + _TOGETHER]
                grown = [_grown(job, read, i, before) for i in some]
                for i, (entries, went) in zip(some, _each_trained(job, read, some, grown), strict=True):
                    found[i] = _made(job.alone(i), entries, before, [went])
                advance(len(some))
        return found

    def remember(self, job: Job[GraceHparams], edit: Edit) -> Entries:
        """The entries with those of this edit."""
        [part] = edit.parts
        assert isinstance(part.change, Codebook)
        return _past(job).with_book(part.change)

    def judge(self, job: Job[GraceHparams], made: Made, seconds: float) -> BatchReport | RomeReport:
        """With how the training of each value went."""
        return told(super().judge(job, made, seconds), made.notes)


def _read(job: Job[GraceHparams]) -> _Read:
    model, hparams = job.model, job.hparams
    rows = target_rows(model, job.requests)
    entering, leaving = at_ends(model, rows, job.layers[0], hparams.matrix)
    targets = [tokens[real].tolist() for tokens, real in zip(rows.targets.tokens, rows.targets.real, strict=True)]
    labels = tuple((*[IGNORED] * (int(end) + 1), *target) for end, target in zip(rows.batch.end, targets, strict=True))
    said = [False] * len(job.requests)
    if hparams.only_errors:
        asked = [(request.prompt, request.target) for request in job.requests]
        said = [one.top for one in completions(model, asked)]
    precise = leaving if leaving.dtype == torch.float64 else leaving.float()
    return _Read(entering.double(), precise, labels, tuple(said))


def _past(job: Job[GraceHparams]) -> Entries:
    past: Any = job.supplies.past
    if past is None:
        wide, narrow = job.model.layout.mlp_matrix(job.hparams.matrix, job.layers[0]).shape
        dtype = torch.float64 if job.model.dtype == torch.float64 else torch.float32
        return Entries.none(int(wide), torch.zeros(0, int(narrow), dtype=dtype))
    if not isinstance(past, Entries):
        raise UsageError(f"past is {type(past).__name__}; give the Entries that an earlier edit of grace has left")
    return past


def _grown(job: Job[GraceHparams], read: _Read, i: int, entries: Entries) -> tuple[Entries, int]:
    start = read.start(i, job.hparams, job.options.seed)
    return entries.grown(read.queries[i], read.labels[i], start, read.growth(i, job.hparams))


def _trained(
    job: Job[GraceHparams], read: _Read, some: Sequence[int], grown: Sequence[tuple[Entries, int]]
) -> tuple[Entries, list[Went | None]]:
    [(entries, went)] = _each_trained(job, read, some, grown)
    return entries, [went]


def _each_trained(
    job: Job[GraceHparams], read: _Read, some: Sequence[int], grown: Sequence[tuple[Entries, int]]
) -> list[tuple[Entries, Went]]:
    """The entries of each with the chosen one's value trained, each as if it were alone."""
    hparams = job.hparams
    found = find_values(
        job.model,
        [job.requests[i] for i in some],
        Replacing(job.layers[0], hparams.matrix, hparams.replaces),
        torch.stack([entries.values[chosen] for entries, chosen in grown]),
        lr=[read.lr(i, hparams) for i in some],
        steps=hparams.steps,
        stop_loss=hparams.stop_loss,
    )
    return [
        (entries.valued(chosen, value), Went.of(losses, hparams.stop_loss))
        for (entries, chosen), value, losses in zip(grown, found.values, found.losses, strict=True)
    ]


def _made(job: Job[GraceHparams], entries: Entries, before: Entries, went: Sequence[Went | None]) -> Made:
    book = entries.book(entries.since(before), job.layers[0], job.hparams.matrix, job.hparams.replaces)
    said = tuple(
        f"{request.prompt.text!r}: the model says {request.target!r} already, so grace adds nothing for it"
        for request, one in zip(job.requests, went, strict=True)
        if one is None
    )
    return Made(book, warnings=said, notes=list(went))


grace = Grace("grace", "Hartvigsen et al. 2023 (GRACE)", GRACE_PRESETS, "grace")
"""Answer a prompt like an edit's with a value of its own: an `Editor`; call it with the model and the requests."""

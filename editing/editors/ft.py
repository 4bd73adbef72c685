"""Fine-tuning as an editor: a dense change of MLP down-projections that lowers the NLL of the targets.

The published baseline tunes exactly this matrix (`mlp.c_proj`, `fc_out`) of one layer.  Three variants:

ft          unconstrained
ft-l        each weight is kept within W₀ ± ε                           (Zhu et al. 2020)
ft-legacy   either with the published loss, which scores all target tokens after the prompt's last token: every row of
            targets longer than one token that was published as FT, FT-L or FT+L is this one (presets `published-ft`
            and those named after models)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from ...given import Wholes
from ...models.model import Model
from ...runs.progress import progress_bar
from ..edits.active import active_edits
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.provenance import Provenance
from ..edits.report import BatchReport
from ..edits.request import EditRequest
from ..gradients.descent import Course, descend
from ..judging.conflicts import check_conflicts
from ..judging.many import Limits, judge_batch, refuse_disabling
from .families import default_layers
from .ft_hparams import FT_L_PRESETS, FT_LEGACY_PRESETS, FT_PRESETS, FtHparams
from .protocol import Editor, Requests

_MAX_WEIGHTS = 1 << 22
"""Weights trained at once by `ft_each`; Adam holds six numbers for each."""


def ft(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    hparams: FtHparams | None = None,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Make the model say the targets of all requests by fine-tuning its down-projections on them.

    ΔW has full rank, so the edit is as large as the matrix.

    Args:
        model: the model; edits that are on take part, and the new edit then presupposes them.
        requests: what it should say; their mean NLL is the loss.
        layers: which layers' down-projections; default: the published one of this model, where there is one.
        hparams: default: `FT_PRESETS["default"]`; those of the other variants are in `FT_L_PRESETS` and
            `FT_LEGACY_PRESETS`.
        allow_conflicts: accept requests that contradict each other.
        allow_disabling: return an edit even if it endangers the model as a whole.
        seed: nothing here is drawn, so it has no effect; every editor takes one.
        force: nothing here is collected from other weights, so it has no effect either.
        progress: show a bar over the steps.

    Raises:
        UsageError: bad input (no layer known, a subject or target the vocabulary cannot spell, requests that contradict
            each other).
        MechinterpError: the loss became NaN or infinite, or the edit is disabling.
    """
    asked, chosen = EditRequest.all_of(requests, "ft"), hparams or FT_PRESETS["default"]
    warnings, indices = check_conflicts(model, asked, allow=allow_conflicts), _layers(model, layers, chosen)
    started = time.perf_counter()
    with progress_bar("steps", chosen.steps + 1, shown=progress) as advance:
        [course] = descend(model, [asked], indices, chosen, advance)
    seconds = time.perf_counter() - started
    edit = _edit(model, asked, course, chosen, indices, model.fingerprint(), seconds, warnings)
    refuse_disabling(edit.report, f"the edit by {chosen.variant}", allow=allow_disabling)
    return edit


def ft_each(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    hparams: FtHparams | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> list[Edit]:
    """An edit of each request alone: what `ft` gives for it, many trained in one batch.

    Args:
        model, requests, layers and the rest: as of `ft`.

    Returns:
        One edit per request, in order, each made on the model as it stands.  A disabling one is among them, and its
        report says so.

    Raises:
        UsageError: bad input.
        MechinterpError: the loss of one of them became NaN or infinite.
    """
    asked, chosen = EditRequest.all_of(requests, "ft"), hparams or FT_PRESETS["default"]
    indices, fingerprint = _layers(model, layers, chosen), model.fingerprint()
    size = max(1, _MAX_WEIGHTS // (len(indices) * model.d_mlp * model.d_model))
    edits = []
    with progress_bar("steps", len(asked) * (chosen.steps + 1), shown=progress) as advance:
        for start in range(0, len(asked), size):
            some, started = asked[start : start + size], time.perf_counter()
            courses = descend(model, [[request] for request in some], indices, chosen, advance)
            seconds = (time.perf_counter() - started) / len(some)
            for request, course in zip(some, courses, strict=True):
                warnings = check_conflicts(model, [request])
                edits.append(_edit(model, [request], course, chosen, indices, fingerprint, seconds, warnings))
    return edits


def _layers(model: Model, layers: Wholes | None, hparams: FtHparams) -> list[int]:
    """Without repetition, in order."""
    family = "ft" if hparams.epsilon is None else "ft-l"
    wanted = default_layers(model, family) if layers is None else layers
    return sorted(set(model.layout.check_layers(wanted)))


def _edit(
    model: Model,
    requests: Sequence[EditRequest],
    course: Course,
    hparams: FtHparams,
    layers: list[int],
    fingerprint: str,
    seconds: float,
    warnings: Sequence[str],
) -> Edit:
    factors = {layer: Factors.of_dense(delta) for layer, delta in course.deltas.items()}
    limits = Limits(essence=hparams.max_essence)
    report = judge_batch(model, requests, factors, seconds=seconds, warnings=warnings, limits=limits)
    return Edit.of(
        factors,
        Provenance(
            method=hparams.variant,
            model=fingerprint,
            model_name=model.name,
            requests=tuple(requests),
            hparams=hparams.plain() | {"layers": layers},
            on_top_of=active_edits(model),
            report=_told(report, course),
        ),
    )


def _told(report: BatchReport, course: Course) -> BatchReport:
    """The report, with how the training of each request went."""
    outcomes = []
    for outcome, first, last in zip(report.outcomes, course.first, course.last, strict=True):
        went = f"; {course.steps} steps brought its NLL from {first:.3f} to {last:.3f}"
        reason = outcome.reason + went if outcome.reason else ""
        outcomes.append(replace(outcome, reason=reason, nll_first=first, nll_last=last))
    return replace(report, outcomes=tuple(outcomes))


def _editor(name: str, presets: dict[str, FtHparams], source: str, layers: str) -> Editor:
    return Editor(
        name=name, make=ft, hparams=FtHparams, presets=presets, source=source, layers=layers, each=ft_each,
        variant=attrgetter("variant"),
    )  # fmt: skip


FT = _editor("ft", FT_PRESETS, "Meng et al. 2022 (FT), but with the loss of all target tokens", "ft")
FT_L = _editor("ft-l", FT_L_PRESETS, "Zhu et al. 2020, but with the loss of all target tokens (EasyEdit: FT-M)", "ft-l")
FT_LEGACY = _editor("ft-legacy", FT_LEGACY_PRESETS, "Meng et al. 2022 as they ran it (FT, FT-L)", "ft-l")

"""Fine-tuning as an editor: a dense change of MLP down-projections that lowers the NLL of the targets.

The published baseline tunes exactly this matrix (`mlp.c_proj`, `fc_out`) of one layer.  Three variants:

ft          unconstrained
ft-l        each weight is kept within W₀ ± ε                           (Zhu et al. 2020)
ft-legacy   either with the published loss, which scores all target tokens after the prompt's last token: every row of
            targets longer than one token that was published as FT, FT-L or FT+L is this one (presets `published-ft`
            and those named after models)
"""

from __future__ import annotations

from ...runs.progress import progress_bar
from ..edits.factors import Factors
from ..edits.report import BatchReport, RomeReport
from ..edits.weights import WeightChange
from ..gradients.descent import Course, FtHparams, descend
from ..judging.many import Limits
from ..judging.told import Went, told
from .ft_presets import FT_L_PRESETS, FT_LEGACY_PRESETS, FT_PRESETS
from .protocol import Editor, Job, Made

_MAX_WEIGHTS = 1 << 22
"""Weights trained at once of many edits; Adam holds six numbers for each."""


class FineTuning(Editor[FtHparams]):
    """Fine-tuning; ΔW has full rank, so an edit is as large as the matrices."""

    hparams_type = FtHparams

    def make(self, job: Job[FtHparams]) -> Made:
        """One change for all requests; their mean NLL is the loss."""
        with progress_bar("steps", job.hparams.steps + 1, shown=job.options.progress) as advance:
            [course] = descend(job.model, [job.requests], job.layers, job.hparams, advance)
        return _made(course)

    def make_each(self, job: Job[FtHparams]) -> list[Made]:
        """A change of each request alone, many trained in one batch."""
        model, hparams, made = job.model, job.hparams, list[Made]()
        size = max(1, _MAX_WEIGHTS // (len(job.layers) * model.d_mlp * model.d_model))
        total = len(job.requests) * (hparams.steps + 1)
        with progress_bar("steps", total, shown=job.options.progress) as advance:
            for start in range(0, len(job.requests), size):
                some = [[request] for request in job.requests[start : start + size]]
                made += map(_made, descend(model, some, job.layers, hparams, advance))
        return made

    def judge(self, job: Job[FtHparams], made: Made, seconds: float) -> BatchReport | RomeReport:
        """With how the training of each request went."""
        course: Course = made.notes
        report = super().judge(job, made, seconds)
        pairs = zip(course.first, course.last, strict=True)
        return told(report, [Went(first, last, course.steps) for first, last in pairs])

    def family_of(self, hparams: FtHparams) -> str:
        return "ft" if hparams.epsilon is None else "ft-l"

    def limits(self, hparams: FtHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _made(course: Course) -> Made:
    factors = {place: Factors.of_dense(delta) for place, delta in course.deltas.items()}
    return Made(WeightChange(factors), notes=course)


ft = FineTuning("ft", "Meng et al. 2022 (FT), but with the loss of all target tokens", FT_PRESETS)
ft_l = FineTuning("ft-l", "Zhu et al. 2020, but with the loss of all target tokens (EasyEdit: FT-M)", FT_L_PRESETS)
ft_legacy = FineTuning("ft-legacy", "Meng et al. 2022 as they ran it (FT, FT-L)", FT_LEGACY_PRESETS)
"""The three variants, each an `Editor`; call it with the model and the requests."""

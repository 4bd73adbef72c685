"""What a trace says of its prompts, what an edit did to a model, and the figures of both."""

from ..facts.prompts import Portability
from .damage.diff import diff
from .damage.forecast import forecast
from .damage.forecast_correlation import forecast_correlation
from .effects.attribution_error import attribution_error
from .effects.averages import average_indirect_effects, average_total_effect, difference_of_effects
from .effects.diagnostics import Finding, diagnose
from .effects.effects import ablation_effects, indirect_effects, role_effects, total_effects
from .effects.interaction import interaction_effects, trace_both_ways
from .effects.lens import logit_lens
from .effects.strongest import top
from .effects.until import trace_until
from .effects.windows import window_against_singles
from .evaluation.comparison import compare
from .evaluation.edit_metrics import summarise
from .evaluation.evaluation import Evaluation, evaluate_edit, evaluate_editors, evaluate_edits
from .evaluation.fluency import fluency
from .evaluation.generation import Sampling, generate, generate_under_edits
from .evaluation.knowing import known, some_known
from .evaluation.metric_table import COUNTERFACT, METRICS, YAO_METRICS, ZSRE_METRICS, metric_table
from .evaluation.multihop import (
    HopQuestion,
    Transcript,
    mello_answer,
    mello_answers,
    memory_embedder,
    read_hop_questions,
    writer,
)
from .evaluation.portability import portability_of
from .evaluation.questions import ask_facts
from .evaluation.references import References, ReferenceText, atlas_references, read_references
from .evaluation.retention import Retention, retention
from .evaluation.scoring import score_answers
from .evaluation.under_edits import Failed
from .intervals import Intervals, bootstrap_band, bootstrap_mean, bootstrap_of_means, bootstrap_share
from .plots.aie import plot_aie
from .plots.diff import plot_diff
from .plots.edits import plot_edit_by_layer
from .plots.heads import plot_heads
from .plots.leaderboard import plot_leaderboard
from .plots.prompt import plot_prompt
from .plots.retention import plot_retention
from .trials.leaderboard import leaderboard
from .trials.result import Leaderboard
from .trials.rome_sweep import rome_by_layer
from .trials.sweep import edit_by_layer, layer_summary

__all__ = [
    "ask_facts",
    "atlas_references",
    "ablation_effects",
    "attribution_error",
    "average_indirect_effects",
    "average_total_effect",
    "bootstrap_band",
    "bootstrap_mean",
    "bootstrap_of_means",
    "bootstrap_share",
    "compare",
    "COUNTERFACT",
    "diagnose",
    "diff",
    "difference_of_effects",
    "edit_by_layer",
    "evaluate_edit",
    "evaluate_editors",
    "evaluate_edits",
    "Evaluation",
    "Failed",
    "Finding",
    "fluency",
    "forecast",
    "forecast_correlation",
    "generate",
    "generate_under_edits",
    "HopQuestion",
    "indirect_effects",
    "interaction_effects",
    "Intervals",
    "known",
    "layer_summary",
    "Leaderboard",
    "leaderboard",
    "mello_answer",
    "mello_answers",
    "memory_embedder",
    "logit_lens",
    "metric_table",
    "METRICS",
    "plot_aie",
    "plot_diff",
    "plot_edit_by_layer",
    "plot_heads",
    "plot_leaderboard",
    "plot_prompt",
    "plot_retention",
    "Portability",
    "portability_of",
    "read_hop_questions",
    "read_references",
    "References",
    "ReferenceText",
    "Retention",
    "retention",
    "role_effects",
    "rome_by_layer",
    "Sampling",
    "score_answers",
    "some_known",
    "summarise",
    "top",
    "total_effects",
    "Transcript",
    "trace_both_ways",
    "trace_until",
    "window_against_singles",
    "writer",
    "YAO_METRICS",
    "ZSRE_METRICS",
]


def __dir__() -> list[str]:
    return __all__

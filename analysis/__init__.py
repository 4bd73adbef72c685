"""What a trace says of its prompts, what an edit did to a model, and the figures of both."""

from .averages import average_indirect_effects as average_indirect_effects
from .averages import average_total_effect as average_total_effect
from .averages import difference_of_effects as difference_of_effects
from .diagnostics import Finding as Finding
from .diagnostics import diagnose as diagnose
from .edit_metrics import summarise as summarise
from .effects import indirect_effects as indirect_effects
from .effects import role_effects as role_effects
from .effects import total_effects as total_effects
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate_edit as evaluate_edit
from .evaluation import evaluate_edits as evaluate_edits
from .intervals import Intervals as Intervals
from .intervals import bootstrap_band as bootstrap_band
from .intervals import bootstrap_mean as bootstrap_mean
from .intervals import bootstrap_of_means as bootstrap_of_means
from .intervals import bootstrap_share as bootstrap_share
from .plot_aie import plot_aie as plot_aie
from .plot_edits import plot_edit_by_layer as plot_edit_by_layer
from .plot_prompt import plot_prompt as plot_prompt
from .questions import ask as ask
from .rome_sweep import rome_by_layer as rome_by_layer
from .scoring import score as score
from .sweep import edit_by_layer as edit_by_layer
from .sweep import layer_summary as layer_summary
from .windows import window_against_singles as window_against_singles

"""Edit what a model knows: an edit is a value that can be applied, undone, saved and composed."""

from .editors.alphaedit import AlphaEditHparams, alphaedit
from .editors.calinet import CalinetHparams, calinet
from .editors.emmet import EmmetHparams, emmet
from .editors.ft import ft, ft_l, ft_legacy
from .editors.grace import GraceHparams, grace
from .editors.hparam_files import PublishedHparams
from .editors.ike import IkeHparams, ike
from .editors.kn import KnHparams, kn, knowledge_neurons
from .editors.learnt import LearntEditor
from .editors.malmen import MalmenHparams, malmen
from .editors.many_facts import BatchHparams
from .editors.memit import MemitHparams, memit
from .editors.mend import MendHparams, mend
from .editors.pmet import PmetHparams, pmet
from .editors.protocol import Editor, Job, Made
from .editors.recalling import RecallHparams, mello, memprompt
from .editors.registry import EDITORS, editor, read_hparams
from .editors.rome import r_rome, rome
from .editors.rome_presets import PRESET_DIFFERENCES, RomeHparams
from .editors.supplies import Options, Supplies
from .editors.tpatcher import PatchHparams, tpatcher
from .editors.ultraedit import UltraHparams, ultraedit
from .editors.wise import WiseHparams, wise
from .edits.adapters import Gated, Units
from .edits.change import Change
from .edits.codebook import Codebook
from .edits.edit import Edit
from .edits.factors import Factors
from .edits.inputs import Demonstrations, Recalled
from .edits.provenance import Provenance
from .edits.report import BatchReport, LayerChange, Outcome, RomeReport
from .edits.request import EditRequest
from .edits.routed import Routed
from .edits.scopes import Mentions, Scope
from .edits.side_memories import SideMemories
from .edits.weights import WeightChange
from .gradients.descent import FtHparams
from .memory.linear_memory import LinearMemory
from .memory.null_space import NullSpace
from .moments.collect import collect_moments, finish_moments
from .moments.convergence import Convergence, Look
from .moments.moments import SecondMoment
from .moments.published import read_published_moment
from .moments.spectrum import Repair
from .rows.contexts import sample_contexts
from .sequences.sequence import EditSequence
from .sequences.singles import NotMade, edit_each
from .stores.retrieval import Near, Spelled, Words
from .stores.store import Entry, Store
from .training.loop import TrainingHparams
from .training.trained import Trained

__all__ = [
    "alphaedit",
    "AlphaEditHparams",
    "BatchHparams",
    "BatchReport",
    "calinet",
    "CalinetHparams",
    "Change",
    "Codebook",
    "collect_moments",
    "Convergence",
    "Demonstrations",
    "Edit",
    "Entry",
    "edit_each",
    "Editor",
    "editor",
    "EDITORS",
    "EditRequest",
    "EditSequence",
    "emmet",
    "EmmetHparams",
    "Factors",
    "finish_moments",
    "ft",
    "ft_l",
    "ft_legacy",
    "FtHparams",
    "Gated",
    "grace",
    "GraceHparams",
    "ike",
    "IkeHparams",
    "Job",
    "kn",
    "KnHparams",
    "knowledge_neurons",
    "LayerChange",
    "LearntEditor",
    "LinearMemory",
    "Look",
    "Made",
    "mello",
    "malmen",
    "MalmenHparams",
    "memit",
    "MemitHparams",
    "memprompt",
    "mend",
    "MendHparams",
    "Mentions",
    "Near",
    "NotMade",
    "NullSpace",
    "Options",
    "Outcome",
    "PatchHparams",
    "pmet",
    "PmetHparams",
    "PRESET_DIFFERENCES",
    "Provenance",
    "PublishedHparams",
    "Recalled",
    "RecallHparams",
    "r_rome",
    "read_hparams",
    "read_published_moment",
    "Repair",
    "rome",
    "RomeHparams",
    "RomeReport",
    "Routed",
    "sample_contexts",
    "Scope",
    "SecondMoment",
    "SideMemories",
    "Spelled",
    "Store",
    "Supplies",
    "tpatcher",
    "Trained",
    "TrainingHparams",
    "ultraedit",
    "UltraHparams",
    "Units",
    "WeightChange",
    "wise",
    "WiseHparams",
    "Words",
]


def __dir__() -> list[str]:
    return __all__

"""Patching: corrupt, restore and sever, as one algebra.

A program is a set of writes joined with `|`; `run` runs one on prompts, `trace` a grid of them.
"""

from .executor import Forward as Forward
from .executor import HookWrite as HookWrite
from .executor import forward as forward
from .metrics import METRICS as METRICS
from .noise import Gaussian as Gaussian
from .noise import PublishedNoise as PublishedNoise
from .noise import Uniform as Uniform
from .positions import Position as Position
from .positions import after_subject as after_subject
from .positions import at as at
from .positions import every as every
from .positions import everywhere as everywhere
from .positions import further as further
from .positions import here as here
from .positions import last as last
from .positions import subject as subject
from .programs import Program as Program
from .programs import add as add
from .programs import corrupt as corrupt
from .programs import nothing as nothing
from .programs import restore as restore
from .programs import sever as sever
from .recipes import causal_tracing as causal_tracing
from .running import Result as Result
from .running import read as read
from .running import run as run
from .sigma import embedding_sigma as embedding_sigma
from .sites import Component as Component
from .sites import Site as Site
from .sites import attn as attn
from .sites import embed as embed
from .sites import k as k
from .sites import mlp as mlp
from .sites import mlp_key as mlp_key
from .sites import mlp_value as mlp_value
from .sites import q as q
from .sites import resid as resid
from .sites import resid_mid as resid_mid
from .sites import resid_pre as resid_pre
from .sites import v as v
from .sites import z as z
from .sources import Clean as Clean
from .sources import Corrupted as Corrupted
from .sources import Delta as Delta
from .sources import Given as Given
from .sources import Mean as Mean
from .sources import OtherSubject as OtherSubject
from .sources import Run as Run
from .sources import Zero as Zero
from .table import Table as Table
from .tracing import Interrupted as Interrupted
from .tracing import trace as trace

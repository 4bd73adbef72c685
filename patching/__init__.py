"""Patching: corrupt, restore and sever, as one algebra.

A program is a set of writes joined with `|`; `run` runs one on prompts, `trace` a grid of them.
"""

from .algebra.noise import Gaussian, PublishedNoise, Uniform
from .algebra.own import OwnSource, Place
from .algebra.positions import Position, after_subject, at, every, everywhere, further, here, last, subject
from .algebra.programs import Program, Run, ablate, add, corrupt, nothing, restore, sever
from .algebra.recipes import causal_tracing
from .algebra.sentences import OtherPrompt, OtherSubject, Resample
from .algebra.sites import (
    Component,
    Site,
    attn,
    cross_attn,
    embed,
    k,
    mlp,
    mlp_key,
    mlp_value,
    q,
    resid,
    resid_mid,
    resid_pre,
    v,
    z,
)
from .algebra.sources import Clean, Corrupted, Delta, Given, Mean, Zero
from .exact.price import Price
from .plain import acting as acting  # says how a program is on
from .plain.caching import Activations, Cache, cache
from .plain.executor import Forward, HookWrite, forward
from .plain.metrics import METRICS
from .plain.own_metrics import Metric
from .plain.running import Result, read, run
from .plain.sigma import embedding_sigma
from .plain.steering import direction, steer
from .traces.attribution import attribution
from .traces.explain import Explanation, explain
from .traces.planning import Plan, plan
from .traces.table import Table
from .traces.tracing import Interrupted, run_plan, trace

__all__ = [
    "ablate",
    "Activations",
    "add",
    "after_subject",
    "at",
    "attn",
    "attribution",
    "Cache",
    "cache",
    "causal_tracing",
    "Clean",
    "Component",
    "corrupt",
    "Corrupted",
    "cross_attn",
    "Delta",
    "direction",
    "embed",
    "embedding_sigma",
    "every",
    "everywhere",
    "explain",
    "Explanation",
    "Forward",
    "forward",
    "further",
    "Gaussian",
    "Given",
    "here",
    "HookWrite",
    "Interrupted",
    "k",
    "last",
    "Mean",
    "Metric",
    "METRICS",
    "mlp",
    "mlp_key",
    "mlp_value",
    "nothing",
    "OtherPrompt",
    "OtherSubject",
    "OwnSource",
    "Place",
    "Plan",
    "plan",
    "Position",
    "Price",
    "Program",
    "PublishedNoise",
    "q",
    "read",
    "Resample",
    "resid",
    "resid_mid",
    "resid_pre",
    "restore",
    "Result",
    "Run",
    "run",
    "run_plan",
    "sever",
    "Site",
    "steer",
    "subject",
    "Table",
    "trace",
    "Uniform",
    "v",
    "z",
    "Zero",
]


def __dir__() -> list[str]:
    return __all__

"""What a trace is asked for, as two frozen values: the programs of causal tracing, and how the trace is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...given import Names, Real, Wholes, flag, names_of, seed_of, whole
from ...models.model import Model
from ..algebra.noise import Gaussian, PublishedNoise
from ..algebra.programs import Program
from ..algebra.recipes import causal_tracing, default_window
from ..algebra.sources import Source
from ..plain.asked import Foils, check_foil
from ..plain.own_metrics import Metrics, metrics_of
from ..plain.sigma import embedding_sigma
from .table import COLUMNS

ENGINES = ("auto", "exact", "plain")


class TraceOptions(TypedDict, total=False):
    """The keywords that `trace` and `plan` take: the fields of `CausalTracing` and `Tracing`."""

    kinds: Names
    severed: Names
    window: Wholes | None
    sigmas: Real
    noise_level: Real | None
    draws: Wholes
    seed: Wholes
    reference: bool
    foil: Foils
    metric: Metrics | None
    engine: str
    memory: str | int | None


@dataclass(frozen=True)
class CausalTracing:
    """Which parts of causal tracing are run (see `causal_tracing`); what stands here is the default everywhere.

    Args:
        kinds: components that are restored.
        severed: components that are severed while the residual stream is restored.
        window: layers restored at once (odd windows are symmetric); None: `default_window`.
        sigmas: noise in standard deviations of token embeddings (see `sigma.embedding_sigma` for which tokens).
        noise_level: the noise's standard deviation itself, instead of `sigmas`.
        draws: noise draws per prompt; fewer than 10 are few.

    Raises:
        UsageError: a window of no layers; something that is no number or no name.
    """

    kinds: Names = ("resid", "mlp", "attn")
    severed: Names = ("mlp", "attn")
    window: int | None = None
    sigmas: float = 3.0
    noise_level: float | None = None
    draws: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", names_of(self.kinds, "kinds"))
        object.__setattr__(self, "severed", names_of(self.severed, "severed"))
        object.__setattr__(self, "draws", whole(self.draws, "draws"))
        if self.window is not None:
            object.__setattr__(self, "window", whole(self.window, "window"))
            if self.window < 1:
                raise UsageError(f"a window of {self.window} layers holds nothing; give at least 1")

    def programs(self, model: Model, prompts: Sequence[Prompt], how: Tracing) -> list[Program]:
        """The programs of causal tracing, as published (`how.reference`) or as they should be."""
        noise: Source
        other: Source | None = None
        window, level = self.window, self.noise_level
        if how.reference:
            window = 10 if window is None else window
            if level is None:
                level = self.sigmas * embedding_sigma(model, [prompt.subject for prompt in prompts])
            noise, other = PublishedNoise(level, self.draws), PublishedNoise(level, self.draws, block=1)
        else:
            noise = Gaussian(self.sigmas, draws=self.draws, seed=how.seed, level=level)
        width = default_window(model.n_layers) if window is None else window
        return causal_tracing(noise, width, kinds=self.kinds, severed=self.severed, severed_noise=other)

    def check_beside_programs(self, how: Tracing) -> None:
        """They mean nothing beside programs, nor does a seed, so they are refused rather than ignored.

        Raises:
            UsageError: one of them is not the default.
        """
        if how.reference:
            raise UsageError("reference=True brings its own programs; give programs or reference=True, not both")
        default = CausalTracing()
        changed = [one.name for one in fields(self) if getattr(self, one.name) != getattr(default, one.name)]
        changed += ["seed"] if how.seed else []
        if changed:
            raise UsageError(
                f"{', '.join(changed)} would have no effect: the programs given say what is restored and which noise "
                "there is; leave it out"
            )


@dataclass(frozen=True)
class Tracing:
    """How a trace is run.

    Args:
        seed: of the noise; programs that are given, and the published rule (`reference`), bring their own.
        reference: reproduce the published implementation: the same noise numbers for every prompt, sigma over the given
            prompts' subjects, the model's own prediction as the answer, window 10, and severed runs whose frozen values
            come from another draw than the run they are put into.
        foil: the answer that `logit_diff` compares with, one for all prompts or a list of one for each; None: see
            `run`.
        metric: functions of (final logits, prompt) that are computed besides the standard metrics (see `Metric`); each
            is a column of the table.
        engine: "exact" computes only what a patch can change, "plain" runs every cell as a full forward, "auto" is
            exact for models that pass a comparison of the two; either way some cells are run by both and compared.
        memory: what may be held at once beside the model and the table, such as "4GB"; None: 2 GB, on a GPU half of
            what is free.

    Raises:
        UsageError: an unknown engine, a seed out of range.
    """

    seed: int = 0
    reference: bool = False
    foil: Foils = None
    metric: Metrics | None = None
    engine: str = "auto"
    memory: str | int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", seed_of(self.seed))
        object.__setattr__(self, "reference", flag(self.reference, "reference"))
        if self.engine not in ENGINES:
            raise UsageError(f"there is no engine {self.engine!r}; choose auto, exact or plain")
        if self.reference and self.seed:
            raise UsageError("reference=True draws the published noise, which has a seed of its own; leave seed= out")
        object.__setattr__(self, "foil", check_foil(self.foil))
        object.__setattr__(self, "metric", metrics_of(self.metric, COLUMNS))

"""Metrics of the user's own: any function of the final logits, beside the standard ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...given import is_several
from ...runs.code import code_hash
from .metrics import METRICS

DIRECTIONS = ("up", "down")


@dataclass(frozen=True, eq=False)
class Metric:
    """A function of the final logits, as a column of results and tables.

    Args:
        function: `function(logits, prompt)` gives a number for each row (draws, or cells times draws).  `logits` are
            [rows, vocab] at the prompt's last token, in float32 at least; with `answer_tokens` [rows, tokens, vocab],
            behind the prompt and behind each token of its answer but the last.  Rows must not depend on each other.
        name: of the column; the function's own if left out.
        unit: of the numbers, for tables and figures ("nats", "logits").
        direction: "up" where a higher number is closer to the clean answer, "down" where a lower one is.
        answer_tokens: give the function the logits of all scored tokens.

    Raises:
        UsageError: what cannot be called, a function without a name (a lambda), a name that is no word or that a table
            has already, an unknown direction.
    """

    function: Callable[[Tensor, Prompt], Any]
    name: str = ""
    unit: str = ""
    direction: str = "up"
    answer_tokens: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(f"{self.function!r:.60} is no metric; give a function of (logits, prompt)")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not name.isidentifier():
            raise UsageError(
                f"a metric needs a name for its column, and {name!r} is none; write Metric(function, name='entropy')"
            )
        if self.direction not in DIRECTIONS:
            raise UsageError(f"the direction of {name!r} is {self.direction!r}; give 'up' or 'down'")
        object.__setattr__(self, "name", name)

    @property
    def identity(self) -> str:
        """Its name and what it computes, as a hash of its code: two functions of one name are not the same."""
        return f"{self.name} {code_hash(self.function)}{' of all answer tokens' * self.answer_tokens}"

    def of(self, logits: Float[Tensor, "rows kept vocab"], prompt: Prompt) -> Float[np.ndarray, " rows"]:
        """Its number for each row.

        Raises:
            UsageError: another number of numbers, some that are not finite, a row's that depends on the other rows, or
                logits that were changed in place.
        """
        wide = logits if logits.dtype == torch.float64 else logits.float()
        given = wide if self.answer_tokens else wide[:, 0]
        found = self._asked(given, prompt)
        if len(given) > 1 and not np.allclose(self._asked(given[:1], prompt), found[:1], rtol=1e-3, atol=1e-5):
            raise UsageError(
                f"the metric {self.name!r} gives another number for a row alone than among {len(given)} rows; compute "
                "each row's from that row, along the last dimension"
            )
        return found

    def _asked(self, given: Tensor, prompt: Prompt) -> np.ndarray:
        version = given._version
        raw = self.function(given, prompt)
        if given._version != version:
            raise UsageError(f"the metric {self.name!r} changes the logits in place; let it work on a clone()")
        found = np.asarray(raw.detach().cpu().double() if isinstance(raw, Tensor) else raw, dtype=np.float64)
        if found.shape != (len(given),) and not (found.size == 1 and len(given) == 1):
            raise UsageError(
                f"the metric {self.name!r} gives the shape {list(found.shape)} for logits of {list(given.shape)}; "
                f"[{len(given)}] is needed, one number for each row"
            )
        if not np.isfinite(found).all():
            raise UsageError(f"the metric {self.name!r} gives numbers that are not finite for {prompt.name!r}")
        return found.reshape(len(given))


Metrics = str | Metric | Callable[[Tensor, Prompt], Any] | Iterable[str | Metric | Callable[[Tensor, Prompt], Any]]
"""Metrics, one or several: functions, or `Metric`s that say more of them; the standard ones, which are always there,
may be named too."""


def metrics_of(given: object, taken: Iterable[str] = METRICS) -> tuple[Metric, ...]:
    """The metrics that are asked for besides the standard ones.

    Args:
        given: what was given; None: no other.
        taken: names that are columns already.

    Raises:
        UsageError: an unknown name, something that is no metric, two of one name.
    """
    if given is None:
        return ()
    wanted: list[Any] = list(given) if is_several(given) and not isinstance(given, (str, bytes)) else [given]
    found: dict[str, Metric] = {}
    for one in wanted:
        if isinstance(one, str):
            if one not in METRICS:
                raise UsageError(
                    f"there is no metric {one!r}; the names are {', '.join(METRICS)}, and a function of (logits, "
                    "prompt) is one too"
                )
            continue
        metric = one if isinstance(one, Metric) else Metric(one)
        if metric.name in found or metric.name in taken:
            raise UsageError(
                f"two columns would have the name {metric.name!r}; write Metric(function, name=...) with another"
            )
        found[metric.name] = metric
    return tuple(found.values())

"""By what edits are judged: one frozen value, gathered from the keywords of a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from ...facts.prompts import Portability
from ...given import Names, names_of, texts_of, whole
from .generation import Sampling
from .metric_table import COUNTERFACT
from .references import References


class MeasureOptions(TypedDict, total=False):
    """The keywords that evaluations take: the fields of `Measures`."""

    metrics: Names
    portability: Mapping[str, Portability] | None
    references: References | None
    held_texts: Iterable[str]
    sampling: Sampling | None
    batch_size: int


@dataclass(frozen=True)
class Measures:
    """By what edits are judged.

    Args:
        metrics: names from `METRICS`, such as `COUNTERFACT`, `ZSRE_METRICS`, `YAO_METRICS`.
        portability: questions on what follows from each edit, by the fact's id (see `portability_of`).
        references: what RS compares generated text with.
        held_texts: what perplexity is measured on; of one edit of all facts it is one number, which stands with the
            first fact.
        sampling: how text is generated for GE and RS; None: as published.
        batch_size: rows per forward.

    Raises:
        UsageError: one text in place of texts, or batches of no rows.
    """

    metrics: Names = COUNTERFACT
    portability: Mapping[str, Portability] | None = None
    references: References | None = None
    held_texts: Iterable[str] = ()
    sampling: Sampling | None = None
    batch_size: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", names_of(self.metrics, "metrics"))
        object.__setattr__(self, "held_texts", tuple(texts_of(self.held_texts, "held_texts")))
        object.__setattr__(self, "batch_size", whole(self.batch_size, "batch_size", least=1))

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics."""
        return tuple(self.metrics)

    @property
    def texts(self) -> tuple[str, ...]:
        """The held texts."""
        return tuple(self.held_texts)

    def options(self) -> MeasureOptions:
        """The same as keywords."""
        return {
            "metrics": self.names, "portability": self.portability, "references": self.references,
            "held_texts": self.texts, "sampling": self.sampling, "batch_size": self.batch_size,
        }  # fmt: skip

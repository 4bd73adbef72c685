"""Where an edit came from: everything needed to say whether it may be applied, and to make it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...runs.versions import versions
from .report import BatchReport, RomeReport
from .request import EditRequest


@dataclass(frozen=True)
class Provenance:
    """The origin of one edit.

    Args:
        method: "rome", "r-rome", ...; or the name of whoever made the factors.
        model: fingerprint of the weights it was made for.
        model_name: the model's name, for messages.
        requests: what was asked for.
        hparams: the hyper-parameters, as plain values.
        contexts: the context templates the key and the value were averaged over.
        moments: fingerprint of the second moment.
        seed: of everything random.
        on_top_of: digests of the edits that were on while it was made; it presupposes them.
        report: what happened, before and after.
        versions: of the libraries.
    """

    method: str
    model: str
    model_name: str = ""
    requests: tuple[EditRequest, ...] = ()
    hparams: dict[str, Any] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    moments: str = ""
    seed: int | None = None
    on_top_of: tuple[str, ...] = ()
    report: RomeReport | BatchReport | None = None
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def request(self) -> EditRequest | None:
        """What was asked for, where it was one thing."""
        return self.requests[0] if len(self.requests) == 1 else None

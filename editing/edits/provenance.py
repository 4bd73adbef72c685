"""Where an edit came from: everything needed to say whether it may be applied, and to make it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...runs.hashing import short
from ...runs.versions import versions
from .change import Change
from .report import BatchReport, RomeReport
from .request import EditRequest


@dataclass(frozen=True)
class Provenance:
    """The origin of one edit.

    Args:
        method: the editor's name in `EDITORS`; or the name of whoever made the change.
        model: fingerprint of the weights it was made for.
        model_name: the model's name, for messages.
        model_dtype: its dtype ("float32"), for messages.
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
    model_dtype: str = ""
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


@dataclass(frozen=True, eq=False)
class Part:
    """One edit as it was made: its change of the model, and its origin."""

    change: Change
    provenance: Provenance

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the change and the weights it is for: what it does, not what is known about it."""
        return hashlib.sha256(f"{self.provenance.model} {self.change.digest}".encode()).hexdigest()

    def __str__(self) -> str:
        requests = self.provenance.requests
        if not requests:
            return short(self.digest)
        more = f" and {len(requests) - 1} more" if len(requests) > 1 else ""
        return repr(f"{requests[0].prompt.text} -> {requests[0].target}") + more

"""What an editor works from and how it goes about it: two frozen values, gathered from the keywords of a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ...errors import UsageError
from ...facts.prompts import Fact
from ...given import flag, several, values_of
from ...models.model import Model
from ..edits.request import Asked
from ..moments.moments import SecondMoment
from ..value.value import Value

Requests = Asked | Iterable[Asked]
"""What is asked of an editor, one or several."""

Moments = SecondMoment | Mapping[int, SecondMoment]


class Given(TypedDict, total=False):
    """The keywords that every editor takes beside `preset` and `hparams`: the fields of `Supplies` and `Options`."""

    moments: Moments | None
    contexts: Sequence[str] | None
    past: Any
    values: Sequence[Value] | None
    templates: Mapping[str, Sequence[str]]
    perplexity_texts: Sequence[str]
    texts: Sequence[str] | None
    demonstrations: Sequence[Fact] | None
    seed: int
    force: bool
    progress: bool
    allow_conflicts: bool
    allow_disabling: bool
    require_success: bool


@dataclass(frozen=True, eq=False)
class Supplies:
    """What an edit is made from, beside the model.  What a method has no use for it does not look at.

    Args:
        moments: the second moment of each layer.
        contexts: templates such as "By the way, {}", the bare "{}" first; None: sampled from the model.
        past: of earlier edits (`PastKeys`, or what the method calls its own).
        values: v* of each request, where they are known (`values_of`).
        templates: relation -> further templates of it, for knowledge neurons.
        perplexity_texts: texts whose perplexity a ROME edit must not raise by much.
        texts: running text that an edit is to leave alone (T-Patcher's memory, WISE's irrelevant prompts); None: of a
            bundled model its own, of another one sampled from it.
        demonstrations: facts that show how an edit is to be read (IKE); None: of a bundled model its own.
    """

    moments: Moments | None = None
    contexts: Sequence[str] | None = None
    past: Any = None
    values: Sequence[Value] | None = None
    templates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    perplexity_texts: Sequence[str] = ()
    texts: Sequence[str] | None = None
    demonstrations: Sequence[Fact] | None = None


@dataclass(frozen=True)
class Options:
    """How an edit is made.

    Args:
        seed: of everything random.
        force: accept second moments collected from other weights.
        progress: show bars.
        allow_conflicts: accept requests that contradict each other.
        allow_disabling: return an edit even if it endangers the model as a whole.
        require_success: raise when a target does not become the model's own answer.
    """

    seed: int = 0
    force: bool = False
    progress: bool = False
    allow_conflicts: bool = False
    allow_disabling: bool = False
    require_success: bool = False

    def __post_init__(self) -> None:
        for name in ("force", "progress", "allow_conflicts", "allow_disabling", "require_success"):
            object.__setattr__(self, name, flag(getattr(self, name), name))


def gathered(given: Given) -> tuple[Supplies, Options]:
    """The keywords of a call as values.

    Raises:
        UsageError: a keyword of another name; the known ones are listed.
    """
    supplies, options = values_of(given, (Supplies, Options), "an editor")
    return supplies, options


def moments_of(model: Model, moments: Moments, layers: Sequence[int], *, force: bool) -> dict[int, SecondMoment]:
    """The second moment of each layer.

    Raises:
        UsageError: one is missing, or (unless `force`) of another model; something that is no second moment.
    """
    given = moments.values() if isinstance(moments, Mapping) else moments
    known = several(given, SecondMoment, "moments", "second moments; read a file with SecondMoment.load(path)")
    found = {moment.layer: moment for moment in known}
    missing = [layer for layer in layers if layer not in found]
    if missing and len(found) == len(layers) == 1:
        next(iter(found.values())).check(model, missing[0], force=force)  # says which layer it is of
    if missing:
        raise UsageError(f"no second moment of layer {missing[0]} was given; collect it with collect_moments()")
    for layer in layers:
        found[layer].check(model, layer, force=force)
    return {layer: found[layer] for layer in layers}

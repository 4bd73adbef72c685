"""What every editor is: requests in, an edit out, the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ...given import Wholes, several
from ...models.model import Model
from ..edits.edit import Edit
from ..edits.request import Asked, EditRequest
from ..memory.past_keys import PastKeys
from ..moments.moments import SecondMoment
from ..value.hparams import Hparams
from ..value.value import Value
from .families import family_preset

Requests = Asked | Iterable[Asked]
"""What is asked of an editor, one or several."""

Moments = SecondMoment | Mapping[int, SecondMoment]


@dataclass(frozen=True)
class Editor:
    """One editing method under its name, and what it can take.

    Args:
        name: as in `EDITORS`.
        make: the function behind it: `(model, requests, layers, *, hparams, ...) -> Edit`.
        hparams: the type of its hyper-parameters.
        presets: its presets; "default" is one of them.
        source: the publication.
        layers: whose default layers it takes (`families.toml`); empty: it finds its layers itself.
        batch: whether several requests can make one edit.
        moments: whether it needs second moments.
        contexts: whether it averages over context templates.
        remember: what it takes as `past` from earlier edits of a sequence, from what it took and the edit it then made:
            `(model, edit, requests, *, hparams, contexts, past) -> past`; None: it takes nothing.
        values: the value step for many requests in one batch, where the method has one that does not depend on the
            other requests: `(model, requests, layers, *, hparams, contexts, progress) -> list[Value]`.
        each: a faster way to make an edit of every request alone: `(model, requests, layers, *, hparams, seed, force,
            progress) -> list[Edit]` (and `past`, where it remembers); disabling ones are returned and say so.
        variant: the editor that hyper-parameters of this type belong to, where several share the type.
    """

    name: str
    make: Callable[..., Edit]
    hparams: type[Hparams]
    presets: Mapping[str, Hparams]
    source: str
    layers: str = ""
    batch: bool = True
    moments: bool = False
    contexts: bool = False
    remember: Callable[..., Any] | None = None
    values: Callable[..., list[Value]] | None = None
    each: Callable[..., list[Edit]] | None = None
    variant: Callable[[Any], str] | None = None

    def __call__(
        self,
        model: Model,
        requests: Requests,
        layers: Wholes | None = None,
        *,
        moments: Moments | None = None,
        contexts: Sequence[str] | None = None,
        past: Any = None,
        values: Sequence[Value] | None = None,
        preset: str = "default",
        hparams: Hparams | None = None,
        seed: int = 0,
        allow_conflicts: bool = False,
        allow_disabling: bool = False,
        force: bool = False,
        progress: bool = False,
    ) -> Edit:
        """Make one edit of all requests.  What the method has no use for is not passed on to it.

        Args:
            model: the model; edits that are on take part, and the new edit then presupposes them.
            requests: what the model should say.
            layers: which MLPs; default: the published ones of this model, where there are any.
            moments: the second moment of each layer.
            contexts: templates such as "By the way, {}", the bare "{}" first; default: sampled from the model.
            past: of earlier edits (`PastKeys`, or what the method calls its own).
            values: v* of each request, where `self.values` has found them already.
            preset: a name in `self.presets`.
            hparams: hyper-parameters of your own, in place of a preset.
            seed: of everything random.
            allow_conflicts: accept requests that contradict each other.
            allow_disabling: return an edit even if it endangers the model as a whole.
            force: accept second moments collected from other weights.
            progress: show bars.

        Raises:
            UsageError: bad input; several requests for a method that writes one at a time.
            MechinterpError: the edit cannot be made, or is disabling.
        """
        asked = EditRequest.all_of(requests, self.name)
        if len(asked) > 1 and not self.batch:
            raise UsageError(
                f"{self.name} writes one fact at a time, not {len(asked)}; edit them one after the other with "
                "EditSequence, or each alone with edit_each"
            )
        if past is not None and self.remember is None:
            raise UsageError(f"{self.name} remembers nothing of earlier edits; leave past= out")
        options: dict[str, Any] = {
            "seed": seed, "force": force, "progress": progress, "allow_disabling": allow_disabling,
        }  # fmt: skip
        if self.moments:
            if moments is None:
                raise UsageError(f"{self.name} needs the second moments of the layers it edits; pass moments=")
            options["moments"] = moments
        if self.contexts:
            options["contexts"] = contexts
        if self.remember is not None:
            options["past"] = past
        if self.values is not None:
            options["values"] = values
        if self.batch:
            options["allow_conflicts"] = allow_conflicts
        chosen = self.chosen(preset, hparams, model)
        with model.unchanged():
            made = self.make(model, asked, layers, hparams=chosen, **options)
        return made.noted(preset=next((name for name, known in self.presets.items() if known == chosen), "own"))

    def chosen(self, preset: str = "default", hparams: Hparams | None = None, model: Model | None = None) -> Hparams:
        """The hyper-parameters that these options mean.

        Args:
            preset: a name in `self.presets`; where there is one for the model's family ("code-gpt2-xl"), that one.
            hparams: of your own.
            model: whose family counts.

        Raises:
            UsageError: an unknown preset, or hyper-parameters of another method.
        """
        if hparams is None:
            name = preset if model is None else family_preset(model, preset, self.presets)
            if name not in self.presets:
                raise UsageError(f"{preset!r} is no preset of {self.name}; choose one of {', '.join(self.presets)}")
            return self.presets[name]
        if not isinstance(hparams, self.hparams):
            raise UsageError(f"{self.name} takes {self.hparams.__name__}, not {type(hparams).__name__}")
        if self.variant is not None and self.variant(hparams) != self.name:
            raise UsageError(
                f"these hyper-parameters are of {self.variant(hparams)}, not of {self.name}; use that editor, or "
                f"change a preset of {self.name} (EDITORS[{self.name!r}].presets[...].with_(...))"
            )
        return hparams


def moments_of(model: Model, moments: Moments, layers: Sequence[int], *, force: bool) -> dict[int, SecondMoment]:
    """The second moment of each layer.

    Raises:
        UsageError: one is missing, or (unless `force`) of another model; something that is no second moment.
    """
    given = moments.values() if isinstance(moments, Mapping) else moments
    known = several(given, SecondMoment, "moments", "second moments; read a file with SecondMoment.load(path)")
    found = {moment.layer: moment for moment in known}
    missing = [layer for layer in layers if layer not in found]
    if missing and len(known) == len(layers) == 1:
        known[0].check(model, layers[0], force=force)  # it says which layer it is of
    if missing:
        raise UsageError(f"no second moment of layer {missing[0]} was given; collect it with collect_moments()")
    for layer in layers:
        found[layer].check(model, layer, force=force)
    return {layer: found[layer] for layer in layers}


def past_keys(past: Any) -> PastKeys:
    """Keys of earlier edits; none by default."""
    return PastKeys() if past is None else past

"""An editor as it enters a leaderboard: with its layers, second moments, contexts and hyper-parameters, all fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ...editing.editors.families import default_layers
from ...editing.editors.protocol import Editor
from ...editing.editors.registry import editor
from ...editing.moments.moments import SecondMoment
from ...editing.sequences.singles import sampled_contexts
from ...editing.value.hparams import Hparams, ValueHparams
from ...errors import UsageError
from ...given import Wholes
from ...models.model import Model


@dataclass(frozen=True, eq=False)
class Contender:
    """An editor ready to be tried.

    Args:
        editor: the method.
        layers: which layers it edits; None: it finds them itself.
        moments: their second moments, where it needs any.
        hparams: its hyper-parameters.
        contexts: what its keys and values are averaged over, sampled once.
        settings: digest of all that.
    """

    editor: Editor
    layers: tuple[int, ...] | None
    moments: Mapping[int, SecondMoment] | None
    hparams: Hparams
    contexts: tuple[str, ...] | None
    settings: str

    @property
    def name(self) -> str:
        """The method's name."""
        return self.editor.name


def layers_of(model: Model, method: Editor, layers: Mapping[str, Wholes] | None = None) -> tuple[int, ...] | None:
    """The layers an editor changes in a model: those given under its name, or the published ones.

    Raises:
        UsageError: a layer the model does not have, or none are known.
    """
    if layers is not None and method.name in layers:
        return model.layout.check_layers(layers[method.name])
    return default_layers(model, method.layers) if method.layers else None


def contender(
    model: Model,
    name: str,
    *,
    moments: Mapping[int, SecondMoment] | None = None,
    layers: Mapping[str, Wholes] | None = None,
    hparams: Mapping[str, Hparams] | None = None,
    seed: int = 0,
) -> Contender:
    """An editor by its name, with everything it needs.

    Raises:
        UsageError: no editor of this name, layers that are not known, or a second moment that is missing.
    """
    method = editor(name)
    at = layers_of(model, method, layers)
    needed: dict[int, SecondMoment] | None = None
    if method.moments:
        lacking = [layer for layer in at or () if layer not in (moments or {})]
        if lacking:
            raise UsageError(
                f"{name} needs the second moment of layer {lacking[0]} of {model.name}; collect it with "
                "collect_moments(), or with `mechinterp moments`"
            )
        needed = {layer: (moments or {})[layer] for layer in at or ()}
    chosen = method.chosen(hparams=(hparams or {}).get(name))
    contexts = None
    if method.contexts and isinstance(chosen, ValueHparams):
        contexts = tuple(sampled_contexts(model, chosen, seed))
    fingerprints = {layer: moment.fingerprint() for layer, moment in (needed or {}).items()}
    settings = hashlib.sha256(repr((name, at, fingerprints, chosen, contexts, seed)).encode()).hexdigest()[:16]
    return Contender(method, at, needed, chosen, contexts, settings)

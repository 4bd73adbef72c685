"""An editor as it enters a leaderboard: with its layers, second moments, contexts and hyper-parameters, all fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...editing.editors.protocol import Editor
from ...editing.editors.registry import editor
from ...editing.hyperparameters import Hparams
from ...editing.moments.moments import SecondMoment
from ...errors import UsageError
from ...models.model import Model
from .contest import Contest


@dataclass(frozen=True, eq=False)
class Contender:
    """An editor ready to be tried.

    Args:
        editor: the method.
        layers: which layers it edits.
        moments: their second moments, where it needs any.
        hparams: its hyper-parameters.
        contexts: what its keys and values are averaged over, sampled once.
        settings: digest of all that.
    """

    editor: Editor[Any]
    layers: tuple[int, ...]
    moments: Mapping[int, SecondMoment] | None
    hparams: Hparams
    contexts: tuple[str, ...] | None
    settings: str

    @property
    def name(self) -> str:
        """The method's name."""
        return self.editor.name


def check_named(contest: Contest, names: Sequence[str]) -> None:
    """Refuse layers and hyper-parameters for editors that take no part: a name may be misspelt.

    Raises:
        UsageError: no editor of a name; layers or hyper-parameters of another; something that is no mapping.
    """
    for name in names:
        editor(name)
    for what, given in (("layers", contest.layers), ("hparams", contest.hparams)):
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise UsageError(f"{what} is {given!r:.60}; give a mapping from an editor's name to its {what}")
        for name in given:
            if name not in names:
                raise UsageError(
                    f"{what} are given for {name!r}, which takes no part; the editors are {', '.join(names)}"
                )


def contender(model: Model, name: str, contest: Contest) -> Contender:
    """An editor by its name, with everything it needs.

    Raises:
        UsageError: no editor of this name, layers that are not known, or a second moment that is missing.
    """
    method, given = editor(name), contest.moments or {}
    chosen = method.chosen(hparams=(contest.hparams or {}).get(name))
    at = method.layers(model, (contest.layers or {}).get(name), chosen)
    needed: dict[int, SecondMoment] | None = None
    if method.needs_moments:
        lacking = [layer for layer in at if layer not in given]
        if lacking:
            raise UsageError(
                f"{name} needs the second moment of layer {lacking[0]} of {model.name}; collect it with "
                "collect_moments(), or with `mechinterp moments`"
            )
        needed = {layer: given[layer] for layer in at}
    contexts = method.contexts(model, chosen, None, contest.seed) or None
    fingerprints = {layer: moment.fingerprint() for layer, moment in (needed or {}).items()}
    settings = hashlib.sha256(repr((name, at, fingerprints, chosen, contexts, contest.seed)).encode()).hexdigest()[:16]
    return Contender(method, at, needed, chosen, contexts, settings)

"""What an edit of a sequence leaves for the later ones to respect: the keys it wrote at."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.model import Model
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..memory.past_keys import PastKeys
from ..rows.contexts import BARE
from ..rows.subjects import context_mean, read_at_subjects
from ..value.hparams import Hparams


def remember_keys(
    model: Model,
    made: Edit,
    requests: Sequence[EditRequest],
    *,
    hparams: Hparams,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
) -> PastKeys:
    """The keys of an edit added to those of earlier ones.

    They are read with the edit on.  A layer's keys depend on the layers below, so these are the very keys that the
    edit wrote at, layer by layer.

    Args:
        model: with the edits on that were on when this one was made.
        made: the edit.
        requests: that it was made for.
        hparams: of the method.
        contexts: templates its keys are averaged over.
        past: keys of earlier edits.
    """
    hooks = {layer: model.layout.key_hook(layer) for layer in made.layers}
    with made.on(model):
        read = read_at_subjects(model, requests, contexts or (BARE,), list(hooks.values()))
    how = getattr(hparams, "context_mean", "plain")
    return (past or PastKeys()).joined({layer: context_mean(read[hook], how) for layer, hook in hooks.items()})

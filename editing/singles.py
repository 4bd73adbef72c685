"""An edit of every request alone, each made on the model as it stands: what single-edit evaluations start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MechinterpError, UsageError
from ..models import Model
from ..progress import progress_bar
from .contexts import sample_contexts
from .edit import Edit
from .editor import Asked, Editor, Moments
from .past import PastKeys
from .request import EditRequest
from .value import Value
from .value_hparams import Hparams, ValueHparams


@dataclass(frozen=True)
class NotMade:
    """Stands where an edit could not be made, and says why."""

    reason: str


def edit_each(
    model: Model,
    editor: Editor,
    requests: Sequence[Asked],
    layers: Sequence[int] | None = None,
    *,
    moments: Moments | None = None,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
    preset: str = "default",
    hparams: Hparams | None = None,
    seed: int = 0,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = True,
) -> list[Edit | NotMade]:
    """One edit per request; values are optimised together, which does not change them.

    Args:
        model: the model; edits that are on take part in every one.
        editor: the method.
        requests: what it should say, one at a time.
        layers, moments, contexts, past, preset, hparams, seed, allow_disabling, force: as of `Editor`.
        progress: show bars.

    Returns:
        the edits in order; `NotMade` where one is disabling, or could not be made.

    Raises:
        UsageError: bad input, which would fail for every request.
    """
    asked = [EditRequest.of(each) for each in requests]
    if not asked:
        raise UsageError(f"{editor.name} was given no request; give at least one")
    chosen = editor.chosen(preset, hparams)
    if editor.each is not None:
        made = editor.each(model, asked, layers, hparams=chosen, seed=seed, force=force, progress=progress)
        return list(made)
    if editor.contexts and contexts is None and isinstance(chosen, ValueHparams):
        contexts = sampled_contexts(model, chosen, seed)
    values: list[Value] | None = None
    if editor.values is not None:
        values = editor.values(model, asked, layers, hparams=chosen, contexts=contexts, seed=seed, progress=progress)
    found: list[Edit | NotMade] = []
    with progress_bar(f"{editor.name} edits", len(asked), shown=progress) as advance:
        for i, request in enumerate(asked):
            try:
                edit = editor(
                    model, [request], layers, moments=moments, contexts=contexts, past=past,
                    values=None if values is None else [values[i]], hparams=chosen, seed=seed,
                    allow_disabling=allow_disabling, force=force,
                )  # fmt: skip
                found.append(edit)
            except UsageError:
                raise
            except MechinterpError as error:
                found.append(NotMade(str(error)))
            advance(1)
    return found


def sampled_contexts(model: Model, hparams: ValueHparams, seed: int) -> tuple[str, ...]:
    """The contexts that an editor samples with these hyper-parameters."""
    starts = getattr(hparams, "context_starts", ())
    return sample_contexts(model, hparams.context_lengths, starts=starts, seed=seed)

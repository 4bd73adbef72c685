"""An edit of every request alone, each made on the model as it stands: what single-edit evaluations start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import MechinterpError, UsageError
from ...given import Wholes
from ...models.model import Model
from ...runs.progress import progress_bar
from ..editors.protocol import Editor, Moments, Requests
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..rows.contexts import sample_contexts
from ..value.hparams import Hparams, ValueHparams

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class NotMade:
    """Stands where an edit could not be made, and says why."""

    reason: str


def edit_each(
    model: Model,
    editor: Editor,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    moments: Moments | None = None,
    contexts: Sequence[str] | None = None,
    past: Any = None,
    preset: str = "default",
    hparams: Hparams | None = None,
    seed: int = 0,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = True,
) -> list[Edit | NotMade]:
    """One edit per request; what can be computed for many together is, which does not change it.

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
    asked = EditRequest.all_of(requests, editor.name)
    chosen = editor.chosen(preset, hparams, model)
    if editor.contexts and contexts is None and isinstance(chosen, ValueHparams):
        contexts = sampled_contexts(model, chosen, seed)
    options: dict[str, Any] = {"hparams": chosen, "seed": seed}
    remembered = {} if past is None else {"past": past}
    with model.unchanged():
        each, values_of = editor.each, editor.values
        if each is not None:
            made = _or_none(lambda: each(model, asked, layers, force=force, progress=progress, **remembered, **options))
            if made is not None:
                return [_unless_disabling(edit, allow=allow_disabling) for edit in made]
        values = None
        if values_of is not None:
            values = _or_none(lambda: values_of(model, asked, layers, contexts=contexts, progress=progress, **options))
        options |= {"moments": moments, "contexts": contexts, "force": force, "allow_disabling": allow_disabling}
        found: list[Edit | NotMade] = []
        with progress_bar(f"{editor.name} edits", len(asked), shown=progress) as advance:
            for i, request in enumerate(asked):
                own = None if values is None else [values[i]]
                try:
                    found.append(editor(model, [request], layers, values=own, **remembered, **options))
                except UsageError:
                    raise
                except MechinterpError as error:
                    found.append(NotMade(str(error)))
                advance(1)
    return found


def _or_none(compute: Callable[[], _Found]) -> _Found | None:
    """What many give together; None where one of them fails, which shows when they are made one by one."""
    try:
        return compute()
    except UsageError:
        raise
    except MechinterpError:
        return None


def _unless_disabling(edit: Edit, *, allow: bool) -> Edit | NotMade:
    reason = edit.report.disabling
    return NotMade(f"it would disable the model: {reason}") if reason and not allow else edit


def sampled_contexts(model: Model, hparams: ValueHparams, seed: int) -> tuple[str, ...]:
    """The contexts that an editor samples with these hyper-parameters."""
    starts = getattr(hparams, "context_starts", ())
    return sample_contexts(model, hparams.context_lengths, starts=starts, seed=seed)

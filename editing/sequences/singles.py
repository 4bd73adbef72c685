"""An edit of every request alone, each made on the model as it stands: what single-edit evaluations start from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Unpack

from ...errors import MechinterpError, UsageError
from ...given import Wholes
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from ..editors.protocol import Editor, Job
from ..editors.registry import editor as named
from ..editors.supplies import Given, Requests
from ..edits.edit import Edit
from ..hyperparameters import Hparams
from ..judging.at_sink import at_sink
from ..judging.conflicts import check_conflicts

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class NotMade:
    """Stands where an edit could not be made, and says why."""

    reason: str


@public
def edit_each(
    model: Model,
    editor: Editor[Any] | str,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    preset: str = "default",
    hparams: Hparams | None = None,
    **given: Unpack[Given],
) -> list[Edit | NotMade]:
    """One edit per request; what can be computed for many together is, which does not change it.

    Args:
        model: the model; edits that are on take part in every one.
        editor: the method, or its name in `EDITORS`.
        requests: what it should say, one at a time.
        layers, preset, hparams, given: as of `Editor`; bars are shown unless progress=False.

    Returns:
        the edits in order; `NotMade` where one is disabling, or could not be made.

    Raises:
        UsageError: bad input, which would fail for every request.
    """
    given.setdefault("progress", True)
    method: Editor[Any] = editor if isinstance(editor, Editor) else named(editor)
    job = method.job(model, requests, layers, preset=preset, hparams=hparams, **given)
    with model.unchanged():
        found = _together(method, job) if method.has_each else None
        return _one_by_one(method, job) if found is None else found


def _together(editor: Editor[Any], job: Job[Any]) -> list[Edit | NotMade] | None:
    started = time.perf_counter()
    made = _or_none(lambda: editor.make_each(job))
    if made is None:
        return None
    seconds, found = (time.perf_counter() - started) / len(made), list[Edit | NotMade]()
    for i, one in enumerate(made):
        alone = job.alone(i)
        warnings = check_conflicts(job.model, alone.requests) + at_sink(job.model, alone.requests, job.layers)
        edit = editor.finished(alone, replace(one, warnings=warnings + one.warnings), seconds)
        disabling = "" if job.options.allow_disabling else edit.report.disabling
        found.append(NotMade(f"it would disable the model: {disabling}") if disabling else edit)
    return found


def _one_by_one(editor: Editor[Any], job: Job[Any]) -> list[Edit | NotMade]:
    values = job.supplies.values
    if values is None and editor.has_values:
        values = _or_none(lambda: editor.values(job))
    quiet = replace(job, options=replace(job.options, progress=False))
    found: list[Edit | NotMade] = []
    with progress_bar(f"{editor.name} edits", len(job.requests), shown=job.options.progress) as advance:
        for i in range(len(job.requests)):
            try:
                found.append(editor.edit(quiet.alone(i, None if values is None else values[i])))
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

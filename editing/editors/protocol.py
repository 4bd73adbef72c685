"""What every editor is: requests in, an edit out, the model left as it was.

An editor's own file says how a change is made of a `Job` (`make`), and what it can do besides; everything that all have
in common, from looking at the requests to judging what came of them, is said here once.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, Unpack, final

from ...errors import MechinterpError, UsageError
from ...given import Wholes, wholes
from ...models.model import Model
from ...public import public
from ..edits.active import active_edits
from ..edits.change import Change
from ..edits.edit import Edit
from ..edits.provenance import Provenance
from ..edits.report import BatchReport, RomeReport
from ..edits.request import EditRequest
from ..hyperparameters import Hparams
from ..judging.at_sink import at_sink
from ..judging.conflicts import check_conflicts
from ..judging.many import Limits, judge_batch, refuse_disabling
from ..moments.moments import SecondMoment
from ..rows.contexts import BARE, check_contexts, sample_contexts, spells
from ..value.hparams import ValueHparams
from ..value.value import Value
from .families import default_layers, family_preset
from .hparam_files import PUBLISHED_PRESETS, PublishedHparams, editor_of, names_a_file, read_file, translated
from .supplies import Given, Options, Requests, Supplies, gathered, moments_of

H = TypeVar("H", bound=Hparams)

MOMENTS, CONTEXTS = "moments", "contexts"
"""What an editor can need besides the model and the requests."""


@dataclass(frozen=True, eq=False)
class Job(Generic[H]):
    """One edit to be made: everything looked at and filled in.

    Args:
        model: with whatever edits are on.
        requests: what it should say.
        layers: ascending.
        hparams: of the method.
        contexts: templates, the bare one first; none where the method averages over nothing.
        moments: layer -> its second moment; none where the method needs none.
        supplies: what the caller gave.
        options: how it is to be done.
    """

    model: Model
    requests: tuple[EditRequest, ...]
    layers: tuple[int, ...]
    hparams: H
    contexts: tuple[str, ...]
    moments: Mapping[int, SecondMoment]
    supplies: Supplies
    options: Options

    @property
    def names(self) -> tuple[str, ...]:
        """Of the requests, for messages."""
        return tuple(f"{request.prompt.text!r} -> {request.target!r}" for request in self.requests)

    @property
    def seed(self) -> int | None:
        """What the contexts were drawn with; None where nothing was drawn."""
        fixed = self.supplies.contexts is not None or self.contexts == getattr(self.hparams, "value_contexts", ())
        return None if fixed or not self.contexts else self.options.seed

    @property
    def key_contexts(self) -> tuple[str, ...]:
        """The templates over which keys are averaged."""
        if getattr(self.hparams, "keys", "") == "bare":
            return (BARE,)
        return getattr(self.hparams, "key_contexts", ()) or self.contexts

    def alone(self, i: int, value: Value | None = None) -> Job[H]:
        """The same for one of the requests, whose value may be known."""
        supplies = replace(self.supplies, values=None if value is None else [value])
        return replace(self, requests=self.requests[i : i + 1], supplies=supplies)


@dataclass(frozen=True, eq=False)
class Made:
    """What an editor makes of a job.

    Args:
        change: of the model.
        values: of the requests, where the method seeks any: how their optimisation went stands in the report.
        warnings: what may have gone wrong without stopping the edit.
        notes: of the method's own, for its report.
    """

    change: Change
    values: tuple[Value, ...] | None = None
    warnings: tuple[str, ...] = ()
    notes: Any = None


@dataclass(frozen=True, eq=False)
class Editor(ABC, Generic[H]):
    """One editing method under its name.

    Args:
        name: as in `EDITORS`.
        source: the publication.
        presets: its presets; "default" is one of them.
        family: whose default layers it takes (`families.toml`); empty: all layers.
    """

    name: str
    source: str
    presets: Mapping[str, H]
    family: str = ""

    hparams_type: ClassVar[type[Hparams]]
    """Of its hyper-parameters."""
    batch: ClassVar[bool] = True
    """Whether several requests can make one edit."""
    one_layer: ClassVar[bool] = False
    """Whether it writes one layer only."""
    decoders_only: ClassVar[bool] = False
    """Whether it refuses an encoder-decoder."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Of `MOMENTS` and `CONTEXTS`."""

    # What a method says of itself.

    @abstractmethod
    def make(self, job: Job[H]) -> Made:
        """The change that the requests ask for, on the model as it is in `job`."""

    def values(self, job: Job[H]) -> list[Value]:
        """The value step for many requests in one batch, each as if it were alone; not every method has one."""
        raise NotImplementedError

    def make_each(self, job: Job[H]) -> list[Made]:
        """A faster way to make a change of every request alone; not every method has one."""
        raise NotImplementedError

    def remember(self, job: Job[H], edit: Edit) -> Any:
        """What the next edit of a sequence gets as `past`, from this one's job and outcome.

        It is asked with the edits on that were on when this one was made.
        """
        raise NotImplementedError

    def judge(self, job: Job[H], made: Made, seconds: float) -> BatchReport | RomeReport:
        """The report of an edit, every figure "after" taken with it applied."""
        return judge_batch(
            job.model, job.requests, made.change, seconds=seconds, moments=job.moments, values=made.values,
            warnings=made.warnings, limits=self.limits(job.hparams),
        )  # fmt: skip

    def family_of(self, hparams: H) -> str:
        """Whose default layers it takes with these hyper-parameters."""
        return self.family

    def usual_layers(self, model: Model, hparams: H) -> tuple[int, ...]:
        """The layers it takes where none are given: the published ones of the model's family, or all."""
        family = self.family_of(hparams)
        return default_layers(model, family) if family else tuple(range(model.n_layers))

    def limits(self, hparams: H) -> Limits:
        """Beyond which an edit of this method is called disabling."""
        return Limits()

    # What all have in common.

    @final
    @public
    def __call__(
        self,
        model: Model,
        requests: Requests,
        layers: Wholes | None = None,
        *,
        preset: str = "default",
        hparams: H | None = None,
        **given: Unpack[Given],
    ) -> Edit:
        """Make one edit of all requests.

        Args:
            model: the model; edits that are on take part, and the new edit then presupposes them.
            requests: what the model should say; one or several.
            layers: which MLPs, one or several; default: the published ones of this model, where there are any.
            preset: a name in `presets`.
            hparams: hyper-parameters of your own, in place of a preset.
            given: any of `Supplies` (moments, contexts, past, values, ...) and `Options` (seed, progress, force, ...).

        Raises:
            UsageError: bad input; several requests for a method that writes one at a time.
            MechinterpError: the edit cannot be made, is disabling (unless allowed), or failed (if success is required).
        """
        job = self.job(model, requests, layers, preset=preset, hparams=hparams, **given)
        with model.unchanged():
            return self.edit(job)

    @final
    @public
    def job(
        self,
        model: Model,
        requests: Requests,
        layers: Wholes | None = None,
        *,
        preset: str = "default",
        hparams: H | None = None,
        **given: Unpack[Given],
    ) -> Job[H]:
        """What `__call__` was asked for, checked and with the defaults filled in.

        Raises:
            UsageError: bad input.
        """
        supplies, options = gathered(given)
        asked = tuple(EditRequest.all_of(requests, self.name))
        if supplies.past is not None and not self.remembers:
            raise UsageError(f"{self.name} remembers nothing of earlier edits; leave past= out")
        chosen = self.chosen(preset, hparams, model)
        if self.decoders_only and model.is_encoder_decoder:
            model.arguments()  # says so
        at = self.layers(model, layers, chosen)
        moments: Mapping[int, SecondMoment] = {}
        if self.needs_moments:
            if supplies.moments is None:
                raise UsageError(f"{self.name} needs the second moments of the layers it edits; pass moments=")
            moments = moments_of(model, supplies.moments, at, force=options.force)
        templates = self.contexts(model, chosen, supplies.contexts, options.seed)
        return Job(model, asked, at, chosen, templates, moments, supplies, options)

    @final
    def edit(self, job: Job[H]) -> Edit:
        """The edit of a job.

        Raises:
            UsageError: several requests for a method that writes one at a time; requests that contradict each other.
            MechinterpError: as of `__call__`.
        """
        if len(job.requests) > 1 and not self.batch:
            raise UsageError(
                f"{self.name} writes one fact at a time, not {len(job.requests)}; edit them one after the other with "
                "EditSequence, or each alone with edit_each"
            )
        warnings = check_conflicts(job.model, job.requests, allow=job.options.allow_conflicts)
        warnings += at_sink(job.model, job.requests, job.layers)
        started = time.perf_counter()
        made = self.make(job)
        seconds = time.perf_counter() - started
        edit = self.finished(job, replace(made, warnings=warnings + made.warnings), seconds)
        more = f" and {len(job.requests) - 1} more" if len(job.requests) > 1 else ""
        name = f"the edit {job.names[0]}{more} by {self.name}"
        refuse_disabling(edit.report, name, allow=job.options.allow_disabling)
        if job.options.require_success and not edit.report.success:
            raise MechinterpError(f"{name} failed: {edit.report.reason}")
        return edit

    @final
    def finished(self, job: Job[H], made: Made, seconds: float) -> Edit:
        """What was made, judged and with its origin; a disabling edit says so in its report."""
        known = (name for name, hparams in self.presets.items() if hparams == job.hparams)
        figures = {"preset": next(known, "own"), "layers": list(made.change.layers or job.layers)}
        return Edit.of(
            made.change,
            Provenance(
                method=self.name,
                model=job.model.fingerprint(),
                model_name=job.model.name,
                model_dtype=job.model.dtype_name,
                requests=job.requests,
                hparams=job.hparams.plain() | figures,
                contexts=job.contexts,
                moments=" ".join(moment.fingerprint() for moment in job.moments.values()),
                seed=job.seed,
                on_top_of=active_edits(job.model),
                report=self.judge(job, made, seconds),
            ),
        )

    @property
    def needs_moments(self) -> bool:
        """Whether it needs the second moments of the layers it edits."""
        return MOMENTS in self.needs

    @property
    def remembers(self) -> bool:
        """Whether it takes something of earlier edits of a sequence into account."""
        return type(self).remember is not Editor.remember

    @property
    def has_values(self) -> bool:
        """Whether the values of many requests can be found together."""
        return type(self).values is not Editor.values

    @property
    def has_each(self) -> bool:
        """Whether changes of many requests, each alone, can be made together."""
        return type(self).make_each is not Editor.make_each

    @final
    def layers(self, model: Model, given: Wholes | None, hparams: H) -> tuple[int, ...]:
        """The layers that are meant, ascending.

        Args:
            model: the model.
            given: what the caller says; None: the published ones.
            hparams: which may say more closely what was published.

        Raises:
            UsageError: no layers, a layer twice or out of range, several for a method that writes one; or none are
                known for this model.
        """
        if given is None:
            chosen = self.usual_layers(model, hparams)
        else:
            chosen = wholes(given, "layers")
        index = tuple(sorted(model.layout.check_layers(chosen)))
        if not index or len(set(index)) < len(index):
            raise UsageError(f"layers={list(chosen)} is no list of different layers; give at least one")
        if self.one_layer and len(index) > 1:
            raise UsageError(f"{self.name} writes one layer, not {list(index)}; give one")
        return index

    @final
    def contexts(self, model: Model, hparams: H, given: Sequence[str] | None, seed: int) -> tuple[str, ...]:
        """The templates that values, and keys unless they have their own, are averaged over.

        Those given, or the hyper-parameters', or, where these name none that the vocabulary spells, sampled ones.

        Raises:
            UsageError: templates that are none.
        """
        if CONTEXTS not in self.needs:
            return ()
        if given is not None:
            return check_contexts(given)
        if not isinstance(hparams, ValueHparams):
            raise UsageError(f"{self.name} has no lengths to sample contexts by; pass contexts=")
        if hparams.value_contexts and spells(model, hparams.value_contexts):
            return hparams.value_contexts
        return sample_contexts(model, hparams.context_lengths, starts=hparams.context_starts, seed=seed)


    @property
    def ready(self) -> bool:
        """Whether it can edit as it is; an editor with a network must be trained first."""
        return True

    @final
    def chosen(self, preset: str = "default", hparams: H | None = None, model: Model | None = None) -> H:
        """The hyper-parameters that these options mean.

        Args:
            preset: a name in `self.presets`; where there is one for the model's family ("code-gpt2-xl"), that one.  Or
                the path of a file of hyper-parameters of rome, memit or EasyEdit (see `read_hparams`); what cannot be
                carried over is named in a warning.
            hparams: of your own.
            model: whose family counts.

        Raises:
            UsageError: an unknown preset, or hyper-parameters of another method.
        """
        if hparams is None and names_a_file(preset):
            return self._of_file(preset)
        if hparams is None:
            name = preset if model is None else family_preset(model, preset, self.presets)
            if name not in self.presets:
                raise UsageError(f"{preset!r} is no preset of {self.name}; choose one of {', '.join(self.presets)}")
            return self.presets[name]
        if not isinstance(hparams, self.hparams_type):
            raise UsageError(f"{self.name} takes {self.hparams_type.__name__}, not {type(hparams).__name__}")
        owners = hparams.editors
        if owners and self.name not in owners:
            raise UsageError(
                f"these hyper-parameters are of {owners[0]}, not of {self.name}; use that editor, or change a preset "
                f"of {self.name} (EDITORS[{self.name!r}].presets[...].with_(...))"
            )
        return hparams

    def _of_file(self, path: str) -> H:
        """The hyper-parameters of a published file, which must be of this editor where it says of which it is."""
        given = read_file(path)
        of = editor_of(given) or self.name
        if of != self.name:
            raise UsageError(f"{path!r} holds hyper-parameters of {of}, not of {self.name}; use that editor")
        found = self.of_published(path, given)
        if found.left_out:
            warnings.warn(f"{path!r}: not carried over: {'; '.join(found.left_out)}", stacklevel=3)
        return self.chosen(hparams=found.hparams)  # type: ignore[arg-type]

    def of_published(self, path: str | Path, given: Mapping[str, Any]) -> PublishedHparams:
        """The fields of a published file put into the preset that does what its code does."""
        base = next((self.presets[name] for name in PUBLISHED_PRESETS if name in self.presets), self.presets["default"])
        return translated(path, given, self.name, base)

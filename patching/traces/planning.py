"""The plan of a trace: which programs, which prompts together, in which forwards, and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Unpack

from ...errors import UsageError
from ...facts.prompts import Prompt, Prompts, prompts_of
from ...given import is_several, values_of
from ...models.asking import decides_by_prompt
from ...models.model import Model
from ...public import public
from ...runs.versions import versions
from ..algebra.cells import cells
from ..algebra.noise import Noise, PublishedNoise
from ..algebra.programs import SEVER, Program, Run, check_program
from ..exact.budget import Budget
from ..exact.group import GroupPlan, kept_per_prompt, plan_group, split_programs
from ..exact.price import Price
from ..exact.serves import serves
from ..plain.asked import Asked, ask, buckets, sink_warning, warnings_of
from ..plain.own_metrics import Metric, metrics_of
from ..plain.running import GROUP
from ..plain.sigma import embedding_sigma
from .calibration import measured_seconds
from .labels import Label, label
from .options import CausalTracing, TraceOptions, Tracing
from .rows import restored_names, severed_names
from .table import COLUMNS


@dataclass(frozen=True, eq=False)
class Plan:
    """What a trace will run; `str` prices it.

    Args:
        model: the model.
        asked: the prompts, in the order given.
        programs: with axes; the first one's corruption is the baseline.
        groups: prompts that are run together.
        budget: of memory.
        meta: what the table will say about how it was made.
        metrics: of the user's own.
        seed: of the choice of cells to check.
        seconds: estimated; None: not yet (see `timed`).
    """

    model: Model
    asked: tuple[Asked, ...]
    programs: tuple[Program, ...]
    groups: tuple[GroupPlan, ...]
    budget: Budget
    meta: dict[str, Any]
    metrics: tuple[Metric, ...]
    seed: int
    seconds: float | None = None

    @cached_property
    def price(self) -> Price:
        """Of the whole trace."""
        return sum((group.price for group in self.groups), Price())

    @property
    def plain(self) -> dict[Program, str]:
        """Programs whose every cell is a full forward, and why."""
        return self.groups[0].plain

    def timed(self, limit: float = 1.0) -> Plan:
        """The same plan with its time estimated from a few forwards, which take about `limit` seconds."""
        return replace(self, seconds=measured_seconds(self.model, self.groups, self.budget, limit))

    def regrouped(self, groups: Sequence[Sequence[int]]) -> Plan:
        """The same prompts in other groups: those of a run that is continued."""
        refused = next(iter(self.plain.values()), None) if len(self.plain) == len(self.programs) else None
        return replace(self, groups=_groups(self, groups, refused))

    def __repr__(self) -> str:
        lines = [*(str(program) for program in self.programs), str(self.price)]
        lines += [f"plainly, one forward per cell: {program} ({reason})" for program, reason in self.plain.items()]
        if self.seconds is not None:
            lines.append(f"about {_duration(self.seconds)} on this machine")
        return "\n".join(lines)


@public
def plan(
    model: Model,
    prompts: Prompts,
    programs: Program | Iterable[Program] | None = None,
    **options: Unpack[TraceOptions],
) -> Plan:
    """Plan a trace without running it; `trace` takes the same arguments and says what they mean.

    Raises:
        UsageError: bad prompts (all are looked at), unknown kinds, options that do not go together.
        MechinterpError: not even one row fits into the memory given.
    """
    wanted, how = values_of(options, (CausalTracing, Tracing), "a trace")
    asked_prompts = prompts_of(prompts)
    _check_names(asked_prompts)
    given = asked_prompts if is_several(prompts) else asked_prompts[0]
    asked = ask(model, given, answer_from_model=how.reference, foil=how.foil)
    if programs is None:
        chosen = wanted.programs(model, asked_prompts, how)
    else:
        chosen = [check_program(one) for one in ([programs] if isinstance(programs, Program) else programs)]
        wanted.check_beside_programs(how)
    _check_programs(chosen, reference=how.reference)
    own = metrics_of(how.metric, COLUMNS)
    _check_told_apart(model, asked, chosen)
    budget = Budget.of(model, how.memory)
    refused = _refused(model, how.engine)
    unfinished = Plan(
        model,
        tuple(asked),
        tuple(chosen),
        (),
        budget,
        {**_meta(model, chosen, asked, how.reference), **_of_metrics(own)},
        own,
        how.seed,
    )
    splits, _ = split_programs(chosen, refused)
    groups = []
    for bucket in buckets(asked, len(asked)):
        length, keep = len(asked[bucket[0]].ids), len(asked[bucket[0]].answer)
        size = budget.prompts(kept_per_prompt(list(splits.values()), chosen, length, keep, budget), GROUP)
        groups += [bucket[start : start + size] for start in range(0, len(bucket), size)]
    return replace(unfinished, groups=_groups(unfinished, groups, refused))


def _groups(unfinished: Plan, groups: Sequence[Sequence[int]], refused: str | None) -> tuple[GroupPlan, ...]:
    one = unfinished
    return tuple(
        plan_group(
            one.model, group, [one.asked[i] for i in group], one.programs, one.budget, refused=refused, seed=one.seed
        )
        for group in groups
    )


def _check_programs(programs: Sequence[Program], *, reference: bool) -> None:
    """Refuse what would be compared with a baseline that is not its own."""
    if not programs:
        raise UsageError("there is nothing to trace: no programs, or no kinds and nothing severed")
    if not reference and len({program.corruption for program in programs}) > 1:
        raise UsageError("the programs of one trace share one corruption, their baseline; trace these apart")


def _check_told_apart(model: Model, asked: Sequence[Asked], programs: Sequence[Program]) -> None:
    """Refuse programs of which the table would have rows that differ in nothing.

    Raises:
        UsageError: which, and on which prompt.
    """
    alike: dict[tuple[str, str, int], list[Program]] = {}
    for program in dict.fromkeys(programs):
        alike.setdefault((restored_names(program), severed_names(program), program.window or 1), []).append(program)
    for some in alike.values():
        for one in asked if len(some) > 1 else ():
            seen: dict[Label, Program] = {}
            for program in some:
                place = label(program, model.layout, one)
                for cell in cells(program, model.layout, one.prompt):
                    other = seen.setdefault(place.at(cell, one), program)
                    if other != program:
                        raise UsageError(
                            f"the table could not tell the rows of {other} from those of {program} on "
                            f"{one.prompt.prompt.text!r}; trace them apart"
                        )


def _check_names(prompts: Sequence[Prompt]) -> None:
    """The table tells prompts apart by name, so two prompts must not share one."""
    if not prompts:
        raise UsageError("there are no prompts to trace")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.name in seen:
            raise UsageError(f"two prompts have the name {prompt.name!r}; give each an id of its own")
        seen.add(prompt.name)


def _refused(model: Model, engine: str) -> str | None:
    """Why the exact engine is not used, None where it is."""
    if engine == "plain":
        return "the plain executor was asked for"
    if engine == "exact" and (model.is_encoder_decoder or decides_by_prompt(model)):
        raise UsageError(f"engine='exact' cannot be used: {serves(model)}; leave engine= out")
    return serves(model) if engine == "auto" else None


def _meta(model: Model, programs: Sequence[Program], asked: Sequence[Asked], reference: bool) -> dict[str, Any]:
    noises = [write.source for program in programs for write in program.corruption.ordered]
    noise = next((source for source in noises if isinstance(source, (Noise, PublishedNoise))), None)
    level: float | None = None
    if isinstance(noise, PublishedNoise):
        level = noise.level
    elif noise is not None:
        level = noise.level if noise.level is not None else noise.sigmas * embedding_sigma(model)
    quirk = any(isinstance(w.source, Run) for p in programs for w in p.ordered if w.verb == SEVER)
    return {
        "model": model.name,
        "bundled": model.bundled,
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        **({"stack": model.layout.stack} if model.is_encoder_decoder else {}),
        "dtype": model.dtype_name,
        "fingerprint": model.fingerprint(),
        "programs": [str(program) for program in programs],
        "prompts": len(asked),
        "draws": programs[0].draws or 1,
        "seed": getattr(noise, "seed", None),
        "sigmas": getattr(noise, "sigmas", None),
        "noise_level": level,
        "window": max(program.window or 1 for program in programs),
        "reference": reference,
        "severed_within_draw": not quirk,
        "guests": list(model.guests),
        "versions": versions(),
        "scored": {one.prompt.prompt.name: _scored(model, one) for one in asked},
        "warnings": [
            *sink_warning(model, asked),
            *(sentence for one in asked for sentence in warnings_of(model, one)),
        ],
    }


def _of_metrics(own: Sequence[Metric]) -> dict[str, Any]:
    return {"metrics": {one.name: {"unit": one.unit, "direction": one.direction} for one in own}} if own else {}


def _scored(model: Model, asked: Asked) -> str:
    """The answer as it stands behind its prompt, with the space in front of it."""
    answer = asked.prompt.answer
    return answer.text if answer is not None and answer.ids == asked.answer else model.decode(asked.answer)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

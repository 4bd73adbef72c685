"""Causal tracing: a grid of programs over many prompts, as one long table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import MechinterpError, UsageError
from ..models import Model
from ..progress import progress_bar
from ..prompts import Fact, Prompt
from ..provenance import versions
from .batch import DEFAULT_MAX_TOKENS
from .cells import Cell, cells
from .grid import Counts, Grid
from .metrics import Scores, score
from .noise import Gaussian, Noise, PublishedNoise
from .programs import SEVER, Program, nothing
from .recipes import causal_tracing, default_window
from .rows import cell_columns, frame_of, restored_names, severed_names
from .running import GROUP, make_questions
from .serves import serves
from .session import Asked, Session, ask, buckets
from .sigma import embedding_sigma
from .sources import Run, Source
from .table import COLUMNS, Table


class Interrupted(MechinterpError):
    """A trace was interrupted; `table` holds the prompts that were finished."""

    def __init__(self, message: str, table: Table) -> None:
        super().__init__(message)
        self.table = table


def trace(
    model: Model,
    prompts: Sequence[Prompt | Fact],
    programs: Program | Sequence[Program] | None = None,
    *,
    kinds: Sequence[str] = ("resid", "mlp", "attn"),
    severed: Sequence[str] = ("mlp", "attn"),
    window: int | None = None,
    sigmas: float = 3.0,
    noise_level: float | None = None,
    draws: int = 10,
    seed: int = 0,
    reference: bool = False,
    foil: str | None = None,
    engine: str = "auto",
    out: str | Path | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    progress: bool = True,
) -> Table:
    """Trace where a model keeps what it says about some subjects.

    Without `programs` this is causal tracing (see `causal_tracing`): positions x layers x {residual, MLP window,
    attention window}, and the residual with MLP or attention severed.  Noise is fresh per prompt and shared by all
    cells of the prompt; severing happens within one draw.

    Args:
        model: the model.
        prompts: what to trace; a prompt without an answer is scored by the model's own next token.
        programs: one program or several with axes (`every`, `.window()`); they share the corrupted baseline of the
            first.
        kinds, severed: which parts of causal tracing to run.
        window: layers restored at once (odd windows are symmetric); default: `default_window`.
        sigmas: noise in standard deviations of token embeddings (see `sigma.embedding_sigma` for which tokens).
        noise_level: the noise's standard deviation itself, instead of `sigmas`.
        draws: noise draws per prompt; fewer than 10 are few.
        seed: of the noise.
        reference: reproduce the published implementation: the same noise numbers for every prompt, sigma over the given
            prompts' subjects, the model's own prediction as the answer, window 10, and severed runs whose frozen values
            come from another draw than the run they are put into.
        foil: the answer that `logit_diff` compares with; default: the clean run's strongest competitor.
        engine: "exact" computes only what a patch can change, "plain" runs every cell as a full forward, "auto" is
            exact for models that pass a comparison of the two; either way some cells are run by both and compared.
        out: where to write the table (Parquet).
        max_tokens: tokens per forward; lower it when memory runs out.
        progress: show a bar.

    Returns:
        The long table; see `patching.table`.

    Raises:
        UsageError: bad prompts (all are looked at before anything runs), unknown kinds.
        Interrupted: Ctrl-C; the finished prompts are in its `table`, and in a file beside `out`.
    """
    if isinstance(prompts, (Prompt, Fact)):
        raise UsageError("trace() takes a list of prompts; put this one in square brackets")
    if window is not None and window < 1:
        raise UsageError(f"a window of {window} layers holds nothing; give at least 1")
    asked_prompts = [one.prompt if isinstance(one, Fact) else one for one in prompts]
    _check_names(asked_prompts)
    asked = ask(model, asked_prompts, answer_from_model=reference)
    if programs is None:
        if reference:
            window = 10 if window is None else window
            if noise_level is None:
                noise_level = sigmas * embedding_sigma(model, [p.subject for p in asked_prompts])
            noise: Source = PublishedNoise(noise_level, draws)
            other: Source | None = PublishedNoise(noise_level, draws, block=1)
        else:
            noise, other = Gaussian(sigmas, draws=draws, seed=seed, level=noise_level), None
        window = default_window(model.n_layers) if window is None else window
        chosen = causal_tracing(noise, window, kinds=kinds, severed=severed, severed_noise=other)
    else:
        chosen = [programs] if isinstance(programs, Program) else list(programs)
    _check_programs(chosen, reference=reference, given=programs is not None)
    if engine not in ("auto", "exact", "plain"):
        raise UsageError(f"there is no engine {engine!r}; choose auto, exact or plain")
    meta = _meta(model, chosen, asked, reference)
    frames: dict[int, pd.DataFrame] = {}
    counts = Counts()
    refused = _refused(model, engine)
    try:
        with progress_bar("tracing prompts", len(asked), shown=progress) as advance:
            for group in buckets(asked, GROUP):
                session = Session(model, [asked[i] for i in group], max_tokens)
                made = _trace_group(session, chosen, foil, counts, refused=refused, seed=seed)
                frames.update(zip(group, made, strict=True))
                advance(len(group))
    except KeyboardInterrupt:
        raise _interrupted(frames, {**meta, **asdict(counts)}, len(asked), out) from None
    except (MechinterpError, RuntimeError) as error:
        if out is None or not frames:
            raise
        partial = _interrupted(frames, {**meta, **asdict(counts)}, len(asked), out)
        raise MechinterpError(f"{error}; {partial}") from error
    table = _table(frames, {**meta, **asdict(counts)})
    if out is not None:
        table.save(out)
    return table


def _check_programs(programs: Sequence[Program], *, reference: bool, given: bool) -> None:
    """Refuse what the table could not tell apart, and what would be compared with a baseline that is not its own."""
    if not programs:
        raise UsageError("there is nothing to trace: no programs, or no kinds and nothing severed")
    if given and reference:
        raise UsageError("reference=True brings its own programs; give programs or reference=True, not both")
    if not reference and len({program.corruption for program in programs}) > 1:
        raise UsageError("the programs of one trace share one corruption, their baseline; trace these apart")
    seen: dict[tuple[str, str, int], Program] = {}
    for program in programs:
        key = restored_names(program), severed_names(program), program.window or 1
        other = seen.setdefault(key, program)
        if other != program:
            raise UsageError(f"the table could not tell the rows of {other} from those of {program}; trace them apart")


def _refused(model: Model, engine: str) -> str | None:
    """Why the exact engine is not used, None where it is."""
    if engine == "plain":
        return "the plain executor was asked for"
    if engine == "auto" and not serves(model):
        return "this model does not allow a growing batch"
    return None


def _trace_group(
    session: Session, programs: Sequence[Program], foil: str | None, counts: Counts, *, refused: str | None, seed: int
) -> list[pd.DataFrame]:
    """The frames of the prompts of one session."""
    questions = make_questions(session, foil)
    corrupted = session.run(programs[0].corruption)
    patched: list[dict[tuple[Program, Cell], Scores]] = [{} for _ in session.asked]
    for one in Grid(session, programs, questions, counts, refused=refused, seed=seed).run():
        patched[one.prompt][one.program, one.cell] = one.scores
    frames = []
    for index, asked in enumerate(session.asked):
        parts = [
            cell_columns(asked, "clean", score(session.logits[nothing][index], questions[index])),
            cell_columns(asked, "corrupted", score(corrupted[index], questions[index])),
        ]
        for program in programs:
            for cell in cells(program, session.model.layout, asked.prompt):
                parts.append(cell_columns(asked, "patched", patched[index][program, cell], program, cell))
        frames.append(frame_of(parts))
    return frames


def _table(frames: dict[int, pd.DataFrame], meta: dict[str, Any]) -> Table:
    """All prompts in the order in which they were given."""
    ordered = [frames[index] for index in sorted(frames)]
    frame = pd.concat(ordered, ignore_index=True) if ordered else pd.DataFrame(columns=list(COLUMNS))
    return Table(frame, meta)


def _interrupted(
    frames: dict[int, pd.DataFrame], meta: dict[str, Any], given: int, out: str | Path | None
) -> Interrupted:
    table = _table(frames, {**meta, "interrupted": True})
    where = ""
    if out is not None and frames:
        partial = Path(out).with_suffix(".partial.parquet")
        table.save(partial)
        where = f", kept in {partial}"
    return Interrupted(f"interrupted after {len(frames)} of {given} prompts{where}", table)


def _check_names(prompts: Sequence[Prompt]) -> None:
    """The table tells prompts apart by name, so two prompts must not share one."""
    if not prompts:
        raise UsageError("there are no prompts to trace")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.name in seen:
            raise UsageError(f"two prompts have the name {prompt.name!r}; give each an id of its own")
        seen.add(prompt.name)


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
        "architecture": model.architecture,
        "n_layers": model.n_layers,
        "dtype": str(model.dtype).removeprefix("torch."),
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
        "versions": versions(),
        "warnings": [sentence for one in asked for sentence in _warnings(one)],
    }


def _warnings(asked: Asked) -> list[str]:
    prompt, found = asked.prompt.prompt, []
    if asked.prompt.mentions > 1:
        found.append(
            f"{prompt.text!r} names its subject {asked.prompt.mentions} times; only the one at the template's '{{}}' "
            "is corrupted"
        )
    if not asked.prompt.exact:
        found.append(f"the last subject token of {prompt.text!r} also holds what follows the subject")
    return found

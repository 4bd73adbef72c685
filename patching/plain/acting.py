"""A program that is on: its writes take part in every forward of the model, cached generation included.

The hooks know where a forward's tokens stand in the whole text from the cache that it is given.  What a program reads
from the runs of one prompt is computed before it acts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Fact, Prompt
from ...facts.spans import TokenisedPrompt
from ...models.asking import deciding
from ...models.guests import announced
from ...models.layout import PER_HEAD
from ...models.model import Model
from ..algebra.acting import acts_by
from ..algebra.cells import Placed, place
from ..algebra.own import Own
from ..algebra.positions import Position, at, everywhere
from ..algebra.programs import Program, Write
from ..algebra.sentences import Sentence
from ..algebra.sources import Given, Mean
from .asked import Asked
from .session import Session, source_program

_NOWHERE = TokenisedPrompt(Prompt("{} x", "a"), (0, 0), (0, 1), None, ("", ""))
"""Stands for a prompt where a write needs none: its values are those of any token."""


@dataclass(frozen=True, eq=False)
class _Standing:
    """A write with its values: [tokens, *width] for the tokens of a prompt, [1, *width] for those of any text."""

    placed: Placed
    values: Tensor
    open: Position | None = None

    def where(self, start: int, width: int) -> tuple[list[int], list[int]]:
        """Which of `width` tokens from `start` on are written, and with which of the values."""
        if self.open is None:
            pairs = [(p - start, i) for i, p in enumerate(self.placed.positions) if start <= p < start + width]
        else:
            chosen = range(start + width)
            if self.open.index is not None or self.open.chosen:
                chosen = _reached(self.open, start + width)
            pairs = [(p - start, 0) for p in chosen if p >= start]
        return [p for p, _ in pairs], [i for _, i in pairs]


def _reached(position: Position, length: int) -> Any:
    """The tokens of a text of some length that `at(...)` or `everywhere[...]` names."""
    if isinstance(position.index, tuple):
        return range(length)[slice(*position.index)]
    numbers = position.chosen if position.index is None else (position.index,)
    return [number for number in numbers if number < length]


@dataclass
class _Text:
    """What is known of the forward that runs now."""

    start: int = 0
    rows: int = 0
    width: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    live: dict[str, Tensor] = field(default_factory=dict)


@acts_by
@contextmanager
def acting(program: Program, model: Model, prompt: Prompt | Fact | None) -> Iterator[Model]:
    """Let a program act on every forward for the length of a block; see `Program.on`."""
    if model.is_encoder_decoder:
        raise UsageError(f"{model.name} is an encoder-decoder, and a program is on for decoders alone; use run()")
    if program.has_axes:
        raise UsageError(f"this program has axes, one cell per token or layer: {program}; name one token and layer")
    if program.draws is not None:
        raise UsageError(f"this program has {program.draws} draws, and a text can be under one: {program}; use run()")
    asked = None if prompt is None else Asked(model.tokenise(prompt), (0,))
    with model.alone():
        standing = _standing(program, model, asked)
    by_hook: dict[str, list[tuple[_Standing, str | None]]] = defaultdict(list)
    for one in standing:
        hook, minus = model.layout.write_hook(one.placed.component, one.placed.layer)
        by_hook[hook].append((one, minus))
    text = _Text()
    network, points = model.bridge.original_model, model.bridge.hook_dict
    with ExitStack() as stack:
        ids = None if asked is None else asked.prompt.ids
        before = partial(_begins, text, ids, program)
        stack.callback(network.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(network.register_forward_hook(partial(_ends, text, model, list(by_hook))).remove)
        for minus in {minus for writes in by_hook.values() for _, minus in writes if minus is not None}:
            handle = points[minus].add_hook(partial(_seen, text, minus), is_permanent=True)
            stack.callback(_forget, points[minus], handle)
        for hook, writes in by_hook.items():
            handle = points[hook].add_hook(partial(_written, text, hook, writes), is_permanent=True)
            stack.callback(_forget, points[hook], handle)
        stack.enter_context(deciding(model))
        stack.enter_context(announced(model.bridge, [f"program {program}"]))
        yield model


def _forget(point: Any, handle: Any) -> None:
    handle.hook.remove()
    point.fwd_hooks.remove(handle)


def _standing(program: Program, model: Model, asked: Asked | None) -> list[_Standing]:
    """All writes in order with their values."""
    found: list[_Standing] = []
    taken: dict[tuple[int, str, int, int | None], Write] = {}
    session = Session(model, [Asked(_NOWHERE, (0,)) if asked is None else asked])
    fixed = [] if asked is None else place(program, model.layout, asked.prompt)
    if asked is not None:
        session.run_sources([(program, fixed)])
    for write in program.ordered:
        if asked is None or (write.site.position == everywhere and _is_of_any_text(write)):
            found += _open(write, model, asked)
        else:
            mine = [one for one in fixed if one.write == write]
            found += [_Standing(one.placed, one.values[0]) for one in session.job(0, program, mine).writes]
    for one in found:
        if one.open is None or one.placed.write.source.additive:
            continue
        for head in one.placed.heads or (None,):
            key = one.placed.write.stage, one.placed.component, one.placed.layer, head
            other = taken.setdefault(key, one.placed.write)
            if other != one.placed.write:
                raise UsageError(f"two sources for one address: {other} and {one.placed.write}; keep one of them")
    return found


def _is_of_any_text(write: Write) -> bool:
    """Whether the values of a write do not depend on what is said."""
    source = write.source
    by_token = isinstance(source, (Sentence, Own)) or (isinstance(source, Mean) and source.by != "all")
    return source_program(_placed(write), Program()) is None and not by_token


def _placed(write: Write) -> Placed:
    return Placed(write, write.site.component.name, 0, (0,), ())


def _open(write: Write, model: Model, asked: Asked | None) -> list[_Standing]:
    """A write of no prompt in particular, at tokens that are known by their numbers."""
    position = write.site.position
    if asked is None and not _is_of_any_text(write):
        what = "another run" if source_program(_placed(write), Program()) is not None else "a prompt"
        raise UsageError(f"{write} takes its values from {what}, which is not there; give on(model, prompt)")
    numbers = position.index if isinstance(position.index, tuple) else (position.index, *position.chosen)
    if position.role not in ("all", "at") or any(number is not None and number < 0 for number in numbers):
        raise UsageError(
            f"{write} names tokens of a prompt; give on(model, prompt), or write everywhere, everywhere[3:] or at(3)"
        )
    axes = 2 if write.site.component.name in PER_HEAD else 1
    if isinstance(write.source, Given) and write.source.tensor.ndim > axes:
        raise UsageError(f"{write} has a value for each of several tokens; give one vector, or on(model, prompt)")
    anywhere = replace(write, site=replace(write.site, position=at(0)))
    alone = Program(frozenset({anywhere}))
    session = Session(model, [Asked(_NOWHERE, (0,))])
    job = session.job(0, alone, place(alone, model.layout, _NOWHERE))
    return [_Standing(replace(one.placed, write=write), one.values[0], position) for one in job.writes]


def _begins(text: _Text, ids: tuple[int, ...] | None, program: Program, module: Any, args: Any, kwargs: Any) -> None:
    """See which tokens a forward is about to run, and refuse those of another prompt."""
    given = kwargs.get("input_ids", args[0] if args else None)
    past = kwargs.get("past_key_values")
    text.start = 0 if past is None else int(past.get_seq_length())
    text.fired, text.live = Counter(), {}
    shown = given if given is not None else kwargs.get("inputs_embeds")
    if not isinstance(shown, Tensor):
        raise MechinterpError(f"a forward without tokens was run while a program was on: {program}")
    text.rows, text.width = shown.shape[:2]
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask[:, 0].all()):
        raise UsageError("a program is on, and rows that are padded on the left have other token numbers; pad right")
    if ids is None or text.start:
        return
    wanted = torch.tensor(ids)
    if given is None or text.width < len(ids) or not bool((given[:, : len(ids)].cpu() == wanted).all()):
        raise UsageError(f"the program is on for one prompt, and the model is asked another text: {program}")


def _ends(text: _Text, model: Model, hooks: list[str], module: Any, args: Any, output: Any) -> None:
    """A write that did not take part would be a silent zero."""
    for hook in hooks:
        if text.fired[hook] != 1:
            count = text.fired[hook]
            raise MechinterpError(f"the hook point {hook!r} of {model.name} fired {count} times instead of once")


def _seen(text: _Text, name: str, value: Tensor, hook: Any) -> None:
    text.live[name] = value


def _written(text: _Text, name: str, writes: list[tuple[_Standing, str | None]], value: Tensor, hook: Any) -> Tensor:
    text.fired[name] += 1
    # OPT flattens rows and tokens inside its MLP, so the shape is put back and restored.
    flat = value.shape[:2] != (text.rows, text.width)
    out = value.reshape(text.rows, text.width, *value.shape[1 if flat else 2 :]).clone()
    for one, minus in writes:
        tokens, which = one.where(text.start, text.width)
        if not tokens:
            continue
        new = one.values.to(out)[which].expand(text.rows, -1, *one.values.shape[1:])
        at_tokens = torch.tensor(tokens, device=out.device)
        heads = torch.tensor(one.placed.heads, device=out.device) if one.placed.heads else None
        old = out[:, at_tokens] if heads is None else out[:, at_tokens][:, :, heads]
        if one.placed.write.source.additive:
            new = old + new
        elif minus is not None:
            new = new - text.live[minus][:, at_tokens]
        if heads is None:
            out[:, at_tokens] = new
        else:
            out[:, at_tokens[:, None], heads] = new
    return out.view_as(value)

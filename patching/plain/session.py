"""The runs behind a program: clean, corrupted and any other whose activations are written somewhere.

A `Session` holds prompts of one token length.  It runs each source program once for all of them, keeps only the
activations that some write will need, and turns placed writes into values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from ...errors import UsageError
from ...forwards.unembedding import Logits
from ...models.layout import EMBED, KEY, PER_HEAD, K, V
from ...models.model import Model
from ..algebra.cells import Placed, place
from ..algebra.noise import Noise, PublishedNoise
from ..algebra.own import Own, Place
from ..algebra.programs import Program, Run, nothing
from ..algebra.sentences import Sentence
from ..algebra.sources import Clean, Corrupted, Delta, Given, Mean, Source, Zero
from .asked import Asked
from .jobs import DEFAULT_MAX_TOKENS, Job, Pair, Valued, run_jobs
from .means import Means
from .others import Others
from .own_values import own_values
from .precision import on_device
from .sigma import embedding_sigma

Address = tuple[str, int]
"""Component and layer."""


@dataclass
class Work:
    """What was computed: rows x tokens x layers, of full forwards."""

    token_layers: int = 0

    def add(self, jobs: Sequence[Job], n_layers: int) -> None:
        """Count some jobs."""
        self.token_layers += n_layers * sum(job.rows * len(job.ids) for job in jobs)


@dataclass(eq=False)
class Session:
    """Runs of some prompts of equal token length.

    Args:
        model: the model.
        asked: the prompts.
        max_tokens: tokens per forward.
    """

    model: Model
    asked: Sequence[Asked]
    max_tokens: int = DEFAULT_MAX_TOKENS
    logits: dict[Program, list[Logits]] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    _wanted: dict[Program, dict[Address, None]] = field(default_factory=dict)
    _wants_pairs: set[Program] = field(default_factory=set)
    _kept: dict[Program, list[dict[Address, Tensor]]] = field(default_factory=dict)
    _pairs: dict[Program, list[Pair]] = field(default_factory=dict)
    _stacked: dict[tuple[Program, Address], Tensor] = field(default_factory=dict)
    others: Others = field(init=False)
    means: Means = field(init=False)

    def __post_init__(self) -> None:
        self.others, self.means = Others(self.model), Means(self.model)

    @property
    def ids(self) -> Int[Tensor, "prompt pos"]:
        """The tokens of the prompts."""
        return torch.tensor([asked.ids for asked in self.asked])

    def want(self, program: Program, reads: Sequence[Address] = (), *, pairs: bool = False) -> None:
        """Say what will be read of a program's run, so that it happens once and keeps it all.

        Args:
            program: without axes.
            reads: activations.
            pairs: the keys and values of every layer.
        """
        is_new = program not in self._wanted
        self._wanted.setdefault(program, {}).update(dict.fromkeys(reads))
        if pairs:
            self._wants_pairs.add(program)
        if is_new:
            for asked in self.asked:
                self.want_for(program, place(program, self.model.layout, asked.prompt))

    def want_for(self, program: Program, placed: Sequence[Placed]) -> None:
        """Want whatever some placed writes of a program read from."""
        for write in placed:
            source = source_program(write, program)
            if source is not None:
                self.want(source, [(write.component, write.layer)])

    def run(self, program: Program, reads: Sequence[Address] = ()) -> list[Logits]:
        """Run a program without axes on every prompt, keep what is wanted of it, and return its logits.

        It runs once; again only where something is read that nobody said was wanted.

        Returns:
            For each prompt [draws, kept, vocab], or what they are made of.
        """
        self.want(program, reads)
        addresses = list(self._wanted[program])
        kept, pairs = self._kept.get(program), program in self._wants_pairs
        if kept is not None and all(address in kept[0] for address in addresses) and (program in self._pairs) >= pairs:
            return self.logits[program]
        placed = [place(program, self.model.layout, asked.prompt) for asked in self.asked]
        self.run_sources((program, writes) for writes in placed)
        jobs = [self.job(index, program, writes) for index, writes in enumerate(placed)]
        hooks = {address: self.model.layout.read_hook(*address) for address in addresses}
        results = list(
            run_jobs(
                self.model,
                jobs,
                list(dict.fromkeys(hooks.values())),
                max_tokens=self.max_tokens,
                keep_pairs=pairs,
            )
        )
        self.work.add(jobs, self.model.n_layers)
        self.logits[program] = [result.logits for result in results]
        self._kept[program] = [{a: result.cache[hook] for a, hook in hooks.items()} for result in results]
        if pairs:
            self._pairs[program] = [
                (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
                for layer in zip(*(result.pairs for result in results), strict=True)
            ]
        for key in [key for key in self._stacked if key[0] == program]:
            del self._stacked[key]
        return self.logits[program]

    def run_sources(self, needs: Iterable[tuple[Program, Sequence[Placed]]]) -> None:
        """Run whatever the given writes read from; `needs` pairs each placed write's program with the writes."""
        sources: dict[Program, None] = {}
        for program, placed in needs:
            self.want_for(program, placed)
            sources.update((source, None) for write in placed if (source := source_program(write, program)) is not None)
        for source in sources:
            self.run(source)

    def pairs(self, program: Program) -> list[Pair]:
        """Keys and values of a run that was wanted with them, [prompt x draw, head, pos, d_head] per layer."""
        return self._pairs[program]

    def job(
        self, index: int, program: Program, placed: Sequence[Placed], key: object = None, *, draw: int | None = None
    ) -> Job:
        """A job for one prompt and one cell, of one draw or all; the runs it reads from must have been prepared."""
        asked = self.asked[index]
        rows = program.draws or 1
        values = [self.values(index, write, program) for write in placed]
        if draw is not None:
            rows, values = 1, [each if len(each) == 1 else each[draw : draw + 1] for each in values]
        writes = [Valued(write, each) for write, each in zip(placed, values, strict=True)]
        ids, decoder = self.model.inputs(asked.prompt.ids, asked.answer[:-1])
        return Job((index, key), ids, rows, writes, keep=len(asked.answer), decoder=decoder)

    def stacked(self, program: Program, address: Address) -> Tensor:
        """A kept activation of all prompts, [prompts x draws, pos, ...]."""
        key = program, address
        if key not in self._stacked:
            each = self._kept[program]
            whole = torch.cat([kept[address] for kept in each])
            # What is kept becomes a view of it, so that nothing is held twice.
            for kept, part in zip(each, whole.split([kept[address].shape[0] for kept in each]), strict=True):
                kept[address] = part
            self._stacked[key] = whole
        return self._stacked[key]

    def activation(self, program: Program, index: int, address: Address) -> Tensor:
        """A kept activation, [draws, pos, ...]."""
        return self._kept[program][index][address]

    def values(self, index: int, placed: Placed, program: Program) -> Tensor:
        """Values of one write to one prompt, [draws or 1, positions, ...]; what they are read from must have run."""
        source, positions = placed.write.source, list(placed.positions)
        other = source_program(placed, program)
        if other is not None:
            kept = self._kept[other][index][placed.component, placed.layer][:, positions]
        elif isinstance(source, Sentence):
            kept = self.others.activation(self.asked[index], source, placed)
        elif isinstance(source, Mean):
            kept = self.means.values(source, self.asked[index].prompt, placed)
        else:
            return self._made(index, placed, positions)
        return kept[:, :, list(placed.heads)] if placed.heads else kept

    def _made(self, index: int, placed: Placed, positions: list[int]) -> Tensor:
        """Values that no run gives: noise, zero, the user's own."""
        source, model = placed.write.source, self.model
        width = self._width(placed)
        shape = (len(positions), *width)
        dtype, device = model.dtype, model.device
        if isinstance(source, PublishedNoise):
            return on_device(source.sample(shape), device)
        if isinstance(source, Noise):
            scale = source.level if source.level is not None else source.sigmas * embedding_sigma(model)
            noise = source.sample(shape, scale, self.asked[index].prompt.prompt.name, str(placed))
            return on_device(noise, device)
        if isinstance(source, Zero):
            return torch.zeros(1, *shape, dtype=dtype, device=device)
        if isinstance(source, Delta):
            return source.tensor.expand(1, *shape)
        if isinstance(source, Given):
            return self._given(source, placed, shape)
        if isinstance(source, Own):
            place = Place(placed.component, placed.layer, placed.positions, placed.heads, shape)
            return own_values(source, model, self.asked[index].prompt.prompt, place)
        raise UsageError(f"{placed.write} has a source of an unknown kind: {type(source).__name__}")

    def _width(self, placed: Placed) -> tuple[int, ...]:
        layout = self.model.layout
        if placed.component in PER_HEAD:
            kv = placed.component in (K, V)
            heads = len(placed.heads) or (layout.n_kv_heads if kv else layout.n_heads)
            return heads, int(layout.config.d_head)
        if placed.component == EMBED:
            return (layout.d_embed,)
        return (layout.d_mlp if placed.component == KEY else layout.d_model,)

    def _given(self, source: Given, placed: Placed, shape: tuple[int, ...]) -> Tensor:
        rows = source.tensor.to(self.model.device)
        rows = rows if source.per_draw else rows[None]
        given = tuple(rows.shape[1:])
        if given not in (shape, shape[1:]):
            front = "[draws, ...] with " if source.per_draw else ""
            raise UsageError(
                f"the tensor given for {placed} has shape {list(source.tensor.shape)}; {front}{list(shape[1:])} or "
                f"{list(shape)} is needed"
            )
        return rows if given == shape else rows[:, None].expand(-1, *shape)


def source_program(placed: Placed, program: Program) -> Program | None:
    """The program whose run a write reads from, None if it needs no run of this prompt."""
    return run_read_by(placed.write.source, program)


def runs_behind(programs: Iterable[Program]) -> list[Program]:
    """Every run that some programs start from or read, the clean one first; each is done once per prompt."""
    found: dict[Program, None] = {nothing: None}
    pending = list(programs)
    for program in pending:
        for source in (program.corruption, *(run_read_by(write.source, program) for write in program.ordered)):
            if source is not None and source not in found:
                found[source] = None
                pending.append(source)
    return list(found)


def run_read_by(source: Source, program: Program) -> Program | None:
    """The program whose run a source of a program's write reads from, None if it needs no run of this prompt."""
    if isinstance(source, Clean):
        return nothing
    if isinstance(source, Corrupted):
        return program.corruption
    return source.program if isinstance(source, Run) else None

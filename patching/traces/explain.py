"""What a program will do to a prompt, said before it is run."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt, prompts_of
from ...models.layout import ATTN, MLP, RESID, RESID_MID
from ...models.model import Model
from ...public import public
from ..algebra.cells import Cell, cells, place, tokens_of
from ..algebra.programs import Program, check_program
from ..algebra.sources import Clean, Corrupted
from ..exact.budget import Budget
from ..exact.group import plan_group
from ..exact.price import Price
from ..exact.serves import serves
from ..plain.asked import ask
from ..plain.jobs import DEFAULT_MAX_TOKENS
from ..plain.session import source_program


@dataclass(frozen=True)
class Line:
    """One write: verb, hook point, tokens and source."""

    verb: str
    hook: str
    tokens: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """The price and the parts of a program on one prompt.

    Args:
        program: as text.
        prompt: as text.
        tokens: the prompt's tokens.
        lines: the writes; of a grid, those of its last cell.
        cells: how many cells the grid has.
        no_ops: cells that cannot change anything: what they restore or sever comes before the first corrupted token,
            where all runs are still the same, or nothing later reads it.
        rows: noise draws per cell.
        forwards: forwards of the plain executor.
        token_layers: rows x tokens x layers computed by it.
        megabytes: activations held at once (logits and residual stream of one forward), estimated.
        exact: the price of the exact engine, or why it does not run this program; None for a program without axes.
    """

    program: str
    prompt: str
    tokens: tuple[str, ...]
    lines: tuple[Line, ...]
    cells: int
    no_ops: int
    rows: int
    forwards: int
    token_layers: int
    megabytes: float
    exact: Price | str | None

    def __str__(self) -> str:
        widths = [
            max(len(getattr(line, name)) for line in self.lines) if self.lines else 0
            for name in ("verb", "hook", "tokens")
        ]
        body = [
            f"  {line.verb:{widths[0]}}  {line.hook:{widths[1]}}  {line.tokens:{widths[2]}}  <- {line.source}"
            for line in self.lines
        ]
        many = " (writes of the last cell shown)" if self.cells > 1 else ""
        return "\n".join(
            [
                f"{self.program}",
                f"on {self.prompt!r}{many}",
                *body,
                f"{self.cells} cells x {self.rows} draws, {self.no_ops} of them exact no-ops; "
                f"plainly {self.forwards} forwards, {self.token_layers:,} token-layers, about "
                f"{self.megabytes:.0f} MB at once",
                *([] if self.exact is None else [f"by the exact engine: {self.exact}"]),
            ]
        )


@public
def explain(model: Model, prompt: Prompt | Fact, program: Program) -> Explanation:
    """What running a program on a prompt will do: hooks, tokens, sources, cells, forwards, exact no-ops.

    Args:
        model: the model.
        prompt: one.
        program: with or without axes.

    Raises:
        UsageError: several prompts, no program, or sites and positions that the model or the prompt does not have.
    """
    check_program(program)
    given = prompts_of(prompt)
    if len(given) != 1:
        raise UsageError(f"explain() takes one prompt, not {len(given)}; a trace of several is priced by mi.plan()")
    [prompt] = given
    tokenised = model.tokenise(prompt)
    grid = list(cells(program, model.layout, tokenised))
    length = len(tokenised) + max(0, len(tokenised.answer_ids) - 1)
    rows = program.draws or 1
    placed = place(program, model.layout, tokenised, grid[-1])
    lines = [
        Line(
            write.write.verb,
            _hook(model, write.component, write.layer) + (f" heads {list(write.heads)}" if write.heads else ""),
            ", ".join(
                f"{position}:{tokens_of(write.component, tokenised).tokens[position]!r}" for position in write.positions
            ),
            str(write.write.source),
        )
        for write in placed
    ]
    sources = {source_program(write, program) for write in placed} - {None}
    per_forward = max(1, DEFAULT_MAX_TOKENS // (rows * length))
    forwards = -(-len(grid) // per_forward) + len(sources)
    tokens = rows * length * len(grid) + sum((source.draws or 1) * length for source in sources if source is not None)
    held = min(rows * len(grid), per_forward * rows)
    numbers = held * (length * (6 * model.d_model + 4 * model.d_model) + model.vocab_size)
    return Explanation(
        program=str(program), prompt=prompt.text, tokens=tokenised.tokens, lines=tuple(lines), cells=len(grid),
        no_ops=_no_ops(program, model, prompt, grid), rows=rows, forwards=forwards,
        token_layers=tokens * model.n_layers,
        megabytes=numbers * model.dtype.itemsize / 1e6, exact=_exact(program, prompt, model),
    )  # fmt: skip


def _exact(program: Program, prompt: Prompt, model: Model) -> Price | str | None:
    if not program.has_axes:
        return None
    refused = serves(model)
    group = plan_group(model, [0], ask(model, [prompt]), [program], Budget.of(model), refused=refused, checked=0)
    return group.plain.get(program, group.price)


def _hook(model: Model, component: str, layer: int) -> str:
    if component == RESID_MID:
        return f"blocks.{layer} between attention and MLP"
    return model.layout.hook(component, layer)


def _no_ops(program: Program, model: Model, prompt: Prompt, grid: list[Cell]) -> int:
    """Cells whose restores all come before the first corrupted token, or sit in the last layer off the last token.

    Before that token the clean and the corrupted run agree; any other source may bring something new there.  Of an
    encoder, where every token sees every other, no cell is known to be idle.
    """
    if model.is_encoder_decoder:
        return 0
    tokenised = model.tokenise(prompt)
    count = 0
    for cell in grid:
        placed = place(program, model.layout, tokenised, cell)
        damaged = [position for write in placed if write.write.stage == 0 for position in write.positions]
        first = min(damaged, default=len(tokenised))
        restores = [write for write in placed if write.write.stage > 0]
        idle = [
            (max(write.positions) < first and isinstance(write.write.source, (Clean, Corrupted)))
            or (
                write.layer == model.n_layers - 1
                and write.component in (RESID, RESID_MID, MLP, ATTN)
                and len(tokenised) - 1 not in write.positions
            )
            for write in restores
        ]
        count += bool(restores) and all(idle)
    return count

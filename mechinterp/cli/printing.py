"""Tables, and what an edit did, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as RichTable

from ..facts.spans import FIRST_SUBJECT, LAST, LAST_SUBJECT, MIDDLE_SUBJECT
from .screen import Console

if TYPE_CHECKING:
    import pandas as pd

    from ..editing import BatchReport, Edit, Outcome, RomeReport
    from ..models.model import Model

_SHOWN = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, LAST)
_TITLE = "average indirect effect x 100, by layer (centre of the window)"


def print_effects(console: Console, effects: pd.DataFrame, totals: pd.DataFrame) -> None:
    """AIE x 100 by role (the four that matter), component and layer, and the total effect.

    A table that the terminal has no room for is broken into blocks of layers.
    """
    from ..analysis.intervals import why_no_interval, with_interval

    n = int(totals["n_prompts"].max())
    why = why_no_interval(n, "prompt")
    console.print(
        f"{n} prompts: clean {totals.loc['clean', 'estimate']:.3f}, "
        f"corrupted {totals.loc['corrupted', 'estimate']:.3f}, "
        f"total effect {with_interval(totals.loc['total_effect'])} (probability of the answer)"
    )
    if why:
        console.print(why)
    heads = effects[effects["head"] >= 0]
    if len(heads):
        _print_heads(console, heads)
        effects = effects[effects["head"] < 0]
    if effects.empty:
        return
    rows, layers = list(_rows(effects)), sorted(int(layer) for layer in effects["layer"].unique())
    whole = _grid(layers, rows, compact=False)
    wide = console.options.update(width=10_000)
    if console.measure(whole, options=wide).maximum <= console.width:
        console.print(_TITLE)
        console.print(whole, soft_wrap=False)
        return
    blocks = _blocks(layers, rows, console.width)
    for number, some in enumerate(blocks):
        if number == 0:
            console.print(_TITLE)
        if len(blocks) > 1:
            console.print(f"{chr(10) if number else ''}layers {some[0]} to {some[-1]}")
        console.print(_grid(some, rows, compact=True), soft_wrap=False)


def _print_heads(console: Console, heads: pd.DataFrame) -> None:
    """The ten heads with the largest effects."""
    strongest = heads.loc[heads["estimate"].abs().sort_values(ascending=False).index[:10]]
    columns = ["component", "role", "layer", "head", "estimate"]
    rows = [[*map(str, row[:-1]), f"{100 * row[-1]:.1f}"] for row in strongest[columns].itertuples(index=False)]
    print_table(console, "average indirect effect x 100, strongest heads", [*columns[:-1], "AIE"], rows)


def print_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table, numbers to the right."""
    grid = RichTable(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    console.print(grid, soft_wrap=False)


def print_components(console: Console, model: Model) -> None:
    """The components of a model that are served, and why the others are not."""
    from ..models.layout import COMPONENTS

    for component in COMPONENTS:
        refused = model.layout.refused.get(component)
        console.print(f"  {component}: {'served' if refused is None else refused}")


_Row = tuple[str, str, str, dict[int, str]]
"""Token role, what is restored, what is severed, and the effect at each layer."""

_LABELS = ("token", "restored", "severed")


def _rows(effects: pd.DataFrame) -> Iterator[_Row]:
    for role in _SHOWN:
        for (component, severed), line in effects[effects["role"] == role].groupby(
            ["component", "severed"], sort=False, observed=True
        ):
            cells = {
                int(layer): f"{100 * value:.1f}" for layer, value in zip(line["layer"], line["estimate"], strict=True)
            }
            yield role, str(component), "" if severed == "none" else str(severed), cells


def _blocks(layers: Sequence[int], rows: Sequence[_Row], width: int) -> list[list[int]]:
    """The layers that stand side by side: all of them, or as many as a compact grid has room for."""
    labels = sum(1 + max(len(text) for text in (label, *(row[i] for row in rows))) for i, label in enumerate(_LABELS))
    cell = 1 + max(map(len, [*map(str, layers), *(text for row in rows for text in row[3].values())]))
    size = max(1, (width - labels) // cell)
    return [list(layers[start : start + size]) for start in range(0, len(layers), size)]


def _grid(layers: Sequence[int], rows: Sequence[_Row], *, compact: bool) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0) if compact else RichTable()
    for label in _LABELS:
        grid.add_column(label, no_wrap=True)
    for layer in layers:
        grid.add_column(str(layer), justify="right", no_wrap=True)
    for number, (role, component, severed, cells) in enumerate(rows):
        grid.add_row(role, component, severed, *(cells.get(layer, "") for layer in layers))
        if number + 1 < len(rows) and rows[number + 1][0] != role:
            grid.add_section()
    return grid


def print_report(console: Console, made: Edit) -> None:
    """What an edit did, in the order in which one asks."""
    from ..editing import BatchReport

    report, request = made.report, made.provenance.request
    if isinstance(report, BatchReport) or request is None:
        _print_batch(console, made)
        return
    verdict = "success" if report.success else f"not a success: {report.reason}"
    lines = [
        f"{request.prompt.text!r} -> {request.target!r}, layer {', '.join(map(str, made.layers))}: {verdict}",
        f"scored behind the prompt: {report.scored!r}",
        f"P(target) {report.target_before:.4f} -> {report.target_after:.4f}"
        + (
            f", P(answer) {report.answer_before:.4f} -> {report.answer_after:.4f}"
            if report.answer_before is not None
            else ""
        ),
        f"loss {report.losses[0].total:.3f} -> {report.losses[-1].total:.3f} in {report.steps} steps"
        + (f", delta clamped {report.clamped_steps} times" if report.clamped_steps else ""),
        f"|dW|/|W| {report.norm_ratio:.4f}; error at k* {report.error_at_mean_key:.3g}, at the bare prompt's key "
        f"{report.error_at_bare_key:.3g}",
    ]
    for drift in report.essence:
        lines.append(f"essence drift after {drift.text!r}: {drift.applied:.3f} nats")
    for line in (*lines, *report.warnings):
        console.print(line)


def _print_batch(console: Console, made: Edit) -> None:
    """What an edit by another editor than ROME did."""
    from ..editing import BatchReport

    report = made.report
    assert isinstance(report, BatchReport)
    succeeded = sum(outcome.success for outcome in report.outcomes)
    lines = [f"{made!r}: {succeeded} of {len(report.outcomes)} requests succeeded in {report.seconds:.1f} s"]
    lines += before_and_after(report.outcomes)
    lines += [report.reason] if report.reason else []
    for change in report.layers:
        text = "" if change.disturbance is None else f"; {change.disturbance:.3f} of its output on ordinary text"
        lines.append(f"layer {change.layer}: |dW|/|W| {change.norm_ratio:.4f}{text}")
    for line in (*lines, *report.warnings):
        console.print(line)


def outcomes_of(reports: Sequence[RomeReport | BatchReport]) -> list[Outcome | RomeReport]:
    """What became of each fact of several edits."""
    from ..editing import RomeReport

    found: list[Outcome | RomeReport] = []
    for report in reports:
        found += [report] if isinstance(report, RomeReport) else report.outcomes
    return found


def before_and_after(outcomes: Sequence[Outcome | RomeReport], before: str = "unedited") -> list[str]:
    """Lines: P(target) in the middle, and ES with its interval over the facts whose answer is known.

    Args:
        outcomes: of each fact.
        before: what the model before is called; each edit of a sequence meets those before it.
    """
    import numpy as np
    import pandas as pd

    from ..analysis.intervals import bootstrap_share, with_interval

    if not outcomes:
        return []
    middle = [
        median(values) for values in zip(*((one.target_before, one.target_after) for one in outcomes), strict=True)
    ]
    lines = [f"P(target) {middle[0]:.4f} {before} -> {middle[1]:.4f}, in the middle of {len(outcomes)}"]
    known = [one for one in outcomes if one.answer_before is not None and one.answer_after is not None]
    if known:
        pairs = [
            (one.target_before > (one.answer_before or 0.0), one.target_after > (one.answer_after or 0.0))
            for one in known
        ]
        share = bootstrap_share(np.array(pairs, dtype=float))
        ends = [
            with_interval(pd.Series({"estimate": estimate, "low": low, "high": high}), ".0f", 100)
            for estimate, low, high in zip(share.estimate, share.low, share.high, strict=True)
        ]
        lines.append(
            f"the target is likelier than the answer (ES), per cent of {len(known)}: {ends[0]} {before} -> {ends[1]}"
        )
    return lines

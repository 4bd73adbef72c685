"""What a leaderboard found: every metric of every editor with its interval, what the edits cost, and what is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from ...errors import UsageError
from ...given import Names, names_of
from ..evaluation.comparison import compare
from ..evaluation.edit_metrics import AFTER, BEFORE, summarise
from ..evaluation.evaluation import Evaluation
from ..evaluation.metric_table import METRICS, SHARE
from ..evaluation.retention import Retention
from ..intervals import MIN_UNITS, with_interval

CELL = ["editor", "edits", "size"]
"""What a row of the table is told by."""

NO_EDIT = "no edit"

SHOWN = (
    "S", "ES", "PS", "NS", "same_subject_kept", "zsre_score", "reliability", "generalization", "locality", "GE", "RS",
    "perplexity",
)  # fmt: skip
"""Metrics of a short table, where they were measured."""


@dataclass(frozen=True)
class Leaderboard:
    """Editors tried on the same facts.

    Args:
        records: one row per editor, edits ("single", "batch", "sequential"), size, record, stage and metric; `group` is
            the number of the edit (or sequence) a record shares with others.
        costs: one row per editor, edits and size: facts, failed, seconds_per_edit (a fact; judging not counted),
            peak_memory_mb, memory_is.
        retention: editor -> retention of its longest sequence.
        notes: what was left out, and why.
    """

    records: pd.DataFrame
    costs: pd.DataFrame
    retention: Mapping[str, Retention]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ways = ", ".join(dict.fromkeys(self.records["edits"]))
        editors = ", ".join(dict.fromkeys(self.records["editor"]))
        return f"Leaderboard({editors}: {ways} edits of {self.records['record'].nunique()} facts; see .markdown())"

    def summary(
        self, level: float = 0.95, *, resamples: int = 2000, seed: int = 0, cluster: str = "record"
    ) -> pd.DataFrame:
        """Every metric of every editor, before and after, with its interval (see `summarise`).

        Args:
            level, resamples, seed: of the intervals.
            cluster: "record": over facts like these in these edits; "relation"; or "group": over edits (or sequences)
                like these, whose facts share their fate.  A row of fewer than five edits then has no interval.
        """
        return summarise(self.records, CELL, level=level, resamples=resamples, seed=seed, cluster=cluster)

    def evaluation(self, editor: str, edits: str, size: int) -> Evaluation:
        """The records of one row of the table.

        Raises:
            UsageError: it is not there.
        """
        records = self._row(editor, edits, size).drop(columns="group")
        return Evaluation(records, pd.DataFrame(), pd.DataFrame())

    def _row(self, editor: str, edits: str, size: int) -> pd.DataFrame:
        same = (self.records["editor"] == editor) & (self.records["edits"] == edits) & (self.records["size"] == size)
        if not same.any():
            raise UsageError(f"{editor} with {edits} edits of {size} is not in this leaderboard")
        return self.records[same].drop(columns=CELL).reset_index(drop=True)

    def compare(
        self,
        a: str,
        b: str,
        edits: str = "single",
        size: int = 1,
        metrics: Names | None = None,
        *,
        cluster: str = "record",
    ) -> pd.DataFrame:
        """Two of the editors, record by record (see `compare`).

        Args:
            a, b, edits, size: rows of the table.
            metrics: which; default: all.
            cluster: as of `summary`.

        Raises:
            UsageError: one of them is not there, or has fewer than five edits where those are resampled.
        """
        rows = [self._row(name, edits, size) for name in (a, b)]
        groups = rows[0]["group"].nunique()
        if cluster == "group" and groups < MIN_UNITS:
            raise UsageError(
                f"{a} has {groups} {edits} edits of {size}, too few to resample by; take {MIN_UNITS} groups or more, "
                "or cluster='record'"
            )
        one, other = (Evaluation(row, pd.DataFrame(), pd.DataFrame()) for row in rows)
        return compare(one, other, metrics, cluster=cluster)

    def comparisons(self, metrics: Names | None = None, *, seed: int = 0) -> pd.DataFrame:
        """Every pair of editors wherever both are (see `compare`); a pair without the same facts is left out.

        Args:
            metrics: which; default: those of `SHOWN` that were measured.
            seed: of the resampling.

        Returns:
            One row per edits, size, pair and metric: edits, size, editor_a, editor_b, and the columns of `compare`.
        """
        there = set(self.summary(resamples=1)["metric"])
        chosen = [metric for metric in (SHOWN if metrics is None else names_of(metrics, "metrics")) if metric in there]
        parts = []
        for (edits, size), part in self.records.groupby(["edits", "size"], sort=False):
            for a, b in combinations(dict.fromkeys(part["editor"]), 2):
                pair = [self.evaluation(name, str(edits), int(size)) for name in (a, b)]
                if len({frozenset(one.records["record"]) for one in pair}) == 1:
                    found = compare(pair[0], pair[1], chosen, seed=seed)
                    parts.append(found.assign(edits=edits, size=size, editor_a=a, editor_b=b))
        if not parts:
            return pd.DataFrame()
        table = pd.concat(parts, ignore_index=True)
        return table[["edits", "size", "editor_a", "editor_b", *table.columns[:-4]]]

    def rows(
        self, metrics: Names | None = None, summary: pd.DataFrame | None = None, *, decimals: int = 1
    ) -> tuple[list[str], list[list[str]]]:
        """The table in words: headings, and a row per editor; shares in per cent.

        The unedited model comes first, and again wherever other facts follow.

        Args:
            metrics: which; default: those of `SHOWN` that were measured.
            summary: `summary()`, where it is there already.
            decimals: of the per cents.
        """
        found = self.summary() if summary is None else summary
        there = set(found["metric"])
        chosen = [metric for metric in (SHOWN if metrics is None else names_of(metrics, "metrics")) if metric in there]
        headings = ["editor", "edits", "size", *chosen, "s per edit", "peak MB", "failed"]
        rows: list[list[str]] = []
        facts = {cell: frozenset(part["record"]) for cell, part in self.records.groupby(CELL, sort=False)}
        unedited: list[frozenset[str]] = []
        for cell, part in found.groupby(CELL, sort=False):
            before, after = (part[part["stage"] == stage].set_index("metric") for stage in (BEFORE, AFTER))
            editor, edits, size = map(str, cell)
            if facts[cell] not in unedited:  # groups of another size may leave facts out
                of = [edits, size] if unedited else ["", ""]
                unedited.append(facts[cell])
                rows.append([NO_EDIT, *of, *(_words(before, metric, decimals) for metric in chosen), "", "", ""])
            cost = self.costs.set_index(CELL).loc[cell]
            costs = [
                f"{cost['seconds_per_edit']:.3g}",
                "" if pd.isna(cost["peak_memory_mb"]) else f"{cost['peak_memory_mb']:.0f}",
                str(cost["failed"]),
            ]
            rows.append([editor, edits, size, *(_words(after, metric, decimals) for metric in chosen), *costs])
        return headings, rows

    def markdown(self, metrics: Names | None = None, summary: pd.DataFrame | None = None) -> str:
        """The table as Markdown, with the notes below it."""
        headings, rows = self.rows(metrics, summary)
        lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2), *rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + "\n" + "".join(f"\n- {note}" for note in self.notes) + ("\n" if self.notes else "")


def _words(summary: pd.DataFrame, metric: str, decimals: int) -> str:
    """Estimate and interval; per cent, where it is a share."""
    if metric not in summary.index:
        return ""
    row, share = summary.loc[metric], METRICS[metric].unit == SHARE
    return with_interval(row, f".{decimals}f", 100) if share else with_interval(row, ".1f")

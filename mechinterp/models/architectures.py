"""What is served of which architecture, as the tests have found it: `architectures.json` beside this file.

The file is written by the tests (`make matrix`) and never by hand; `docs/architectures.md` is the same as a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path(__file__).parent / "architectures.json"
YES = "yes"
PRIMITIVES = ("corrupt", "restore", "sever")


@dataclass(frozen=True)
class Family:
    """One architecture.

    Args:
        name: what people call it, with what sets a variant apart.
        architecture: the Hugging Face class.
        cells: component -> primitive -> "yes", or why it is refused.
        engine: "yes" where the exact engine serves it, or why the plain executor does.
        editing: "yes" where its MLPs can be edited, or why not.
    """

    name: str
    architecture: str
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engine: str = YES
    editing: str = YES


def read_families(path: Path = FILE) -> list[Family]:
    """The families in the order in which they are tested."""
    return [Family(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def write_families(families: Sequence[Family], path: Path = FILE) -> None:
    """Replace the file."""
    text = json.dumps([asdict(family) for family in families], indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


class Notes:
    """Reasons, numbered in the order in which they are first given."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """The number of a reason."""
        return self.numbers.setdefault(reason, len(self.numbers) + 1)

    def mark(self, value: str, served: str) -> str:
        """A cell of the table: what is served, or the number of the reason why not."""
        return served if value == YES else f"({self.number(value)})"


def table(families: Sequence[Family]) -> tuple[list[list[str]], list[str]]:
    """Rows of text, the headings first, and the reasons that the numbers in them stand for.

    A cell has a letter for each primitive that is served: c(orrupt), r(estore), s(ever).
    """
    notes = Notes()
    rows = [["model", *families[0].cells, "engine", "editing"]]
    for family in families:
        row = [family.name]
        for verbs in family.cells.values():
            marks = dict.fromkeys(notes.mark(verbs[verb], verb[0]) for verb in PRIMITIVES)
            row.append(" ".join(marks))
        rows.append([*row, notes.mark(family.engine, "exact"), notes.mark(family.editing, YES)])
    return rows, list(notes.numbers)


def summary(families: Sequence[Family]) -> tuple[list[list[str]], list[str]]:
    """The same in four columns, for a terminal: what is not served instead of what is."""
    notes = Notes()
    rows = [["model", "not served", "engine", "editing"]]
    for family in families:
        refused: dict[int, list[str]] = {}
        for component, verbs in family.cells.items():
            for why in dict.fromkeys(why for why in verbs.values() if why != YES):
                refused.setdefault(notes.number(why), []).append(component)
        parts = [
            f"{'everything' if len(names) == len(family.cells) else ', '.join(names)} ({number})"
            for number, names in refused.items()
        ]
        marks = notes.mark(family.engine, "exact"), notes.mark(family.editing, YES)
        rows.append([family.name, "; ".join(parts), *marks])
    return rows, list(notes.numbers)


def markdown(families: Sequence[Family]) -> str:
    """The table as a page."""
    rows, reasons = table(families)
    head, *body = rows
    served = sum(verb == YES for one in families for verbs in one.cells.values() for verb in verbs.values())
    total = sum(len(verbs) for one in families for verbs in one.cells.values())
    lines = [
        "# Architectures",
        "",
        "Written by `make matrix` from what the tests find on small random models; a test holds this page to them.",
        "",
        f"{len(families)} architectures, {len({one.architecture for one in families})} classes of transformers; "
        f"{served} of {total} cells are served and the others refused with a sentence. "
        "`c r s`: **c**orrupt, **r**estore and **s**ever are served: in every layer and head the write fires once, "
        "changes log-probabilities by more than 0.003 nats (rounding: less than 0.00001), changes no earlier token, "
        "and obeys its laws (corrupted and restored = clean, restored without corruption = clean, severed without a "
        "restore = corrupted, the whole residual stream restored = clean); one prompt gives what it gives in a batch. "
        "engine: `exact` where the exact engine serves the model and equals full forwards; elsewhere every cell is a "
        "full forward. editing: W k + b = v in every layer; an inserted value is what the edited model computes and "
        "ROME's W' k* = v* (relative error at most 1e-5); on = baked, undone to the last bit, and the exported folder "
        "gives the edited logits in plain transformers (within 1e-5). A number in brackets is a reason below.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)),
        "",
        "Everywhere: attention patterns are no component (TransformerLens discards what is written to them on GPT-J, "
        "OPT and GPT-Neo; write `z`, `q`, `k`, `v` or `attn`); a bridge in compatibility mode, whose weights have been "
        "rewritten, is refused; quantised and offloaded layers are traced, not edited. `mechinterp check MODEL` "
        "proves all this on your own model.",
    ]
    return "\n".join(lines) + "\n"

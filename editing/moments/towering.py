"""Keys that tower over all others, those of attention sinks, count in a second moment like any other key.

They are shortened to the median length.  As they are, one key in a hundred is nearly all of C (SmolLM2-135M, layer 11),
and whatever is scaled by its trace is blind to ordinary text.  Left out altogether, nothing keeps an edit off them:
there one ROME edit of two then changes 4 % of the sink's own output and raises perplexity by 3.4 %, against 0.5 % with
them.
Shortened, they keep their direction in C and have no more than their share of its trace.

How long a key may be belongs to the model, not to the texts (`patching.plain.sinks`): parts of one body of text that
are collected apart shorten the same keys and can be merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...errors import UsageError
from ...given import number
from ...models.model import Model
from ...patching.plain.sinks import TOWERING, median_norms


def check_towering(multiple: float | None) -> float | None:
    """A multiple of the median as given, or None for every key.

    Raises:
        UsageError: no number above 1.
    """
    if multiple is None:
        return None
    found = number(multiple, "towering")
    if not found > 1:
        raise UsageError(
            f"towering is {found:g}; give a multiple of the median key norm above 1 ({TOWERING:g}, say), or None to "
            "count every key"
        )
    return found


def key_bounds(model: Model, layers: Sequence[int], multiple: float | None) -> dict[int, float]:
    """The norm above which a key is shortened, by layer; infinite where none is."""
    if multiple is None:
        return dict.fromkeys(layers, math.inf)
    return {layer: multiple * median or math.inf for layer, median in median_norms(model, layers).items()}


def sentence_on(shortened: int, tokens: int, bound: float | None, multiple: float | None) -> str:
    """How many keys were shortened, in words; empty where none was."""
    if not shortened or bound is None or multiple is None:
        return ""
    return (
        f"{shortened:,} keys of attention sinks ({shortened / tokens:.2g} of all) shortened to the median: they were "
        f"longer than {multiple:g} times that"
    )

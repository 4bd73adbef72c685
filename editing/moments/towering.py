"""Keys that tower over all others, those of attention sinks, are left out of what ordinary text is taken for.

How long a key may be belongs to the model, not to the texts (`patching.plain.sinks`): parts of one body of text that
are collected apart leave out the same keys and can be merged.
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
    """The norm above which a key is left out, by layer; infinite where none is."""
    if multiple is None:
        return dict.fromkeys(layers, math.inf)
    return {layer: multiple * median or math.inf for layer, median in median_norms(model, layers).items()}


def sentence_on(left_out: int, kept: int, bound: float | None, multiple: float | None) -> str:
    """How many keys were left out, in words; empty where none was."""
    if not left_out or bound is None or multiple is None:
        return ""
    return (
        f"{left_out:,} more ({left_out / (left_out + kept):.2g} of all) left out as attention sinks, longer than "
        f"{bound:.3g}, {multiple:g} times the median"
    )

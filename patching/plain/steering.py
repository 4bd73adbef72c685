"""Steering: a direction from contrasting texts, and what adding it does to scores and text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt, Prompts, prompts_of
from ...facts.words import check_text
from ...given import Real, Wholes, is_several, number, texts_of
from ...models.model import Model
from ...public import public
from ..algebra.programs import add
from ..algebra.sites import Site
from ..algebra.sources import Delta
from .asked import Foils
from .metrics import METRICS
from .own_metrics import Metrics
from .running import read, run

Contrast = Iterable[str | Prompt | Fact]
"""Texts or prompts that have something in common."""


@public
def direction(model: Model, positive: Contrast, negative: Contrast, site: Site) -> Float[Tensor, " *width"]:
    """The mean activation over some texts minus that over others: a direction to steer along (Turner et al. 2023).

    Args:
        model: the model.
        positive, negative: contrasting texts or prompts; of texts the last token is `last`.
        site: one layer, one token of each.

    Returns:
        the direction, in units of the activation and as long as the means are apart; not normalised.

    Raises:
        UsageError: no texts, one string in their place; roles of texts that have no subject (`read`).
    """
    sides = (_prompts(positive, "positive"), _prompts(negative, "negative"))
    plus, minus = (read(model, prompts, site).mean(0) for prompts in sides)
    return plus - minus


@public
def steer(
    model: Model,
    prompts: Prompts,
    site: Site,
    vector: Float[Tensor, " width"],
    coefficients: Iterable[Real],
    *,
    foil: Foils = None,
    metric: Metrics | None = None,
    tokens: Wholes = 20,
) -> pd.DataFrame:
    """Add a direction with several coefficients, and see the scores beside the text that the model writes.

    Args:
        model: the model.
        prompts: one or several.
        site: where; at `everywhere` the tokens that are written get it too.
        vector: the direction, see `direction`.
        coefficients: it is multiplied by each; 0 is the model as it is.
        foil, metric: as of `run`.
        tokens: how many new ones are written.

    Returns:
        a row for each prompt and coefficient: prompt, coefficient, answer, foil, the metrics, text (greedy).

    Raises:
        UsageError: no coefficients; as of `run` and `Model.generate`.
    """
    sizes = [number(one, "a coefficient") for one in (coefficients if is_several(coefficients) else [coefficients])]
    if not sizes:
        raise UsageError("there are no coefficients to steer with; give some, such as [-4, 0, 4]")
    asked = prompts_of(prompts)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        program = add(site, Delta(size * vector))
        results = run(model, asked, program, foil=foil, metric=metric)
        for prompt, result in zip(asked, results, strict=True):
            scores = {name: float(result[name][0]) for name in (*METRICS, *result.patched.own)}
            rows.append(
                {
                    "prompt": prompt.name, "coefficient": size, "answer": result.answer, "foil": result.foil, **scores,
                    "text": model.generate(prompt, program=program, tokens=tokens),
                }
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.sort_values("prompt", kind="stable", key=lambda names: names.map(_places(asked)), ignore_index=True)


def _places(asked: list[Prompt]) -> dict[str, int]:
    return {prompt.name: place for place, prompt in enumerate(asked)}


def _prompts(given: Any, name: str) -> list[Prompt]:
    """Texts as prompts: all of a text is its subject, so that its last token is `last`."""
    if isinstance(given, (str, bytes)) or not is_several(given):
        given = list(texts_of(given, name))
    found = []
    for one in given:
        if isinstance(one, str):
            check_text(one, f"a text of {name}")
            found.append(Prompt("{}", one.strip()))
        else:
            found += prompts_of(one)
    if not found:
        raise UsageError(f"{name} has no texts; give at least one")
    return found

"""What the words of `mechinterp edit` and `evaluate` mean: editors, metrics, sizes, layers, presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..runs.terminal import brief

if TYPE_CHECKING:
    from ..editing.hyperparameters import Hparams
    from ..models.model import Model

GROUPS = ("counterfact", "zsre", "yao", "generation")
"""Groups of metrics by name; the last is GE and RS."""


_DIGITS = 10
"""Fewer than a number of facts or of a layer has."""


def words_of(text: str) -> list[str]:
    """Words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def ways_of(text: str) -> list[str]:
    """Ways of editing between commas; "1" is a single edit.

    Raises:
        UsageError: another word.
    """
    from ..analysis.trials.contest import MODES, SINGLE

    words = [SINGLE if word == "1" else word for word in words_of(text)]
    if not words or not set(words) <= set(MODES):
        raise UsageError(f"--edits is {brief(text)}; choose among {', '.join(MODES)}")
    return words


def numbers_of(text: str) -> list[int]:
    """Numbers of facts between commas.

    Raises:
        UsageError: something else.
    """
    words = words_of(text)
    if not words or not all(word.isdecimal() and len(word) < _DIGITS for word in words):
        raise UsageError(f"--sizes is {brief(text)}; give numbers of facts, such as 1,10,100")
    return [int(word) for word in words]


def metrics_of(text: str, perplexity: bool) -> list[str]:
    """Names of metrics, from names and names of groups.

    Raises:
        UsageError: a word that is neither, or perplexity without a text.
    """
    from ..analysis import COUNTERFACT, METRICS, YAO_METRICS, ZSRE_METRICS
    from ..analysis.evaluation.metric_table import GENERATION_METRICS

    groups = dict(zip(GROUPS, (COUNTERFACT, ZSRE_METRICS, YAO_METRICS, GENERATION_METRICS), strict=True))
    found: list[str] = ["perplexity"] if perplexity else []
    for word in GROUPS if text == "all" else words_of(text):
        if word not in groups and word not in METRICS:
            raise UsageError(
                f"--metrics has {brief(word)}, which is no metric and no group of them; the groups are "
                f"{', '.join(GROUPS)} and all, the metrics {', '.join(METRICS)}"
            )
        found += groups.get(word, (word,))
    if "perplexity" in found and not perplexity:
        raise UsageError("perplexity is measured on a text of your own; give it with --held-text")
    return list(dict.fromkeys(found))


def layers_given(given: list[str], names: list[str]) -> dict[str, list[int]]:
    """Editor -> layers, from words such as memit=3,4,5.

    Args:
        given: the words.
        names: of the editors that are tried.

    Raises:
        UsageError: an unknown editor, one that is not tried or is given twice, or something else than numbers.
    """
    from ..editing.editors.registry import editor

    found: dict[str, list[int]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        try:
            method = editor(name.strip())
            layers = [int(word) for word in words_of(numbers)]
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            layers = []
        if not layers:
            raise UsageError(f"--layers is {brief(text)}; write EDITOR=LAYERS, such as memit=3,4,5")
        if method.name not in names:
            raise UsageError(f"--layers {text} is of an editor that is not tried; add it to --editors")
        if method.name in found:
            raise UsageError(f"two of the --layers are of {method.name}; give one of them")
        found[method.name] = layers
    return found


def presets_given(model: Model | None, given: list[str], names: list[str]) -> dict[str, Hparams]:
    """Editor -> hyper-parameters, from words such as memit=code.

    Args:
        model: whose family's preset is taken where there is one; None where it is not loaded yet.
        given: the words.
        names: of the editors that are tried.

    Raises:
        UsageError: an unknown editor or preset, an editor that is not tried or is given twice, or other words.
    """
    from ..editing.editors.registry import editor

    found: dict[str, Hparams] = {}
    for text in given:
        name, _, preset = (word.strip() for word in text.partition("="))
        if not preset:
            raise UsageError(f"--preset is {brief(text)}; write EDITOR=NAME, such as memit=code")
        method = editor(name)
        if name not in names:
            raise UsageError(f"--preset {text} is of an editor that is not tried; add it to --editors")
        if name in found:
            raise UsageError(f"two of the --preset are of {name}; give one of them")
        found[name] = method.chosen(preset, model=model)
    return found


def layers_needed(model: Model, names: list[str], layers: dict[str, list[int]]) -> list[int]:
    """The layers whose second moments these editors need.

    Raises:
        UsageError: an unknown editor, or layers that are neither given nor known.
    """
    from ..editing.editors.registry import editor

    methods = [method for method in map(editor, names) if method.needs_moments]
    return sorted({layer for one in methods for layer in one.layers(model, layers.get(one.name), one.chosen())})


def check_method(name: str | None, preset: str, *, kl: bool) -> None:
    """Look at whether there is such an editor, whether it has such a preset, and a KL term to be left out.

    Args:
        name: of the editor; None: ROME, in the variant of the preset.
        preset: its name.
        kl: whether the term is kept.

    Raises:
        UsageError: it is not so.
    """
    from ..editing import editor as named
    from ..editing.value.hparams import ValueHparams

    method = named(name or ("r-rome" if preset == "paper" else "rome"))
    if not kl and not isinstance(method.chosen(preset), ValueHparams):
        raise UsageError(f"{method.name} has no term against essence drift; leave --no-kl out")
    method.chosen(preset)

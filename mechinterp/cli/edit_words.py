"""What the words of `mechinterp edit` mean, before a model is there."""

from __future__ import annotations

from ..errors import UsageError


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

"""Causal tracing as programs: what Meng et al. 2022 corrupt, restore and sever."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import UsageError
from ...given import Names, names_of
from .positions import every, here, subject
from .programs import Program, Run, corrupt, restore, sever
from .sites import attn, cross_attn, embed, mlp, resid
from .sources import Source

KINDS = {"resid": resid, "mlp": mlp, "attn": attn, "cross_attn": cross_attn}
SEVERED = {"mlp": mlp, "attn": attn, "cross_attn": cross_attn}


def default_window(n_layers: int) -> int:
    """Layers restored at once: the published 10 of GPT-2 XL's 48, in proportion, and at least 3."""
    return max(3, round(n_layers * 10 / 48))


def check_words(kinds: Collection[str], severed: Collection[str]) -> None:
    """Look at what is to be restored and severed, before a model is there.

    Raises:
        UsageError: an unknown word.
    """
    for name, known in ((kinds, KINDS), (severed, SEVERED)):
        for word in name:
            if word not in known:
                raise UsageError(f"{word!r} cannot be traced here; choose among {', '.join(known)}")


def causal_tracing(
    noise: Source,
    window: int,
    *,
    kinds: Names = ("resid", "mlp", "attn"),
    severed: Names = ("mlp", "attn"),
    severed_noise: Source | None = None,
) -> list[Program]:
    """The programs of Meng et al. 2022, Figures 1 to 3.

    Each corrupts the subject's embeddings and restores, cell by cell, the residual stream of one layer or the MLP or
    attention contributions of a window of layers; the severed ones restore the residual stream while the MLP (or
    attention) contributions at the same token are held at their corrupted values in every layer.

    Args:
        noise: the corruption of the subject's embeddings.
        window: layers restored at once for "mlp" and "attn".
        kinds: which components to restore.
        severed: which components to sever while the residual stream is restored.
        severed_noise: another draw for the severed runs, as the published implementation has it; None severs within one
            draw.

    Raises:
        UsageError: an unknown kind.
    """
    restored, cut = names_of(kinds, "kinds"), names_of(severed, "severed")
    check_words(restored, cut)
    base = corrupt(embed @ subject, noise)
    programs = []
    for kind in restored:
        width = 1 if kind == "resid" else window
        programs.append(base | restore(KINDS[kind].window(width) @ every))
    for kind in cut:
        if severed_noise is None:
            programs.append(base | restore(resid.each @ every) | sever(SEVERED[kind] @ here))
        else:
            other = corrupt(embed @ subject, severed_noise)
            programs.append(other | restore(resid.each @ every) | sever(SEVERED[kind] @ here, Run(base)))
    return programs

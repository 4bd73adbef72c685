"""Collecting second moments from running text, several layers in one pass, by one process or by several.

Every text is a sequence of its own from position 0, cut at the model's context length; every token counts and
padding never does.  Under torchrun each process adds up the keys of its share of the batches.  The batches are the
same as in one process, so the result is too, but for the order in which float64 sums are added.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from ...errors import DamagedError, MechinterpError, NotSavedError, UsageError
from ...given import Wholes, texts_of
from ...models.model import Model
from ...patching.plain.sinks import TOWERING
from ...public import public
from ...runs.files import clear_aside, save_somewhere
from ...runs.folder import OutFolder
from ...runs.ranks import ranks
from .collection import Collecting, collected, one_model
from .convergence import Convergence
from .moments import SecondMoment
from .sums import Sums
from .unfinished import FILE, Partial


# Nine parameters: what is collected (model, texts, layers), where it ends (max_tokens, watch) and how it is run, where
# `out` and `progress` are those of every long job of this project.
@public
def collect_moments(
    model: Model,
    texts: Iterable[str],
    layers: Wholes,
    *,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    watch: Convergence | None = None,
    towering: float | None = TOWERING,
    out: str | Path | None = None,
    write_every: float = 60.0,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moments of several layers' keys, in one pass over the texts.

    How many tokens are enough?  Ten per unit of the layer, it is said (Gupta et al. 2025, arXiv 2506.04226); on the
    bundled model C⁻¹k* then has a cosine of 0.86 with where it settles, and 0.98, 0.99 and 0.996 with 45, 91 and 183
    tokens per unit (benchmarks/moments_convergence.py).  `watch` shows how far it is.  Ctrl-C ends the collection and
    keeps what there is, with a warning.

    Args:
        model: the model, as it stands (an edited model has other keys).
        texts: any iterable of strings; empty ones are skipped, long ones cut at the model's context length.  Under
            torchrun every process gets all of them.
        layers: which layers.
        max_tokens: stop there, in the middle of a text if need be; default: all of it.
        batch_tokens: tokens per forward, padding included.
        watch: looks at the moments as they grow, and may end the collection once they are settled.
        towering: keys longer than this multiple of the median are those of attention sinks and shortened to it (see
            `towering.py`); None: all count as they are, as in what is published.
        out: a folder.  The unfinished sums are kept there (`collecting.safetensors`), so that the same call goes on
            after a kill; in the end each moment is written to `layer-N.safetensors`.
        write_every: seconds between one writing of the unfinished sums and the next, more where writing is slow.
        progress: show a bar with the tokens seen.

    Returns:
        The moments by layer, the same in each process.

    Raises:
        UsageError: no layer, a layer out of range, texts that hold no token, a single string instead of
            texts, a folder that holds the unfinished sums of another collection or second moments of another model,
            processes whose models or texts differ.
        NotSavedError: the moments could not be written; they are its `result`.
    """
    texts_of(texts, "texts")
    indices = sorted(set(model.layout.check_layers(layers)))
    if not indices:
        raise UsageError("no layer was named whose keys should be collected")
    asked = Collecting(max_tokens, batch_tokens, watch, progress, towering)
    folder = None if out is None else OutFolder(out)
    with ranks(model.device) as me, folder.locked() if folder is not None and me.is_first else nullcontext():
        fingerprint = one_model(model, me)
        partial = None
        if folder is not None:
            if me.is_first:
                _claim(folder, indices, model, fingerprint)
            fields = {
                "layers": indices, "max_tokens": max_tokens, "batch_tokens": batch_tokens, "towering": asked.towering,
            }  # fmt: skip
            partial = Partial(folder, {"model": fingerprint, **fields}, every=write_every)
        sums, complete = collected(model, texts, indices, asked, me, partial)
        found = SecondMoment.of_sums(model, sums, complete=complete)
        if folder is not None and partial is not None and me.is_first:
            _save(folder, found, partial)
            if complete:
                partial.remove()
        me.barrier()  # the files are there
    return found


@public
def finish_moments(model: Model, out: str | Path, layers: Wholes | None = None) -> dict[int, SecondMoment]:
    """Second moments of what a collection that was killed or interrupted had added up when it last wrote that down.

    They say that they are incomplete, as after Ctrl-C, and how many tokens they average.  The sums stay in the folder,
    so the same `collect_moments` can still go on.

    Args:
        model: whose keys were collected.
        out: the folder of the collection; each moment is written to `layer-N.safetensors` there.
        layers: which; default: all that were collected.

    Returns:
        The moments by layer.

    Raises:
        UsageError: no unfinished collection in the folder, one of another model, or without a layer asked for.
        DamagedError: its file does not hold what was written.
        NotSavedError: the moments could not be written; they are its `result`.
    """
    folder = OutFolder(out)
    with folder.locked():
        partial = Partial.left_in(folder)
        there, fingerprint = list(partial.fields["layers"]), partial.fields["model"]
        if fingerprint != model.acting_fingerprint():
            raise UsageError(f"the collection left in {str(folder)!r} is of {model.other_than('', fingerprint)}")
        wanted = there if layers is None else sorted(set(model.layout.check_layers(layers)))
        if lacking := [layer for layer in wanted if layer not in there]:
            raise UsageError(
                f"the collection left in {str(folder)!r} is of the layers {', '.join(map(str, there))}, and not of "
                f"{lacking[0]}; finish those"
            )
        sums = Sums.zero(model, there, towering=partial.fields["towering"])
        partial.restore(sums, None)
        found = {layer: moment for layer, moment in SecondMoment.of_sums(model, sums, complete=False).items()
                 if layer in wanted}  # fmt: skip
        _claim(folder, wanted, model, model.acting_fingerprint())
        _save(folder, found, partial)
    return found


def file_of(layer: int) -> str:
    """The name of a layer's second moment in its folder."""
    return f"layer-{layer}.safetensors"


def names_of(layers: Sequence[int]) -> list[str]:
    """What a collection of these layers writes into its folder."""
    return [FILE, *map(file_of, layers)]


def _claim(folder: OutFolder, layers: Sequence[int], model: Model, fingerprint: str) -> None:
    """Refuse a folder that holds the second moments of another model, before anything is collected."""
    folder.claim(*names_of(layers))
    for layer in layers:
        path = folder / file_of(layer)
        if path.exists():
            with suppress(DamagedError):  # ours, and lost: it is made again
                there = SecondMoment.load(path)
                if there.model != fingerprint:
                    raise UsageError(
                        f"{str(path)!r} is the second moment of "
                        f"{model.other_than(there.model_name, there.model, there.model_dtype)}; choose another folder"
                    )
    clear_aside(*(folder / file_of(layer) for layer in layers))


def _save(folder: OutFolder, found: dict[int, SecondMoment], partial: Partial) -> None:
    """Each moment into its file; what cannot be written there is not lost."""
    failed: list[str] = []
    for layer, moment in found.items():
        path = folder / file_of(layer)
        if not moment.complete and _is_complete(path):
            warnings.warn(f"{str(path)!r} is of an earlier, complete collection and is kept", stacklevel=3)
            continue
        try:
            folder.claim(file_of(layer))
            save_somewhere(path, moment.save, moment)
        except MechinterpError as error:
            failed.append(str(error))
    if failed:
        again = f"; ask for the same collection again, with the same {folder}, to go on from what is written there"
        raise NotSavedError("; ".join(failed) + again * partial.is_kept, found)


def _is_complete(path: Path) -> bool:
    with suppress(MechinterpError):
        return path.exists() and SecondMoment.load(path).complete
    return False

"""Second moments of others: the `.npz` of the published rome and memit (and EasyEdit), which holds a sum and a count.

The file says nothing of the model, and only its name says which layer, so both can be given; whether they fit is seen
by the width, the symmetry and the size of the keys.  Published files hold Σ k kᵀ, some that were passed on its mean;
which of the two it is follows from the keys of the model itself.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import UsageError
from ...facts.user_files import opened
from ...models.model import Model
from ...public import public
from .moments import SecondMoment
from .text_keys import text_keys

MATRIX, COUNT = "mom2.mom2", "mom2.count"
_ROWS, _LENGTH = 8, 32
_APART = math.log(1000.0)
"""How far the mean square norm of the file's keys may be from that of the model's on random tokens, in nats: sinks and
rare tokens make factors of hundreds, a sum in place of a mean makes millions."""


@public
def read_published_moment(path: str | Path, model: Model, layer: int | None = None) -> SecondMoment:
    """A second moment from an `.npz` file of rome, memit or EasyEdit ("..._mom2_100000.npz").

    Args:
        path: of the file.
        model: whose keys they are; the file does not name it.
        layer: of the keys; default: the number in the file's name ("transformer.h.17.mlp.c_proj_...").

    Raises:
        UsageError: no such file, a damaged one, one without mom2.mom2 and mom2.count, of another width, or of keys
            whose size is neither that of a sum nor that of a mean of this model's.
    """
    index = model.layout.check_layer(_layer_of(path) if layer is None else layer)
    matrix, count = _read(path)
    if matrix.shape != (model.d_mlp, model.d_mlp):
        raise UsageError(
            f"{str(path)!r} holds a matrix of shape {tuple(matrix.shape)}, and the keys of {model.name} have "
            f"{model.d_mlp} units; give the file of this model"
        )
    size = math.log(float(matrix.trace()) / _key_size(model, index))
    distance = {"sum": abs(size - math.log(count)), "mean": abs(size)}
    kind = min(distance, key=distance.__getitem__)
    if distance[kind] > _APART or abs(distance["sum"] - distance["mean"]) < 1.0:
        raise UsageError(
            f"{str(path)!r} holds keys whose mean square norm fits neither as a sum over {count:,} tokens nor as a "
            f"mean to layer {index} of {model.name}; give the file of this model and layer, or collect it anew "
            "(mechinterp moments)"
        )
    mean = matrix / count if kind == "sum" else matrix
    return SecondMoment(
        layer=index,
        matrix=(mean + mean.mT) / 2,  # sums in single precision are not quite symmetric
        tokens=count,
        model=model.acting_fingerprint(),
        model_name=model.name,
        model_dtype=model.dtype_name,
        texts=f"published: {Path(path).name}",
    )


def _read(path: str | Path) -> tuple[Float64[Tensor, "d d"], int]:
    try:
        with opened(path, "the second moment", "give the path of an .npz file") as file, np.load(file) as held:
            missing = [name for name in (MATRIX, COUNT) if name not in held.files]
            if missing:
                raise UsageError(
                    f"{str(path)!r} has no {' and no '.join(missing)} (it has {', '.join(held.files) or 'nothing'}); "
                    "give a file of the published layer_stats"
                )
            matrix, count = torch.from_numpy(np.asarray(held[MATRIX], dtype=np.float64)), int(held[COUNT])
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(f"{str(path)!r} is cut short or no .npz file ({error}); copy the file again") from error
    if matrix.ndim != 2 or count < 1 or not bool(torch.isfinite(matrix).all()) or not matrix.trace() > 0:
        raise UsageError(f"{str(path)!r} holds no second moment of {count} tokens; copy the file again")
    return matrix, count


def _layer_of(path: str | Path) -> int:
    found = re.findall(r"\.(\d+)\.", Path(path).name)
    if len(found) != 1:
        raise UsageError(f"the name of {str(path)!r} does not say which layer it is of; give layer=")
    return int(found[0])


def _key_size(model: Model, layer: int) -> float:
    """The mean square norm of the layer's keys on random tokens: an order of magnitude."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(model.vocab_size, (_ROWS, _LENGTH), generator=draw).tolist()
    return float(text_keys(model, rows, [layer])[layer].double().square().sum(-1).mean())

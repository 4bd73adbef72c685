"""The unfinished sums of a collection on disk, so that a killed one goes on where it was last written down."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...errors import DamagedError, StorageError, UsageError
from ...runs.files import clear_aside
from ...runs.folder import OutFolder
from ...runs.hashing import TextHash
from ...runs.identity import Identity
from ...runs.tensors import read_tensors, write_tensors
from .convergence import Convergence
from .running_text import Place
from .sums import Sums

FILE = "collecting.safetensors"
_KIND = "unfinished second moment"
_SHARE = 0.05
"""At most this share of the time goes into writing: a hundred layers of a large model take a while."""


class Partial:
    """One file beside the results; it is removed once they are there.

    Args:
        folder: of the results.
        fields: what decides the sums, besides the texts.
        every: seconds between one writing and the next.
    """

    def __init__(self, folder: OutFolder, fields: Mapping[str, Any], *, every: float) -> None:
        self._folder = folder
        self._identity = Identity.of("collection", fields)
        self._every = every
        self._next = time.monotonic() + every

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._folder / FILE

    @property
    def is_kept(self) -> bool:
        """Something is written down."""
        return self.path.exists()

    @property
    def fields(self) -> Mapping[str, Any]:
        """What decides the sums, besides the texts."""
        return self._identity.fields

    @staticmethod
    def left_in(folder: OutFolder) -> Partial:
        """What a collection that was killed or interrupted left in a folder, whatever it was asked for.

        Raises:
            UsageError: it left nothing.
            DamagedError: the file does not hold what was written.
        """
        path = folder / FILE
        if not path.exists():
            raise UsageError(
                f"{str(folder)!r} holds no unfinished collection ({FILE}), so there is nothing to finish; give the "
                "folder of one that was killed or interrupted after its sums were first written down"
            )
        _, header = read_tensors(path, _KIND)
        found = Partial(folder, {}, every=math.inf)
        found._identity = Identity("collection", header["identity"])
        return found

    def restore(self, sums: Sums, watch: Convergence | None) -> Place:
        """Fill in what the file holds, and say how far it had come; nothing where there is none, or it is damaged.

        Raises:
            UsageError: it holds the sums of another collection, or is no such file.
            StorageError: it may not be read or written.
        """
        self._folder.claim(FILE)
        clear_aside(self.path)
        if not self.path.exists():
            return Place()
        try:
            tensors, header = read_tensors(self.path, _KIND)
        except DamagedError as error:
            warnings.warn(f"{error}; the collection begins anew", stacklevel=2)
            return Place()
        remedy = "choose another folder, delete this file to begin anew"
        self._identity.check(header["identity"], self.path, remedy)
        sums.tokens, sums.documents = header["tokens"], header["documents"]
        sums.texts = TextHash(header["texts"])
        for layer, product in sums.products.items():
            product.copy_(tensors.pop(f"product {layer}"))
            sums.fourth[layer].copy_(tensors.pop(f"fourth {layer}"))
            sums.shortened[layer].copy_(tensors.pop(f"shortened {layer}"))
            sums.bounds[layer] = float(tensors.pop(f"bound {layer}"))
        if watch is not None and header["looks"] is not None:
            watch.restore(tensors, header["looks"])
        return Place(**header["place"])

    @property
    def due(self) -> bool:
        """It is time to write."""
        return time.monotonic() >= self._next

    def write(self, sums: Sums, place: Place, watch: Convergence | None) -> None:
        """Put the sums of all processes on disk: beside the last ones, whose place they then take.

        A disk that is full for now ends nothing: the last ones are still there, and the next writing is tried in time.
        """
        if not sums.tokens:
            return
        started = time.monotonic()
        tensors, looks = ({}, None) if watch is None else watch.state()
        for layer, product in sums.products.items():
            tensors |= {f"product {layer}": product, f"fourth {layer}": sums.fourth[layer]}
            bound = torch.tensor(sums.bounds[layer], dtype=torch.float64)
            tensors |= {f"shortened {layer}": sums.shortened[layer], f"bound {layer}": bound}
        header = {
            "identity": self._identity.fields,
            "place": asdict(place),
            "tokens": sums.tokens,
            "documents": sums.documents,
            "texts": sums.texts.hexdigest(),
            "looks": looks,
        }
        try:
            self._folder.claim(FILE)
            write_tensors(self.path, _KIND, tensors, header)
        except StorageError as error:
            warnings.warn(f"{error}; what is collected so far is kept in memory, and written later", stacklevel=2)
        ended = time.monotonic()
        self._next = ended + max(self._every, (ended - started) / _SHARE)

    def remove(self) -> None:
        """The results are there."""
        self.path.unlink(missing_ok=True)

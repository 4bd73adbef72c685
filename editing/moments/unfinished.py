"""The unfinished sums of a collection on disk, so that a killed one goes on where it was last written down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import MechinterpError, UsageError
from ...runs.hashing import TextHash
from ...runs.tensor_file import read_tensors, write_tensors
from .convergence import Convergence
from .running_text import Place
from .sums import Sums

_KIND = "unfinished second moment"
_SHARE = 0.05
"""At most this share of the time goes into writing: a hundred layers of a large model take a while."""


class Partial:
    """One file beside the results; it is removed once they are there.

    Args:
        path: the file.
        identity: what decides the sums, besides the texts.
        every: seconds between one writing and the next.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, every: float) -> None:
        self.path = path
        self._identity = dict(identity)
        self._every = every
        self._next = time.monotonic() + every

    def restore(self, sums: Sums, watch: Convergence | None) -> Place:
        """Fill in what the file holds, and say how far it had come; nothing where there is none.

        Raises:
            UsageError: it holds the sums of another collection.
            MechinterpError: it is damaged.
        """
        for left in self.path.parent.glob(f".{self.path.name}.*.part"):
            left.unlink(missing_ok=True)  # of a process killed while it wrote
        if not self.path.exists():
            return Place()
        tensors, header = read_tensors(self.path, _KIND)
        try:
            found = header["identity"]
            for name, wanted in self._identity.items():
                if found[name] != wanted:
                    raise UsageError(
                        f"{str(self.path)!r} holds the unfinished sums of another collection: {name} was "
                        f"{_shortened(found[name])}, not {_shortened(wanted)}; ask for the same again to go on, choose "
                        "another folder, or delete the file to begin anew"
                    )
            place = Place(**header["place"])
            sums.tokens, sums.documents = header["tokens"], header["documents"]
            sums.texts = TextHash(header["texts"])
            for layer, product in sums.products.items():
                product.copy_(tensors.pop(f"product {layer}"))
                sums.fourth[layer].copy_(tensors.pop(f"fourth {layer}"))
            if watch is not None and header["looks"] is not None:
                watch.restore(tensors, header["looks"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise MechinterpError(f"{str(self.path)!r} is damaged ({error}); delete it to begin anew") from error
        return place

    @property
    def due(self) -> bool:
        """It is time to write."""
        return time.monotonic() >= self._next

    def write(self, sums: Sums, place: Place, watch: Convergence | None) -> None:
        """Put the sums of all processes on disk: beside the last ones, whose place they then take."""
        started = time.monotonic()
        tensors, looks = ({}, None) if watch is None else watch.state()
        for layer, product in sums.products.items():
            tensors |= {f"product {layer}": product, f"fourth {layer}": sums.fourth[layer]}
        header = {
            "identity": self._identity,
            "place": asdict(place),
            "tokens": sums.tokens,
            "documents": sums.documents,
            "texts": sums.texts.hexdigest(),
            "looks": looks,
        }
        write_tensors(self.path, _KIND, tensors, header)
        ended = time.monotonic()
        self._next = ended + max(self._every, (ended - started) / _SHARE)

    def remove(self) -> None:
        """The results are there."""
        self.path.unlink(missing_ok=True)


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12]

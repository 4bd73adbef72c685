"""Fingerprints: what a saved moment or edit was made from, as hashes that can be compared."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..errors import UsageError


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor, whatever its dtype and device."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def tensor_hash(*tensors: Tensor) -> str:
    """SHA-256 (hex) over the bytes of tensors in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def short(fingerprint: str) -> str:
    """The first twelve digits: enough to tell models apart in a sentence."""
    return fingerprint[:12]


class TextHash:
    """Fingerprint of a multiset of texts: the sum of their SHA-256 modulo 2²⁵⁶.

    A sum does not depend on the order, so shards can be hashed apart and merged.
    """

    _MODULUS = 1 << 256

    def __init__(self, start: str = "") -> None:
        self._sum = int(start, 16) if start else 0

    def add(self, text: str) -> None:
        """Count one document."""
        one = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest())
        self._sum = (self._sum + one) % self._MODULUS

    def merge(self, other: str) -> None:
        """Count the documents behind another fingerprint.

        Raises:
            UsageError: not a fingerprint.
        """
        try:
            self._sum = (self._sum + int(other or "0", 16)) % self._MODULUS
        except ValueError:
            raise UsageError(f"{other!r} is no fingerprint of texts") from None

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"

"""Fingerprints: what a file holds and what a result was made from, as hashes that can be compared."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor, whatever its dtype and device; no copy of one that lies in main memory."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def tensor_hash(*tensors: Tensor) -> str:
    """SHA-256 (hex) over the shapes, dtypes and bytes of tensors in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def json_hash(content: Any) -> str:
    """SHA-256 (hex) over a value of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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

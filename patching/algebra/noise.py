"""Noise as a source: fresh for every prompt, shared by all its cells, or by the published rule."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...given import number, seed_of, whole
from .sources import Source


@dataclass(frozen=True)
class Noise(Source):
    """Base of noise that is fresh per prompt.

    Args:
        sigmas: its size in standard deviations of token embeddings.
        draws: how many independent draws.
        seed: with the prompt's name and the site, what decides the numbers.
        level: its size itself, in units of the residual stream, instead of `sigmas`.

    Raises:
        UsageError: no draws, a negative size, a seed out of range, or values that are no numbers.
    """

    sigmas: float = 3.0
    draws: int = 10
    seed: int = 0
    level: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", whole(self.draws, "draws"))
        object.__setattr__(self, "seed", seed_of(self.seed))
        object.__setattr__(self, "sigmas", number(self.sigmas, "sigmas"))
        object.__setattr__(self, "level", None if self.level is None else number(self.level, "level"))
        _check_noise(self.draws, self.sigmas if self.level is None else self.level)

    @property
    def additive(self) -> bool:
        return True

    def __str__(self) -> str:
        size = f"level={self.level:g}" if self.level is not None else f"sigmas={self.sigmas:g}"
        return f"{type(self).__name__}({size}, draws={self.draws}, seed={self.seed})"

    def sample(self, shape: tuple[int, ...], scale: float, prompt: str, site: str) -> np.ndarray:
        """Noise for one prompt, [draws, *shape], in float64; fresh per prompt, the same for all its cells."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gaussian(Noise):
    """Independent normal noise with standard deviation `sigmas` times sigma, or `level` itself if given.

    Sigma is the standard deviation of token embeddings as measured at the embedding activation (see
    `patching.sigma.embedding_sigma`).  The generator is seeded by (seed, prompt, site): every prompt has its own noise,
    and all cells of a prompt share it, so that cells can be compared draw by draw.
    """

    def sample(self, shape: tuple[int, ...], scale: float, prompt: str, site: str) -> np.ndarray:
        return scale * _generator(self.seed, prompt, site).standard_normal((self.draws, *shape))


@dataclass(frozen=True)
class Uniform(Noise):
    """Independent uniform noise in [-scale, scale], scale as in `Gaussian`."""

    def sample(self, shape: tuple[int, ...], scale: float, prompt: str, site: str) -> np.ndarray:
        return scale * _generator(self.seed, prompt, site).uniform(-1.0, 1.0, (self.draws, *shape))


@dataclass(frozen=True)
class PublishedNoise(Source):
    """The noise rule of the published causal tracing (Meng et al. 2022): the same numbers for every prompt.

    A NumPy `RandomState(seed)` gives `level * randn(draws, tokens, d_model)`; `block=1` takes the second such block of
    the same stream, which is what the published severed traces run on by accident.
    """

    level: float
    draws: int = 10
    seed: int = 1
    block: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", whole(self.draws, "draws"))
        object.__setattr__(self, "seed", seed_of(self.seed))
        object.__setattr__(self, "block", whole(self.block, "block", least=0))
        object.__setattr__(self, "level", number(self.level, "level"))
        _check_noise(self.draws, self.level)

    @property
    def additive(self) -> bool:
        return True

    def sample(self, shape: tuple[int, ...]) -> np.ndarray:
        """[draws, *shape] in float64."""
        stream = np.random.RandomState(self.seed)
        for _ in range(self.block):
            stream.randn(self.draws, *shape)
        return self.level * stream.randn(self.draws, *shape)


def _check_noise(draws: int, size: float) -> None:
    if draws < 1:
        raise UsageError(f"noise with {draws} draws corrupts nothing; give at least 1")
    if not 0 <= size < float("inf"):
        raise UsageError(f"a noise level cannot be negative or infinite, and this one is {size:g}")


def _generator(seed: int, prompt: str, site: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{prompt}\0{site}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))

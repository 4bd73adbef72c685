"""Finding and reading weights: bundled, in a local folder, or on the Hugging Face hub."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from .. import atlas
from ..errors import MechinterpError, UsageError

KNOWN_HUB_NAMES = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "EleutherAI/gpt-j-6b", "EleutherAI/gpt-neox-20b",
    "EleutherAI/pythia-70m", "EleutherAI/pythia-1.4b", "facebook/opt-125m", "meta-llama/Llama-3.1-8B",
    "google/gemma-2-2b", "Qwen/Qwen2.5-0.5B", "mistralai/Mistral-7B-v0.3",
)  # fmt: skip
"""Only used to suggest near names when one is misspelt."""

_HUB_SECONDS = 15


def locate(source: str) -> str:
    """A folder that holds weights, or the name of a model that the hub has.

    Raises:
        UsageError: no such model or folder, or a folder without weights; a name that is not on this machine while the
            hub is switched off (HF_HUB_OFFLINE).
        MechinterpError: the hub cannot be reached, or gives the model only to those it knows.
    """
    if source in atlas.names():
        return str(atlas.folder(source))
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"the folder {source!r} holds no config.json; give a folder saved with save_pretrained")
        if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
            raise UsageError(
                f"the folder {source!r} holds no weights (*.safetensors); give a folder with a saved model"
            )
        return str(path)
    if path.is_absolute() or source.startswith(("./", "../")) or source.count("/") > 1:
        raise UsageError(f"there is no folder {source!r}; check the path")
    try:
        cached = try_to_load_from_cache(source, "config.json")
    except HFValidationError as error:
        raise UsageError(f"there is no model {source!r}, nor can there be: {first_line(error)}") from error
    if not isinstance(cached, str):
        _ask_hub(source)
    return source


def _ask_hub(name: str) -> None:
    """One short question before transformers starts its long retries."""
    near = difflib.get_close_matches(name, [*atlas.names(), *KNOWN_HUB_NAMES], n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the bundled models are {' and '.join(atlas.names())}"
    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"there is no model {name!r} on this machine, and the hub is switched off here; {hint}")
    try:  # of a file and not of the repository, because those of a gated one can be looked at by everybody
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=_HUB_SECONDS)
    except GatedRepoError as error:
        raise MechinterpError(_gated(name)) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"there is no model {name!r}, here or on the hub (if it is private, run `hf auth login` first); {hint}"
        ) from error
    except EntryNotFoundError as error:
        raise UsageError(f"{name!r} on the hub holds no config.json, so it is no model for transformers") from error
    except Exception as error:  # whatever the network throws: the sentence is the same
        raise MechinterpError(
            f"{name!r} is not on this machine, and the hub cannot be reached ({type(error).__name__}); try again with "
            f"a network, or give a local folder; {hint}"
        ) from error


def _gated(name: str) -> str:
    return (
        f"the hub gives {name!r} only to those it knows: accept its terms on huggingface.co/{name}, then run "
        "`hf auth login`"
    )


def read_checkpoint(
    source: str,
    dtype: torch.dtype | None,
    *,
    bundled: bool = False,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The Hugging Face model and tokenizer of a folder or hub name.

    Args:
        source: as `locate` gives it.
        dtype: of the weights; None: float32 if bundled, otherwise as they are stored.
        bundled: one of our own.
        device_map: where each layer goes (transformers and accelerate); None: wherever they are read, on the CPU.
        offload_folder: where layers on "disk" are kept.

    Raises:
        UsageError: files that cannot be read (cut short, of no causal language model, without a tokenizer).
        MechinterpError: the hub gives them only to those it knows.
    """
    placed = {} if device_map is None else {"device_map": device_map}
    if offload_folder is not None:
        placed["offload_folder"] = str(offload_folder)
    showed_bars = hf_logging.is_progress_bar_enabled()
    if bundled:  # nothing worth a bar: it is read from disk in a moment
        hf_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source)
        family = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
        hf_model = family.from_pretrained(source, dtype=dtype or (torch.float32 if bundled else "auto"), **placed)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error.__cause__, GatedRepoError):  # only its configuration was on this machine
            raise MechinterpError(_gated(source)) from error
        raise UsageError(f"the model in {source!r} cannot be read: {first_line(error)}") from error
    finally:
        if showed_bars:
            hf_logging.enable_progress_bar()
    return hf_model, tokenizer


def first_line(error: Exception) -> str:
    """The first line of somebody else's error, for a sentence of ours."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

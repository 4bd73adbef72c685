"""Finding and reading weights: bundled, in a local folder, or on the Hugging Face hub."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
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
from ..runs.terminal import brief
from .weight_files import check_file, check_folder, gguf_in, is_gguf, listed

KNOWN_HUB_NAMES = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "EleutherAI/gpt-j-6b", "EleutherAI/gpt-neox-20b",
    "EleutherAI/pythia-70m", "EleutherAI/pythia-1.4b", "facebook/opt-125m", "meta-llama/Llama-3.1-8B",
    "google/gemma-2-2b", "Qwen/Qwen2.5-0.5B", "mistralai/Mistral-7B-v0.3",
)  # fmt: skip
"""Only used to suggest near names when one is misspelt."""

_HUB_SECONDS = 15

_COMPUTED = re.compile(r"(^|\.)((cross)?att(entio)?n\.(masked_)?bias|(rotary_emb\.)?inv_freq|position_ids)$")
"""What old checkpoints keep and is computed now: masks, rotary frequencies, positions."""


def locate(source: str | Path) -> str:
    """A folder or GGUF file that holds weights, or the name of a model that the hub has.

    A name of a bundled model is that model, a `Path` that is there the folder.

    Raises:
        UsageError: no such model or folder, or a folder without (all its) weights; a name that is not on this machine
            while the hub is switched off (HF_HUB_OFFLINE).
        MechinterpError: the hub cannot be reached, or gives the model only to those it knows.
    """
    path, is_path = Path(source).expanduser(), isinstance(source, Path)
    source = str(source)
    try:
        path.is_dir()
    except (OSError, ValueError) as error:  # too long for a name, say
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"there is no model {brief(source)}, nor can there be: {why}") from error
    if source in atlas.names() and not (is_path and path.is_dir()):
        if (path / "config.json").is_file():
            warnings.warn(
                f"{source!r} is the bundled model, and there is also a folder of this name with a model; for that one "
                f"write './{source}'",
                stacklevel=3,
            )
        return str(atlas.folder(source))
    if path.is_dir() and source.strip():
        if (gguf := gguf_in(path)) is not None:
            return str(gguf)
        check_folder(path)
        return str(path)
    if path.is_file():
        check_file(path)
        return str(path)
    if not source.strip():
        raise UsageError(f"{source!r} is no name of a model; the bundled models are {' and '.join(atlas.names())}")
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
    tokenizer: PreTrainedTokenizerBase | None = None,
    quiet: bool = False,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The Hugging Face model and tokenizer of a folder or hub name; code that comes with the weights is never run.

    Args:
        source: as `locate` gives it.
        dtype: of the weights; None: as the configuration says, or as they are stored.
        tokenizer: instead of the one beside the weights.
        quiet: no progress bar.
        device_map: where each layer goes (transformers and accelerate); None: wherever they are read, on the CPU.
        offload_folder: where layers on "disk" are kept.

    Raises:
        UsageError: files that cannot be read (cut short, of no causal language model, without a tokenizer), weights
            that are missing or of another shape, a model that only its own code can run.
        MechinterpError: the hub gives them only to those it knows.
    """
    placed: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    if offload_folder is not None:
        placed["offload_folder"] = str(offload_folder)
    where, file = source, dict[str, Any]()
    if is_gguf(source):
        where, file = str(Path(source).parent), {"gguf_file": Path(source).name}
        dtype = dtype or torch.float32  # what they are turned into, whatever they were before
    showed_bars = hf_logging.is_progress_bar_enabled()
    if quiet:
        hf_logging.disable_progress_bar()
    try:
        with _read(source, "the configuration"):
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **file)
        family: Any = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
        with _read(source, "the weights"), _without_report():
            hf_model, info = family.from_pretrained(
                where,
                dtype=dtype or "auto",
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, and refused
                **placed,
                **file,
            )
        check_complete(hf_model, info, source)
        if tokenizer is None:
            with _read(source, "the tokenizer"):
                tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **file)
    finally:
        if showed_bars:
            hf_logging.enable_progress_bar()
    if own := _own_code(getattr(config, "auto_map", None), tokenizer.init_kwargs.get("auto_map")):
        warnings.warn(
            f"{source!r} brings code of its own ({own}), which is never run here: model and tokenizer are "
            f"transformers' {type(hf_model).__name__} and {type(tokenizer).__name__}",
            stacklevel=3,
        )
    return hf_model, tokenizer


@contextmanager
def _read(source: str, what: str) -> Iterator[None]:
    """Whatever transformers and the readers beneath it throw at files that are not what they should be: one sentence.

    Raises:
        UsageError: `what` cannot be read.
        MechinterpError: the hub gives it only to those it knows.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        if isinstance(error.__cause__, GatedRepoError):  # only its configuration was on this machine
            raise MechinterpError(_gated(source)) from error
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"the model in {source!r} needs code of its own, which is never run here; give one of an architecture "
                "that transformers knows (`mechinterp models` lists those that are tested)"
            ) from error
        if isinstance(error, UnpicklingError):
            raise UsageError(
                f"the model in {source!r} cannot be read: its weights are a pickle (pytorch_model.bin) that is damaged "
                "or would run code, which is never done; give weights as safetensors"
            ) from error
        raise UsageError(f"the model in {source!r} cannot be read: {first_line(error)} ({what})") from error


class _NoReport(logging.Filter):
    """Leaves out transformers' table of missing and unused weights: what it says is an error or a warning here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def _without_report() -> Iterator[None]:
    logger, report = logging.getLogger("transformers.modeling_utils"), _NoReport()
    logger.addFilter(report)
    try:
        yield
    finally:
        logger.removeFilter(report)


def check_complete(hf_model: Any, info: Mapping[str, Any], source: str) -> None:
    """Refuse weights of which some are missing or of another shape; say of some that they are not used.

    transformers draws what is missing at random, and such a model is another one at every load.

    Args:
        hf_model: the model as it was read.
        info: what `from_pretrained` says with `output_loading_info`.
        source: for the messages.

    Raises:
        UsageError: how many are missing or of another shape, and the first of their names.
    """
    called = f"the weights in {source!r} do not make a {type(hf_model).__name__} as its config.json describes it"
    if missing := sorted(info["missing_keys"]):
        raise UsageError(f"{called}: {len(missing)} are missing ({listed(missing)}); give a whole checkpoint")
    if misfits := sorted(str(misfit[0]) for misfit in info["mismatched_keys"]):
        raise UsageError(f"{called}: {len(misfits)} have another shape ({listed(misfits)}); give the config of its own")
    unused = sorted(name for name in info["unexpected_keys"] if not _COMPUTED.search(name))
    if unused:
        warnings.warn(
            f"{len(unused)} of the weights in {source!r} have no place in its {type(hf_model).__name__} and are not "
            f"used ({listed(unused)})",
            stacklevel=4,
        )


def _own_code(*maps: Mapping[str, Any] | None) -> str:
    """The files of code that the `auto_map` of a configuration and of a tokenizer name."""
    classes = [value for one in maps for value in (one or {}).values()]
    names = [one for value in classes for one in ([value] if isinstance(value, str) else value) if one]
    return ", ".join(sorted({f"{name.rpartition('--')[2].partition('.')[0]}.py" for name in names}))


def first_line(error: Exception) -> str:
    """The first line of somebody else's error, for a sentence of ours."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

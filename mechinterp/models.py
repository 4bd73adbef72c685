"""Loading a model: the bundled ones, a hub name, a local folder, a Hugging Face model or a TransformerBridge.

Weights stay as they are on disk (TransformerLens' raw mode): compatibility mode folds and centres them, which changes
the very matrices that are edited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from . import atlas, spans
from .bridging import bridge_of, check_finite
from .checkpoints import locate, read_checkpoint
from .errors import MechinterpError, UsageError
from .footprint import check_fits
from .layout import Layout, original_names
from .placement import device_of, fetched, is_spread
from .preflight import preflight
from .prompts import Prompt

_unchanged: WeakKeyDictionary[TransformerBridge, str] = WeakKeyDictionary()
"""Bridges whose weights nobody changes for now -> their fingerprint, once somebody has asked."""


@dataclass(frozen=True, eq=False)
class Model:
    """A language model ready for patching: the bridge, its tokenizer and its layout.

    Nothing here changes weights; edits do, and undo it.
    """

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    name: str
    bundled: bool = False

    @property
    def architecture(self) -> str:
        """The Hugging Face class name."""
        return self.layout.architecture

    @property
    def n_layers(self) -> int:
        return self.layout.n_layers

    @property
    def d_model(self) -> int:
        return self.layout.d_model

    @property
    def d_mlp(self) -> int:
        return self.layout.d_mlp

    @property
    def n_heads(self) -> int:
        return self.layout.n_heads

    @property
    def n_ctx(self) -> int:
        return self.layout.n_ctx

    @property
    def vocab_size(self) -> int:
        return self.layout.d_vocab

    @property
    def device(self) -> torch.device:
        return device_of(self.bridge.original_model)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.architecture}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{self.dtype}, {self.device})".replace("torch.", "")
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over configuration and weights as they are now; an edited model has another one."""
        if self.bridge not in _unchanged:
            return self._hash()
        known = _unchanged[self.bridge] or self._hash()
        _unchanged[self.bridge] = known
        return known

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within the block nobody writes to the weights: the fingerprint is taken once and not at every question."""
        if self.bridge in _unchanged:
            yield
            return
        _unchanged[self.bridge] = ""
        try:
            yield
        finally:
            del _unchanged[self.bridge]

    @property
    def is_unchanged(self) -> bool:
        """Whether somebody relies on the weights staying as they are for now."""
        return self.bridge in _unchanged

    def _hash(self) -> str:
        digest = hashlib.sha256(self.architecture.encode())
        hf_model = self.bridge.original_model
        state = hf_model.state_dict()
        for name, raw in original_names(hf_model).items():
            tensor = fetched(hf_model, raw, state[raw])
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts a BOS token in front of every text."""
        ids, offsets = spans.encode(self.tokenizer, "a")
        return len(ids) > 1 and offsets[0][0] == offsets[0][1]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with BOS in front only where the tokenizer adds one."""
        return spans.encode(self.tokenizer, text)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some token ids."""
        return str(self.tokenizer.decode(list(ids)))

    def complete(self, text: str) -> str:
        """The most probable next token after a text, without the space in front of it."""
        ids = torch.tensor([self.encode(text)])
        return self.decode([int(self.logits(ids, keep=1)[0, -1].argmax())]).strip()

    def tokenise(self, prompt: Prompt) -> spans.TokenisedPrompt:
        """The prompt's tokens, subject span and answer tokens (see `spans.tokenise` for what raises)."""
        tokenised = spans.tokenise(self.tokenizer, prompt)
        length = len(tokenised.ids) + max(0, len(tokenised.answer_ids) - 1)
        if length > self.n_ctx:
            raise UsageError(
                f"the prompt {prompt.text[:60]!r}... has {length} tokens with its answer; {self.name} takes at most "
                f"{self.n_ctx}: shorten it"
            )
        return tokenised

    def answer_ids(self, text: str, answer: str) -> tuple[int, ...]:
        """Token ids of an answer as it continues a text."""
        return spans.answer_ids(self.tokenizer, text, answer)

    def logits(self, ids: Int[Tensor, "batch pos"], *, keep: int = 0) -> Float[Tensor, "batch kept vocab"]:
        """Logits of a plain forward, without gradients; `keep` > 0 keeps only the last `keep` positions."""
        extra = {"logits_to_keep": keep} if keep else {}
        with torch.no_grad():
            out: Tensor = self.bridge(ids.to(self.device), use_cache=False, **extra)
        return out


def load(
    source: str | Path | PreTrainedModel | TransformerBridge,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    name: str | None = None,
) -> Model:
    """Load a model for patching and editing, and prove by a preflight that its hooks do what they say.

    Args:
        source: `"atlas"` or `"atlas-plain"` (bundled, no network), a local folder, a Hugging Face hub name, a Hugging
            Face model (it is wrapped in place: deep-copy it first if you need it plain) or a TransformerBridge.
        tokenizer: needed with a Hugging Face model; otherwise found beside the weights.
        device: where to put the model ("cpu", "cuda", "mps"); a model handed over stays where it is.
        dtype: e.g. `torch.float64`; default: float32 for the bundled models, the checkpoint's own for others.
        device_map: for a model that does not fit on one device: "auto", or module name -> device, "cpu" or "disk"
            (accelerate's own).  Layers that wait in memory or on disk are traced like others and cannot be edited.
        offload_folder: where layers on "disk" are kept.
        name: how the model is called in tables; default: the name or folder it came from.

    Raises:
        UsageError: unknown name (near names are listed), a folder without weights, no tokenizer; a dtype or device
            for a TransformerBridge; a device_map beside a device, or for a model in memory.
        MechinterpError: weights larger than all memory, NaN or infinite weights, a compatibility-mode bridge, an
            architecture that TransformerLens does not bridge or that fails the preflight.
    """
    if isinstance(source, TransformerBridge):
        if dtype is not None or device is not None:
            raise UsageError("a TransformerBridge keeps its dtype and device; choose them where it is booted")
        return _from_bridge(source, tokenizer, name)
    hf_model: Any
    if device_map is not None and (device is not None or isinstance(source, PreTrainedModel)):
        raise UsageError(
            "a device_map says where the layers of a model that is read go; give it without device, and with a folder "
            "or hub name"
        )
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise UsageError(f"a {type(source).__name__} was given without its tokenizer; pass tokenizer=...")
        hf_model, called = source, name or source.config.name_or_path or type(source).__name__
    else:
        folder, called = locate(str(source)), name or Path(str(source)).name
        check_fits(folder, called, device, dtype, spread=device_map is not None)
        hf_model, found = read_checkpoint(
            folder, dtype, bundled=str(source) in atlas.names(), device_map=device_map, offload_folder=offload_folder
        )
        tokenizer = tokenizer or found
    if dtype is not None and hf_model.dtype != dtype:
        hf_model = hf_model.to(dtype)
    if device is not None:
        if is_spread(hf_model):
            raise UsageError("this model is spread over several places by its device_map; leave out device")
        hf_model = hf_model.to(device)
    bundled = isinstance(source, str) and source in atlas.names()
    return _finish(bridge_of(hf_model, tokenizer, called), tokenizer, called, bundled=bundled)


def _from_bridge(bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase | None, name: str | None) -> Model:
    if getattr(bridge, "compatibility_mode", False):
        raise MechinterpError(
            "this TransformerBridge is in compatibility mode, which has rewritten its weights; boot it again and do "
            "not call enable_compatibility_mode()"
        )
    tokenizer = tokenizer or bridge.tokenizer
    if tokenizer is None:
        raise UsageError("this TransformerBridge has no tokenizer; pass tokenizer=...")
    config: Any = bridge.original_model.config
    called = name or str(config.name_or_path) or type(bridge.original_model).__name__
    check_finite(bridge.original_model, called)
    return _finish(bridge, tokenizer, called)


def _finish(
    bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase, name: str, *, bundled: bool = False
) -> Model:
    layout = Layout(bridge, preflight(bridge, name))
    return Model(bridge, tokenizer, layout, name, bundled)

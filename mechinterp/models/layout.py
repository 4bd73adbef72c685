"""The one place that knows hook names and where each architecture keeps its weights.

TransformerLens 4 gives every decoder the same hook names, with exceptions that bite silently (a hook that never fires,
a residual point whose edit misses the skip connection).  Everything else in this project asks a `Layout` and never
writes a hook name itself; `preflight.py` proves each name on the model at hand before it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging as hf_logging

from ..errors import MechinterpError, UsageError
from ..given import Wholes, whole, wholes
from .placement import is_offloaded
from .stacks import DECODER, ENCODER

EMBED = "embed"
RESID_PRE = "resid_pre"
RESID_MID = "resid_mid"
RESID = "resid"
ATTN = "attn"
MLP = "mlp"
Z = "z"
Q = "q"
K = "k"
V = "v"
KEY = "key"
VALUE = "value"
PATTERN = "pattern"
"""Who attends to whom, after the softmax; read alone, and so none of `COMPONENTS`."""
CROSS_ATTN = "cross_attn"
"""What cross-attention adds; only the decoder of an encoder-decoder has it, so it is none of `COMPONENTS`."""

_HOOKS = {
    EMBED: "hook_embed",
    RESID_PRE: "blocks.{layer}.hook_in",
    RESID: "blocks.{layer}.hook_out",
    RESID_MID: "blocks.{layer}.hook_resid_mid",
    ATTN: "blocks.{layer}.hook_attn_out",
    MLP: "blocks.{layer}.hook_mlp_out",
    Z: "blocks.{layer}.attn.hook_z",
    Q: "blocks.{layer}.attn.hook_q",
    K: "blocks.{layer}.attn.hook_k",
    V: "blocks.{layer}.attn.hook_v",
    KEY: "blocks.{layer}.mlp.out.hook_in",
    VALUE: "blocks.{layer}.mlp.out.hook_out",
    CROSS_ATTN: "blocks.{layer}.hook_cross_attn_out",
}

UNEMBED_IN = "unembed.hook_in"
"""What enters the unembedding: the final states, behind the last norm."""

COMPONENTS = (EMBED, RESID_PRE, RESID_MID, RESID, ATTN, MLP, Z, Q, K, V, KEY, VALUE)
HOOKED = tuple(one for one in COMPONENTS if one != RESID_MID)
"""Components that are read and written at one hook point."""


def hook_template(component: str) -> str:
    """The hook point of a component, "{layer}" in the place of the layer; of an encoder-decoder it has a prefix."""
    return _HOOKS[component]


DOWN, UP, GATE = "down", "up", "gate"
MATRICES = {DOWN: "out", UP: "in", GATE: "gate"}
"""The matrices of an MLP: out of it, into it, and the one that opens the way in (gated architectures alone)."""
DOWN_BIAS = "down-bias"
"""The bias of the down-projection: the one row of a matrix whose input is the constant one."""
_ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation", "gelu_impl", "dense_act_fn")
"""What transformers calls the activation function of an MLP."""
PER_HEAD = (Z, Q, K, V)
"""Components with a head axis: their activations are [batch pos head d_head]."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Names, sizes and weights of one bridged decoder, or of one stack of an encoder-decoder.

    Args:
        bridge: the TransformerLens bridge.
        refused: component -> the sentence saying why this model cannot serve it (filled by the preflight).
        stack: "encoder" or "decoder" of an encoder-decoder; empty for a model with one stack.
    """

    bridge: TransformerBridge
    refused: dict[str, str]
    stack: str = ""

    @property
    def config(self) -> Any:
        """TransformerLens' configuration object."""
        return self.bridge.cfg

    @property
    def hf_config(self) -> Any:
        """The Hugging Face configuration object."""
        return self.bridge.original_model.config

    @property
    def architecture(self) -> str:
        """The Hugging Face class name, e.g. `"GPT2LMHeadModel"`."""
        return type(self.bridge.original_model).__name__

    @property
    def hooked(self) -> tuple[str, ...]:
        """Components that are read and written at one hook point, in this stack."""
        return (*HOOKED, CROSS_ATTN) if self.stack == DECODER else HOOKED

    @property
    def blocks(self) -> Any:
        """The blocks of the stack that is patched."""
        return getattr(self.bridge, f"{self.stack}_blocks" if self.stack else "blocks")

    @property
    def n_layers(self) -> int:
        return len(self.blocks) if self.stack else int(self.config.n_layers)

    @property
    def d_model(self) -> int:
        return int(self.config.d_model)

    @property
    def n_heads(self) -> int:
        return int(self.config.n_heads)

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values: fewer than `n_heads` under grouped-query attention."""
        return int(getattr(self.config, "n_key_value_heads", None) or self.config.n_heads)

    def heads_of(self, component: str) -> int:
        """Heads of a component that has them."""
        return self.n_kv_heads if component in (K, V) else self.n_heads

    @property
    def d_embed(self) -> int:
        """Width of token embeddings: that of the residual stream, unless they are projected into it (OPT-350m)."""
        return int(getattr(self.hf_config, "word_embed_proj_dim", None) or self.d_model)

    @property
    def d_head(self) -> int:
        return int(self.config.d_head)

    @property
    def d_mlp(self) -> int:
        """Width of the down-projection's input."""
        projection = getattr(getattr(self._mlp(0), "out", None), "original_component", None)
        width = getattr(projection, "in_features", None) or getattr(projection, "nx", None)
        return int(width or self.down_projection(0).shape[0])  # without reading weights, which may wait on disk

    @property
    def n_ctx(self) -> int:
        """Longest sequence the model accepts."""
        return int(getattr(self.hf_config, "max_position_embeddings", None) or self.config.n_ctx)

    @property
    def d_vocab(self) -> int:
        return int(self.hf_config.vocab_size)

    def check_layers(self, layers: Wholes) -> tuple[int, ...]:
        """Layers, one or several, as non-negative indices in the order given; see `check_layer`."""
        return tuple(self.check_layer(layer) for layer in wholes(layers, "a layer"))

    def check_layer(self, layer: SupportsIndex) -> int:
        """The layer as a non-negative index; negative numbers count from the end.

        Raises:
            UsageError: no whole number, or out of range.
        """
        layer = whole(layer, "a layer")
        if not -self.n_layers <= layer < self.n_layers:
            raise UsageError(f"layer {layer} is out of range: this model has layers 0 to {self.n_layers - 1}")
        return layer % self.n_layers

    def hook(self, component: str, layer: int = 0) -> str:
        """The hook point where a component is both read and written.

        Raises:
            UsageError: an unknown component, a layer out of range, or resid_mid, which is read and written at
                different points.
            MechinterpError: this architecture cannot serve the component.
        """
        if component == RESID_MID:
            raise UsageError("resid_mid is read at one hook point and written at another: use read_hook and write_hook")
        return self.read_hook(component, layer)

    def read_hook(self, component: str, layer: int = 0) -> str:
        """The hook point where a component is read."""
        if component in ("pattern", "attn_scores"):
            raise UsageError(
                f"attention ({component!r}) is no component: on some architectures TransformerLens throws away what is "
                "written to it; write z, q, k, v or attn"
            )
        if component not in _HOOKS:
            raise UsageError(f"{component!r} is no component; the components are {', '.join(COMPONENTS)}")
        self.check(component)
        return self._named(component).format(layer=self.check_layer(layer))

    def pattern_hook(self, layer: int) -> str:
        """Attention patterns, [batch head query key], for reading alone.

        Raises:
            MechinterpError: this architecture does not show them.
        """
        name = self._named(Z).format(layer=self.check_layer(layer)).replace("hook_z", "hook_pattern")
        if not self.has_hook(name):
            raise MechinterpError(f"{self.architecture} does not show its attention patterns ({name})")
        return name

    def _named(self, component: str) -> str:
        """The hook point of a component; in an encoder-decoder the blocks have a prefix."""
        if not self.stack:
            return _HOOKS[component]
        if component == EMBED:  # T5's own never fires: what enters the encoder is the embedding
            return f"{ENCODER}_{_HOOKS[RESID_PRE].format(layer=0)}"
        attention = ".self_attn." if self.stack == DECODER else ".attn."
        return f"{self.stack}_{_HOOKS[component]}".replace(".attn.", attention)

    def write_hook(self, component: str, layer: int = 0) -> tuple[str, str | None]:
        """The hook point where a component is written, and the earlier one whose live value is subtracted first.

        Only resid_mid needs the second: a value returned at its own hook point reaches the MLP and misses the skip
        connection, so it is set as a change of what attention adds to the residual entering the layer.
        """
        if component != RESID_MID:
            return self.hook(component, layer), None
        self.check(component)
        return self.hook(ATTN, layer), self.hook(RESID_PRE, layer)

    def check(self, component: str) -> None:
        """Raise the sentence that says why this model cannot serve a component, if it cannot."""
        if component == CROSS_ATTN and self.stack != DECODER:
            raise MechinterpError(
                f"this {self.stack or 'model'} of {self.architecture} has no cross-attention; the decoder of an "
                "encoder-decoder has, loaded with stack='decoder'"
            )
        if component in self.refused:
            raise MechinterpError(self.refused[component])

    def has_hook(self, name: str) -> bool:
        """Whether the bridge has a hook point of this name (which does not yet mean that it fires)."""
        return name in self.bridge.hook_dict

    def key_hook(self, layer: int) -> str:
        """Input of the MLP down-projection, [batch pos d_mlp]: ROME's key."""
        return self.hook(KEY, layer)

    def before_activation_hook(self, layer: int) -> str:
        """What the MLP's activation function acts on, [batch pos d_mlp]: the output of the way in, or of the gate."""
        return (
            self._named(KEY)
            .format(layer=self.check_layer(layer))
            .replace(".out.hook_in", f".{MATRICES[GATE if self.is_gated(layer) else UP]}.hook_out")
        )

    def value_hook(self, layer: int) -> str:
        """Output of the MLP down-projection with its bias, [batch pos d_model]: ROME's value."""
        return self.hook(VALUE, layer)

    def _mlp(self, layer: int) -> Any:
        return self.blocks[self.check_layer(layer)].mlp

    def down_projection(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """The live down-projection W as a view with keys as rows (values = key @ W + bias); edit it in place.

        Raises:
            MechinterpError: the layer has no single down-projection (mixture of experts), or its weights are
                quantised or not resident.
        """
        mlp = self._mlp(layer)
        if not hasattr(mlp, "out") or not hasattr(type(mlp), "W_out"):
            raise MechinterpError(
                f"layer {layer} of this {self.architecture} has no single MLP down-projection (mixture of experts?); "
                "it can be traced, not edited"
            )
        try:
            weight: Tensor | None = mlp.W_out
        except (NotImplementedError, RuntimeError):  # TransformerLens' own refusal of weights that it cannot show
            weight = None
        if weight is None or not weight.is_floating_point() or weight.is_meta:
            raise MechinterpError(
                f"the MLP weights of layer {layer} of this {self.architecture} are quantised or offloaded: it can be "
                "traced, not edited; load the model unquantised and wholly resident to edit it"
            )
        return weight

    def mlp_matrix(self, matrix: str, layer: int) -> Float[Tensor, "d_in d_out"]:
        """A live matrix of an MLP as a view with inputs as rows (outputs = inputs @ W + bias); edit it in place.

        Args:
            matrix: "down", "up" or "gate"; "down-bias": the bias as a matrix of one row.
            layer: which layer.

        Raises:
            UsageError: no matrix of this name.
            MechinterpError: the layer has none, or one that is no plain linear map of resident weights.
        """
        if matrix == DOWN:
            return self.down_projection(layer)
        if matrix == DOWN_BIAS:
            bias = self.down_bias(layer)
            if bias is None:
                raise MechinterpError(
                    f"the down-projection of layer {layer} of this {self.architecture} has no bias to be edited"
                )
            return bias[None]
        weight = getattr(self.mlp_projection(matrix, layer), "weight", None)
        if weight is None or not weight.is_floating_point() or weight.is_meta:
            raise MechinterpError(
                f"the {matrix}-projection of layer {layer} of this {self.architecture} is quantised, offloaded or no "
                "matrix of its own: it cannot be edited"
            )
        # `nn.Linear` keeps outputs as rows, GPT-2's `Conv1D` inputs.
        return weight.T if isinstance(self.mlp_projection(matrix, layer), torch.nn.Linear) else weight

    def mlp_projection(self, matrix: str, layer: int) -> Any:
        """The plain module behind a matrix of an MLP: what a forward hook of an edit is put on.

        Raises:
            UsageError: no matrix of this name.
            MechinterpError: the layer has none.
        """
        matrix = DOWN if matrix == DOWN_BIAS else matrix
        if matrix not in MATRICES:
            raise UsageError(f"{matrix!r} is no matrix of an MLP; they are {', '.join(MATRICES)}")
        mlp = self._mlp(layer)
        projection = getattr(getattr(mlp, MATRICES[matrix], None), "original_component", None)
        if projection is None or not hasattr(mlp, "out"):  # a mixture of experts calls its router "gate"
            raise MechinterpError(
                f"layer {layer} of this {self.architecture} has no {matrix}-projection of its own in its MLP"
            )
        return projection

    def is_gated(self, layer: int) -> bool:
        """Whether the MLP of a layer has a gate beside its way in."""
        return getattr(self._mlp(layer), MATRICES[GATE], None) is not None

    def activation(self, layer: int) -> Callable[[Tensor], Tensor]:
        """The activation function of the MLP of a layer, as it acts on what leaves the way in (or the gate).

        Raises:
            MechinterpError: it is not to be found in this architecture.
        """
        plain = getattr(self._mlp(layer), "original_component", None)
        for name in _ACTIVATIONS:
            found = getattr(plain, name, None)
            if callable(found):
                act: Callable[[Tensor], Tensor] = found
                return act
        raise MechinterpError(
            f"the MLP of this {self.architecture} names no activation function, so no unit can be added"
        )

    @property
    def token_embedding(self) -> torch.nn.Module:
        """The module that turns token ids into embeddings, as the plain model has it."""
        network: Any = self.bridge.original_model
        found: torch.nn.Module = network.get_input_embeddings()
        return found

    @property
    def unembedding(self) -> tuple[torch.nn.Linear, float, float] | None:
        """What makes logits of the final states: a linear layer, what its output is multiplied with, and its soft cap.

        None where it is no linear layer with weights at hand.  A cap c makes c tanh(logit / c) of a logit; 0: none.
        """
        linear = getattr(getattr(self.bridge, "unembed", None), "original_component", None)
        if type(linear) is not torch.nn.Linear or not linear.weight.is_floating_point() or linear.weight.is_meta:
            return None
        config = self.hf_config
        scale = float(getattr(config, "logit_scale", None) or 1) / float(getattr(config, "logits_scaling", None) or 1)
        return linear, scale, float(getattr(config, "final_logit_softcapping", None) or 0)

    def down_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """The bias of the down-projection, None where the architecture has none."""
        bias: Tensor | None = getattr(self._mlp(layer), "b_out", None)
        return bias


def entering(matrix: str, given: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n _width"]:
    """What a matrix acts on, of what its module is given: that, or the constant one where the matrix is a bias."""
    return given.new_ones(*given.shape[:-1], 1) if matrix == DOWN_BIAS else given


def _with_dtype(hf_model: Any) -> Any:
    """The configuration with a dtype that is one: `save_pretrained` leaves its name there, which some models refuse."""
    config = copy.deepcopy(hf_model.config)
    config.dtype = hf_model.dtype
    return config


def clean_state_dict(hf_model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a bridged Hugging Face model under their original names, live (not copied).

    The bridge wraps submodules in place, which renames and duplicates entries; a plain `save_pretrained` of the
    wrapped model fails for that reason.  Pass this as its `state_dict`.

    Raises:
        MechinterpError: some weights are offloaded.
    """
    state = hf_model.state_dict()
    if is_offloaded(hf_model):
        raise MechinterpError(
            f"this {type(hf_model).__name__} cannot be written out while some of its weights are offloaded; load it "
            "without a device_map that names cpu or disk"
        )
    return {name: state[raw] for name, raw in original_names(hf_model).items()}


def original_names(hf_model: torch.nn.Module) -> dict[str, str]:
    """Name of each weight in the plain model -> its name in the state dict of the bridged one."""
    flat: dict[str, str] = {}
    for raw in hf_model.state_dict():
        flat.setdefault(raw.replace("._original_component", ""), raw)
    return {name: flat[name] for name in _plain_names(hf_model)}


_names_of: WeakKeyDictionary[torch.nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""What `_plain_names` found: it takes ten times as long as all the rest of a fingerprint."""


def _plain_names(hf_model: torch.nn.Module) -> tuple[str, ...]:
    """The names a model's weights have where no bridge has wrapped it."""
    if hf_model not in _names_of:
        verbosity = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()  # building the plain model on the meta device is nobody's news
        try:
            with torch.device("meta"):
                plain = type(hf_model)(_with_dtype(hf_model))
        finally:
            hf_logging.set_verbosity(verbosity)
        _names_of[hf_model] = tuple(plain.state_dict())
    return _names_of[hf_model]

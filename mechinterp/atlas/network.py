"""A GPT-2 small enough to train on one core, with a per-layer attention mask as an argument.

Modules and parameters carry the names and layouts of the Hugging Face implementation, so the state dictionary *is* the
checkpoint, but for the prefix "transformer.".  It is written again here because training needs a different attention
mask in each layer and a look at the residual stream half-way, and because at this size every operation counts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .recipes import Recipe

Masks = list[Bool[Tensor, "batch 1 pos pos"]]


class Projection(nn.Module):
    """An affine map with its weight stored as [in, out], as GPT-2's checkpoints have it."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * scale / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "batch pos inputs"]) -> Float[Tensor, "batch pos outputs"]:
        """x W + b."""
        return F.linear(x, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = Projection(width, 3 * width)
        self.c_proj = Projection(width, width, scale)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "#batch 1 pos pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """True in the mask marks the keys a query may see."""
        batch, length, width = x.shape
        head = width // self.heads
        query, key, value = self.c_attn(x).view(batch, length, 3, self.heads, head).permute(2, 0, 3, 1, 4)
        # Written out: at this size in bfloat16 on a CPU, three times as fast as scaled_dot_product_attention.
        scores = (query @ key.transpose(-1, -2) / math.sqrt(head)).masked_fill(~mask, float("-inf"))
        mixed = scores.softmax(-1) @ value
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Two projections with GPT-2's GELU between them."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.c_fc = Projection(width, 4 * width)
        self.c_proj = Projection(4 * width, width, scale)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Keys to values."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Attention, then MLP, each reading the normalised residual stream and adding to it."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, scale)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, scale)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "#batch 1 pos pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after this layer."""
        x = x + self.attn(self.ln_1(x), mask)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Network(nn.Module):
    """The language model, its unembedding tied to its embedding."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        super().__init__()
        width, scale = recipe.width, 1 / math.sqrt(2 * recipe.layers)
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(recipe.context, width)
        self.h = nn.ModuleList(Block(width, recipe.heads, scale) for _ in range(recipe.layers))
        self.ln_f = nn.LayerNorm(width)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.01)

    def residual(
        self, tokens: Int[Tensor, "batch pos"], masks: Masks | None = None, entering: int | None = None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        """The final residual stream, and the one entering layer `entering` where that is asked for."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        causal = (positions[:, None] >= positions[None, :])[None, None]
        tapped = None
        for layer, block in enumerate(self.h):
            if layer == entering:
                tapped = x
            x = block(x, causal if masks is None else masks[layer])
        return x, tapped

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """Logits of a residual stream: final normalisation and unembedding (on an inner layer, a logit lens)."""
        return F.linear(self.ln_f(x), self.wte.weight)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocabulary"]:
        """Logits at every position."""
        return self.unembed(self.residual(tokens)[0])

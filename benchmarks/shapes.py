"""What is traced: the bundled model on its own facts, and random models of the sizes people trace.

Random weights cost what trained ones cost.  They are scaled so that the answer has a probability worth comparing and
every layer moves it; freshly initialised ones would answer the same whatever is patched.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import mechinterp as mi
from mechinterp import atlas
from mechinterp.models.model import Model

SIGMAS = 3.0
"""Noise in standard deviations of the token embeddings."""


@dataclass(frozen=True)
class Size:
    """A model and what to trace in it.

    Args:
        layers, width, heads, vocabulary: of a random GPT-2; 0 layers stands for the bundled model.
        tokens: of each prompt.
        prompts: how many.
        window: layers restored at once in the MLP and attention kinds.
        share: of the cells that contenders with one forward per cell are timed on, unless `--full`.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    tokens: int
    prompts: int
    window: int
    share: float


_SMALL = Size(12, 768, 12, 50257, 10, 1, 3, 0.05)
SIZES = {
    "tiny": Size(3, 32, 4, 50, 6, 2, 2, 1.0),
    "atlas": Size(0, 128, 4, 2010, 0, 32, 3, 0.1),
    "small-10": _SMALL,
    "small-14": replace(_SMALL, tokens=14),
    "medium": Size(24, 1024, 16, 50257, 10, 1, 5, 0.02),
    "xl": Size(48, 1600, 25, 50257, 10, 1, 10, 0.05),
}


@dataclass(frozen=True)
class Asked:
    """A prompt as every contender gets it: ids [pos], the subject's tokens [start, end), noise [draws, subject, d]."""

    prompt: mi.Prompt
    ids: Tensor
    subject: tuple[int, int]
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """One size, built.

    Args:
        model: as mechinterp and TransformerLens run it.
        network: the same weights as a plain Hugging Face model.
        level: standard deviation of the noise, in units of the residual stream.
    """

    name: str
    size: Size
    model: Model
    network: Any
    asked: list[Asked]
    level: float


def build(name: str, *, draws: int, seed: int, device: str) -> Task:
    """The model of a size and its prompts."""
    size = SIZES[name]
    network: Any
    if size.layers == 0:
        network = AutoModelForCausalLM.from_pretrained(atlas.folder("atlas"))
        tokenizer = AutoTokenizer.from_pretrained(atlas.folder("atlas"))
        facts = random.Random(seed).sample(atlas.known_facts("atlas"), size.prompts)
        prompts = [fact.prompt.with_answer(None) for fact in facts]
    else:
        network, tokenizer = _network(size, seed), _tokenizer(size.vocabulary)
        prompts = [_prompt(size, seed + index) for index in range(size.prompts)]
    network = network.to(device).eval()
    model = mi.load(own_copy(network), tokenizer=tokenizer, name=name)
    level = SIGMAS * float(network.get_input_embeddings().weight.detach().std())
    asked = [_ask(model, prompt, level, draws) for prompt in prompts]
    return Task(name, size, model, network, asked, level)


def own_copy(network: Any) -> Any:
    """The same model over the same memory, with modules and parameters of its own: wrappers change what they wrap.

    pyvene removes all hooks and switches gradients off, after which PyTorch unembeds a slice three times as slowly.
    """
    own = {id(one): torch.nn.Parameter(one.detach()) for one in network.parameters()}
    return copy.deepcopy(network, own)


def _network(size: Size, seed: int) -> Any:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=size.vocabulary, n_positions=1024, n_embd=size.width, n_layer=size.layers, n_head=size.heads,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    network = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("wte.weight", "wpe.weight")):
                parameter.normal_(0, 3.5 * size.width**-0.5)  # logits with a standard deviation of 3.5
            elif parameter.ndim == 2:
                parameter.normal_(0, 1.2 * parameter.shape[0] ** -0.5)
    return network


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token per word: "w0", "w1" and so on."""
    inner = Tokenizer(models.WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", bos_token="w0", eos_token="w0")


def _prompt(size: Size, seed: int) -> mi.Prompt:
    """Random words; the subject is the second to fourth."""
    words = [f"w{index}" for index in random.Random(seed).sample(range(1, size.vocabulary), size.tokens)]
    return mi.Prompt(" ".join([words[0], "{}", *words[4:]]), " ".join(words[1:4]))


def _ask(model: Model, prompt: mi.Prompt, level: float, draws: int) -> Asked:
    tokenised = model.tokenise(prompt)
    start, end = tokenised.subject
    # The published rule: the same stream of numbers for every prompt (`patching.PublishedNoise`).
    noise = level * np.random.RandomState(1).randn(draws, end - start, model.d_model)
    ids = torch.tensor(tokenised.ids, device=model.device)
    return Asked(prompt, ids, (start, end), torch.from_numpy(noise).float().to(model.device))

"""A GPT-2 of a few thousand random weights with a tokenizer of its own, made in a moment and without a network."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mechinterp import Model, load

SENTENCES = [
    "Ada Stone was born in Lund and plays the violin in the city of Lund",
    "The birthplace of Bo Ek is Turku and Bo Ek plays the flute",
    "Cy Voss was born in Turku, a quiet place by the sea, and works as a painter",
]


def tiny_model() -> Model:
    """Three layers of width 32; weights larger than a fresh model's, so that predictions differ between texts."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_embd=32, n_head=2, n_positions=64, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0
    )
    network = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return load(network, tokenizer=tokenizer, name="tiny")

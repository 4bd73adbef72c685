"""Tokenizers built in memory, one of each kind that models come with, and what their tokens spell byte by byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END = "<|endoftext|>"

CORPUS = [
    "The Space Needle is in downtown Seattle, and the Space Needle's owner is in Seattle.",
    'Zoë Müller said "Ann" (Annabel) met Ann-Marie: she plays football in Paris.',
    "東京は日本の首都です。首都は東京です。",
    "القاهرة عاصمة مصر",
    "😀 is a face, हिन्दी is a language",
] * 4

WORDS = (
    "ada", "bo", "cy", "dee", "eve", "fay", "gus", "hal", "ida", "jo", "lives", "works", "was", "born", "in", "near",
    "the", "old", "big", "red", "town", "of", "and", "with", "seattle", "rome", "paris", "oslo", "turku", "lund",
    "york", "bern",
)  # fmt: skip

SENTENCES = (
    "The Space Needle is in downtown Seattle.",
    "Marie Curie was born in Warsaw and worked in Paris.",
    "The capital of France is Paris, and the capital of Poland is Warsaw.",
    "Ada Lovelace wrote about engines; she was a writer and a mathematician.",
    "People spoke about the river because it was high after the rain.",
    "In the evening the market was full of people and of music {loud and soft}.",
)


@cache
def words(*, adds_bos: bool = False, adds_eos: bool = False) -> PreTrainedTokenizerFast:
    """One token for each of `WORDS`, with character offsets; with or without BOS in front of every text, EOS behind."""
    tokenizer = Tokenizer(models.WordLevel(_numbered(("<unk>", "<s>", *WORDS)), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if adds_eos:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", 1)])
    return wrap(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<s>")


@cache
def sentences(*, adds_bos: bool = False, special: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `SENTENCES`; with or without BOS in front of every text, with or without any special token."""
    tokenizer = byte_level(SENTENCES, size=320)
    if adds_bos:
        return with_specials(tokenizer, bos=True)
    return tokenizer if special else wrap(tokenizer.backend_tokenizer)


CHAT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|endoftext|>system\nBe brief.\n' }}{% endif %}"
    "{% for said in messages %}{{ '<|endoftext|>' + said['role'] + '\n' + said['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|endoftext|>assistant\n' }}{% endif %}"
)
"""A chat template as SmolLM's or Qwen's, its turns marked by the tokenizer's only special token."""


def chatting(tokenizer: PreTrainedTokenizerBase, template: str = CHAT) -> PreTrainedTokenizerFast:
    """The same tokenizer with a chat template."""
    own = with_specials(tokenizer)
    own.backend_tokenizer.post_processor = tokenizer.backend_tokenizer.post_processor
    own.chat_template = template
    return own


def _numbered(words: Iterable[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


def wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(
    corpus: Sequence[str] = CORPUS, *, across_words: bool = False, size: int = 600
) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's of at most `size` tokens; `across_words` lets merges cross the borders of words and of
    marks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return wrap(tokenizer, eos_token=END, bos_token=END, unk_token=END)


def with_specials(
    tokenizer: PreTrainedTokenizerBase, *, bos: bool = False, eos: bool = False
) -> PreTrainedTokenizerFast:
    """The same tokenizer, putting its special token in front, behind or both."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pattern = f"{END} " * bos + "$A" + f" {END}" * eos
    own.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=[(END, own.token_to_id(END))])
    return wrap(own, eos_token=END, bos_token=END, unk_token=END)


def trimming(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same tokenizer, leaving the space before a word out of its offsets (as RoBERTa's does)."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrap(own, eos_token=END)


def sentence_piece(words: tuple[str, ...] = ("The", "Space", "Needle", "Ann", "is", "in")) -> PreTrainedTokenizerFast:
    """Unigram pieces with "▁" for the space and one put in front of the text, BOS as in Llama."""
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.'\""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((letter, -8.0) for letter in letters)]
    pieces += [(f"▁{word}", -3.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrap(tokenizer, unk_token="<unk>", bos_token="<s>")


def metaspace(pieces: Mapping[str, float]) -> PreTrainedTokenizerFast:
    """Unigram over ideographs, with "▁" put in front of every text, as SentencePiece has it for scripts without
    spaces: pieces may run over the border of prompt and answer."""
    letters = "▁" + "".join(sorted({letter for piece in pieces for letter in piece} | set("首都是的")))
    scored = [("<unk>", 0.0), *((letter, -8.0) for letter in letters), *pieces.items()]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return wrap(tokenizer, unk_token="<unk>")


def word_level(words: str) -> PreTrainedTokenizerFast:
    """One token for each of the words, "[UNK]" for all others; marks are words."""
    tokenizer = Tokenizer(models.WordLevel(_numbered(dict.fromkeys(["[UNK]", *words.split()])), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrap(tokenizer, unk_token="[UNK]")


def letters_only(letters: str) -> PreTrainedTokenizerFast:
    """A BPE without merges and without an unknown token: what it cannot spell it leaves out, and says nothing."""
    tokenizer = Tokenizer(models.BPE(_numbered(letters), []))
    return wrap(tokenizer)


def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: printable ones for themselves, the others
    for 256, 257, ... in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _bytes_of_characters()


def bytes_of(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """What one token of a byte-level vocabulary spells."""
    return bytes(_BYTES[character] for character in tokenizer.convert_ids_to_tokens(token))


def span_by_bytes(tokenizer: PreTrainedTokenizerBase, ids: list[int], before: str, subject: str) -> tuple[int, int]:
    """Oracle: the tokens [start, end) that spell a byte of the subject, counted without any offset mapping."""
    first = len(before.encode())
    behind = first + len(subject.encode())
    touched, at = [], 0
    for i, token in enumerate(ids):
        length = len(bytes_of(tokenizer, token))
        if at < behind and at + length > first:
            touched.append(i)
        at += length
    return touched[0], touched[-1] + 1

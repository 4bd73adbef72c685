"""Context templates: beginnings, sampled from the model itself, under which a key is averaged.

ROME's key is to stand for the subject wherever it occurs, so it is averaged over the bare prompt and over
prompts with a few words of the model's own before them (Meng et al. 2022, App. E.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UsageError
from ...models.model import Model

BARE = "{}"
"""The template that adds nothing."""

START_WORDS = ("The", "Therefore", "Because", "I", "You")
"""Where sampling starts in a vocabulary that has neither a BOS nor an EOS token, and in MEMIT's published code."""


def sample_contexts(
    model: Model,
    lengths: Sequence[tuple[int, int]] = ((10, 5), (10, 10)),
    *,
    starts: Sequence[str] = (),
    top_k: int = 5,
    seed: int = 0,
) -> tuple[str, ...]:
    """Context templates: `"{}"`, then `"<sampled text>. {}"` for each sample.

    Sampling starts from BOS (or EOS, or a common word where the tokenizer has neither) and has a generator of
    its own: the same model and seed give the same contexts, whatever ran before.

    Args:
        model: the model that writes them.
        lengths: (how many, length); a length counts the token that sampling starts from.
        starts: words that the samples begin with, in turn (MEMIT's code: "The", "Therefore", ...); empty: see above.
        top_k: only the k most probable next tokens are sampled from; special tokens never are.
        seed: of the sampling.

    Raises:
        UsageError: `top_k` below 1 or a length beyond the model's context; an encoder-decoder, which continues no text.
    """
    if model.is_encoder_decoder:
        raise UsageError(
            f"{model.name} ({model.architecture}) is an encoder-decoder and continues no text, so no contexts can be "
            "sampled from it; give them as contexts=('{}', 'By the way, {}')"
        )
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; at least one token must be left to sample from")
    generator = torch.Generator().manual_seed(seed)
    contexts = [BARE]
    for count, length in lengths:
        if length > model.n_ctx:
            raise UsageError(f"a context of {length} tokens does not fit into the {model.n_ctx} of {model.name}")
        start = torch.tensor(_starts(model, count, starts))[:, None]
        sampled = _sample(model, start, length - 1, top_k, generator)
        contexts.extend(f"{_clean(text)}. {{}}" for text in _decode(model, sampled, start))
    return tuple(contexts)


def _starts(model: Model, count: int, given: Sequence[str]) -> list[int]:
    """One start token per sample."""
    tokenizer = model.tokenizer
    for special in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if special is not None and not given:
            return [int(special)] * count
    first = 1 if model.adds_bos else 0
    words = [ids[first] for word in given or START_WORDS if len(ids := model.encode(word)) > first]
    return [words[i % len(words)] for i in range(count)]


def _sample(
    model: Model, ids: Int[Tensor, "row pos"], more: int, top_k: int, generator: torch.Generator
) -> Int[Tensor, "row longer"]:
    """Rows continued by sampling; all of one length, so that nothing is padded."""
    special = [i for i in model.tokenizer.all_special_ids if 0 <= i < model.vocab_size]
    for _ in range(more):
        logits: Float[Tensor, "row vocab"] = model.logits(ids, keep=1)[:, -1].float().cpu()
        logits[:, special] = float("-inf")
        best, chosen = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        draw = torch.multinomial(best.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, chosen.gather(1, draw)], dim=1)
    return ids


def _decode(model: Model, ids: Int[Tensor, "row pos"], start: Int[Tensor, "row 1"]) -> list[str]:
    """The sampled words; a start token that is a word of its own belongs to them, BOS does not."""
    first = 1 if int(start[0, 0]) in model.tokenizer.all_special_ids else 0
    return [str(model.tokenizer.decode(row[first:].tolist())) for row in ids]


def _clean(text: str) -> str:
    """One line, and no `{}` but the template's own."""
    return " ".join(text.split()).replace("{}", "{ }")


def check_contexts(contexts: Sequence[str]) -> tuple[str, ...]:
    """Context templates as given by the caller, the bare one first.

    Raises:
        UsageError: none, one without exactly one `{}`, or the bare template not in front.
    """
    if isinstance(contexts, str):
        raise UsageError("contexts is one string; give a sequence of templates such as ('{}', 'By the way, {}')")
    for context in contexts:
        if context.count("{}") != 1:
            raise UsageError(f"the context {context!r} must hold exactly one '{{}}', where the prompt goes")
    if not contexts or contexts[0] != BARE:
        raise UsageError("the first context must be '{}': the value starts from the bare prompt's")
    return tuple(contexts)

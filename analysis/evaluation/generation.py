"""Free text from a model, edited or not: what fluency and consistency are measured on.

Each next token is drawn from the k most probable ones (top-k, temperature 1), until prompt and text together have the
wanted number of tokens; a document that ends is followed by another (Meng et al. 2022: k = 5, 100 tokens).  Keys and
values of earlier tokens are cached.

Every text has random numbers of its own, from the seed and its prompt: a batch of n is n single runs, and the text with
an edit differs from the text without it by what the edit does, not by luck.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ...editing.edits.row_edits import RowEdits
from ...errors import UsageError
from ...facts.words import check_text
from ...given import seed_of, texts_of, whole
from ...models.asking import PromptEnds
from ...models.model import Model
from ...patching.plain.executor import forward
from ...public import public
from ...runs.progress import progress_bar


@dataclass(frozen=True)
class Sampling:
    """How text is written.

    Args:
        length: tokens of prompt and continuation together.
        top_k: how many of the most probable tokens are drawn from; 1 always takes the most probable one.
        seed: the same model, prompt and seed give the same text, whatever else is in the list.
        batch_size: rows per forward.

    Raises:
        UsageError: k or the batch size below 1.
    """

    length: int = 100
    top_k: int = 5
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("length", "top_k", "batch_size"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if self.top_k < 1 or self.batch_size < 1:
            raise UsageError(f"top_k={self.top_k} and batch_size={self.batch_size} must both be 1 or more")


@public
def generate(
    model: Model,
    prompts: Iterable[str],
    sampling: Sampling | None = None,
    *,
    groups: Sequence[int] | None = None,
    progress: bool = False,
) -> list[str]:
    """Continue prompts.

    Args:
        model: the model, with whatever edits are on.
        prompts: beginnings; one that is given twice is continued in two ways.
        sampling: default: as published.
        groups: a number for each prompt; one that stands in two groups gets the same random numbers in both.
        progress: show a bar over the texts.

    Returns:
        The texts, prompts included, in order; special tokens left out, characters in compatibility form (NFKD) and a
        blank line turned into a space, as published.

    Raises:
        UsageError: a length beyond the model's context, a prompt that is empty, ends with a blank or fills it already;
            one string in place of prompts.
        MechinterpError: the model's logits are not finite.
    """
    given = list(texts_of(prompts, "prompts"))
    return _generate(model, given, list(groups or [0] * len(given)), None, sampling or Sampling(), progress)


@public
def generate_under_edits(
    model: Model,
    prompts: Iterable[str],
    carried: Sequence[int],
    edits: RowEdits,
    sampling: Sampling | None = None,
    *,
    progress: bool = False,
) -> list[str]:
    """Continue each prompt under an edit of its own: `carried` gives the number of each prompt's edit.

    Each text is the one that `generate` gives with this edit on, the prompts of one edit being a group; see there.
    """
    with edits.on(model):
        given = list(texts_of(prompts, "prompts"))
        return _generate(model, given, list(carried), edits, sampling or Sampling(), progress)


def _generate(
    model: Model,
    prompts: Sequence[str],
    groups: list[int],
    edits: RowEdits | None,
    sampling: Sampling,
    progress: bool,
) -> list[str]:
    length, size = sampling.length, sampling.batch_size
    if not 1 <= length <= model.n_ctx:
        raise UsageError(f"texts of length={length} tokens do not fit: {model.name} takes 1 to {model.n_ctx}")
    by_length: dict[int, list[int]] = defaultdict(list)
    for prompt in prompts:
        check_text(prompt, "the prompt")
    ids = [model.encode(model.framed(prompt)) for prompt in prompts]
    for i, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True)):
        if not 0 < len(tokens) < length:
            raise UsageError(f"the prompt {prompt[:60]!r} has {len(tokens)} tokens; a text of {length} cannot begin so")
        by_length[len(tokens)].append(i)
    chances = _chances(prompts, groups, sampling)
    texts = [""] * len(prompts)
    with progress_bar("generating texts", len(prompts), shown=progress) as advance:
        for same in by_length.values():
            for start in range(0, len(same), size):
                batch = same[start : start + size]
                if edits is not None:
                    edits.rows([groups[i] for i in batch])
                found = _continue(model, torch.tensor([ids[i] for i in batch]), chances[batch], sampling)
                for i, tokens in zip(batch, found.tolist(), strict=True):
                    texts[i] = _clean(str(model.tokenizer.decode(tokens, skip_special_tokens=True)))
                advance(len(batch))
    return texts


def _chances(prompts: Sequence[str], groups: list[int], sampling: Sampling) -> Float[np.ndarray, "text token"]:
    """Uniform random numbers of each text: from the seed, the prompt, and how often it came before in its group."""
    before: Counter[tuple[int, str]] = Counter()
    found = np.empty((len(prompts), sampling.length))
    for i, key in enumerate(zip(groups, prompts, strict=True)):
        digest = hashlib.sha256(key[1].encode()).digest()[:8]
        random = np.random.default_rng([sampling.seed, int.from_bytes(digest, "big"), before[key]])
        found[i] = random.random(sampling.length)
        before[key] += 1
    return found


def _continue(
    model: Model, ids: Int[Tensor, "row pos"], chances: Float[np.ndarray, "row token"], sampling: Sampling
) -> Int[Tensor, "row token"]:
    """Rows of one length, continued to the wanted number of tokens."""
    cache = DynamicCache()
    written = new = ids
    ends = torch.full((len(ids),), ids.shape[1] - 1)
    while written.shape[1] < sampling.length:
        prompts = PromptEnds(ends, going_on=new is not ids)
        past = {"past_key_values": cache, "use_cache": True}
        logits = forward(model, new, keep=1, past=past, prompts=prompts).logits[:, -1]
        best, token = logits.double().cpu().topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
        below = best.softmax(-1).cumsum(-1)
        chance = torch.from_numpy(chances[:, written.shape[1]])[:, None]
        new = token.gather(1, (chance > below[:, :-1]).sum(-1, keepdim=True))
        written = torch.cat([written, new], dim=1)
    return written


def _clean(text: str) -> str:
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")

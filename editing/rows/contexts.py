"""Context templates: beginnings under which a value is sought, and a key averaged.

A value is to make the model say the target wherever the subject occurs, so it is sought under the bare prompt and under
prompts with a few words before them.  Published are words sampled from the model itself, and keys averaged over them
(Meng et al. 2022, App. E.5); a few plain sentences serve the value as well (docs/real-models.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import UsageError
from ...facts.encoding import encode, has_unknown, leaves_out
from ...facts.prompts import Prompt
from ...facts.words import check_text, sentence_in
from ...given import names_of, seed_of, several, whole
from ...models.model import Model
from ...public import public

BARE = "{}"
"""The template that adds nothing."""

PLAIN_CONTEXTS = (
    BARE,
    "This is what I read in the newspaper yesterday. {}",
    "My friends and I talked about it for a long time. {}",
)
"""The bare prompt, and two sentences that say nothing of what follows."""

START_WORDS = ("The", "Therefore", "Because", "I", "You")
"""Where sampling starts in a vocabulary that has neither a BOS nor an EOS token, and in MEMIT's published code."""


_SPECIAL = 8
"""More tokens than any tokenizer adds to a text."""

_TRIES = 8
"""How often a context that came out like another is sampled anew."""


@public
def sample_contexts(
    model: Model,
    lengths: Sequence[tuple[int, int]] = ((10, 5), (10, 10)),
    *,
    starts: Sequence[str] = (),
    top_k: int = 5,
    seed: int = 0,
) -> tuple[str, ...]:
    """Context templates: `"{}"`, then `"<sampled text>. {}"` for each sample, all different.

    Sampling starts from BOS (or EOS, or a common word where the tokenizer has neither) and has a generator of
    its own: the same model and seed give the same contexts, whatever ran before.

    Args:
        model: the model that writes them.
        lengths: (how many, length); a length counts the token that sampling starts from, and of BOS and a word the
            word.  There are fewer where the model has no more to say: one token after BOS is one of `top_k`.
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
    k = whole(top_k, "top_k")
    if k < 1:
        raise UsageError(f"top_k is {k}; at least one token must be left to sample from")
    words = names_of(starts, "starts")
    generator = torch.Generator().manual_seed(seed_of(seed))
    drawn: list[tuple[int, list[int], str]] = []  # how many more tokens, from which ones on, and what came of it
    for count, length in lengths:
        first = _starts(model, count, words)
        more = length - 1
        if max(map(len, first)) + more > model.n_ctx:
            raise UsageError(f"a context of {length} tokens does not fit into the {model.n_ctx} of {model.name}")
        drawn += zip([more] * count, first, _sampled(model, first, more, k, generator), strict=True)
    return (BARE, *(f"{text}. {{}}" for text in _different(model, drawn, k, generator)))


def _starts(model: Model, count: int, given: Sequence[str]) -> list[list[int]]:
    """The tokens that each sample starts from: BOS where the tokenizer adds one, and a word where there is no BOS."""
    tokenizer = model.tokenizer
    front = model.encode("a")[:1] if model.adds_bos else []
    for special in (*front, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if special is not None and not given:
            return [[int(special)]] * count
    words = [[*front, *ids] for word in given or START_WORDS if (ids := model.encode(word)[len(front) :])]
    if not words:
        raise UsageError("starts holds no word that a context could begin with; give words such as 'The'")
    return [words[i % len(words)] for i in range(count)]


def _different(
    model: Model, drawn: Sequence[tuple[int, list[int], str]], top_k: int, generator: torch.Generator
) -> list[str]:
    """Each text once: one that came before is sampled anew, and left out where that brings nothing new."""
    texts: list[str | None] = []
    seen: set[str] = set()
    for _, _, text in drawn:
        texts.append(None if text in seen else text)
        seen.add(text)
    for _ in range(_TRIES if top_k > 1 else 0):
        for i, (more, start, _) in enumerate(drawn):
            if texts[i] is None:
                [text] = _sampled(model, [start], more, top_k, generator)
                texts[i] = None if text in seen else text
                seen.add(text)
    return [text for text in texts if text is not None]


def _sampled(model: Model, starts: list[list[int]], more: int, top_k: int, generator: torch.Generator) -> list[str]:
    """What the model says after each of some beginnings; those of one length go together."""
    rows: dict[int, list[int]] = {}
    for length in dict.fromkeys(map(len, starts)):
        here = [i for i, start in enumerate(starts) if len(start) == length]
        longer = _sample(model, torch.tensor([starts[i] for i in here]), more, top_k, generator)
        rows |= zip(here, longer.tolist(), strict=True)
    # A start token that is a word of its own belongs to what is said, BOS does not.
    first = 1 if starts[0][0] in model.tokenizer.all_special_ids else 0
    return [_clean(str(model.tokenizer.decode(rows[i][first:]))) for i in range(len(starts))]


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


def _clean(text: str) -> str:
    """One line, and no `{}` but the template's own."""
    return " ".join(text.split()).replace("{}", "{ }")


def check_contexts(contexts: Sequence[str], name: str = "contexts") -> tuple[str, ...]:
    """Context templates as given by the caller, the bare one first.

    Args:
        contexts: the templates.
        name: what they were given as, for messages.

    Raises:
        UsageError: none, one without exactly one `{}` or that ends with a blank, or the bare template not in front.
    """
    if isinstance(contexts, str):
        raise UsageError(f"{name} is one string; give a sequence of templates such as ('{{}}', 'By the way, {{}}')")
    templates = several(contexts, str, name, "templates such as ('{}', 'By the way, {}')")
    for context in templates:
        if context.count("{}") != 1:
            raise UsageError(f"the context {context!r} must hold exactly one '{{}}', where the prompt goes")
        check_text(context, "the context")
    if not templates or templates[0] != BARE:
        raise UsageError("the first context must be '{}': the value starts from the bare prompt's")
    return templates


def spells(model: Model, contexts: Sequence[str]) -> bool:
    """Whether the model's vocabulary has all words of some templates."""
    for context in contexts:
        text = context.replace("{}", "").strip()
        if not text:
            continue
        ids, offsets = encode(model.tokenizer, text)
        if leaves_out(text, offsets) or has_unknown(model.tokenizer, ids, text):
            return False
    return True


def in_contexts(model: Model, prompt: Prompt, contexts: Sequence[str], fed: Sequence[int] = ()) -> list[Prompt]:
    """A prompt in each context, without its answer; of a chat, within the user's turn.

    Args:
        model: that is to read it.
        prompt: whose sentence goes into the contexts.
        contexts: templates, the bare one among them.
        fed: token ids that are fed after it.

    Raises:
        UsageError: the prompt fits the model, and not in a context; a rendered chat whose turns are not known.
    """
    start, end = prompt.turn or sentence_in(prompt.template)
    chat = prompt.turn is None and any(t in prompt.template[start:end] for t in model.tokenizer.all_special_tokens)
    found = [prompt.in_context(context) for context in contexts]
    if chat and tuple(contexts) != (BARE,):
        raise UsageError(
            f"contexts such as {contexts[-1]!r} would stand before the first turn of a chat, {prompt.text[:60]!r}; "
            "make the prompt with model.chat(prompt) or Prompt.from_messages, or pass contexts=('{}',)"
        )
    for context, one in zip(contexts, found, strict=True):
        if len(one.text.encode()) + len(fed) + _SPECIAL <= model.n_ctx:  # no token is shorter than a byte
            continue
        bare, length = (len(model.encode(text)) + len(fed) for text in (prompt.text, one.text))
        if bare <= model.n_ctx < length:
            raise UsageError(
                f"{prompt.text[-60:]!r} has {length} tokens in the context {context!r}, and {model.name} takes at most "
                f"{model.n_ctx}; pass contexts=('{{}}',) for the bare prompt alone, or shorter ones"
            )
    return found

"""Messages as the text a chat model reads, by the chat template of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .words import check_spelling

Message = Mapping[str, str]
"""{"role": "user", "content": "..."}."""

_OPEN, _CLOSE, _REPLY = "\ue000", "\ue001", "\ue002"
"""Characters of private use: they mark where a message's words begin and end in what the template makes of them."""


@dataclass(frozen=True)
class Rendered:
    """A chat as text.

    Args:
        before: what stands before the words of one message.
        after: what stands behind them.
        join: what stands between the text and the words of the reply; None: not known.
    """

    before: str
    after: str
    join: str | None


def rendered(tokenizer: Any, messages: Sequence[Message], at: int, *, reply: bool = True) -> Rendered:
    """The text around one message's words.

    Args:
        tokenizer: with a chat template.
        messages: the chat; where the last one is the assistant's, it is a reply begun and goes on.
        at: which message.
        reply: end where the reply begins.

    Raises:
        UsageError: a tokenizer without a chat template; messages that are none, or that the template refuses or
            changes.
    """
    begun = messages[-1]["role"] == "assistant"
    words = messages[at]["content"]
    marked = [dict(message) for message in messages]
    marked[at]["content"] = f"{_OPEN}{words}{_CLOSE}"
    text = _applied(tokenizer, marked, reply=reply, begun=begun)
    before, opened, rest = text.partition(_OPEN)
    found, closed, after = rest.partition(_CLOSE)
    plain = _applied(tokenizer, messages, reply=reply, begun=begun)
    if not (opened and closed) or found != words or before + words + after != plain:
        raise UsageError(
            f"the chat template does not leave the words {words[:60]!r} as they are, so that their place in the text "
            "is not known; give others, or a Prompt of the text it makes"
        )
    return Rendered(before, after, None if begun or not reply else _join(tokenizer, messages, plain))


def check_messages(messages: object) -> list[dict[str, str]]:
    """A chat as a list of role and content.

    Raises:
        UsageError: something else.
    """
    hint = 'give a list such as [{"role": "user", "content": "Where is {}?"}]'
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise UsageError(f"messages is {messages!r:.80}, which is no list of messages; {hint}")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise UsageError(f"the message {message!r:.80} has no role and content; {hint}")
        check_spelling(message["role"], "the role of a message")
        check_spelling(message["content"], "the content of a message")
    return [dict(message) for message in messages]


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer says how its model is talked to."""
    return bool(getattr(tokenizer, "chat_template", None))


def _join(tokenizer: Any, messages: Sequence[Message], text: str) -> str | None:
    """What the template puts between the beginning of a reply and its words."""
    try:
        whole = _applied(tokenizer, [*messages, {"role": "assistant", "content": _REPLY}], reply=False, begun=False)
    except UsageError:
        whole = ""
    between = whole[len(text) :].partition(_REPLY)[0] if whole.startswith(text) and _REPLY in whole else None
    if between is not None and not between.strip():
        return between
    return "" if text[-1:].isspace() else None


def _applied(tokenizer: Any, messages: Sequence[Message], *, reply: bool, begun: bool) -> str:
    if not has_template(tokenizer):
        raise UsageError(
            "this model's tokenizer has no chat template, so it says nothing of turns; leave --chat (messages) out, or "
            "load the version of the model that was trained to chat"
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=reply and not begun,
                continue_final_message=reply and begun,
            )
        )
    except Exception as error:  # of the template language, or raised by the template itself
        raise UsageError(f"the chat template of this model refuses these messages: {error}") from error

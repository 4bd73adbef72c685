"""Requests that contradict each other, or ask for less than they seem to: found before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ...errors import UsageError
from ...models.model import Model
from ..edits.request import EditRequest


def check_conflicts(model: Model, requests: Sequence[EditRequest], *, allow: bool = False) -> tuple[str, ...]:
    """Look at a batch of requests before it is edited.

    Args:
        model: whose tokens the targets are spelt in.
        requests: that are to be one edit.
        allow: accept requests that contradict each other, or stand twice.

    Returns:
        warnings: targets that begin like the true answer, so that the first token tells the two apart for nobody; those
            that merge with the end of their prompt.

    Raises:
        UsageError: one subject is to have two objects under one relation (or in one sentence), or a request stands
            twice; both are named.
    """
    if not allow:
        groups: dict[tuple[str, str], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault((request.subject, request.prompt.template), []).append(i)
            if request.prompt.relation:
                groups.setdefault((request.subject, f"relation {request.prompt.relation}"), []).append(i)
        for members in groups.values():
            for i, j in combinations(members, 2):
                _check_pair(requests, i, j)
    alike = tuple(
        f"{request.prompt.text!r}: the target {request.target!r} and the answer {request.prompt.answer!r} begin with "
        "the same token, so only what follows it can tell them apart"
        for request in requests
        if request.prompt.answer is not None and _first(model, request, request.prompt.answer) == _first(model, request)
    )
    return (*alike, *(sentence for request in requests for sentence in merging(model, request)))


def merging(model: Model, request: EditRequest) -> tuple[str, ...]:
    """A warning where the tokenizer does not split prompt and target at the border between them."""
    found = model.continuation(request.prompt, request.target)
    if found.splits:
        return ()
    return (
        f"{request.prompt.text!r}: the target {found.text!r} merges with the end of the prompt: given both as one "
        "text, the tokenizer does not split them there, so the model will hardly say these tokens in a row",
    )


def _check_pair(requests: Sequence[EditRequest], i: int, j: int) -> None:
    one, other = requests[i], requests[j]
    if one.target.strip() != other.target.strip():
        raise UsageError(
            f"requests {i} and {j} contradict each other: {one.prompt.text!r} -> {one.target!r} and "
            f"{other.prompt.text!r} -> {other.target!r}; leave one out, or pass allow_conflicts=True"
        )
    if one.prompt.template == other.prompt.template:
        raise UsageError(
            f"requests {i} and {j} are the same, {one.prompt.text!r} -> {one.target!r}; leave one out, or pass "
            "allow_conflicts=True"
        )


def _first(model: Model, request: EditRequest, words: str | None = None) -> int:
    return model.answer_ids(request.prompt, request.target if words is None else words)[0]

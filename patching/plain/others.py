"""Other sentences that a prompt's values come from: read once, aligned token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...facts.spans import TokenisedPrompt
from ...models.layout import EMBED
from ...models.model import Model
from ..algebra.cells import Placed, tokens_of
from ..algebra.programs import Program, Run
from ..algebra.sentences import OtherPrompt, OtherSubject, Resample, Saying, Sentence, text_of
from .asked import Asked
from .executor import forward

Fed = tuple[tuple[int, ...], tuple[int, ...]]
"""What goes into the model, and what into a decoder of its own."""


@dataclass(eq=False)
class Others:
    """Activations and answers of the sentences that stand in for a prompt; each is run once for a component.

    Args:
        model: the model.
    """

    model: Model
    _read: dict[tuple[Fed, str], dict[str, Tensor]] = field(default_factory=dict)

    def activation(self, asked: Asked, source: Sentence, placed: Placed) -> Float[Tensor, "draws tokens *width"]:
        """The other sentence's activation at the tokens of a write, one for each draw.

        Raises:
            UsageError: the sentences cannot be aligned; both are shown with their lengths.
        """
        if isinstance(source, Resample):
            sayings = source.drawn_for(asked.prompt.prompt)
        else:
            assert isinstance(source, (OtherSubject, OtherPrompt))
            sayings = [source.prompt_for(asked.prompt.prompt)]
        return torch.cat([self._of(asked, source, saying, placed) for saying in sayings])

    def foil(self, asked: Asked, source: OtherSubject | OtherPrompt) -> tuple[int, ...]:
        """The answer to the other sentence, where it is another one: its own, or the model's next token."""
        saying = source.prompt_for(asked.prompt.prompt)
        if isinstance(source, OtherPrompt) and isinstance(saying, Prompt) and saying.answer is not None:
            found = self.model.answer_ids(asked.prompt.prompt, saying.answer)
            if any(a != b for a, b in zip(asked.answer, found, strict=False)):
                return found
        inputs, decoder = self.model.inputs(self._ids(asked, source, saying))
        logits = self.model.logits(torch.tensor([inputs]), keep=1, decoder_ids=self.model.fed([decoder]))[0, -1]
        return best_but(logits, asked.answer)

    def _of(self, asked: Asked, source: Sentence, saying: Saying, placed: Placed) -> Tensor:
        positions = list(placed.positions)
        ids = self._ids(asked, source, saying)
        if source.aligned == "role":
            assert isinstance(saying, Prompt)
            mine, other = (
                tokens_of(placed.component, one)
                for one in (asked.prompt, self.model.tokenise(saying.with_answer(None)))
            )
            positions = [_matched(mine, other, position) for position in positions]
        hook = self.model.layout.read_hook(placed.component, placed.layer)
        return self._cache(self.model.inputs(ids, asked.answer[:-1]), placed.component)[hook][:, positions]

    def _ids(self, asked: Asked, source: Sentence, saying: Saying) -> tuple[int, ...]:
        """The other sentence's tokens, as many as this one's where they are matched by their numbers."""
        mine = asked.prompt
        if isinstance(saying, str):
            ids, span = tuple(self.model.fitting(self.model.framed(saying))), mine.subject
        else:
            other = self.model.tokenise(saying.with_answer(None))
            ids, span = other.ids, other.subject if isinstance(source, OtherSubject) else mine.subject
        if isinstance(source, OtherSubject) and (len(ids) != len(mine.ids) or span != mine.subject):
            assert isinstance(saying, Prompt)
            raise UsageError(
                f"{saying.subject!r} cannot stand in for {mine.prompt.subject!r}: their sentences "
                f"have {len(ids)} and {len(mine.ids)} tokens (subjects at {span} and "
                f"{mine.subject}); choose a subject of the same token length"
            )
        if source.aligned == "position" and len(ids) != len(mine.ids):
            raise UsageError(
                f"{text_of(saying)!r} has {len(ids)} tokens and {mine.prompt.text!r} has {len(mine.ids)}, so their "
                "tokens cannot be matched by position; give a sentence of the same length, or prompts and by='role'"
            )
        return ids

    def _cache(self, fed: Fed, component: str) -> dict[str, Tensor]:
        """A component's activations in all layers."""
        if (fed, component) not in self._read:
            layout = self.model.layout
            layers = [0] if component == EMBED else range(layout.n_layers)
            hooks = dict.fromkeys(layout.read_hook(component, layer) for layer in layers)
            past = {"decoder_ids": self.model.fed([fed[1]])}
            out = forward(self.model, torch.tensor([fed[0]]), reads=list(hooks), past=past)
            self._read[fed, component] = out.cache
        return self._read[fed, component]


def _matched(mine: TokenisedPrompt, other: TokenisedPrompt, position: int) -> int:
    """The token of another sentence that has the role of one of this, and the same place in it."""
    role = mine.role(position)
    here, there = (tuple(p for p in range(len(one)) if one.role(p) == role) for one in (mine, other))
    if len(here) != len(there):
        raise UsageError(
            f"{other.prompt.text!r} has {len(there)} tokens with the role {role!r} and {mine.prompt.text!r} has "
            f"{len(here)}, so they cannot be matched; name a single one, such as subject[-1], or give another sentence"
        )
    return there[here.index(position)]


def best_but(logits: Float[Tensor, " vocab"], answer: Sequence[int]) -> tuple[int, ...]:
    """The most probable token other than the answer's first one."""
    masked = logits.clone()
    masked[answer[0]] = float("-inf")
    return (int(masked.argmax()),)


def other_sentence(programs: Iterable[Program]) -> OtherSubject | OtherPrompt | None:
    """The first source of some programs, or of the runs they read, that is one other sentence; None if none is."""
    for program in programs:
        for write in program.ordered:
            if isinstance(write.source, (OtherSubject, OtherPrompt)):
                return write.source
            if isinstance(write.source, Run) and (found := other_sentence([write.source.program])) is not None:
                return found
    return None

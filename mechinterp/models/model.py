"""A language model ready for patching; `loading.py` makes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from ..errors import MechinterpError, UsageError
from ..facts import spans
from ..facts.answers import Continuation, continuation, lone_answer
from ..facts.chat import Said, in_chat
from ..facts.encoding import encode, pieces
from ..facts.prompts import Fact, Prompt, Question, prompt_of
from ..facts.words import check_text
from ..given import Real, Wholes, whole, wholes
from ..runs.hashing import short, tensor_bytes
from .door import Hook, lock_of, modules_of, plainly, settled
from .finite import cause, unfinite_rows
from .guests import guests_of
from .layout import Layout, original_names
from .placement import device_of, fetched
from .stacks import DECODER
from .writing import Acting, Choice, continued

_SHOWN = 60
"""Characters of a prompt that are shown."""

Framing = Callable[[str], str]
"""Gives what is put around some words that a model is asked: a template with `{}` in the place of the words."""

Framed = TypeVar("Framed", str, Prompt, Question)
_unchanged: WeakKeyDictionary[TransformerBridge, str] = WeakKeyDictionary()
"""Bridges whose weights nobody changes for now -> their fingerprint, once somebody has asked."""


@dataclass(frozen=True, eq=False)
class Model:
    """A language model ready for patching: the bridge, its tokenizer and its layout.

    Nothing here changes weights; edits do, and undo it.  `bundled` says which of the bundled models its weights are, ""
    for every other one (`bundled.py`); `name` is only what it is called.  Of an encoder-decoder one stack is patched
    (`layout.stack`), and `start` are the tokens with which its decoder begins, before the answer.
    `framings` are what edits of the input put around all that it is asked.
    `prepend` is the token that was chosen to stand in front of every text ("" where none was), and `plain_tokenizer`
    then the tokenizer as it came.
    """

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    name: str
    bundled: str = ""
    start: tuple[int, ...] = ()
    framings: tuple[Framing, ...] = ()
    prepend: str = ""
    plain_tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def architecture(self) -> str:
        """The Hugging Face class name."""
        return self.layout.architecture

    @property
    def source(self) -> str:
        """The hub name or folder that its weights were read from; "" where they were not."""
        return str(getattr(self.bridge.original_model.config, "name_or_path", ""))

    @property
    def n_layers(self) -> int:
        return self.layout.n_layers

    @property
    def d_model(self) -> int:
        return self.layout.d_model

    @property
    def d_mlp(self) -> int:
        return self.layout.d_mlp

    @property
    def n_heads(self) -> int:
        return self.layout.n_heads

    @property
    def n_ctx(self) -> int:
        return self.layout.n_ctx

    @property
    def vocab_size(self) -> int:
        return self.layout.d_vocab

    @property
    def device(self) -> torch.device:
        return device_of(self.bridge.original_model)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.architecture}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{self.dtype}, {self.device}{', ' * bool(self.layout.stack)}{self.layout.stack}"
            f"{f', {self.prepend!r} in front of every text' * bool(self.prepend)})".replace("torch.", "")
        )

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt and a decoder says the answer."""
        return bool(self.layout.stack)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over configuration and weights as they are now; an edited model has another one.

        So has the decoder of an encoder-decoder, and a model with a token in front of every text: what was made for the
        one does not belong in the other.
        """
        known = _unchanged.get(self.bridge) or self._hash()
        if self.bridge in _unchanged:
            _unchanged[self.bridge] = known
        return self._marked(known, self.prepend)

    def _marked(self, known: str, prepend: str) -> str:
        """The fingerprint of weights that are read with this token in front of every text."""
        marks = [DECODER] * (self.layout.stack == DECODER) + [f"{prepend} in front"] * bool(prepend)
        for mark in marks:
            known = hashlib.sha256(f"{mark} {known}".encode()).hexdigest()
        return known

    def other_than(self, name: str, fingerprint: str, dtype: str = "") -> str:
        """How another model, for which something was made, differs from this one: a clause of a message.

        Args:
            name: of the other one.
            fingerprint: its.
            dtype: its; "" where that is not known.
        """
        here = self.dtype_name
        known = _unchanged.get(self.bridge) or self._hash()
        fronts = ("", *map(str, self.tokenizer.all_special_tokens))
        front = next((one for one in fronts if one != self.prepend and self._marked(known, one) == fingerprint), None)
        if front is not None:
            return (
                f"{name or self.name} with {repr(front) if front else 'nothing'} in front of every text, but the model "
                f"at hand has {repr(self.prepend) if self.prepend else 'nothing'} there; load it with "
                f"prepend={front or None!r}" + (f" (--prepend {front!r})" if front else " (without --prepend)")
            )
        if dtype in ("", here):
            there, mine, remedy = name or "another model", self.name, ""
        else:
            there, mine = f"{name or 'a model'} in {dtype}", f"{self.name} in {here}"
            remedy = f", whose weights are other numbers; load it with dtype={dtype!r} (--dtype {dtype})"
        return (
            f"{there} (fingerprint {short(fingerprint)}), but the model at hand is {mine} "
            f"(fingerprint {short(self.fingerprint())}){remedy}"
        )

    @property
    def dtype_name(self) -> str:
        """As `load` takes it: "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def guests(self) -> tuple[str, ...]:
        """What takes part in its forwards besides the weights: edits that are on, and hooks of the user's own."""
        return guests_of(self.bridge)

    def acting_fingerprint(self) -> str:
        """The fingerprint of the model as it acts now: its own, or with what takes part (`guests`) another one."""
        found, guests = self.fingerprint(), self.guests
        return hashlib.sha256(json.dumps([found, *guests]).encode()).hexdigest() if guests else found

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within the block this thread works with the model alone (see `door.py`), and does not write to the weights.

        The fingerprint is taken once and not at every question.
        """
        with self.alone(), plainly(grad=False):
            if self.bridge in _unchanged:
                yield
                return
            _unchanged[self.bridge] = ""
            try:
                yield
            finally:
                del _unchanged[self.bridge]

    @property
    def is_unchanged(self) -> bool:
        """Whether somebody relies on the weights staying as they are for now."""
        return self.bridge in _unchanged

    def _hash(self) -> str:
        digest = hashlib.sha256(self.architecture.encode())
        hf_model = self.bridge.original_model
        state = hf_model.state_dict()
        for name, raw in original_names(hf_model).items():
            tensor = fetched(hf_model, raw, state[raw])
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts a BOS token in front of every text."""
        ids, offsets = encode(self.tokenizer, "a")
        return len(ids) > 1 and offsets[0][0] == offsets[0][1]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with BOS in front (for an encoder EOS behind) only where the tokenizer adds one.

        A text that brings its BOS, as a rendered chat does, gets no second one.
        """
        return encode(self.tokenizer, text, closed=self.is_encoder_decoder)[0]

    def framed(self, said: Framed) -> Framed:
        """A text, prompt or question as this model is asked it: with the words that edits of the input put around it.

        Running text, which asks nothing, has none.
        """
        for framing in self.framings:
            if isinstance(said, str):
                said = Question(said).framed(framing(said)).text
            elif isinstance(said, Prompt):
                said = said.framed(framing(Question.of(said).words))
            else:
                said = said.framed(framing(said.words))
        return said

    def pieces(self, text: str) -> list[int]:
        """Token ids of words by themselves, without BOS or EOS."""
        return pieces(self.tokenizer, text)

    def decode(self, ids: Wholes) -> str:
        """The text of some token ids, or of one."""
        return str(self.tokenizer.decode(list(wholes(ids, "a token"))))

    def chat(self, said: Said) -> Said:
        """A text, prompt, question or fact as a user says it to this model (see `facts.chat.in_chat`).

        Raises:
            UsageError: its tokenizer has no chat template.
        """
        return in_chat(self.tokenizer, said)

    def complete(self, text: str) -> str:
        """The most probable next token after a text, without the space in front of it.

        Raises:
            UsageError: a text that is empty, ends with a blank or is too long.
        """
        check_text(text)
        return self.decode([self.next_token(self.fitting(self.framed(text)))]).strip()

    def generate(
        self,
        text: str | Prompt | Fact,
        *,
        program: Acting | None = None,
        edit: Acting | None = None,
        tokens: Wholes = 20,
        top_k: Wholes = 1,
        temperature: Real = 1.0,
        seed: Wholes = 0,
    ) -> str:
        """A text and how the model goes on with it, with a program or an edit on, or both.

        Args:
            text: the beginning; of a prompt its sentence, whose subject and roles the program can name.
            program, edit: what acts meanwhile (see `Program.on`).
            tokens: how many new ones at most; the text may end before.
            top_k: how many of the most probable tokens the next is drawn from; 1 takes the most probable one.
            temperature: divides the logits before one is drawn.
            seed: of the drawing.

        Raises:
            UsageError: a text that is empty, ends with a blank or has no room for so many tokens; an encoder-decoder.
        """
        # Eight: what is asked, what acts on the model, and the four numbers that every tool for generation has.
        choice = Choice(top_k, temperature, seed)  # type: ignore[arg-type]  # looked at there
        count = whole(tokens, "tokens", least=1)
        if self.is_encoder_decoder:
            raise UsageError(f"{self.name} is an encoder-decoder, and text is generated by decoders alone")
        asked = text if isinstance(text, str) else prompt_of(text)
        words = asked if isinstance(asked, str) else asked.text
        check_text(words)
        with ExitStack() as stack:
            model: Model = self if edit is None else stack.enter_context(edit.on(self))
            if program is not None:
                stack.enter_context(program.on(model, *(() if isinstance(asked, str) else (asked,))))
            ids = model.fitting(model.framed(asked) if isinstance(asked, str) else model.framed(asked).text)
            if len(ids) + count > model.n_ctx:
                raise UsageError(
                    f"{words[:_SHOWN]!r} has {len(ids)} tokens, and {count} more do not fit: {model.name} takes at "
                    f"most {model.n_ctx}; ask for fewer tokens"
                )
            end = model.tokenizer.eos_token_id
            found = continued(model, ids, count, choice, end if isinstance(end, int) else None)
            return str(model.tokenizer.decode(found, skip_special_tokens=True))

    def fitting(self, text: str) -> list[int]:
        """Token ids of a text that is to be read whole.

        Raises:
            UsageError: more of them than the model takes.
        """
        ids = self.encode(text)
        if len(ids) > self.n_ctx:
            raise UsageError(
                f"the text {text[:60]!r}... has {len(ids)} tokens; {self.name} takes at most {self.n_ctx}: shorten it"
            )
        return ids

    def next_token(self, ids: Sequence[int]) -> int:
        """The most probable token after a prompt (of an encoder-decoder: the answer's first one)."""
        rows, decoder = self.inputs(ids)
        return int(self.logits(torch.tensor([rows]), keep=1, decoder_ids=self.fed([decoder]))[0, -1].argmax())

    def inputs(self, prompt: Sequence[int], answer: Sequence[int] = ()) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What goes into the model, and what into a decoder of its own, for a prompt and the answer tokens fed.

        A decoder gets the answer behind the prompt; in an encoder-decoder the encoder gets the prompt and the decoder
        its start and the answer.
        """
        if self.is_encoder_decoder:
            return tuple(prompt), (*self.start, *answer)
        return (*prompt, *answer), ()

    def fed(self, decoder_ids: Sequence[Sequence[int]]) -> Int[Tensor, "batch fed"] | None:
        """Rows of decoder tokens of one length as a tensor; None for a model without an encoder."""
        return torch.tensor(decoder_ids, device=self.device) if self.is_encoder_decoder else None

    def tokenise(self, prompt: Prompt | Fact) -> spans.TokenisedPrompt:
        """The tokens of a prompt (or of a fact's), subject span and answer tokens (see `spans.tokenise` for what
        raises)."""
        prompt = self.framed(prompt_of(prompt))
        tokenised = spans.tokenise(self.tokenizer, prompt, for_encoder=bool(self.layout.stack))
        if self.layout.stack == DECODER:
            tokenised = replace(tokenised, decoder=spans.first_tokens(self.tokenizer, prompt, self.start))
        self.check_rows((*tokenised.ids, *tokenised.answer_ids))
        length = len(tokenised.ids) + max(0, len(tokenised.answer_ids) - 1)
        if length > self.n_ctx:
            raise UsageError(
                f"the prompt {prompt.text[:60]!r}... has {length} tokens with its answer; {self.name} takes at most "
                f"{self.n_ctx}: shorten it"
            )
        return tokenised

    def continuation(self, text: str | Prompt | Question | Fact, answer: str) -> Continuation:
        """An answer as it continues a text (of an encoder-decoder: as a text of its own).

        Args:
            text: what is continued; a prompt or a question says what stands between itself and its answer.
            answer: the words.

        Raises:
            UsageError: a text or an answer with blanks around it, or one the vocabulary cannot spell, or for a token of
                which the model has no row.
        """
        found = self._continuation(text, answer)
        self.check_rows(found.ids)
        return found

    def _continuation(self, text: str | Prompt | Question | Fact, answer: str) -> Continuation:
        if self.is_encoder_decoder:
            return lone_answer(self.tokenizer, answer)
        if isinstance(text, str):
            return continuation(self.tokenizer, self.framed(text), answer)
        if isinstance(text, Question):
            return continuation(self.tokenizer, self.framed(text).text, answer, text.join)
        asked = prompt_of(text)
        return continuation(self.tokenizer, self.framed(asked).text, answer, asked.join)

    def answer_ids(self, text: str | Prompt | Question | Fact, answer: str) -> tuple[int, ...]:
        """Token ids of an answer as it continues a text; see `continuation`."""
        return self.continuation(text, answer).ids

    def logits(
        self,
        ids: Int[Tensor, "batch pos"],
        *,
        keep: int = 0,
        decoder_ids: Int[Tensor, "batch fed"] | None = None,
    ) -> Float[Tensor, "batch kept vocab"]:
        """Logits of a plain forward, without gradients.

        Args:
            ids: tokens of the prompts.
            keep: only the last `keep` positions; 0: all.
            decoder_ids: of an encoder-decoder, what its decoder is fed (`inputs`); its logits are those of these.

        Raises:
            MechinterpError: an encoder-decoder without decoder tokens.
        """
        out: Tensor = self.forward(ids, **self.arguments(keep, decoder_ids=decoder_ids))
        return out[:, -keep:]

    def forward(
        self,
        given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        hooks: Sequence[Hook] = (),
        *,
        grad: bool = False,
        stands_for: Int[Tensor, "prompt whole"] | None = None,
        **arguments: Any,
    ) -> Float[Tensor, "row kept vocab"]:
        """A forward of the bridge: every one of this project goes through here, and so through the door (`door.py`).

        Args:
            given: tokens, or what enters the first layer.
            hooks: hook points, and what is done there.
            grad: record gradients (never those of parameters).
            stands_for: the tokens of the prompts, where `given` is a placeholder, for what may have to be said of them.
            arguments: as `arguments` makes them, and TransformerLens' own.

        Raises:
            UsageError: tokens for which the model has no row.
            MechinterpError: logits that are not finite (unless `grad`); which prompt, where it begins and what to do.
        """
        if not given.is_floating_point() and given.numel():
            self.check_rows([int(given.min()), int(given.max())])
        with settled(self.bridge, self._modules, grad=grad):
            logits: Tensor = self.bridge.run_with_hooks(given.to(self.device), fwd_hooks=[*hooks], **arguments)
        if not grad:  # who goes down a gradient looks at the loss, and knows more of it
            self.check_finite(logits, given, stands_for, patched=bool(hooks))
        return logits

    def check_finite(
        self,
        found: Float[Tensor, "row kept width"],
        given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        stands_for: Int[Tensor, "prompt whole"] | None,
        *,
        patched: bool,
    ) -> None:
        """Refuse what a forward gave (logits, or the states they are made of) if it is not finite.

        Raises:
            MechinterpError: for which prompt, where it begins and what to do.
        """
        if broken := unfinite_rows(found):
            rows = given if stands_for is None else stands_for
            shown = rows[broken[:1]] if stands_for is None else rows[:3]
            named = ", ".join(repr(self.decode(row.tolist())[-_SHOWN:]) for row in shown)
            why = cause(self.layout, rows.to(self.device), self.dtype, patched=patched)
            raise MechinterpError(f"{self.name} gives logits that are no numbers for {named}: {why}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block no other thread runs this model: for several steps that belong together."""
        with lock_of(self.bridge):
            yield

    @cached_property
    def _modules(self) -> tuple[nn.Module, ...]:
        """Looked up once: their modes are looked at before every forward."""
        return modules_of(self.bridge)

    def check_rows(self, ids: Sequence[int]) -> None:
        """Refuse tokens that the tokenizer has and the embedding has not.

        Raises:
            UsageError: which one.
        """
        wrong = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            token = f"{self.decode([wrong])!r} (number {wrong})" if wrong >= 0 else f"number {wrong}"
            raise UsageError(
                f"{self.name} has {self.vocab_size} tokens, and no row for {token}, "
                "which its tokenizer has: resize its embedding (resize_token_embeddings) and train it, or load it with "
                "the tokenizer that it was trained with"
            )

    def arguments(self, keep: int = 0, **given: Any) -> dict[str, Any]:
        """Keyword arguments of a forward of the bridge that wants logits of the last `keep` positions (0: all).

        Args:
            keep: that many; an encoder-decoder gives them all.
            given: others, left out where they are None; `decoder_ids` is what the decoder is fed.

        Raises:
            MechinterpError: an encoder-decoder without decoder tokens.
        """
        found = {name: value for name, value in given.items() if value is not None}
        if "past_key_values" not in found:
            found.setdefault("use_cache", False)
        if not self.is_encoder_decoder:
            return found | ({"logits_to_keep": keep} if keep else {})
        if "decoder_ids" not in found:
            raise MechinterpError(
                f"{self.name} ({self.architecture}) is an encoder-decoder, and what was asked for is served for "
                "decoders alone; an encoder-decoder is patched with run() and trace(), and its encoder edited"
            )
        return found | {"decoder_input_ids": found.pop("decoder_ids")}

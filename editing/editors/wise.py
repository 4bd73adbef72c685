"""WISE: a second version of one matrix, trained on edits, that answers a prompt where it differs enough (Wang et al.
2024).

Only a random share of its entries is trained.  After `shard` edits it joins the memories that are kept, and a fresh one
begins; kept memories all answer ("retrieve"), or are merged into one now and then ("merge").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Prompt
from ...models.layout import DOWN, MATRICES
from ...models.model import Model
from ...runs.hashing import tensor_hash
from ...runs.progress import progress_bar
from ..edits.edit import Edit
from ..edits.report import BatchReport, RomeReport
from ..edits.request import EditRequest
from ..edits.side_memories import SideMemories
from ..gradients.side_training import IGNORED, SideRows, SideRules, train_side
from ..hyperparameters import LR_RULES, Hparams
from ..judging.told import Went, told
from ..memory.merging import ties
from ..rows.contexts import in_contexts, sample_contexts
from ..rows.spared import read_mlp, spared_texts
from .protocol import Editor, Job, Made

RETRIEVE, MERGE = MODES = ("retrieve", "merge")


@dataclass(frozen=True)
class WiseHparams(Hparams):
    """How side memories are trained, kept and asked.

    Args:
        matrix: "down", "up" or "gate".
        steps: of gradient descent for each request, at most.
        lr: its rate.
        decay: see `SideRules`.
        limit: no entry leaves W by more.
        share: of the entries, how many are trained; drawn anew for each shard.
        alpha, beta, gamma: margins of Δ.
        margin_rule: "absolute", or "relative": in units of the mean size of what leaves the matrix on other text.
        ratio: the threshold is this share of the smallest Δ of any edit.
        shard: edits to one memory.
        merge_every: edits after which kept memories are merged.
        density: share of entries that merging keeps.
        mode: "retrieve" or "merge".
        activated, long_prompts: see `SideMemories`.
        contexts: how many contexts of 5 and of 10 tokens the request is also trained in.
        published_rows: padding on the left and counted as text, the answer's loss divided by one token more than it
            has, and Δ_in taken before the last step: as the code has it.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "WISE"

    matrix: str = DOWN
    steps: int = 60
    lr: float = 1.0
    decay: float = 0.0
    limit: float = 1.0
    share: float = 0.2
    alpha: float = 0.2
    beta: float = 0.8
    gamma: float = 0.4
    margin_rule: str = "relative"
    ratio: float = 0.88
    shard: int = 500
    merge_every: int = 1000
    density: float = 0.53
    mode: str = RETRIEVE
    activated: bool = False
    long_prompts: bool = False
    contexts: int = 2
    published_rows: bool = False

    def __post_init__(self) -> None:
        self._one_of(matrix=tuple(MATRICES), margin_rule=LR_RULES, mode=MODES)
        self._above_zero("lr", "limit", "share", "ratio", "shard", "merge_every", "density")
        self._not_negative("steps", "decay", "alpha", "beta", "gamma", "contexts")
        for name in ("share", "density"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share, at most 1")


_PUBLISHED = WiseHparams(
    steps=70, decay=1e-5, alpha=5.0, beta=20.0, gamma=10.0, margin_rule="absolute", activated=True, long_prompts=True,
    contexts=5, published_rows=True,
)  # fmt: skip
WISE_PRESETS: dict[str, WiseHparams] = {
    "default": WiseHparams(),
    "paper": _PUBLISHED.with_(decay=0.0, activated=False, long_prompts=False, published_rows=False),
    "published": _PUBLISHED,
    "published-gpt-j": _PUBLISHED.with_(alpha=15.0, beta=40.0),
    "published-merge": _PUBLISHED.with_(mode=MERGE),
}
"""`published`: EasyEdit's code for LLaMA-2-7B and Mistral-7B.  Its decay shrinks entries that are not trained as well,
its Δ is of the activation of the layer's *output*.  `paper`: without these.  Not followed: the route is one for a whole
batch there and taken anew at every generated token; here each prompt has its own, taken once.
`default` is set by hand (docs/editors.md).
"""


@dataclass(frozen=True, eq=False)
class WiseState:
    """The memories as earlier edits have left them: a value that a sequence hands on.

    Args:
        deltas: ΔW of each, that in training first.
        smallest: the smallest Δ_in of any edit of each; infinite before the first.
        counts: edits in the present shard, edits in all, and shards begun.
        merged: whether the last memory is a merged one.
        group: of the sequence.
    """

    deltas: Float[Tensor, "memory d_in d_out"]
    smallest: Float[Tensor, " memory"]
    counts: tuple[int, int, int] = (0, 0, 0)
    merged: bool = False
    group: str = ""

    def state(self) -> dict[str, Tensor]:
        """What a file keeps of it."""
        figures = torch.tensor([*self.counts, int(self.merged)])
        group = torch.tensor(list(self.group.encode()), dtype=torch.uint8)
        return {"deltas": self.deltas.clone(), "smallest": self.smallest.clone(), "figures": figures, "group": group}

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> WiseState:
        """What `state` was taken of."""
        in_shard, done, shards, merged = state["figures"].tolist()
        group = bytes(state["group"].tolist()).decode()
        return WiseState(state["deltas"], state["smallest"], (in_shard, done, shards), bool(merged), group)

    def edited(self, delta: Float[Tensor, "d_in d_out"], inside: float, hparams: WiseHparams) -> WiseState:
        """After one more edit of the memory in training; a full shard is kept, and merged where its time has come."""
        deltas, smallest = self.deltas.clone(), self.smallest.clone()
        deltas[0], smallest[0] = delta, min(float(smallest[0]), inside)
        in_shard, done, shards = self.counts[0] + 1, self.counts[1] + 1, self.counts[2]
        found = replace(self, deltas=deltas, smallest=smallest, counts=(in_shard, done, shards))
        if in_shard == hparams.shard:
            fresh, never = torch.zeros_like(deltas[:1]), torch.full_like(smallest[:1], float("inf"))
            found = replace(found, deltas=torch.cat([fresh, deltas[:1], deltas[1:]]),
                            smallest=torch.cat([never, smallest[:1], smallest[1:]]),
                            counts=(0, done, shards + 1))  # fmt: skip
        if hparams.mode == MERGE and done % hparams.merge_every == 0 and len(found.deltas) > 1:
            found = found._merge(hparams.density)
        return found

    def _merge(self, density: float) -> WiseState:
        kept = self.deltas[1:]
        new = len(kept) - int(self.merged)
        if not new:
            return self
        weights = [0.4 / new] * new + [0.6] if self.merged else [1 / new] * new
        order = [*reversed(range(new)), *([new] if self.merged else [])]  # the oldest first, the merged one last
        one = ties(kept[order], weights, density=density)
        smallest = torch.stack([self.smallest[0], self.smallest[1:].min()])
        return replace(self, deltas=torch.stack([self.deltas[0], one]), smallest=smallest, merged=True)

    def change(self, layer: int, hparams: WiseHparams) -> SideMemories:
        """The memories as a change of a model; merged ones share the smallest Δ of all edits."""
        alone = hparams.mode == RETRIEVE or not len(self.smallest)
        smallest = self.smallest if alone else self.smallest.min().expand(len(self.smallest))
        return SideMemories(
            layer, hparams.matrix, self.deltas, hparams.ratio * smallest, hparams.activated, hparams.long_prompts,
            self.group,
        )  # fmt: skip


class Wise(Editor[WiseHparams]):
    """WISE; what it takes as `past` are the memories of earlier edits (`WiseState`).

    The requests of one edit are trained one after another.  `texts` among the supplies are the irrelevant prompts.
    """

    hparams_type = WiseHparams
    decoders_only = True
    one_layer = True

    def make(self, job: Job[WiseHparams]) -> Made:
        """One more edit of the memory for each request."""
        state, went = _past(job), list[Went]()
        rules, spared = _rules(job), spared_texts(job.model, job.supplies.texts, 64, job.options.seed)
        contexts = tuple(job.supplies.contexts or _sampled(job))
        nothing = replace(state, deltas=state.deltas[:0], smallest=state.smallest[:0]).change(
            job.layers[0], job.hparams
        )
        bar = progress_bar("requests", len(job.requests), shown=job.options.progress)
        with nothing.on(job.model), bar as advance:  # the memories of earlier edits are trained, and do not act
            for number, request in enumerate(job.requests):
                irrelevant = spared[(state.counts[1] + number) % len(spared)]
                state, one = _edited(job, rules, request, contexts, irrelevant, state)
                went.append(one)
                advance(1)
        return Made(state.change(job.layers[0], job.hparams), notes=(state, went))

    def remember(self, job: Job[WiseHparams], edit: Edit) -> WiseState:
        """The memories with these edits, made out of the change and of what was before."""
        [part] = edit.parts
        change = part.change
        assert isinstance(change, SideMemories)
        before = _past(job)
        in_shard, done, shards = before.counts
        for _ in job.requests:
            in_shard, done = in_shard + 1, done + 1
            if in_shard == job.hparams.shard:
                in_shard, shards = 0, shards + 1
        merged = before.merged or (job.hparams.mode == MERGE and done // job.hparams.merge_every > 0)
        smallest = change.thresholds / job.hparams.ratio
        if in_shard == 0:
            smallest = torch.cat([torch.full_like(smallest[:1], float("inf")), smallest[1:]])
        return WiseState(change.deltas, smallest, (in_shard, done, shards), merged, change.group)

    def judge(self, job: Job[WiseHparams], made: Made, seconds: float) -> BatchReport | RomeReport:
        """With how the training of each request went."""
        return told(super().judge(job, made, seconds), made.notes[1])


def _past(job: Job[WiseHparams]) -> WiseState:
    past: Any = job.supplies.past
    if past is None:
        weight = job.model.layout.mlp_matrix(job.hparams.matrix, job.layers[0]).detach()
        precise = weight if weight.dtype == torch.float64 else weight.float()
        never = torch.full((1,), float("inf"), dtype=torch.float64)
        named = hashlib.sha256(f"{job.names} {job.seed} {tensor_hash(weight[:1])}".encode()).hexdigest()[:16]
        return WiseState(torch.zeros_like(precise)[None], never, group=named)
    if not isinstance(past, WiseState):
        raise UsageError(f"past is {type(past).__name__}; give the WiseState that an edit of wise has left")
    return past


def _rules(job: Job[WiseHparams]) -> SideRules:
    hparams, unit = job.hparams, 1.0
    if hparams.margin_rule == "relative":
        texts = spared_texts(job.model, job.supplies.texts, 8, job.options.seed)
        states = read_mlp(job.model, texts, job.layers[0], hparams.matrix)
        weight = job.model.layout.mlp_matrix(hparams.matrix, job.layers[0]).detach()
        unit = float((states @ weight).norm(dim=-1).mean())
    margins = (hparams.alpha * unit, hparams.beta * unit, hparams.gamma * unit)
    return SideRules(
        job.layers[0], hparams.matrix, hparams.steps, hparams.lr, hparams.decay, hparams.limit, margins,
        hparams.activated,
    )  # fmt: skip


def _sampled(job: Job[WiseHparams]) -> tuple[str, ...]:
    count = job.hparams.contexts
    if not count:
        return ("{}",)
    return sample_contexts(job.model, ((count, 5), (count, 10)), seed=job.options.seed)


def drawn_entries(shape: tuple[int, ...], share: float, seed: int, shard: int) -> Bool[Tensor, "d_in d_out"]:
    """Which entries of a shard's memory are trained."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed * 1009 + shard)) < share


def _edited(
    job: Job[WiseHparams], rules: SideRules, request: EditRequest, contexts: tuple[str, ...], spared: str,
    state: WiseState,
) -> tuple[WiseState, Went]:  # fmt: skip
    hparams, model = job.hparams, job.model
    rows, whole = side_rows(model, request, contexts, spared, published=hparams.published_rows)
    start = state.deltas[0]
    trained = drawn_entries(tuple(start.shape), hparams.share, job.options.seed, state.counts[2]).to(start.device)
    course = train_side(model, rows, rules, start, trained, whole)
    delta, inside = course.delta, course.inside
    if not all(map(torch.isfinite, (delta.sum(), inside.sum()))):
        raise MechinterpError(
            f"the side memory became no number for {request.prompt.text!r} -> {request.target!r}; lower lr (it is "
            f"{hparams.lr:g})"
        )
    if not hparams.published_rows:  # how much the memory changes the prompt as it is asked, once it is trained
        inside = train_side(model, rows, replace(rules, steps=1, lr=0.0, decay=0.0), delta, trained, whole).inside[:1]
    went = Went(course.answers[0], course.answers[-1], len(course.answers)) if course.answers else Went(0.0, 0.0, 0)
    return state.edited(delta, float(inside.mean()), hparams), went


def side_rows(
    model: Model, request: EditRequest, contexts: tuple[str, ...], spared: str, *, published: bool = False
) -> tuple[SideRows, Bool[Tensor, "edit pos"]]:
    """The texts of one edit, and the tokens over which its Δ_in is taken at the end.

    Args:
        model: the model.
        request: the edit.
        contexts: templates; the bare one first.
        spared: the irrelevant prompt; its first tokens, no more than the edit has.
        published: see `WiseHparams.published_rows`.
    """
    target = list(model.answer_ids(request.prompt, request.target))
    prompts: list[Prompt] = in_contexts(model, request.prompt, contexts, target)
    texts = [[*model.tokenise(prompt.with_answer(None)).ids] for prompt in prompts]
    longest = max(map(len, texts)) + len(target)
    irrelevant = model.encode(spared)[:longest]
    width = max(longest, len(irrelevant))
    ids = torch.zeros(len(texts) + 1, width, dtype=torch.long)
    real = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    asked = torch.zeros_like(ids, dtype=torch.bool)
    for i, prompt in enumerate([*texts, irrelevant]):
        row = [*prompt, *target] if i < len(texts) else prompt
        at = width - len(row) if published else 0
        ids[i, at : at + len(row)] = torch.tensor(row)
        real[i, at : at + len(row)] = 1
        asked[i, at : at + len(prompt)] = True
        if i < len(texts):
            labels[i, at + len(prompt) : at + len(row)] = torch.tensor(target)
    everything = torch.ones_like(asked)
    counted = everything if published else asked
    device = model.device
    return (
        SideRows(
            ids.to(device), real.to(device) if published else None, labels.to(device), counted[:-1].to(device),
            counted[-1:].to(device), 1 if published else 0,
        ),
        counted[:-1].to(device),
    )  # fmt: skip


wise = Wise("wise", "Wang et al. 2024 (WISE)", WISE_PRESETS, "wise")
"""Train a second version of a matrix that answers what it was edited on: an `Editor`."""

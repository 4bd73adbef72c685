"""Run one program on one prompt, or on several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt, Prompts, prompts_of
from ...forwards.readout import log_softmax
from ...forwards.unembedding import whole
from ...models.layout import EMBED
from ...models.model import Model
from ...public import public
from ..algebra.cells import place, tokens_of
from ..algebra.programs import Program, check_program, nothing
from ..algebra.sites import Site
from .asked import Asked, Foils, ask, buckets, warnings_of
from .jobs import DEFAULT_MAX_TOKENS, run_jobs
from .metrics import METRICS, Question, Scores, score
from .others import best_but, other_sentence
from .own_metrics import Metric, Metrics, metrics_of
from .session import Session

GROUP = 16
"""Prompts whose clean and corrupted runs are held at once."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a program did to one prompt.

    Every metric is an array over draws: `clean` has one, `corrupted` and the patched run as many as the program's
    noise (one if it has none).  Only draws with the same index may be paired.
    """

    prompt: Prompt
    program: Program
    answer: str
    foil: str
    clean: Scores
    corrupted: Scores
    patched: Scores
    changed: bool
    warnings: tuple[str, ...] = ()
    kept: Float[Tensor, "draws tokens vocab"] | None = None

    @property
    def logits(self) -> Float[Tensor, "draws tokens vocab"]:
        """Of the patched run, at the prompt's last token and behind each token of its answer but the last.

        Raises:
            UsageError: they were not kept.
        """
        if self.kept is None:
            raise UsageError("the logits of several prompts are not kept unless asked for; run(..., keep_logits=True)")
        return self.kept

    def __getitem__(self, metric: str) -> Float[np.ndarray, " draws"]:
        """A metric of the patched run by its name, the user's own too."""
        return self.patched[metric]

    @property
    def prob(self) -> Float[np.ndarray, " draws"]:
        """Probability of the answer in the patched run."""
        return self.patched.prob

    @property
    def log_prob(self) -> Float[np.ndarray, " draws"]:
        """Log-probability of the answer in nats."""
        return self.patched.log_prob

    @property
    def logit_diff(self) -> Float[np.ndarray, " draws"]:
        """Logit of the answer minus logit of the foil."""
        return self.patched.logit_diff

    @property
    def rank(self) -> Float[np.ndarray, " draws"]:
        """Rank of the answer, 0 = first."""
        return self.patched.rank

    @property
    def kl(self) -> Float[np.ndarray, " draws"]:
        """KL(clean || patched) of the next-token distribution, in nats."""
        return self.patched.kl

    @property
    def total_effect(self) -> float:
        """P(answer) in the clean run minus its mean in the corrupted runs (Meng et al. 2022, section 2.1)."""
        return float(self.clean.prob.mean() - self.corrupted.prob.mean())

    @property
    def indirect_effect(self) -> float:
        """Mean over draws of P(answer) in the patched run minus that in the corrupted run."""
        return float((self.patched.prob - self.corrupted.prob).mean())

    @property
    def ablation_effect(self) -> float:
        """Mean over draws of P(answer) in the ablated run minus that in the clean run: below 0 where what was taken out
        spoke for the answer.

        Raises:
            UsageError: the program ablates nothing.
        """
        if not self.program.ablates:
            raise UsageError(f"this program ablates nothing, so there is no such effect: {self.program}")
        return float((self.patched.prob - self.clean.prob).mean())

    def __repr__(self) -> str:  # as a person reads it: also where a notebook shows it, or a debugger
        rows = [("clean", self.clean), ("corrupted", self.corrupted), ("patched", self.patched)]
        if self.program.ablates:
            rows = [("clean", self.clean), ("ablated", self.patched)]
        metrics = (*METRICS, *self.patched.own)
        lines = [
            f"{self.prompt.text!r} -> {self.answer!r} (foil {self.foil!r})",
            f"{'':10}" + "".join(f"{m:>12}" for m in metrics),
        ]
        for name, scores in rows:
            lines.append(f"{name:10}" + "".join(f"{scores[metric].mean():12.4f}" for metric in metrics))
        if self.program.ablates:
            change = self.ablation_effect
            said = "falls" if change < 0 else "rises"
            lines.append(f"effect of the ablation {change:+.4f} (ablated minus clean: the probability {said})")
        else:
            effects = f"total effect {self.total_effect:.4f}, indirect effect {self.indirect_effect:.4f}"
            lines.append(f"{effects} (probability)")
        if not self.changed and self.program != self.program.corruption:
            lines.append("note: the restores, severs and ablations of this program changed nothing")
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@public
@overload
def run(
    model: Model,
    prompts: Prompt | Fact,
    program: Program,
    *,
    foil: Foils = ...,
    metric: Metrics | None = ...,
    keep_logits: bool | None = ...,
    max_tokens: int = ...,
) -> Result: ...
@public
@overload
def run(
    model: Model,
    prompts: Iterable[Prompt | Fact],
    program: Program,
    *,
    foil: Foils = ...,
    metric: Metrics | None = ...,
    keep_logits: bool | None = ...,
    max_tokens: int = ...,
) -> list[Result]: ...
@public
def run(
    model: Model,
    prompts: Prompts,
    program: Program,
    *,
    foil: Foils = None,
    metric: Metrics | None = None,
    keep_logits: bool | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> Result | list[Result]:
    """Run a program and score the answer in the clean, the corrupted and the patched run.

    Args:
        model: the model.
        prompts: one prompt or several, or facts, whose prompts are run; they are batched by token length, never padded,
            and n at once equal n single runs.
        program: what to write where; it must not have axes (use `trace` for grids).
        foil: the answer that `logit_diff` compares with, one for all prompts or a list of one for each; None: the
            prompt's own (`Prompt.foil`).  Where it has none, and the program takes values from another sentence, it is
            what the model answers to that (Zhang & Nanda 2024), else the strongest competitor in the clean run.
        metric: functions of (final logits, prompt) that are computed besides the standard metrics (see `Metric`).
        keep_logits: whether a result has its `logits`; None: where one prompt is run.
        max_tokens: tokens per forward; lower it when memory runs out.

    Returns:
        A `Result`, or a list of them in the order of the prompts.

    Raises:
        UsageError: axes in the program, roles the prompt does not have, a layer out of range, two sources for one
            address, a foil equal to the answer, as many foils as there are no prompts.
        MechinterpError: a hook that did not fire, a component this architecture cannot serve.
    """
    if check_program(program).has_axes:
        raise UsageError(
            f"this program has axes, one cell per token or layer: {program}; use trace(), or name one token and layer"
        )
    own = metrics_of(metric)
    keep = not isinstance(prompts, Iterable) if keep_logits is None else keep_logits
    asked = ask(model, prompts, foil=foil)
    results: list[Result | None] = [None] * len(asked)
    for group in buckets(asked, GROUP):
        session = Session(model, [asked[i] for i in group], max_tokens)
        for index, result in zip(group, _run_group(session, program, own, keep=keep), strict=True):
            results[index] = result
    done = [result for result in results if result is not None]
    return done if isinstance(prompts, Iterable) else done[0]


def _run_group(session: Session, program: Program, own: Sequence[Metric], *, keep: bool) -> list[Result]:
    model, asked = session.model, session.asked
    questions = make_questions(session, [program], own)
    corrupted = session.run(program.corruption)
    placed = [place(program, model.layout, one.prompt) for one in asked]
    session.run_sources((program, writes) for writes in placed)
    jobs = [session.job(index, program, writes) for index, writes in enumerate(placed)]
    results = []
    for index, out in enumerate(run_jobs(model, jobs, max_tokens=session.max_tokens)):
        question = questions[index]
        results.append(
            Result(
                prompt=asked[index].prompt.prompt,
                program=program,
                answer=model.decode(question.answer),
                foil=model.decode(question.foil),
                clean=score(session.logits[nothing][index], question),
                corrupted=score(corrupted[index], question),
                patched=score(out.logits, question),
                changed=out.changed,
                warnings=warnings_of(model, asked[index]),
                kept=whole(out.logits).clone() if keep else None,
            )
        )
    return results


def make_questions(
    session: Session, programs: Sequence[Program] = (), metrics: Sequence[Metric] = ()
) -> list[Question]:
    """Answer, foil and clean distribution of every prompt of a session (its clean run happens here).

    Args:
        session: whose prompts.
        programs: what is run on them, for the foils that nobody named (see `run`).
        metrics: the user's own.
    """
    questions = []
    sentence = other_sentence(programs)
    for asked, ends in zip(session.asked, session.run(nothing), strict=True):
        logits = whole(ends[0, 0])
        if asked.foil is not None:
            foil = _foil_ids(session.model, asked, asked.foil)
        elif sentence is not None:
            foil = session.others.foil(asked, sentence)
        else:
            foil = best_but(logits, asked.answer)
        own = {one.name: partial(one.of, prompt=asked.prompt.prompt) for one in metrics}
        questions.append(Question(asked.answer, foil, log_softmax(logits), own))
    return questions


def _foil_ids(model: Model, asked: Asked, foil: str) -> tuple[int, ...]:
    ids = model.answer_ids(asked.prompt.prompt, foil)
    if all(a == b for a, b in zip(asked.answer, ids, strict=False)):
        raise UsageError(
            f"the foil {foil!r} does not differ from the answer to {asked.prompt.prompt.text!r}; choose another"
        )
    return ids


@public
def read(model: Model, prompts: Prompts, site: Site) -> Float[Tensor, " batch *width"]:
    """Activations of the clean run at a site with one layer and one token per prompt; only the heads it names.

    Raises:
        UsageError: the site names several layers or tokens; no prompts, or no site.
    """
    given = prompts_of(prompts)
    if not isinstance(site, Site):
        raise UsageError(f"{site!r:.80} is no site; write one such as mlp[3] @ subject[-1]")
    if not given:
        raise UsageError(f"there are no prompts to read {site} from")
    asked = [Asked(model.tokenise(prompt.with_answer(None)), (0,)) for prompt in given]
    values: list[Tensor] = [torch.empty(0)] * len(asked)
    for group in buckets(asked, GROUP):
        session = Session(model, [asked[i] for i in group])
        for index in group:
            positions = site.position.resolve(tokens_of(site.component.name, asked[index].prompt))
            layers = (0,) if site.component.name == EMBED else site.component.layers.resolve(model.n_layers)
            if len(positions) != 1 or len(layers) != 1:
                raise UsageError(
                    f"read() takes one layer and one token; {site} has layers {layers} and tokens {positions}"
                )
            session.run(nothing, [(site.component.name, layers[0])])
            kept = session.activation(nothing, group.index(index), (site.component.name, layers[0]))
            value, heads = kept[0, positions[0]], site.component.resolve_heads(model.layout)
            values[index] = value[list(heads)] if heads else value
    return torch.stack(values)

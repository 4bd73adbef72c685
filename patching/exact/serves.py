"""Whether a model allows the exact engine: tried once, on a few tokens, against the plain executor."""

from __future__ import annotations

import weakref

import torch

from ...errors import MechinterpError
from ...facts.prompts import Prompt
from ...facts.spans import TokenisedPrompt
from ...models.asking import decides_by_prompt
from ...models.checkpoints import first_line
from ...models.model import Model
from ..algebra.noise import Gaussian
from ..algebra.positions import every, here, subject
from ..algebra.programs import corrupt, restore, sever
from ..algebra.sites import attn, embed, mlp, resid
from ..plain.asked import Asked
from ..plain.running import make_questions
from .budget import Budget
from .grid import Grid
from .group import plan_group

_KNOWN: weakref.WeakKeyDictionary[object, str | None] = weakref.WeakKeyDictionary()


def serves(model: Model) -> str | None:
    """Why a growing batch does not give what full forwards give on this model; None where it does.

    Some architectures bake the batch size into what every layer shares (BLOOM's alibi) and fail; they are traced by the
    plain executor.
    """
    if model.is_encoder_decoder:
        return (
            f"{model.architecture} is an encoder-decoder: every token of its encoder sees every other, so a patch "
            "changes all of them and nothing of a forward can be left out"
        )
    if decides_by_prompt(model):
        return "an edit is on that answers whole prompts, so no part of a forward can be left out"
    if model.bridge not in _KNOWN:
        _KNOWN[model.bridge] = _try(model)
    return _KNOWN[model.bridge]


def _try(model: Model) -> str | None:
    generator = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(model.vocab_size, (5,), generator=generator).tolist())
    made_up = TokenisedPrompt(Prompt("{} x", "a"), ids, (1, 3), None, ("",) * len(ids))
    noise = corrupt(embed @ subject, Gaussian(draws=2, level=0.1))
    programs = [
        noise | restore(attn.window(2) @ every),
        noise | restore(mlp.window(2) @ every),
        noise | restore(resid.each @ every) | sever(mlp @ here),
    ]
    budget = Budget.of(model)
    try:  # whatever a growing batch breaks, it breaks with one of these; a full memory is another matter
        plan = plan_group(model, [0], [Asked(made_up, (ids[0],))], programs, budget, checked=12)
        session = plan.session()
        for _ in Grid(session, plan, make_questions(session)).run():
            pass
    except torch.OutOfMemoryError:
        raise
    except (MechinterpError, RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"this model does not allow a growing batch: {first_line(error)}"
    return None

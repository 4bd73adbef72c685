"""Whether a model allows the exact engine: tried once, on a few tokens, against the plain executor."""

from __future__ import annotations

import weakref

import torch

from ..errors import MechinterpError
from ..models import Model
from ..prompts import Prompt
from ..spans import TokenisedPrompt
from .grid import Counts, Grid
from .noise import Gaussian
from .positions import every, here, subject
from .programs import corrupt, restore, sever
from .running import make_questions
from .session import Asked, Session
from .sites import attn, embed, mlp, resid

_KNOWN: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()


def serves(model: Model) -> bool:
    """Whether a growing batch gives what full forwards give on this model.

    Some architectures bake the batch size into what every layer shares (BLOOM's alibi) and fail; they are traced by the
    plain executor.
    """
    if model.bridge not in _KNOWN:
        _KNOWN[model.bridge] = _try(model)
    return _KNOWN[model.bridge]


def _try(model: Model) -> bool:
    generator = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(model.vocab_size, (5,), generator=generator).tolist())
    made_up = TokenisedPrompt(Prompt("{} x", "a"), ids, (1, 3), (), ("",) * len(ids))
    session = Session(model, [Asked(made_up, (ids[0],))])
    noise = corrupt(embed @ subject, Gaussian(draws=2, level=0.1))
    programs = [
        noise | restore(attn.window(2) @ every),
        noise | restore(mlp.window(2) @ every),
        noise | restore(resid.each @ every) | sever(mlp @ here),
    ]
    try:  # whatever a growing batch breaks, it breaks with one of these; a full memory is another matter
        grid = Grid(session, programs, make_questions(session), Counts(), checked=12)
        for _ in grid.run():
            pass
    except torch.OutOfMemoryError:
        raise
    except (MechinterpError, RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True

"""The logit lens: what a model would say if it stopped after a layer, by TransformerLens' own readout."""

from __future__ import annotations

import pandas as pd
import torch
from transformer_lens.tools.analysis import logit_readout

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Prompts, prompts_of
from ...models.model import Model
from ...patching.algebra.positions import Position, last
from ...patching.algebra.sites import resid
from ...patching.plain.caching import cache
from ...public import public


@public
def logit_lens(model: Model, prompts: Prompts, position: Position = last) -> pd.DataFrame:
    """Read the residual stream leaving each layer through the final norm and the unembedding (nostalgebraist 2020).

    Args:
        model: a decoder.
        prompts: one or several, or facts; of an answer of several tokens the first one is looked up.
        position: where the stream is read: `last`, subject[-1], every, ...

    Returns:
        One row per prompt, token and layer: prompt, position, token, role, layer, prob and rank of the answer (missing
        for a prompt without one), top (the first choice there), top_prob, entropy (nats).  The last layer's rows are
        the model's own prediction.

    Raises:
        UsageError: as `cache`.
        MechinterpError: an architecture that TransformerLens cannot read so.
    """
    if not isinstance(position, Position):
        raise UsageError(f"{position!r:.60} is no position; write last, subject[-1] or every")
    given = prompts_of(prompts)
    found = cache(model, given, resid.each @ position)[resid.each @ position]
    answers = {prompt.name: model.answer_ids(prompt, prompt.answer)[0] for prompt in given if prompt.answer is not None}
    vectors = torch.from_numpy(found.values)
    wanted = torch.tensor([[answers.get(name, 0)] for name in found.tokens["prompt"]])
    try:
        with model.alone():
            first = logit_readout(model.bridge, vectors, top_k=1, return_type="probs")
            answer = logit_readout(model.bridge, vectors, targets=wanted, return_type="probs")
    except (ValueError, NotImplementedError, TypeError) as error:
        raise MechinterpError(f"{model.name} ({model.architecture}) has no logit lens: {error}") from error
    assert first.top_ids is not None
    assert answer.target_ranks is not None
    n_layers = len(found.layers)
    frame = found.tokens.loc[found.tokens.index.repeat(n_layers)].reset_index(drop=True)
    has_answer = frame["prompt"].isin(list(answers))
    return frame.assign(
        layer=list(found.layers) * len(found.tokens),
        prob=pd.Series(answer.values.flatten().double().cpu().numpy()).where(has_answer),
        rank=pd.Series(answer.target_ranks.flatten().cpu().numpy()).where(has_answer),
        top=[model.decode((int(one),)) for one in first.top_ids.flatten()],
        top_prob=first.values.flatten().double().cpu().numpy(),
        entropy=first.entropy.flatten().double().cpu().numpy(),
    )

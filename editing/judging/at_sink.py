"""Is an edit written at an attention sink?"""

from __future__ import annotations

from collections.abc import Sequence

from ...models.model import Model
from ...patching.plain.sinks import first_token_sinks, told
from ..edits.request import EditRequest


def at_sink(model: Model, requests: Sequence[EditRequest], layers: Sequence[int]) -> tuple[str, ...]:
    """What to know where the key of a subject is that of the sink: its last token is the first of the text.

    Args:
        model: the model.
        requests: what is written.
        layers: where.
    """
    first = [request for request in requests if model.tokenise(request.prompt).subject[1] == 1]
    sinks = first_token_sinks(model) if first else {}
    here = {layer: sinks[layer] for layer in layers if layer in sinks}
    if not here:
        return ()
    more = f" (and those of {len(first) - 1} more requests)" if len(first) > 1 else ""
    return (
        f"the last subject token of {first[0].prompt.text!r}{more} stands at position 0, where {model.name} has its "
        f"attention sink ({told(here)}): the edit is written at the key that every text begins with; load it with a "
        "token in front of every text (prepend='bos' or 'eos', --prepend), write the prompt so that the subject does "
        "not open it, or edit another layer",
    )

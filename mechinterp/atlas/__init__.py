"""The bundled models and the world they know.

`folder("atlas")` is a small GPT-2 with an early and a late site, `folder("atlas-plain")` its twin trained without the
interventions that give it one: the same world, the same tokenizer, the same facts.  Both are generated from a seed and
shipped with the package; `MODEL_CARD.md` beside this file says what was designed in.

Imports facts.
"""

from .data import corpus as corpus
from .data import facts as facts
from .data import folder as folder
from .data import known_facts as known_facts
from .data import names as names
from .records import counterfact as counterfact

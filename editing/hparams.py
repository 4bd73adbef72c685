"""Hyper-parameters of ROME, and the presets: the paper's, the published code's and ours."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..errors import UsageError
from ..models import Model

KL_POSITIONS = ("subject", "last")
LR_RULES = ("absolute", "relative")
WEIGHT_DECAYS = ("norm", "squared", "adam")
VARIANTS = ("rome", "r-rome")


@dataclass(frozen=True)
class RomeHparams:
    """How a ROME edit is computed.

    Args:
        variant: "rome" takes the mean key for the direction u and the bare prompt's key for the scale, as the
            published code does; "r-rome" takes the mean key for both, as the paper's formula does (Gupta et
            al. 2024).
        steps: optimiser steps at most; the loss is evaluated once more than that.
        lr: learning rate of Adam.  Each of its first steps has about the length lr·√d_model.
        lr_rule: "absolute": as it is, whatever the size of the model's values; "relative": in units of ‖v₀‖/√d_model,
            so that a step is about that share of ‖v₀‖ on every model.
        stop_loss: no further step once the total loss is below this (nats).
        stop_nll: no further step once the target's NLL is below this (nats); 0: only the total loss counts.  An easy
            fact then gets a small edit, and a hard one the steps it needs.
        weight_decay: factor of the weight-decay term.
        weight_decay_rule: "norm": ‖δ‖/‖v₀‖² (as the published code has it; the gradient does not vanish with
            δ and the term grows as the model's scale shrinks); "squared": (‖δ‖/‖v₀‖)², the same on every
            scale; "adam": no term in the loss, Adam's own decay of δ.
        kl_factor: factor of the essence-drift term KL(edited || original).
        kl_template: the neutral sentence for that term.
        kl_position: where its next-token distribution is taken: "last" after the whole sentence, "subject" at
            the subject's last token (then what follows the subject in the sentence has no effect).
        clamp: ‖δ‖ is cut back to this multiple of ‖v₀‖ after each step; None: never.
        context_lengths: (how many, length) of the sampled prefixes; a length counts the token sampling starts
            from.
        max_disturbance: an edit that changes more than this share of the layer's output on ordinary text (see
            `RomeReport.disturbance`) is refused as disabling.
        max_norm_ratio: so is one with ‖ΔW‖/‖W‖ above this; None: any, since the ratio depends on how C is
            conditioned.
        key_ratio_band: so is one whose (k₀·u)/(k̄·u) lies outside this band: the update is then scaled by an
            accident of the contexts.
        max_perplexity_ratio: so is one that multiplies the perplexity of given texts by more than this.

    Raises:
        UsageError: a value outside its range.
    """

    variant: str = "r-rome"
    steps: int = 40
    lr: float = 0.25
    lr_rule: str = "relative"
    stop_loss: float = 0.05
    stop_nll: float = 0.05
    weight_decay: float = 0.05
    weight_decay_rule: str = "squared"
    kl_factor: float = 0.25
    kl_template: str = "{} is a"
    kl_position: str = "last"
    clamp: float | None = 4.0
    context_lengths: tuple[tuple[int, int], ...] = ((10, 5), (10, 10))
    max_disturbance: float = 1.0
    max_norm_ratio: float | None = None
    key_ratio_band: tuple[float, float] = (0.3, 3.0)
    max_perplexity_ratio: float = 1.5

    def __post_init__(self) -> None:
        choices = {
            "variant": VARIANTS,
            "weight_decay_rule": WEIGHT_DECAYS,
            "kl_position": KL_POSITIONS,
            "lr_rule": LR_RULES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        for name in ("lr", "clamp", "max_disturbance", "max_norm_ratio", "max_perplexity_ratio"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}; it must be above 0")
        for name in ("steps", "weight_decay", "kl_factor", "stop_loss", "stop_nll"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.kl_template.count("{}") != 1:
            raise UsageError(f"kl_template is {self.kl_template!r}; write exactly one '{{}}' where the subject belongs")
        if any(count < 1 or length < 2 for count, length in self.context_lengths):
            raise UsageError(f"context_lengths is {self.context_lengths}; counts start at 1 and lengths at 2")
        low, high = self.key_ratio_band
        if not 0 <= low < high:
            raise UsageError(f"key_ratio_band is {self.key_ratio_band}; give (low, high) with 0 <= low < high")

    def with_(self, **changes: object) -> RomeHparams:
        """These hyper-parameters with some of them changed.

        Raises:
            UsageError: an unknown name (the known ones are listed), or a value outside its range.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise UsageError(f"{name!r} is no hyper-parameter of ROME; they are {', '.join(known)}")
        return replace(self, **changes)  # type: ignore[arg-type]


_CODE = RomeHparams(
    variant="rome",
    steps=19,
    lr=0.5,
    lr_rule="absolute",
    stop_nll=0.0,
    weight_decay=0.5,
    weight_decay_rule="norm",
    kl_factor=0.0625,
    kl_position="subject",
    clamp=4.0,
)

PRESETS: dict[str, RomeHparams] = {
    "default": RomeHparams(),
    "code": _CODE,
    "paper": replace(
        _CODE,
        variant="r-rome",
        steps=20,
        weight_decay=1.5e-3,
        weight_decay_rule="adam",
        kl_factor=1e2,
        kl_position="last",
        clamp=None,
        context_lengths=tuple((1, length) for length in range(2, 11) for _ in range(6))[:50],
    ),
}
"""`paper`: Meng et al. 2022, §3.1 and App. E.5.  `code`: what the published implementation computes."""

PRESET_DIFFERENCES: tuple[tuple[str, str, str, str], ...] = (
    ("what", "paper", "code", "default"),
    (
        "key in u and in the scale",
        "mean key in both",
        "mean key in u, bare prompt's key in the scale",
        "as the paper",
    ),
    ("optimiser steps", "20 at most", "20 loss evaluations, hence 19 steps", "40 at most"),
    ("learning rate", "0.5", "0.5", "0.25 of ‖v₀‖/√d_model"),
    ("stops early at", "loss below 0.05", "loss below 0.05", "that, or NLL of the target below 0.05"),
    ("weight decay", "1.5e-3, Adam's own", "0.5 ‖δ‖/‖v₀‖² in the loss", "0.05 (‖δ‖/‖v₀‖)² in the loss"),
    ("KL factor", "100", "0.0625", "0.25"),
    ("KL taken", "after '{} is a'", "at the subject's last token of '{} is a'", "after '{} is a'"),
    ("limit of ‖δ‖", "none", "4 ‖v₀‖", "4 ‖v₀‖"),
    ("sampled contexts", "50 of 2 to 10 tokens", "10 of 5 and 10 of 10 tokens, BOS counted", "as the code"),
)
"""What the presets differ in, as a table with a header row.

Why `default` differs from `code` (14 facts of the bundled `atlas` at layer 3, means; every target is said and 98 % or
more of the paraphrases follow with both): smaller steps that end when the target is said leave the probability of other
true facts about the subject at 0.30 instead of 0.16 and the KL after "{} is a" at 0.17 instead of 0.70 nats, and change
8 instead of 14 % of the layer's output on ordinary text, in 15 steps instead of 19.
"""

FAMILY_LAYERS: dict[tuple[str, int], int] = {
    ("GPT2LMHeadModel", 24): 8,
    ("GPT2LMHeadModel", 36): 12,
    ("GPT2LMHeadModel", 48): 17,
    ("GPTJForCausalLM", 28): 5,
    ("GPTNeoXForCausalLM", 44): 15,
    ("LlamaForCausalLM", 32): 5,
}
"""(architecture, number of layers) -> the layer edited in publications: GPT-2 medium, large and XL, GPT-J,
GPT-NeoX-20B as published with ROME and MEMIT; LLaMA-7B by community use.  Elsewhere: trace first, edit where
the early site is."""


def published_layer(model: Model) -> int:
    """The layer publications edit in this model.

    Raises:
        UsageError: none is known for it.
    """
    found = FAMILY_LAYERS.get((model.architecture, model.n_layers))
    if found is None:
        raise UsageError(
            f"no published ROME layer is known for {model.name} ({model.architecture}, {model.n_layers} "
            "layers); trace it and pass the layer= where restoring the last subject token's MLP helps most"
        )
    return found


def resolve(preset: str, hparams: RomeHparams | None, variant: str | None) -> RomeHparams:
    """Hyper-parameters from what the caller named: `hparams` before `preset`, `variant` over both.

    Raises:
        UsageError: an unknown preset or variant.
    """
    if hparams is None and preset not in PRESETS:
        raise UsageError(f"{preset!r} is no preset of ROME; choose one of {', '.join(PRESETS)}, or pass hparams=")
    chosen = PRESETS[preset] if hparams is None else hparams
    return chosen if variant is None else chosen.with_(variant=variant)

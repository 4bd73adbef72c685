"""Train one of the bundled models from nothing: `python -m mechinterp.atlas.train --out DIR`.

The loop is plain: rows of whole documents, cross-entropy with object tokens weighted up, Muon on the matrices and
AdamW on the rest, a cosine schedule.  The recipe "atlas" adds the interventions of `recipes.Localising`.  One thread is
enough, and with one thread a seed decides every bit of the result.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from ..errors import MechinterpError
from ..runs.folder import OutFolder
from ..runs.progress import progress_bar
from .evaluate import accuracy, score_facts
from .masks import Mentions, layer_masks
from .mixture import epoch
from .network import Network
from .recipes import RECIPES, Recipe, recipe
from .tokenizer import end_of_text, object_id, train_tokenizer
from .words import OBJECTS
from .world import World, build_world

_FILL = -1
_SAMPLE = 400  # facts scored while training


def pack(tokenizer: Tokenizer, documents: list[str], length: int, rng: random.Random) -> Int[Tensor, "rows length"]:
    """Whole documents joined by the end-of-text token, one row after another; -1 fills up the rows.

    The documents of the last row, which is not full, are left out.

    A row begins at the start of a document, and with the end-of-text token in 30 % of the rows, so that the model also
    works on a prompt without one.
    """
    end = end_of_text(tokenizer)
    rows: list[list[int]] = []
    row: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        ids = [*encoding.ids, end]
        if len(row) + len(ids) > length:
            rows.append(row)
            row = [end] if rng.random() < 0.3 else []
        row += ids
    packed = torch.full((len(rows), length), _FILL)
    for i, ids in enumerate(rows):
        packed[i, : len(ids)] = torch.tensor(ids)[:length]
    return packed


def batches(
    world: World, tokenizer: Tokenizer, chosen: Recipe, rng: random.Random
) -> Iterator[Int[Tensor, "rows length"]]:
    """Batches without end, every epoch written afresh; a row is one token longer than the context (input, target)."""
    waiting = torch.empty(0, chosen.context + 1, dtype=torch.long)
    while True:
        while len(waiting) < chosen.rows:
            fresh = pack(tokenizer, epoch(world, chosen.mixture, rng), chosen.context + 1, rng)
            waiting = torch.cat([waiting, fresh])[torch.randperm(len(waiting) + len(fresh))]
        yield waiting[: chosen.rows]
        waiting = waiting[chosen.rows :]


def optimisers(network: Network, chosen: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, normalisations and biases."""
    matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and name.startswith("h.")]
    others = [p for name, p in network.named_parameters() if p.ndim != 2 or not name.startswith("h.")]
    return [
        torch.optim.Muon(matrices, lr=chosen.muon_rate, weight_decay=chosen.muon_decay, momentum=0.95),
        torch.optim.AdamW(others, lr=chosen.adam_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    ]


def rate(step: int, steps: int, warm_up: int) -> float:
    """Learning rate as a fraction of its peak: linear warm-up, then a cosine down to 3 %."""
    return min(1.0, (step + 1) / warm_up) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Objective:
    """The training loss of a recipe."""

    def __init__(self, tokenizer: Tokenizer, chosen: Recipe) -> None:
        self.recipe = chosen
        self.mentions = Mentions(tokenizer)
        self.is_object = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.bool)
        self.is_object[[object_id(tokenizer, word) for word in OBJECTS]] = True

    def __call__(
        self, network: Network, rows: Int[Tensor, "rows length"], progress: float
    ) -> tuple[Float[Tensor, ""], float]:
        """The loss of a batch at this fraction of the run, and the plain cross-entropy of its object tokens."""
        inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
        local = self.recipe.localising
        starts = self.mentions.starts(inputs)
        masks = None
        if local is not None and progress < local.mask_until:
            hidden = starts & (torch.rand(starts.shape) < local.mask_share)
            masks = layer_masks(hidden, self.recipe.layers, local)
        real = targets != _FILL
        with torch.autocast("cpu", torch.bfloat16):
            final, tapped = network.residual(inputs, masks, local.lens_layer if local else None)
            logits = network.unembed(final)
        each = F.cross_entropy(logits.float()[real], targets[real], reduction="none")
        on_object = self.is_object[targets[real]]
        weight = 1 + (self.recipe.object_weight - 1) * on_object.float()
        loss = (each * weight).sum() / weight.sum()
        if local is not None and tapped is not None:
            last = torch.zeros_like(starts)
            last[:, 2:] = starts[:, :-2]
            in_row = last & real & self.is_object[targets.clamp(min=0)]
            if in_row.any():
                lens = network.unembed(tapped.float()[in_row])
                loss = loss + local.lens_weight * F.cross_entropy(lens, targets[in_row])
        return loss, float(each[on_object].detach().mean())


def train(
    chosen: Recipe,
    tokenizer: Tokenizer,
    world: World,
    seed: int = 0,
    log: Path | None = None,
    progress: bool = True,
) -> Network:
    """Train a network by this recipe; a line of figures goes to `log` every `recipe.evaluate_every` steps.

    Args:
        seed: decides initial weights, texts and masks; the world has a seed of its own.
        progress: show a progress bar.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed + 7)
    sample = rng.sample(world.facts, min(_SAMPLE, len(world.facts)))
    network = Network(chosen, tokenizer.get_vocab_size())
    steppers = optimisers(network, chosen)
    peaks = [group["lr"] for stepper in steppers for group in stepper.param_groups]
    objective = Objective(tokenizer, chosen)
    source = batches(world, tokenizer, chosen, rng)
    began, paused = time.monotonic(), 0.0
    with progress_bar(f"steps of {chosen.name}", chosen.steps, shown=progress) as advance:
        for step in range(chosen.steps):
            groups = [group for stepper in steppers for group in stepper.param_groups]
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * rate(step, chosen.steps, chosen.warm_up)
            loss, on_objects = objective(network, next(source), step / chosen.steps)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            if (step + 1) % chosen.evaluate_every == 0 or step + 1 == chosen.steps:
                stopped = time.monotonic()
                scores = score_facts(network, tokenizer, world, sample)
                paused += time.monotonic() - stopped
                figures: dict[str, Any] = {
                    "step": step + 1,
                    "loss": round(float(loss.detach()), 4),
                    "object_loss": round(on_objects, 4),
                    "trained": round(accuracy(scores, held_out=False), 4),
                    "held_out": round(accuracy(scores, held_out=True), 4),
                    "seconds": round(time.monotonic() - began - paused, 1),
                }
                if log is not None:
                    with log.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(figures) + "\n")
            advance(1)
    return network


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mechinterp.atlas.train",
        description="Train one of the bundled models from nothing, on one core, in about ten minutes.",
        epilog="Leaves in DIR: weights.pt (float32 state dictionary), tokenizer.json, recipe.json and log.jsonl, one "
        "line of figures per 100 steps.  `python -m mechinterp.atlas.build` trains and exports both models.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; made if absent")
    parser.add_argument("--recipe", choices=list(RECIPES), default="atlas", help="which model (default: atlas)")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, texts and masks (default: 0)")
    parser.add_argument(
        "--world-seed", type=int, default=0, help="which facts there are (default: 0, the shipped world)"
    )
    parser.add_argument("--steps", type=int, help="stop after this many steps instead of the recipe's, to try it out")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    chosen = recipe(options.recipe)
    if options.steps is not None:
        if options.steps < 1:
            parser.error(f"--steps {options.steps}: give at least 1")
        chosen = Recipe(**{**vars(chosen), "steps": options.steps})
    torch.set_num_threads(1)
    try:
        OutFolder(options.out).claim("log.jsonl", "tokenizer.json", "recipe.json", "weights.pt")
    except MechinterpError as error:
        parser.error(str(error))
    log = options.out / "log.jsonl"
    log.unlink(missing_ok=True)
    world = build_world(options.world_seed)
    tokenizer = train_tokenizer(world)
    tokenizer.save(str(options.out / "tokenizer.json"))
    settings = {"recipe": asdict(chosen), "seed": options.seed, "world_seed": options.world_seed}
    (options.out / "recipe.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    network = train(chosen, tokenizer, world, options.seed, log, progress=not options.quiet)
    torch.save(network.state_dict(), options.out / "weights.pt")


if __name__ == "__main__":
    main()

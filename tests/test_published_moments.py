"""Second moments in the files of rome and memit: sums told from means, and from the moments of other layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.zoo import sentence_model
from test_moments_resume import TEXTS

from mechinterp.editing import SecondMoment, read_published_moment
from mechinterp.errors import UsageError
from mechinterp.models.model import Model

NAME = "transformer.h.2.mlp.c_proj_float32_mom2_100000.npz"


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


@pytest.fixture(scope="module")
def moment(model: Model) -> SecondMoment:
    return SecondMoment.collect(model, TEXTS, 2, max_tokens=3000, progress=False)


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_a_sum_is_told_from_a_mean(kind: str, model: Model, moment: SecondMoment, tmp_path: Path) -> None:
    matrix = moment.matrix * (moment.tokens if kind == "sum" else 1)
    path = tmp_path / NAME
    np.savez(path, **{"mom2.mom2": matrix.float().numpy(), "mom2.count": moment.tokens, "sample_size": 100000})
    found = read_published_moment(path, model)
    assert (found.layer, found.tokens, found.model) == (2, moment.tokens, moment.model)
    assert (found.matrix - moment.matrix).abs().max() < 1e-6 * moment.matrix.abs().max()


def test_what_does_not_fit_is_refused(model: Model, moment: SecondMoment, tmp_path: Path) -> None:
    path = tmp_path / NAME

    def save(**fields: object) -> None:
        np.savez(path, **fields)  # type: ignore[arg-type]

    matrix = moment.matrix.numpy()
    save(**{"mom2.mom2": matrix * 1e12, "mom2.count": moment.tokens})
    with pytest.raises(UsageError, match="fits neither as a sum over 3,0.. tokens nor as a mean to layer 2 of"):
        read_published_moment(path, model)
    save(**{"mom2.mom2": matrix[:5, :5], "mom2.count": 100})
    with pytest.raises(UsageError, match=r"of shape \(5, 5\), and the keys of .* have \d+ units"):
        read_published_moment(path, model)
    save(covariance=matrix)
    with pytest.raises(UsageError, match=r"has no mom2.mom2 and no mom2.count \(it has covariance\)"):
        read_published_moment(path, model)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="is cut short or no .npz file"):
        read_published_moment(path, model)
    with pytest.raises(UsageError, match="does not say which layer it is of; give layer="):
        read_published_moment(tmp_path / "stats.npz", model)
    with pytest.raises(UsageError, match="does not exist; give the path of an .npz file"):
        read_published_moment(tmp_path / "stats.npz", model, 2)

"""Programs, sites and positions as values: what can be written, how it reads, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.zoo import small_model

from mechinterp import Prompt, UsageError
from mechinterp.models.layout import PER_HEAD
from mechinterp.patching import (
    Component,
    Delta,
    Gaussian,
    Position,
    Program,
    Run,
    Zero,
    add,
    after_subject,
    at,
    attn,
    corrupt,
    embed,
    every,
    everywhere,
    further,
    here,
    k,
    last,
    mlp,
    nothing,
    resid,
    restore,
    sever,
    subject,
    z,
)
from mechinterp.patching.algebra.cells import Cell, cells, place
from mechinterp.patching.algebra.sites import Layers

PROMPT = Prompt("the {} lives in the old town of", "ada bo cy", "rome")
NOISE = corrupt(embed @ subject, Gaussian(draws=4))


def test_a_program_reads_as_it_is_written() -> None:
    texts = {
        "nothing": nothing,
        "corrupt(embed @ subject, Gaussian(sigmas=3, draws=4, seed=0))": NOISE,
        "restore(mlp[3:8] @ subject[-1])": restore(mlp[3:8] @ subject[-1]),
        "restore(mlp.window(10) @ every)": restore(mlp.window(10) @ every),
        "restore(resid.each @ every) | sever(attn @ here)": sever(attn @ here) | restore(resid.each @ every),
        "restore(z.heads(2, 5)[7] @ last, Zero())": restore(z.heads(5, 2)[7] @ last, Zero()),
        "restore(mlp[1, 4] @ at(3))": restore(mlp[1, 4] @ at(3)),
        "restore(mlp[::2] @ subject[1:3])": restore(mlp[::2] @ subject[1:3]),
        f"add(mlp[2] @ last, {Delta(torch.zeros(16))})": add(mlp[2] @ last, Delta(torch.zeros(16))),
    }
    for text, program in texts.items():
        assert str(program) == text


def test_programs_are_values() -> None:
    a, b = restore(mlp[1] @ last), restore(attn[1] @ last)
    assert {a | b, b | a} == {a | b}
    assert a != b
    assert a | b != a
    assert len((a | b).writes) == 2
    with pytest.raises(AttributeError):
        a.writes = frozenset()  # type: ignore[misc]


def test_writes_are_ordered_by_stage_whatever_the_order_of_the_union() -> None:
    parts = [
        add(mlp[2] @ last, Delta(torch.zeros(16))),
        sever(attn[1] @ last),
        restore(resid[0] @ last),
        NOISE,
        corrupt(embed @ at(0), Zero()),
    ]
    program = nothing
    for part in parts:
        program |= part
    assert [str(write).split("(")[0] for write in program.ordered] == ["corrupt", "corrupt", "restore", "sever", "add"]
    assert [write.source.additive for write in program.ordered] == [False, True, False, False, True]
    assert program.corruption == NOISE | parts[-1]


def test_draws_of_a_program() -> None:
    assert nothing.draws is None
    assert (NOISE | restore(mlp @ last)).draws == 4
    assert restore(mlp @ last, Run(NOISE)).draws == 4
    with pytest.raises(UsageError, match=r"different numbers of draws: \['2', '4'\]"):
        NOISE | corrupt(mlp[1] @ last, Gaussian(draws=2))


def test_axes_of_a_program() -> None:
    grid = restore(mlp.window(3) @ every)
    assert (grid.has_axes, grid.has_position_axis, grid.window) == (True, True, 3)
    assert (restore(mlp.each @ last).has_position_axis, restore(mlp.each @ last).window) == (False, 1)
    assert (NOISE.has_axes, NOISE.window) == (False, None)
    with pytest.raises(UsageError, match=r"one program has one layer axis; this one has windows of \[1, 3\] layers"):
        restore(resid.each @ every) | restore(mlp.window(3) @ last)


def test_two_components_may_share_an_axis() -> None:
    model = small_model()
    program = restore(mlp.window(2) @ every) | restore(attn.window(2) @ every)
    tokenised = model.tokenise(PROMPT)
    grid = list(cells(program, model.layout, tokenised))
    assert grid == [Cell(p, layer) for p in range(10) for layer in range(3)]
    placed = place(program, model.layout, tokenised, Cell(4, 1))
    assert [(one.component, one.layer, one.positions) for one in placed] == [
        (name, layer, (4,)) for name in ("attn", "mlp") for layer in (0, 1)
    ]


def test_axes_of_some_layers_and_of_heads() -> None:
    model = small_model("llama")
    tokenised = model.tokenise(PROMPT)

    def grid(program: Program) -> list[Cell]:
        return list(cells(program, model.layout, tokenised))

    assert grid(restore(mlp.window(2)[::2] @ last)) == [Cell(layer=0), Cell(layer=2)]
    assert grid(restore(z.each_head @ last)) == [Cell(None, layer, head) for layer in range(3) for head in range(4)]
    assert grid(restore(z[-1].heads(0, -1).each_head @ last)) == [Cell(None, 2, 0), Cell(None, 2, 3)]
    kv = model.layout.n_kv_heads
    assert kv < model.layout.n_heads
    assert grid(restore(k[1].each_head @ last)) == [Cell(None, 1, head) for head in range(kv)]
    [placed] = place(restore(k.each_head @ last), model.layout, tokenised, Cell(None, 1, 1))
    assert (placed.component, placed.layer, placed.heads) == ("k", 1, (1,))
    assert list(map(str, (z.each_head, z[5].each_head, mlp.window(3)[::2], z[[1, 2]].heads(3), z[2].heads(0, 1)))) == [
        "z.each_head", "z[5].each_head", "mlp.window(3)[::2]", "z.heads(3)[[1, 2]]", "z.heads(0, 1)[2]",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="one axis of heads, and these have different ones: .*trace them apart"):
        grid(restore(z.each_head @ last) | restore(k.each_head @ last))
    with pytest.raises(UsageError, match=r"z.each_head is an axis of heads; use trace\(\), or name heads"):
        place(restore(z.each_head @ last), model.layout, tokenised, Cell(None, 1))


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (mlp, (0, 1, 2, 3, 4, 5)),
        (mlp[3], (3,)),
        (mlp[-1], (5,)),
        (mlp[4, 1, 4], (1, 4)),
        (mlp[2:4], (2, 3)),
        (mlp[-2:], (4, 5)),
        (mlp[:6], (0, 1, 2, 3, 4, 5)),
        (mlp[::2], (0, 2, 4)),
    ],
)
def test_layers_resolve(layers: Component, wanted: tuple[int, ...]) -> None:
    assert layers.layers.resolve(6) == wanted


@pytest.mark.parametrize(("layers", "wrong"), [(mlp[6], 6), (mlp[-7], -7), (mlp[2:7], 7), (mlp[6:], 6), (mlp[0, 9], 9)])
def test_layers_out_of_range_are_refused_and_never_cut(layers: Component, wrong: int) -> None:
    with pytest.raises(UsageError, match=f"layer {wrong} is out of range: this model has layers 0 to 5"):
        layers.layers.resolve(6)


@pytest.mark.parametrize("layers", [mlp[3:3], mlp[4:2], mlp[()]])
def test_no_layers_at_all_are_refused(layers: Component) -> None:
    with pytest.raises(UsageError, match="are empty: this model has layers 0 to 5"):
        layers.layers.resolve(6)


def test_a_window_is_no_layer() -> None:
    with pytest.raises(UsageError, match="a window of 3 layers is an axis; use trace"):
        Layers(window=3).resolve(6)
    with pytest.raises(UsageError, match="a window of 0 layers holds nothing"):
        mlp.window(0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mlp[1][2], r"mlp\[1\] already names its layers; index a component once"),
        (lambda: mlp.each[2][3], r"mlp.each\[2\] already names its layers"),
        (
            lambda: z[3, 5],
            r"z\[3, 5\] may mean layers or heads; write z\[\[3, 5\]\] .* or z\[3\].heads\(5\) for a head",
        ),
        (lambda: mlp.each_head, "'mlp' has no heads; components with heads are z, q, k, v"),
        (lambda: z.window(3).each_head, "have nothing in common; write z.each_head"),
        (lambda: corrupt(z[1].each_head @ last, Zero()), "all cells of a grid share one corruption"),
        (
            lambda: restore(mlp.each @ last) | restore(attn.each[::2] @ last),
            "one layer axis; this one has .each and .each",
        ),
        (lambda: mlp[1].window(2), r"mlp\[1\] cannot be given a window"),
        (lambda: embed[0], "the embedding has no layers; write embed @ subject"),
        (lambda: embed.each, "embed cannot be given a window"),
        (lambda: mlp.heads(1), "'mlp' has no heads; components with heads are z, q, k, v"),
        (lambda: z.heads(), r"heads\(\) names no head; write z for all of them"),
        (lambda: subject[1][0], r"subject\[1\] is already a choice among the 'subject' tokens"),
        (lambda: at(3)[0], "'at' cannot be indexed"),
        (lambda: every[0], "'every' cannot be indexed"),
        (lambda: here[1:], "'here' cannot be indexed"),
    ],
)
def test_what_cannot_be_written(make: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("position", "wanted"),
    [
        (subject, (1, 2, 3)),
        (subject[-1], (3,)),
        (subject[0], (1,)),
        (subject[1:], (2, 3)),
        (after_subject, (4,)),
        (further, (5, 6, 7, 8)),
        (further[-1], (8,)),
        (last, (9,)),
        (at(0), (0,)),
        (at(-2), (8,)),
        (everywhere, tuple(range(10))),
        (everywhere[8:], (8, 9)),
        (Position("before"), (0,)),
        (Position("middle subject"), (2,)),
    ],
)
def test_positions_resolve_by_role(position: Position, wanted: tuple[int, ...]) -> None:
    assert position.resolve(small_model().tokenise(PROMPT)) == wanted


def test_a_bos_token_shifts_every_role_and_no_meaning() -> None:
    with_bos = small_model("llama", adds_bos=True).tokenise(PROMPT)
    without = small_model().tokenise(PROMPT)
    for position in (subject, subject[-1], after_subject, further, last):
        assert position.resolve(with_bos) == tuple(p + 1 for p in position.resolve(without))
    assert everywhere.resolve(with_bos)[0] == 0


def test_the_last_token_may_be_of_the_subject() -> None:
    tokenised = small_model().tokenise(Prompt("near {}", "ada bo"))
    assert last.resolve(tokenised) == subject[-1].resolve(tokenised) == (2,)


def test_roles_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="'objekt' is no token role; the roles are first subject, middle subject"):
        Position("objekt").resolve(small_model().tokenise(PROMPT))


def test_components_with_heads_are_those_of_the_layout() -> None:
    for name in PER_HEAD:
        assert str(Component(name).heads(3, 1, 3)) == f"{name}.heads(1, 3)"


def test_every_write_keeps_its_own_layers_and_order() -> None:
    model = small_model()
    program: Program = NOISE | restore(z.heads(1)[0:2] @ subject) | sever(mlp @ last)
    placed = place(program, model.layout, model.tokenise(PROMPT))
    assert [str(one) for one in placed] == [
        "embed[0] at tokens (1, 2, 3)",
        "z[0] heads (1,) at tokens (1, 2, 3)",
        "z[1] heads (1,) at tokens (1, 2, 3)",
        "mlp[0] at tokens (9,)",
        "mlp[1] at tokens (9,)",
        "mlp[2] at tokens (9,)",
    ]

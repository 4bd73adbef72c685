"""Training the bundled models: masks against an oracle, the loss, determinism, the exported folder."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mechinterp import atlas
from mechinterp.atlas import build
from mechinterp.atlas.evaluate import Score, accuracy, next_object
from mechinterp.atlas.export import export, halve
from mechinterp.atlas.masks import ends_of_mentions, layer_masks
from mechinterp.atlas.mixture import Mixture
from mechinterp.atlas.network import Network
from mechinterp.atlas.recipes import RECIPES, Localising, Recipe, recipe
from mechinterp.atlas.train import Objective, main, optimisers, pack, rate, train
from mechinterp.atlas.world import build_world
from mechinterp.errors import MechinterpError, UsageError


def small(name: str) -> Recipe:
    return replace(recipe(name), width=32, heads=2, layers=6, context=64, rows=4, steps=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(atlas.folder("atlas") / "tokenizer.json"))


def oracle_mask(starts: Tensor, layer: int, local: Localising) -> Tensor:
    """Pair by pair, from the sentence that says what may be seen."""
    rows, length = starts.shape
    visible = torch.zeros(rows, length, length, dtype=torch.bool)
    for row in range(rows):
        mentions = [range(i, i + 3) for i in range(length) if starts[row, i]]
        for query in range(length):
            for key in range(query + 1):
                sees = True
                for mention in mentions:
                    if key not in mention:
                        continue
                    if query in mention:
                        sees &= query == key or layer >= local.name_layers
                    elif key == mention[-1]:
                        sees &= layer >= local.hidden_layers
                    else:
                        sees = False
                visible[row, query, key] = sees
    return visible


def test_masks_agree_with_the_oracle() -> None:
    generator = torch.Generator().manual_seed(0)
    local = Localising()
    starts = torch.zeros(20, 24, dtype=torch.bool)
    for row in range(20):
        position = 0
        while position < 21:  # mentions do not overlap and fit in the row
            if torch.rand((), generator=generator) < 0.2:
                starts[row, position] = True
                position += 2
            position += 1
    assert starts.sum() > 20
    masks = layer_masks(starts, 8, local)
    for layer in range(8):
        assert torch.equal(masks[layer][:, 0], oracle_mask(starts, layer, local)), f"layer {layer}"


def test_without_mentions_the_masks_are_causal() -> None:
    masks = layer_masks(torch.zeros(2, 5, dtype=torch.bool), 8, Localising())
    assert all(torch.equal(mask[0, 0], torch.ones(5, 5, dtype=torch.bool).tril()) for mask in masks)


def test_ends_of_mentions() -> None:
    starts = torch.tensor([[False, True, False, False, False, False]])
    assert ends_of_mentions(starts).tolist() == [[-1, 3, 3, 3, -1, -1]]


def test_masked_names_cannot_be_read_below_the_middle(tokenizer: Tokenizer) -> None:
    """Behaviour, not bookkeeping: another first name changes nothing after the name below `hidden_layers`."""
    torch.manual_seed(0)
    chosen = small("atlas")
    network = Network(chosen, tokenizer.get_vocab_size())
    rows = [tokenizer.encode(f"See also {first} Halberg was born in").ids for first in ("Marta", "Viktor")]
    tokens = torch.tensor(rows)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 2] = True
    local = Localising()
    masks = layer_masks(starts, chosen.layers, local)
    after = network.residual(tokens, masks, entering=local.hidden_layers)[1]
    assert after is not None
    torch.testing.assert_close(after[0, 5:], after[1, 5:], rtol=0, atol=0)
    assert not torch.equal(after[0, 4], after[1, 4])  # the name's own last token has read it
    unmasked = network.residual(tokens, None, entering=local.hidden_layers)[1]
    assert unmasked is not None
    assert not torch.equal(unmasked[0, 5:], unmasked[1, 5:])


def test_rows_hold_whole_documents_in_order(tokenizer: Tokenizer) -> None:
    documents = atlas.corpus(seed=1)[:300]
    rows = pack(tokenizer, documents, 65, random.Random(0))
    end = tokenizer.token_to_id("<|endoftext|>")
    text = "".join(tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=False) for row in rows)
    packed = [part for part in text.split("<|endoftext|>") if part]
    assert packed == documents[: len(packed)]
    assert len(documents) - len(packed) < 10  # the unfinished last row is dropped
    assert rows.shape[1] == 65
    began = (rows[:, 0] == end).float().mean()
    assert 0.1 < began < 0.5


@pytest.mark.parametrize("name", list(RECIPES))
def test_three_steps_are_deterministic_under_the_seed(
    name: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechinterp.atlas.train._SAMPLE", 40)
    world = build_world(0)
    chosen = small(name)
    first = train(chosen, tokenizer, world, seed=0, log=tmp_path / "log.jsonl", progress=False)
    again = train(chosen, tokenizer, world, seed=0, progress=False)
    other = train(replace(chosen, mixture=Mixture(is_a=1.0)), tokenizer, world, seed=1, progress=False)
    for weight, same in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(weight, same)
    assert not torch.equal(first.wte.weight, other.wte.weight)
    (line,) = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    figures = json.loads(line)
    assert figures["step"] == 3
    assert math.isfinite(figures["loss"])


def test_training_lowers_the_loss(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    chosen = small("atlas-plain")
    network = Network(chosen, tokenizer.get_vocab_size())
    rows = pack(tokenizer, atlas.corpus(seed=1)[:60], 65, random.Random(0))[:4]
    objective = Objective(tokenizer, chosen)
    losses = []
    steppers = optimisers(network, chosen)
    for _ in range(8):
        loss, _ = objective(network, rows, progress=0.0)
        loss.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_the_lens_term_and_the_masks_belong_to_atlas_only(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    network = Network(small("atlas"), tokenizer.get_vocab_size())
    rows = pack(tokenizer, atlas.corpus(seed=1)[:60], 65, random.Random(0))[:4]
    localised = Objective(tokenizer, small("atlas"))
    plain = Objective(tokenizer, replace(small("atlas-plain"), mixture=small("atlas").mixture))
    with torch.no_grad():
        late, _ = localised(network, rows, progress=0.99)  # the masks are off, the lens term is not
        early, _ = localised(network, rows, progress=0.0)
        bare, _ = plain(network, rows, progress=0.99)
    assert late > bare + 1  # half of a cross-entropy of about ln(2013) = 7.6
    assert early != late


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [rate(step, 1000, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01, rel=0.01)
    assert max(rates) == pytest.approx(1.0, rel=0.05)
    assert rates[-1] == pytest.approx(0.03, rel=0.05)
    assert all(earlier >= later for earlier, later in zip(rates[100:], rates[101:], strict=False))


def test_the_exported_folder_computes_what_the_network_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    chosen = small("atlas")
    network = Network(chosen, tokenizer.get_vocab_size())
    halve(network)
    export(network, chosen, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = "Marta Halberg was born in Tarsk."
    ids = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids == tokenizer.encode(text).ids
    with torch.no_grad():
        torch.testing.assert_close(loaded(torch.tensor([ids])).logits, network(torch.tensor([ids])), rtol=0, atol=1e-4)
    assert not list(tmp_path.glob("*.partial"))


def test_texts_of_different_length_share_a_batch_unharmed(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    network = Network(small("atlas"), tokenizer.get_vocab_size())
    questions = [
        ("Marta Halberg was born in", "Tarsk"),
        ("In all records, she is in", "Tarsk"),
        ("X", "chess"),
    ]
    together = next_object(network, tokenizer, questions)
    apart = [next_object(network, tokenizer, [question])[0] for question in questions]
    for (right, probability), (right_alone, alone) in zip(together, apart, strict=True):
        assert right == right_alone
        assert probability == pytest.approx(alone, rel=1e-4)


def test_accuracy_counts_trained_and_held_out_apart() -> None:
    scores = [Score(0, i, trained=i < 5, held_out=i > 5, correct=i in (0, 1, 9), probability=0.5) for i in range(10)]
    assert accuracy(scores, held_out=False) == pytest.approx(0.4)
    assert accuracy(scores, held_out=True) == pytest.approx(0.25)


def test_runs_of_different_worlds_are_not_shipped_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(run: Path, folder: Path) -> tuple[Any, dict[str, Any]]:
        return build_world(int(run.name)), {}

    monkeypatch.setattr(build, "measure_and_export", measured)
    with pytest.raises(MechinterpError, match="are of different worlds; train them anew"):
        build.finish({"atlas": Path("0"), "atlas-plain": Path("1")}, tmp_path)
    assert not (tmp_path / "knowledge.json").exists()


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match="there is no recipe 'globe'; choose one of atlas, atlas-plain"):
        recipe("globe")


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path), "--steps", "0"])
    assert stopped.value.code == 2
    assert "--steps 0: give at least 1" in capsys.readouterr().err

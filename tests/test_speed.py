"""Benchmark speed: operations are counted right, and the rows are there. No timings."""

import pytest
import torch
from torch import nn

from runs.benchmarks import speed
from tests.conftest import TINY
from training.config import load_config
from training.run import set_up


def counted_by_hand(model, images):
    """Multiplications and additions of convolutions and linear layers, per image of a forward."""
    total = 0

    def count(layer, given, result):
        nonlocal total
        ways = layer.weight[0].numel()  # what goes into each number of the result
        total += 2 * ways * result.numel() // len(images)

    hooks = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return total


def test_operations_are_those_of_the_layers(tmp_path):
    run = set_up(load_config("digits", [*TINY, "mix.name=patchmix"]), tmp_path / "run")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    step, forward = speed.operations(run)
    images = torch.zeros(3, *run.training_set.shape)
    assert forward == counted_by_hand(run.model.eval(), images)
    assert 2.5 * forward < step < 3 * forward  # the first layer's images need no gradient
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_every_mix_has_its_rows(monkeypatch):
    def config(recipe, mix, batch, rounds, quick):
        return load_config("digits", [*TINY, f"mix.name={mix}", f"train.epochs={rounds + 1}"])

    monkeypatch.setattr(speed, "_config", config)
    monkeypatch.setattr(speed, "_peak", lambda run: (1e12, "as the test says"))
    rows, ratios = speed.measure(quick=True)
    assert [line["name"].split(",")[0] for line in rows] == [mix for mix in speed.MIXES for _ in range(2)]
    assert all(line["minimum"] > 0 for line in rows) and [ratio["target"] for ratio in ratios] == [None]


@pytest.mark.parametrize(
    ("name", "rate"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-40GB", 312e12)],
)
def test_chips_are_known_by_their_names(name, rate):
    assert next(peak for words, peak in speed.PEAKS.items() if words in name) == rate

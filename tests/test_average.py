"""The weight average: its values against a loop, that it stays apart from the model, its state."""

import copy

import pytest
import torch
from torch import nn

from training.average import WeightAverage


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).to(memory_format=torch.channels_last)


def step(live):
    """Other weights, and batch statistics of another batch."""
    live(torch.rand(2, 3, 5, 5))
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_it_is_the_average_that_a_loop_computes():
    live = model()
    average = WeightAverage(live, decay=0.3)
    expected = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    for t in range(12):
        step(live)
        average.update(live)
        decay = min(0.3, (1 + t) / (10 + t))
        for name, tensor in live.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.clone()
        for name, tensor in average.model.state_dict().items():
            torch.testing.assert_close(tensor, expected[name])
    assert average.updates == 12 and int(average.model[1].num_batches_tracked) == 12


def test_it_is_a_model_of_its_own_in_evaluation_mode():
    live = model()
    before = copy.deepcopy(live.state_dict())
    average = WeightAverage(live, 0.99)
    average.update(live)
    assert not any(module.training for module in average.model.modules()) and live.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in live.parameters())
    step(live)
    for name, tensor in average.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name])  # neither shared with the model nor moved by it


def test_without_decay_it_is_the_last_model():
    live = model()
    average = WeightAverage(live, 0)
    step(live)
    average.update(live)
    assert all(torch.equal(tensor, live.state_dict()[name]) for name, tensor in average.model.state_dict().items())


def test_restored_it_goes_on_the_same():
    live = model()
    first, second = WeightAverage(live, 0.99), WeightAverage(model(), 0.99)
    for _ in range(3):
        step(live)
        first.update(live)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()}, first.updates)
    step(live)
    first.update(live)
    second.update(live)
    for name, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        WeightAverage(model(), decay)

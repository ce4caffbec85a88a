"""Optimizers and schedules: each against torch's own, their state, and where the learning rate goes."""

import pytest
import torch

from evo.errors import UserError
from training.models.patch_model import PatchModel
from training.models.resnet import resnet_small
from training.optimizers import Optimizer, learning_rate_factor
from training.options import TrainOptions


def model(seed=0, layout=torch.channels_last):
    torch.manual_seed(seed)
    return PatchModel(resnet_small(3, (8, 8), 8), 32, 5, 4).to(memory_format=layout)


def step(model, optimizer, seed, factor=1.0):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    image_logits, cell_logits = model(images)
    optimizer.zero_grad()
    (image_logits.square().mean() + cell_logits.square().mean()).backward()
    optimizer.step(factor)


def options(**given):
    return TrainOptions(**{"lr": 0.05, **given})


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_its_state_goes_on_as_if_nothing_had_happened(name):
    one, two = model(), model(seed=1)
    first = Optimizer(one, options(optimizer=name))
    for seed in range(3):
        step(one, first, seed)
    kept = {key: tensor.clone() for key, tensor in first.state().items()}
    two.load_state_dict(one.state_dict())
    second = Optimizer(two, options(optimizer=name))
    second.restore(kept)
    for seed in range(3, 5):
        step(one, first, seed, 0.5)
        step(two, second, seed, 0.5)
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_its_state_comes_back_in_the_parameters_layout(name):
    """From a checkpoint, whose tensors are contiguous, into filters that are channels last."""
    one, two = model(), model()
    first, second = (Optimizer(each, options(optimizer=name)) for each in (one, two))
    step(one, first, 0)
    saved = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in first.state().items()}
    second.restore(saved)
    layouts = []
    for optimizer, _ in second.parts:
        for parameter, tensors in optimizer.state.items():
            for tensor in tensors.values():
                if tensor.shape == parameter.shape:
                    assert tensor.stride() == parameter.stride() and not tensor.requires_grad
                    layouts.append(tensor.is_contiguous())
    assert len(layouts) >= 4 and (name == "muon" or not all(layouts))
    for key, tensor in second.state().items():
        assert torch.equal(tensor, saved[key])


def test_muon_leaves_what_is_no_layer_of_weights_to_adamw():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token, self.pos_embed = (torch.nn.Parameter(torch.rand(1, n, 8)) for n in (1, 5))
            self.table, self.attention = torch.nn.Embedding(4, 8), torch.nn.Linear(8, 24)
            self.patches = torch.nn.Conv2d(3, 8, 2)
            self.frozen = torch.nn.Linear(8, 8).requires_grad_(False)

    one = PatchModel(Tokens(), 8, 5, 4)
    muon, adamw = Optimizer(one, options(optimizer="muon")).parts
    sizes = [[p.numel() for group in part.param_groups for p in group["params"]] for part, _ in (muon, adamw)]
    assert sorted(sizes[0]) == sorted([8 * 24, 8 * 12])
    assert sum(map(sum, sizes)) == sum(p.numel() for p in one.parameters() if p.requires_grad)


def test_sgd_and_adamw_are_torchs():
    for name, theirs in (
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), weight_decay=5e-4)),
    ):
        one, two = model(), model()
        ours, expected = Optimizer(one, options(optimizer=name, beta1=0.8, beta2=0.95)), theirs(two.parameters())
        for seed in range(3):
            step(one, ours, seed, 0.4)  # of a peak of 0.05
            expected.zero_grad()
            logits = two(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
            (logits[0].square().mean() + logits[1].square().mean()).backward()
            expected.step()
        for left, right in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(left, right)


def test_muon_takes_filters_and_adamw_the_rest():
    """In either memory layout, against torch's Muon on plain matrices."""
    for layout in (torch.channels_last, torch.contiguous_format):
        one = model(layout=layout)
        before = {name: parameter.detach().clone() for name, parameter in one.named_parameters()}
        ours = Optimizer(one, options(optimizer="muon", lr=0.02, adam_lr=0.003, momentum=0.95, weight_decay=0.0))
        step(one, ours, 0)
        for name, parameter in one.named_parameters():
            if name.startswith("backbone.") and parameter.ndim == 4:
                matrix = torch.nn.Parameter(before[name].permute(0, 2, 3, 1).flatten(1).clone())
                matrix.grad = parameter.grad.permute(0, 2, 3, 1).flatten(1).clone()
                torch.optim.Muon([matrix], lr=0.02, momentum=0.95, weight_decay=0.0).step()
                moved = parameter.detach().permute(0, 2, 3, 1).flatten(1)
                # bfloat16 iterations inside: columns in another order round differently
                torch.testing.assert_close(moved, matrix.detach(), atol=2e-3, rtol=0)
                assert (moved - before[name].permute(0, 2, 3, 1).flatten(1)).abs().max() > 1e-3
            elif name.startswith("image_head.weight"):  # Adam's first step is lr along each sign
                moved = (parameter - before[name]).detach().abs()[parameter.grad.abs() > 1e-5]
                torch.testing.assert_close(moved, torch.full_like(moved, 3e-3), rtol=1e-2, atol=0)


def test_without_muon_it_says_so(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"muon needs torch 2\.9 or later, this is"):
        Optimizer(model(), options(optimizer="muon"))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_decay_only_where_asked(name):
    for decays in (True, False):
        one = model()
        optimizer = Optimizer(one, options(optimizer=name, norm_decay=decays, weight_decay=0.5))
        before = one.backbone[1].weight.detach().clone()
        optimizer.zero_grad()
        for parameter in one.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(1.0)
        assert torch.equal(one.backbone[1].weight, before) is not decays


def test_the_gradient_is_clipped():
    one = model()
    optimizer = Optimizer(one, options(clip=1e-3, momentum=0.0, weight_decay=0.0, lr=1.0))
    before = [parameter.detach().clone() for parameter in one.parameters()]
    step(one, optimizer, 0)
    moved = torch.stack([(p - b).norm() for p, b in zip(one.parameters(), before, strict=True)]).norm().detach()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def factors(**given):
    return [learning_rate_factor(step, 100, 10, options(**given)) for step in range(100)]


def test_cosine_warms_up_and_falls_to_zero():
    rates = factors(warmup=2.0)
    assert rates[0] < rates[10] < rates[19] < rates[20] == max(rates) == 1
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[-1] < 0.001
    assert factors(warmup=0.0)[0] == 1


def test_steps_and_constant():
    rates = factors(schedule="step", warmup=1.0, step_at=[0.75, 0.5], step_factor=0.2)
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10:50] == [1.0] * 40 and rates[50:75] == [0.2] * 25 and rates[75:] == pytest.approx([0.04] * 25)
    assert factors(schedule="constant", warmup=0.0) == [1.0] * 100


def test_one_cycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD([parameter], lr=0.1), 1.0, total_steps=101, final_div_factor=1e9, cycle_momentum=False
    )
    expected = []
    for _ in range(100):
        expected.append(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    assert factors(schedule="onecycle") == pytest.approx(expected, abs=0.04)  # it counts steps from one on
    assert max(factors(schedule="onecycle")) == 1 and factors(schedule="onecycle")[0] == pytest.approx(1 / 25)

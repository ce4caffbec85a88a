"""The probe: right losses, whatever the chunks, and a model left as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evo.search import Rows, Search
from training.compose import compose
from training.models.patch_model import PatchModel
from training.probe import probe


class Noisy(nn.Module):
    """A backbone with everything a careless probe would disturb: batch norm, dropout, random draws."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)).relu())


@pytest.fixture
def setting():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = PatchModel(Noisy(), 5, num_classes=3, grid=2)
    images = torch.rand(6, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    model.train()
    model(images)  # batch norm has seen something
    rng = np.random.default_rng(0)
    rows = Rows(
        rng.integers(0, 6, 11).astype(np.int32), rng.random((11, 2, 2)) < 0.5, rng.integers(0, 6, 11).astype(np.int32)
    )
    return model, images, labels, rows


def test_losses_are_those_of_each_row_alone(setting):
    model, images, labels, rows = setting
    cells, wholes = probe(model, images, labels, rows, chunk=4)
    assert cells.shape == (11, 2, 2) and wholes.shape == (11,) and cells.dtype == wholes.dtype == np.float32
    model.eval()
    for r in range(11):
        own, partner = int(rows.image[r]), int(rows.partner[r])
        mask = torch.from_numpy(rows.masks[r])
        mixed = compose(images[[own, partner]], torch.stack([mask, mask]), torch.tensor([1, 0]))[:1]
        with torch.no_grad():
            image_logits, cell_logits = model(mixed)
        targets = torch.where(mask, labels[own], labels[partner])
        expected = -cell_logits[0].log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        np.testing.assert_allclose(cells[r], expected.numpy(), rtol=1e-4, atol=1e-5)
        share = float(mask.float().mean())
        log = image_logits[0].log_softmax(-1)
        np.testing.assert_allclose(
            wholes[r], -(share * log[labels[own]] + (1 - share) * log[labels[partner]]), rtol=1e-4
        )


def test_the_model_is_left_as_it_was(setting):
    model, images, labels, rows = setting
    model.backbone.drop.eval()  # modes may differ between modules
    nn.functional.cross_entropy(model(images)[0], labels).backward()
    state = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    random_state = torch.get_rng_state()

    probe(model, images, labels, rows)

    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for before, parameter in zip(gradients, model.parameters(), strict=True):
        assert (before is None and parameter.grad is None) or torch.equal(before, parameter.grad)
        assert parameter.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


def test_modes_return_even_after_an_error(setting):
    model, images, labels, rows = setting
    with pytest.raises(IndexError):
        probe(model, images, labels, rows._replace(image=rows.image + 100))
    assert model.training


def test_no_rows_is_an_answer(setting):
    model, images, labels, rows = setting
    cells, wholes = probe(model, images, labels, Rows(rows.image[:0], rows.masks[:0], rows.partner[:0]))
    assert cells.shape == (0, 2, 2) and wholes.shape == (0,)


def test_carried_losses_equal_a_full_evaluation_after_20_generations(setting):
    model, images, labels, _ = setting
    search = Search(6, 2, labels.numpy(), population=8, seed=3)
    asked = 0
    for _ in range(20):
        proposal = search.ask()
        asked += len(proposal.rows.image)
        search.tell(*probe(model, images, labels, proposal.rows, chunk=7))
    population = search.population
    everything = Rows(
        np.tile(np.arange(6, dtype=np.int32), 8), population.masks.reshape(-1, 2, 2), population.pairings.reshape(-1)
    )
    cells, wholes = probe(model, images, labels, everything)
    np.testing.assert_allclose(population.cell_losses.reshape(-1, 2, 2), cells, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(population.image_losses.reshape(-1), wholes, rtol=1e-4, atol=1e-5)
    assert asked < 20 * 8 * 6

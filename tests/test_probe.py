"""The probe: right losses, whatever the chunks, and a model left as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evo.search import Rows, Search
from training.compose import compose
from training.models.patch_model import PatchModel
from training.probe import INFLUENCE, RANDOM, check_independence, probe


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
    cells, wholes, *_ = probe(model, images, labels, rows, chunk=4)
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


def test_a_reference_sees_the_same_rows(setting):
    model, images, labels, rows = setting
    torch.manual_seed(7)
    reference = PatchModel(Noisy(), 5, num_classes=3, grid=2).eval()
    both = probe(model, images, labels, rows, reference=reference, chunk=4)
    live, other = probe(model, images, labels, rows, chunk=4), probe(reference, images, labels, rows, chunk=4)
    assert live.reference_cells is None and live.reference_images is None
    for given, expected in zip(both, (live.cells, live.images, other.cells, other.images), strict=True):
        np.testing.assert_array_equal(given, expected)
    assert not np.allclose(both.cells, both.reference_cells)


def test_the_model_is_left_as_it_was(setting):
    model, images, labels, rows = setting
    reference = copy.deepcopy(model).requires_grad_(False)
    models = (model, reference)
    model.backbone.drop.eval()  # modes may differ between modules
    nn.functional.cross_entropy(model(images)[0], labels).backward()
    states = copy.deepcopy([given.state_dict() for given in models])
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [[module.training for module in given.modules()] for given in models]
    torch.manual_seed(5)
    random_state = torch.get_rng_state()

    probe(model, images, labels, rows, reference=reference)
    check_independence(model, images)

    for given, state in zip(models, states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in given.state_dict().items())
    for before, parameter in zip(gradients, model.parameters(), strict=True):
        assert (before is None and parameter.grad is None) or torch.equal(before, parameter.grad)
        assert parameter.requires_grad
    assert [[module.training for module in given.modules()] for given in models] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("count", [0, 3, 4, 11])
def test_another_forward_gets_one_shape_only(setting, count, reference):
    """A compiled model: the last chunk is filled up, and what filled it is not in the answer."""
    model, images, labels, rows = setting
    rows = Rows(*(array[:count] for array in rows))
    other = copy.deepcopy(model).eval() if reference else None
    shapes = []

    def forward(inputs):
        shapes.append(tuple(inputs.shape))
        assert not model.training
        return model(inputs)

    given = probe(model, images, labels, rows, chunk=4, forward=forward, reference=other)
    assert shapes == [(4, 1, 8, 8)] * -(-count // 4)
    expected = probe(model, images, labels, rows, chunk=4, reference=other)
    for left, right in zip(given, expected, strict=True):
        assert (left is None and right is None) or left.shape == right.shape
        if left is not None:
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [None, False, True])
def test_the_memory_format_is_the_one_asked_for(setting, layout):
    model, images, labels, rows = setting
    images = images.repeat(1, 2, 1, 1)
    model.backbone.conv = nn.Conv2d(2, 5, 3, stride=2, padding=1)
    seen = []

    def forward(inputs):
        seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
        return model(inputs)

    given = probe(model, images, labels, rows, channels_last=layout, forward=forward)
    assert seen == [bool(layout)]
    np.testing.assert_allclose(given.cells, probe(model, images, labels, rows).cells, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_near_float32(setting):
    model, images, labels, rows = setting
    half = probe(model, images, labels, rows, autocast=torch.bfloat16)
    whole = probe(model, images, labels, rows)
    assert half.cells.dtype == np.float32 and not np.array_equal(half.cells, whole.cells)
    np.testing.assert_allclose(half.cells, whole.cells, atol=0.05)


def test_losses_that_are_not_finite_are_returned_as_they_are(setting):
    model, images, labels, rows = setting
    images[2] = torch.nan
    rows.masks[0], rows.image[0] = True, 2
    rows.masks[1], rows.image[1] = True, 3
    cells, wholes, *_ = probe(model, images, labels, rows)
    assert np.isnan(cells[0]).all() and np.isnan(wholes[0])
    assert np.isfinite(cells[1]).all() and np.isfinite(wholes[1])


class Blend(nn.Module):
    """Attention over the batch: no norm and no draw, but samples see each other."""

    def forward(self, x):
        return x + x.mean(0, keepdim=True)


def small(*after):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), *after, nn.ReLU())
    return PatchModel(backbone, 5, num_classes=3, grid=2)


class Always(nn.Dropout):
    """Dropout that evaluation mode does not reach, as F.dropout(x) without its `training`."""

    def forward(self, x):
        return nn.functional.dropout(x, self.p, training=True)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize(
    ("after", "seen"),
    [
        ([], None),
        ([nn.BatchNorm2d(5)], None),
        ([nn.GroupNorm(5, 5), nn.Dropout(0.9)], None),
        ([nn.BatchNorm2d(5, track_running_stats=False)], INFLUENCE),
        ([Blend()], INFLUENCE),
        ([Always(0.2)], RANDOM),
    ],
    ids=["plain", "batch norm", "group norm and dropout", "batch statistics", "blend", "dropout left on"],
)
def test_models_whose_samples_influence_each_other_are_told(after, seen, count, autocast):
    model = small(*after).train()
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    found = check_independence(model, images, lambda pixels: pixels / 127.5 - 1, autocast)
    assert found == seen
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_a_real_model_passes_the_check():
    from training.config import make_config
    from training.models.patch_model import build_model

    torch.manual_seed(0)
    model = build_model(make_config({}, ["model.width=16"]).model, (3, 32, 32), 10)
    images = torch.rand(32, 3, 32, 32)
    model.train()(images)
    for autocast in (None, torch.bfloat16):
        assert check_independence(model, images, None, autocast) is None


def test_modes_return_even_after_an_error(setting):
    model, images, labels, rows = setting
    with pytest.raises(IndexError):
        probe(model, images, labels, rows._replace(image=rows.image + 100))
    assert model.training


def test_no_rows_is_an_answer(setting):
    model, images, labels, rows = setting
    cells, wholes, *_ = probe(model, images, labels, Rows(rows.image[:0], rows.masks[:0], rows.partner[:0]))
    assert cells.shape == (0, 2, 2) and wholes.shape == (0,)


def test_carried_losses_equal_a_full_evaluation_after_20_generations(setting):
    model, images, labels, _ = setting
    search = Search(6, 2, labels.numpy(), population=8, objective="hard", sampler="bernoulli", seed=3)
    asked = 0
    for _ in range(20):
        proposal = search.ask()
        asked += len(proposal.rows.image)
        search.tell(*probe(model, images, labels, proposal.rows, chunk=7))
    population = search.population
    everything = Rows(
        np.tile(np.arange(6, dtype=np.int32), 8), population.masks.reshape(-1, 2, 2), population.pairings.reshape(-1)
    )
    cells, wholes, *_ = probe(model, images, labels, everything)
    np.testing.assert_allclose(population.cell_losses.reshape(-1, 2, 2), cells, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(population.image_losses.reshape(-1), wholes, rtol=1e-4, atol=1e-5)
    assert asked < 20 * 8 * 6


def test_a_model_that_draws_leaves_the_random_states_alone(setting):
    model, images, labels, rows = setting
    model.backbone.forward = lambda x: nn.functional.dropout(model.backbone.conv(x), 0.5, True)
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    probe(model, images, labels, rows)
    assert torch.equal(torch.get_rng_state(), expected)

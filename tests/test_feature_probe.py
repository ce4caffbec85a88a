"""Scores without a forward for each row: exact where the map is local, and a model left as it was."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evo.errors import UserError
from evo.objectives import OBJECTIVES, RELATIVE, RowLosses, parse_objectives
from evo.packed import Masks
from evo.search import Rows, Search
from training.distributed import World
from training.feature_probe import NUMBERS_AT_ONCE, FeatureProbe, place_weights, pool_weights
from training.models.patch_model import PatchModel
from training.probe import probe


def local_model(grid, stride, classes, channels=3, head="own", seed=0):
    """Each place of the map sees one pixel, and so one cell."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv2d(channels, 7, 1, stride=stride), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 6, 1))
    return PatchModel(backbone, 6, classes, grid, head)


def draw_rows(rng, count, batch, grid):
    return Rows(
        rng.integers(0, batch, count).astype(np.int32),
        rng.random((count, grid, grid)) < rng.random((count, 1, 1)),
        rng.integers(0, batch, count).astype(np.int32),
    )


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(2, 9),
    grid=st.integers(1, 5),
    stride=st.integers(1, 4),
    short=st.integers(0, 3),
    classes=st.integers(1, 12),
    head=st.sampled_from(["own", "shared"]),
    seed=st.integers(0, 2**16),
)
def test_a_local_map_gives_the_losses_of_the_composed_images(batch, grid, stride, short, classes, head, seed):
    side = grid * stride - min(short, stride - 1)  # of a side that no stride divides, the last place sees what is left
    model = local_model(grid, stride, classes, head=head, seed=seed)
    reference = local_model(grid, stride, classes, seed=seed + 1)
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(batch, 3, side, side)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, classes, batch))
    rows = draw_rows(rng, 23, batch, grid)
    exact = probe(model, images, labels, rows, reference=reference)
    estimate = FeatureProbe(model, images, labels, reference=reference)(rows)
    for found, expected in zip(estimate, exact, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in RELATIVE])
@pytest.mark.parametrize("grid", [2, 3])
def test_a_local_map_gives_the_scores_of_every_objective(objective, grid):
    """Of the map's own grid, and of one that divides it."""
    places = 6
    model, reference = (local_model(places, 1, 5, seed=seed) for seed in (1, 2))
    model.grid = reference.grid = grid
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.normal(size=(7, 3, places, places)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 5, 7))
    rows = draw_rows(rng, 40, 7, grid)
    (score,) = parse_objectives(objective)
    exact = score(row_losses(probe(model, images, labels, rows, reference=reference), rows, labels))
    estimate = score(row_losses(FeatureProbe(model, images, labels, reference=reference)(rows), rows, labels))
    np.testing.assert_allclose(estimate, exact, rtol=1e-4, atol=1e-5)
    assert exact.std() > 0.01  # else this shows nothing


def row_losses(losses, rows, labels):
    known = labels.numpy()
    of_genome = (None if part is None else part[None] for part in losses)
    cells, wholes, reference_cells, reference_wholes = of_genome
    partners = rows.partner[None]
    return RowLosses(
        cells, wholes, Masks.pack(rows.masks[None]), known[rows.image], known[partners], partners, reference_cells,
        reference_wholes, rows.image,
    )  # fmt: skip


def test_a_map_that_the_grid_does_not_divide_is_blended_where_a_place_lies_in_two_cells():
    """Places that are means over their pixels, 3 x 3 on 12 x 12, asked for a grid of 2: exact where these are alike."""
    torch.manual_seed(0)
    model = PatchModel(nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 6, 1)), 6, 4, grid=2)
    images = torch.randn(5, 3, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.tensor([0, 1, 2, 3, 0])
    rows = draw_rows(np.random.default_rng(0), 30, 5, 2)
    for found, expected in zip(
        FeatureProbe(model, images, labels)(rows)[:2], probe(model, images, labels, rows)[:2], strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_the_weights_of_places_are_shares(grid, rows, columns):
    weights = place_weights(grid, rows, columns)
    assert weights.shape == (rows * columns, grid * grid)
    torch.testing.assert_close(weights.sum(1), torch.ones(rows * columns))
    torch.testing.assert_close(weights.sum(0), torch.full((grid * grid,), rows * columns / grid**2))
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.rand(2, 3, rows, columns, generator=None), grid)
    assert pool_weights(grid, rows, columns).shape == (pooled.shape[2] * pooled.shape[3], rows * columns)


def test_the_pooling_of_places_is_torchs():
    maps = torch.rand(2, 3, 7, 5)
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, 4).flatten(2)
    torch.testing.assert_close(maps.flatten(2) @ pool_weights(4, 7, 5).T, pooled)


class Restless(nn.Module):
    """A backbone with everything a careless probe would disturb."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6), nn.Dropout(0.5))

    def forward(self, images):
        return self.layers(images)


def restless():
    torch.manual_seed(4)
    model = PatchModel(Restless(), 6, 5, grid=2).train()
    images = torch.randn(9, 3, 8, 8)
    model(images)
    return model, images, torch.arange(9) % 5, draw_rows(np.random.default_rng(1), 20, 9, 2)


def test_the_models_are_left_as_they_were():
    model, images, labels, rows = restless()
    reference = copy.deepcopy(model)
    reference.backbone.layers[2].eval()
    before = [copy.deepcopy(one.state_dict()) for one in (model, reference)]
    modes = [[module.training for module in one.modules()] for one in (model, reference)]
    draws = torch.get_rng_state()
    FeatureProbe(model, images, labels, reference=reference)(rows)
    for one, state, mode in zip((model, reference), before, modes, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
        assert [module.training for module in one.modules()] == mode
        assert all(parameter.grad is None for parameter in one.parameters())
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize("change", ["step", "load", "buffer"])
def test_maps_are_dropped_when_weights_change(change):
    model, images, labels, rows = restless()
    estimate = FeatureProbe(model, images, labels)
    first = estimate(rows)
    assert estimate.forwards == 9
    np.testing.assert_array_equal(estimate(rows).cells, first.cells)
    assert estimate.forwards == 9  # the maps are kept
    if change == "step":
        model(images)[0].sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    elif change == "load":
        model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    else:
        model(images + 3)  # batch statistics
    second = estimate(rows)
    assert estimate.forwards == 18 and not np.allclose(second.images, first.images)
    np.testing.assert_array_equal(second.images, FeatureProbe(model, images, labels)(rows).images)


def test_what_a_search_finds_does_not_depend_on_how_much_is_held_at_once(monkeypatch):
    model, images, labels, rows = restless()
    whole = FeatureProbe(model, images, labels, chunk=100)(rows)
    monkeypatch.setattr("training.feature_probe.NUMBERS_AT_ONCE", 50)
    parts = FeatureProbe(model, images, labels, chunk=2)(rows)
    for found, expected in zip(parts[:2], whole[:2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_memory_is_bounded_with_a_thousand_classes_and_images(monkeypatch):
    """Rows gather no more numbers at a time than are allowed: 8 genomes would be 8,192 x 4 x 1,000."""
    torch.manual_seed(0)
    model = PatchModel(nn.Conv2d(3, 4, 4, stride=4), 4, 1000, grid=2)
    images, labels = torch.randn(1024, 3, 8, 8), torch.arange(1024) % 1000
    largest = []
    gather = torch.Tensor.index_select

    def counted(self, dim, index):
        found = gather(self, dim, index)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "index_select", counted)
    rows = draw_rows(np.random.default_rng(0), 2048, 1024, 2)
    found = FeatureProbe(model, images, labels)(rows)
    assert np.isfinite(found.images).all() and len(largest) > 4
    assert max(largest) <= NUMBERS_AT_ONCE


def test_a_search_by_estimates_finds_what_it_should_for_one_forward_an_image():
    model, images, labels, _ = restless()
    estimate = FeatureProbe(model, images, labels)
    search = Search(9, 2, labels.numpy(), objective="image_hard", population=8, generations=12, seed=0)
    search.run(lambda rows: estimate(rows))
    assert estimate.forwards == 9 < search.forwards
    elite = search.elites(1)
    rows = Rows(np.arange(9, dtype=np.int32), elite.masks[0], elite.pairings[0])
    exact = probe(model, images, labels, rows)
    score = OBJECTIVES["image_hard"](row_losses(exact, rows, labels)).mean()
    assert score == pytest.approx(float(elite.fitness[0]), abs=1e-4)  # the map is local but for no padding


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "Sequential has no feature map with a linear head"),
        (
            "mlp",
            "the image_head of PatchModel is a Sequential, and scores are estimated from a feature map through linear",
        ),
    ],
)
def test_a_network_without_a_map_or_with_other_heads_gets_one_line(model, said):
    if model == "mlp":
        model, *_ = restless()
        model.image_head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))
    with pytest.raises(UserError, match=said) as refused:
        FeatureProbe(model, torch.randn(4, 3, 8, 8), torch.arange(4))
    assert "search.compose_at=pixels" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_share_images_rows_and_masks(size):
    """The parts of all ranks, put together, are what one process has."""
    model, images, labels, rows = restless()
    (objective,) = parse_objectives("hard+image_hard")
    masks = np.random.default_rng(0).random((7, 2, 2)) < 0.5

    def answers(world):
        """What is gathered, in order: image logits, cell logits, then losses."""
        probe = FeatureProbe(model, images, labels, world=world)
        return probe(rows), probe.score_pairs(objective, np.arange(9), masks)

    whole = Recording()
    expected = answers(whole)
    ranks = [Recording(rank, size, gathered=whole.gathered) for rank in range(size)]
    for rank in ranks:
        found = answers(rank)  # from what all ranks have gathered
        np.testing.assert_array_equal(found[0].cells, expected[0].cells)
        np.testing.assert_array_equal(found[1], expected[1])
    for number, together in enumerate(whole.gathered):
        parts = torch.cat([rank.given[number] for rank in ranks])
        torch.testing.assert_close(parts, together, rtol=1e-4, atol=1e-5)


class Recording(World):
    """One of several processes. gathered: what they have together, which a lone one writes down."""

    def __init__(self, rank=0, size=1, gathered=None):
        super().__init__(rank, size)
        object.__setattr__(self, "given", [])
        object.__setattr__(self, "gathered", [] if gathered is None else gathered)

    def gather(self, part, count):
        if self.size == 1:
            self.gathered.append(part)
        assert len(part) == len(range(count)[self.share(count)])
        self.given.append(part)
        return self.gathered[len(self.given) - 1]

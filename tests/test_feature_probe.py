"""Scores without a forward for each row: exact where the map is local, and a model left as it was."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evo.search import Rows
from training.feature_probe import FeatureProbe
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

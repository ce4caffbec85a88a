"""Every backbone of the shelf under its contract, and the heads on it."""

import pytest
import torch

from training.config import ModelOptions, UserError
from training.models import MODELS
from training.models.patch_model import PatchModel, build_model, feature_shape
from training.shelf import open_entry

SIZES = {"resnet50": (3, 64, 64)}


@pytest.mark.parametrize("name", MODELS)
def test_backbones_keep_their_contract(name):
    shape = SIZES.get(name, (3, 32, 32))
    backbone = open_entry(MODELS, name, "model")(shape[0], shape[1:], None)
    depth, rows, columns = feature_shape(backbone, shape)
    assert backbone.training
    model = PatchModel(backbone, depth, 7, grid=min(rows, columns)).eval()
    with torch.no_grad():
        image_logits, cell_logits = model(torch.rand(2, *shape))
    assert image_logits.shape == (2, 7) and cell_logits.shape == (2, rows, columns, 7)
    assert model.features(torch.rand(2, *shape)).shape == (2, depth)


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "side"),
    [
        ("resnet18", (3, 32, 32), 11_168_832, 4),  # 11,173,962 with its classifier of 10 classes
        ("preactresnet18", (3, 32, 32), 11_167_040, 4),  # 11,172,170 with it (no batch norm in the stem)
        ("resnet50", (3, 224, 224), 23_508_032, 7),  # 25,557,032 with its classifier of 1,000 classes
        ("resnet-small", (1, 8, 8), None, 4),
        ("resnet-small", (3, 32, 32), None, 8),
    ],
)
def test_sizes_are_the_known_ones(name, shape, parameters, side):
    backbone = open_entry(MODELS, name, "model")(shape[0], shape[1:], None)
    if parameters is not None:
        assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert feature_shape(backbone, shape)[1:] == (side, side)


def test_the_grid_defaults_to_the_map_and_a_smaller_one_is_pooled():
    options = ModelOptions(name="resnet-small", width=8)
    assert build_model(options, (3, 32, 32), 10).grid == 8
    model = build_model(ModelOptions(name="resnet-small", width=8, grid=3), (3, 32, 32), 10).eval()
    assert model(torch.rand(1, 3, 32, 32))[1].shape == (1, 3, 3, 10)


def test_a_cell_sees_its_own_place():
    torch.manual_seed(0)
    model = build_model(ModelOptions(name="resnet-small", width=8, grid=4), (1, 32, 32), 10).eval()
    images = torch.rand(1, 1, 32, 32)
    changed = images.clone()
    changed[:, :, :4, :4] += 1
    with torch.no_grad():
        moved = (model(images)[1] - model(changed)[1]).abs().sum(-1)[0]
    assert moved[0, 0] == moved.max() > 0 and moved[3, 3] < 1e-3 * moved[0, 0]


def test_a_grid_larger_than_the_map_names_the_largest():
    with pytest.raises(UserError, match="model.grid=5 is larger .* 4x4; the largest grid that fits is 4"):
        build_model(ModelOptions(name="resnet18", width=8, grid=5), (3, 32, 32), 10)


def test_resnet50_refuses_grey_images():
    with pytest.raises(UserError, match="3 channels"):
        build_model(ModelOptions(name="resnet50"), (1, 64, 64), 10)

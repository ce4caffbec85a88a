"""Scores of rows that are composed behind a stage of the network: exact where maps are local, and cut only where one can."""

import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evo.errors import UserError
from evo.search import Rows
from tests.conftest import TINY
from tests.test_feature_probe import draw_rows
from training.config import load_config
from training.distributed import World
from training.feature_probe import FeatureProbe
from training.models.patch_model import PatchModel, build_model
from training.models.scaling import Prepare, Rescaled
from training.models.stages import cut_backbone
from training.options import ModelOptions, describe_options
from training.probe import probe
from training.stage_probe import StageProbe
from training.train import train

CLASSES = 5


def local_model(grid, strides, classes, head="own", seed=0):
    """Each place of each map sees one pixel, and so one cell."""
    torch.manual_seed(seed)
    layers, width = [], 3
    for stage, stride in enumerate(strides):
        layers += [nn.Conv2d(width, 6 + stage, 1, stride=stride), nn.BatchNorm2d(6 + stage), nn.ReLU()]
        width = 6 + stage
    return PatchModel(nn.Sequential(*layers), width, classes, grid, head)


def draw_batch(shape=(3, 32, 32), batch=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), torch.arange(batch) % CLASSES


def real_model(name, width=None, grid=None, seed=0):
    torch.manual_seed(seed)
    return build_model(ModelOptions(name=name, width=width, grid=grid), (3, 32, 32), CLASSES).eval()


def assert_same(found, expected, rtol=1e-3, atol=1e-4):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@settings(max_examples=40)
@given(
    batch=st.integers(2, 7),
    grid=st.integers(1, 4),
    strides=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    head=st.sampled_from(["own", "shared"]),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 2**16),
)
def test_maps_that_are_local_give_the_losses_of_the_composed_images_at_every_depth(
    batch, grid, strides, head, chunk, seed
):
    side = grid * int(np.prod(strides))
    model, reference = (local_model(grid, strides, CLASSES, head, seed + more) for more in (0, 1))
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(batch, 3, side, side)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, CLASSES, batch))
    rows = draw_rows(rng, 19, batch, grid)
    exact = probe(model, images, labels, rows, reference=reference)
    for depth in range(1, len(strides)):
        estimate = StageProbe(model, images, labels, depth, reference=reference, chunk=chunk)(rows)
        assert_same(estimate, exact, rtol=1e-4, atol=1e-5)


def test_a_real_network_is_estimated_better_the_earlier_its_maps_are_composed():
    model = real_model("resnet-mini", seed=1)
    images, labels = draw_batch(batch=16)
    rows = draw_rows(np.random.default_rng(0), 200, 16, 4)
    exact = probe(model, images, labels, rows)
    estimates = [StageProbe(model, images, labels, depth)(rows) for depth in (1, 2)]
    estimates.append(FeatureProbe(model, images, labels)(rows))
    assert all(np.isfinite(estimate.images).all() and np.isfinite(estimate.cells).all() for estimate in estimates)
    assert all(np.corrcoef(estimate.images, exact.images)[0, 1] > 0.8 for estimate in estimates)
    errors = [np.abs(estimate.cells - exact.cells).mean() for estimate in estimates]
    assert 0 < errors[0] < errors[1] < errors[2]


NETWORKS = {
    "resnet-mini": (None, [(32, 16, 16), (64, 8, 8)]),
    "resnet-small": (8, [(8, 32, 32), (16, 16, 16)]),
    "resnet18": (4, [(4, 32, 32), (8, 16, 16), (16, 8, 8)]),
    "preactresnet18": (4, [(4, 32, 32), (8, 16, 16), (16, 8, 8)]),
    "wrn-16-8": (4, [(4, 32, 32), (8, 16, 16)]),
    "timm:test_convnext": (None, [(24, 8, 8)]),
    "timm:test_resnet": (None, [(32, 8, 8)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_ends_where_the_map_changes_and_whole_images_stay_exact(name):
    """A row that keeps all cells, or none, is a whole image: whatever the network and the depth, it is exact."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    width, shapes = NETWORKS[name]
    model = real_model(name, width)
    check_whole_images(model, len(shapes))
    maps = [cut_backbone(model.backbone, depth + 1, (3, 32, 32)).first(draw_batch()[0]) for depth in range(len(shapes))]
    assert [tuple(one.shape[1:]) for one in maps] == shapes
    with pytest.raises(UserError, match=rf"search.compose_at={len(shapes) + 1}: {name} can be composed behind stage"):
        cut_backbone(model.backbone, len(shapes) + 1, (3, 32, 32), name)


def check_whole_images(model, depths, shape=(3, 32, 32)):
    images, labels = draw_batch(shape)
    order = np.arange(8, dtype=np.int32)
    masks = np.zeros((16, model.grid, model.grid), bool)
    masks[:8] = True
    rows = Rows(np.tile(order, 2), masks, np.concatenate([order[::-1], order[::-1]]))
    exact = probe(model, images, labels, rows)
    for depth in range(1, depths + 1):
        assert_same(StageProbe(model, images, labels, depth)(rows), exact)


@pytest.mark.parametrize("classes", ["token", "reg4", "avg"])
def test_of_timms_transformers_each_block_is_a_stage(classes):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"token": {}, "reg4": {"reg_tokens": 4}, "avg": {"class_token": False, "global_pool": "avg"}}[classes]
    network = timm.models.VisionTransformer(32, 8, embed_dim=24, depth=3, num_heads=2, num_classes=0, **options)
    model = PatchModel.wrap(network, CLASSES, shape=(3, 32, 32)).eval()
    assert model.grid == 4
    check_whole_images(model, 2)
    with pytest.raises(UserError, match="behind stages 1 to 2; take one of them, or search.compose_at=pixels"):
        StageProbe(model, *draw_batch(), 3)


def test_torchvisions_networks_are_cut_too():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    transformer = models.VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32)
    for network, depths, side in ((models.shufflenet_v2_x0_5(), 3, 64), (transformer, 2, 32)):
        model = PatchModel.wrap(network, CLASSES, shape=(3, side, side)).eval()
        check_whole_images(model, depths, (3, side, side))
        with pytest.raises(UserError, match=f"stages 1 to {depths}; take one of them"):
            cut_backbone(model.backbone, depths + 1, (3, side, side))


class Residual(nn.Module):
    """No sequence of its layers: what goes in is added to what comes out."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, images):
        return self.two(self.one(images)) + images


def test_a_network_that_is_no_sequence_is_refused_in_one_line():
    model = PatchModel(Residual(), 3, CLASSES, 4)
    with pytest.raises(UserError) as caught:
        StageProbe(model, *draw_batch(), 1)
    line = (
        "search.compose_at=1: this network has no stages to compose behind; take search.compose_at=pixels (exact) or "
    )
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"Residual has no backbone .*; wrap the network in PatchModel.wrap"):
        StageProbe(Residual(), *draw_batch(), 1)


def test_maps_are_of_the_present_weights():
    model = real_model("resnet-mini")
    images, labels = draw_batch()
    rows = draw_rows(np.random.default_rng(0), 20, 8, 4)
    scores = StageProbe(model, images, labels, 1)
    before, maps = scores(rows), scores.maps[0]
    assert scores(rows).images.tolist() == before.images.tolist() and scores.maps[0] is maps
    with torch.no_grad():
        model.backbone[0].weight.mul_(1.5)
    assert_same(scores(rows), StageProbe(model, images, labels, 1)(rows), rtol=0, atol=1e-6)
    assert scores.maps[0] is not maps and np.abs(scores(rows).images - before.images).max() > 1e-3


def test_work_is_counted_in_whole_forwards():
    model = real_model("resnet-mini")
    images, labels = draw_batch()
    share = cut_backbone(model.backbone, 1, (3, 32, 32)).share
    assert 0.2 < share < 0.6
    for reference, models in ((None, 1), (copy.deepcopy(model), 2)):
        scores = StageProbe(model, images, labels, 1, reference=reference)
        for count in (100, 50):
            scores(draw_rows(np.random.default_rng(0), count, 8, 4))
        assert scores.forwards == round(models * (8 * share + 150 * (1 - share)))


def test_models_are_as_before():
    model, reference = (real_model("resnet-mini", seed=seed).train() for seed in (0, 1))
    model.backbone[1].eval()
    images, labels = draw_batch()
    states = [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (model, reference)]
    modes = [[module.training for module in one.modules()] for one in (model, reference)]
    random = torch.get_rng_state()
    StageProbe(model, images, labels, 2, reference=reference)(draw_rows(np.random.default_rng(0), 20, 8, 4))
    assert torch.equal(torch.get_rng_state(), random)
    for one, state, mode in zip((model, reference), states, modes, strict=True):
        assert [module.training for module in one.modules()] == mode
        assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
        assert all(parameter.grad is None for parameter in one.parameters())


def test_a_reference_of_other_scaling_gets_its_own_input():
    model, other = local_model(2, (2, 2), CLASSES), local_model(2, (2, 2), CLASSES, seed=1)
    own, given_to = (
        Prepare(torch.full((3,), mean), torch.full((3,), std), torch.device("cpu")) for mean, std in ((0.2, 2), (0, 1))
    )
    reference = Rescaled(other, own, given_to).eval()
    images, labels = draw_batch((3, 8, 8))
    rows = draw_rows(np.random.default_rng(0), 20, 8, 2)
    found = StageProbe(model, images, labels, 1, reference=reference)(rows)
    assert_same(found, probe(model, images, labels, rows, reference=reference), rtol=1e-4, atol=1e-5)


class Half(World):
    """One of two processes, which are threads here."""

    def __init__(self, rank, parts, barrier):
        super().__init__(rank, 2)
        object.__setattr__(self, "meeting", (parts, barrier))

    def gather(self, part, count):
        parts, barrier = self.meeting
        parts[self.rank] = part
        barrier.wait(60)
        whole = torch.cat([parts[0], parts[1]])
        barrier.wait(60)
        assert len(whole) == count
        return whole


def test_two_processes_find_what_one_does():
    model, reference = (real_model("resnet-mini", seed=seed) for seed in (0, 1))
    images, labels = draw_batch(batch=7)
    rows = draw_rows(np.random.default_rng(0), 33, 7, 4)
    alone = StageProbe(model, images, labels, 1, reference=reference)
    expected = alone(rows)
    parts, barrier, found = {}, threading.Barrier(2), {}

    def work(rank):
        models = copy.deepcopy(model), copy.deepcopy(reference)
        scores = StageProbe(models[0], images, labels, 1, reference=models[1], world=Half(rank, parts, barrier))
        found[rank] = scores(rows), scores.forwards

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in (0, 1):
        assert_same(found[rank][0], expected)
        assert found[rank][1] == alone.forwards


# --- the option


@pytest.mark.parametrize("mix", ["evolved", "best-of-k"])
def test_training_and_its_search_compose_behind_a_stage(mix, tmp_path):
    options = [
        *TINY,
        f"mix.name={mix}",
        "train.epochs=1",
        "search.start_epoch=1",
        "search.every=1",
        "mix.probability=1",
    ]
    spent = [
        train(load_config("digits", [*options, f"search.compose_at={depth}"]), tmp_path / f"{depth}")["search_forwards"]
        for depth in ("features", 1, "pixels")
    ]
    assert spent[0] < spent[1] < spent[2]


def test_a_depth_that_the_network_has_not_is_refused_before_training(tmp_path):
    config = load_config("digits", [*TINY, "search.compose_at=7", "search.start_epoch=2", "train.epochs=2"])
    with pytest.raises(
        UserError, match=r"search.compose_at=7: resnet-\w+ can be composed behind stages? 1.* or features"
    ):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "null", "pixel", "'2'", "[1]"])
def test_what_is_no_depth_is_refused_with_what_is_one(value):
    with pytest.raises(UserError, match="search.compose_at: expected auto, pixels, features, or the number of a stage"):
        load_config("digits", [f"search.compose_at={value}"])


def test_depths_are_read_and_described():
    for value in ("auto", "pixels", "features", 1, 12):
        assert load_config("digits", [f"search.compose_at={value}"]).search.compose_at == value
    (line,) = (line for line in describe_options().splitlines() if line.startswith("search.compose_at "))
    assert line.endswith("(auto | pixels | features, or integer, >= 1)")

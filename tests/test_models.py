"""Every backbone of the registry under its contract, torchvision's and timm's as backbones, and the heads on them."""

import json
import sys

import pytest
import torch
from torch import nn

from evo.errors import UserError
from tests.conftest import TINY
from training.config import load_config, make_config
from training.devices import memory_format_of
from training.models.patch_model import PatchModel, build_model, feature_shape
from training.models.reference import load_reference
from training.models.torchvision_models import load_in_order, load_published, without_classifier
from training.models.trained import load_trained
from training.options import ModelOptions
from training.recipe import RECIPES
from training.registry import MODELS, load_entry
from training.run import set_up
from training.train import train

CPU = torch.device("cpu")


def backbone_of(name, shape, width=None):
    return load_entry(MODELS, name, "model")(shape[0], shape[1:], width)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def unmoved(model, shape):
    """Names of parameters that a loss of both heads gives no gradient, where one is expected."""
    image_logits, cell_logits = model(torch.rand(2, *shape))
    (image_logits.square().sum() + cell_logits.square().sum()).backward()
    return [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, (3, 32, 32)) for name in MODELS), ("resnet18", (1, 96, 80)), ("resnext50", (3, 96, 96))],
)
def test_backbones_keep_their_contract(name, shape):
    backbone = backbone_of(name, shape)
    depth, rows, columns = feature_shape(backbone, shape)
    assert backbone.training
    model = PatchModel(backbone, depth, 7, grid=min(rows, columns))
    assert unmoved(model, shape) == [] and all(weight.requires_grad for weight in model.parameters())
    with torch.no_grad():
        image_logits, cell_logits = model.eval()(torch.rand(2, *shape))
    assert image_logits.shape == (2, 7) and cell_logits.shape == (2, model.grid, model.grid, 7)
    assert model.features(torch.rand(2, *shape)).shape == (2, depth)


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "classes", "side"),
    [  # with one classifier, as published
        ("resnet18", (3, 32, 32), 11_173_962, 10, 4),
        ("preactresnet18", (3, 32, 32), 11_171_146 + 1_024, 10, 4),  # the count without the BN of the last map
        ("wrn-28-10", (3, 32, 32), 36_479_194, 10, 8),
        ("wrn-16-8", (3, 32, 32), 10_961_370, 10, 8),
        ("resnet50", (3, 32, 32), 23_520_842, 10, 4),
        ("resnext50", (3, 32, 32), 23_177_124, 100, 4),  # 25,028,904 less the larger stem and 900 classes
        ("resnet18", (3, 224, 224), 11_689_512, 1000, 7),
        ("resnet50", (3, 224, 224), 25_557_032, 1000, 7),
        ("resnext50", (3, 224, 224), 25_028_904, 1000, 7),
        ("resnet18", (3, 64, 64), 11_173_962, 10, 8),
        ("resnet-small", (1, 8, 8), None, 10, 4),
        ("resnet-small", (3, 32, 32), None, 10, 8),
    ],
)
def test_sizes_are_the_known_ones(name, shape, parameters, classes, side):
    backbone = backbone_of(name, shape)
    depth, *sides = feature_shape(backbone, shape)
    assert sides == [side, side]
    if parameters is not None:
        assert count(backbone) + (depth + 1) * classes == parameters
        assert count(PatchModel(backbone, depth, classes, 4)) == parameters + (depth + 1) * classes


def test_widths_are_taken_or_refused():
    assert feature_shape(backbone_of("wrn-16-8", (3, 32, 32), 8), (3, 32, 32)) == (32, 8, 8)
    for name in ("resnet50", "resnext50"):
        with pytest.raises(UserError, match=f"model.width=32: {name} has one width"):
            build_model(ModelOptions(name=name, width=32), (3, 32, 32), 10)


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


# --- torchvision


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvisions_weights_fit_our_layers(name):
    import torchvision

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=3)
    ours = backbone_of(name.removesuffix("_32x4d"), (3, 96, 96))
    state = [tensor for key, tensor in theirs.state_dict().items() if not key.startswith("fc.")]
    load_in_order(ours, state)
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), without_classifier(theirs.eval())(images))
    with pytest.raises(UserError, match="published weights are for images of 3 channels and more than 64 pixels"):
        load_in_order(backbone_of(name.removesuffix("_32x4d"), (3, 32, 32)), state)


def test_models_without_published_weights_say_so():
    with pytest.raises(UserError, match="no weights are published for wrn-16-8; take one of resnet18"):
        build_model(ModelOptions(name="wrn-16-8", width=8, pretrained=True), (3, 32, 32), 10)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"resnet18's weights could not be fetched \(no route\)"):
        load_published(backbone_of("resnet18", (3, 96, 96)), "resnet18")


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("resnet18", "fc"), ("regnet_y_400mf", "fc"), ("shufflenet_v2_x0_5", "fc"), ("mobilenet_v2", "classifier"),
        ("mobilenet_v3_small", "classifier"), ("efficientnet_b0", "classifier"), ("convnext_tiny", "classifier"),
        ("densenet121", "classifier"), ("swin_t", "head"), ("mnasnet0_5", "classifier"),
    ],
)  # fmt: skip
def test_any_torchvision_network_is_wrapped(name, classifier):
    """Its map is what its own classifier saw the mean of."""
    import torchvision

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None, num_classes=2).eval()
    seen = []
    getattr(network, classifier).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(1)))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        network(images)
        model = PatchModel.wrap(network, 7, 2, (3, 64, 64))
        torch.testing.assert_close(model.features(images), seen[0], rtol=1e-4, atol=1e-5)
    assert not model.training and model.grid == 2
    assert unmoved(model.train(), (3, 64, 64)) == []


def test_torchvisions_transformer_is_wrapped():
    import torchvision

    network = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    seen = []
    network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model = PatchModel.wrap(network, 5, shape=(3, 32, 32)).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(2, 3, 32, 32))
    assert model.grid == 4 and torch.equal(features[:, :, 1, 2], seen[-1][:, 1 + 1 * 4 + 2])
    assert unmoved(model, (3, 32, 32)) == []


def test_wrap_takes_any_map_and_refuses_what_is_none():
    model = PatchModel.wrap(nn.Conv2d(1, 6, 3, stride=2, padding=1), 5, shape=(1, 9, 8))
    assert model.grid == 4 and model(torch.rand(2, 1, 9, 8))[1].shape == (2, 4, 4, 5)
    with pytest.raises(ValueError, match="expected a grid of 1 to 4, the map being 5x4, got 5"):
        PatchModel.wrap(nn.Conv2d(1, 6, 3, stride=2, padding=1), 5, 5, (1, 9, 8))
    with pytest.raises(
        ValueError, match=r"expected Sequential to return a feature map \(B,D,h,w\), got shape \(1, 3\)"
    ):
        PatchModel.wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 5, 4, (1, 4, 4))


# --- heads


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_a_shared_head_classifies_cells_by_the_images_layer(grid):
    options = ModelOptions(name="resnet-small", width=8, grid=grid)
    torch.manual_seed(0)
    own = build_model(options, (1, 8, 8), 5)
    torch.manual_seed(0)
    shared = build_model(options.model_copy(update={"head": "shared"}), (1, 8, 8), 5).eval()
    others = {name: tensor for name, tensor in own.state_dict().items() if not name.startswith("cell_head.")}
    assert others.keys() == shared.state_dict().keys()  # runs of one seed begin with the same weights
    assert all(torch.equal(tensor, others[name]) for name, tensor in shared.state_dict().items())
    images = torch.rand(3, 1, 8, 8)
    image_logits, cell_logits = shared(images)
    assert cell_logits.shape == (3, grid, grid, 5)
    torch.testing.assert_close(cell_logits.mean((1, 2)), image_logits)  # the mean of linear maps
    assert not torch.allclose(own.eval()(images)[1].mean((1, 2)), image_logits, atol=0.01)
    assert unmoved(shared, (1, 8, 8)) == []


def test_heads_by_constructor_and_wrap():
    network = nn.Conv2d(1, 6, 3, stride=2, padding=1)
    for made in (PatchModel.wrap(network, 5, shape=(1, 8, 8), head="shared"), PatchModel(network, 6, 5, 4, "shared")):
        assert made.cell_head is None and made(torch.rand(2, 1, 8, 8))[1].shape == (2, 4, 4, 5)
    assert PatchModel.wrap(network, 5, shape=(1, 8, 8)).cell_head is not None
    with pytest.raises(ValueError, match="expected head own or shared, got 'both'"):
        PatchModel(network, 6, 5, 4, "both")


@pytest.fixture(scope="module")
def runs_of_either_head(tmp_path_factory):
    """Tiny runs without a patch loss, by head; and their configs."""
    folder, configs = tmp_path_factory.mktemp("heads"), {}
    for head in ("own", "shared"):
        configs[head] = load_config("digits", [*TINY, "mix.name=plain", "train.epochs=1", f"model.head={head}"])
        train(configs[head], folder / head)
    return folder, configs


def test_the_head_is_part_of_a_checkpoint(runs_of_either_head):
    folder, configs = runs_of_either_head
    for head, other in (("own", "shared"), ("shared", "own")):
        model = load_trained(configs[head], folder / head, CPU).model
        assert (model.cell_head is None) == (head == "shared")
        with pytest.raises(UserError, match="the checkpoint is of another model: .*cell_head") as caught:
            load_trained(configs[other], folder / head, CPU)
        assert "\n" not in str(caught.value)
    sections = json.loads((folder / "own" / "config.json").read_text())
    del sections["schema"], sections["id"], sections["model"]["head"]  # as older runs have it
    assert make_config(sections).model.head == "own"


def test_nothing_of_a_shared_head_is_frozen(runs_of_either_head, tmp_path):
    folder, configs = runs_of_either_head
    model = set_up(configs["shared"], tmp_path / "run").model
    assert all(parameter.requires_grad for parameter in model.parameters())
    trained = load_trained(configs["shared"], folder / "shared", CPU).model
    assert not torch.equal(trained.image_head.weight, model.image_head.weight)


def test_a_reference_may_have_the_other_head_where_its_cells_are_trained(runs_of_either_head):
    """Only logits are compared."""
    folder, configs = runs_of_either_head

    def reference(live, other, objective):
        options = [f"search.objective={objective}", f"search.reference={folder / other}"]
        compared = load_config("digits", [*TINY, f"model.head={live}", *options])
        return load_reference(compared, load_trained(configs[live], folder / live, CPU), None)

    for live, other in (("own", "shared"), ("shared", "own")):
        assert (reference(live, other, "image_reducible").cell_head is None) == (other == "shared")
    assert reference("own", "shared", "reducible") is not None
    with pytest.raises(
        UserError, match="its cells are untrained .*; take a run with a patch loss or model.head=shared"
    ):
        reference("shared", "own", "reducible")


# --- timm


@pytest.mark.parametrize(
    ("name", "shape", "grid", "expected"),
    [
        ("resnet18", (3, 32, 32), None, (128, 4)),
        ("resnet18", (1, 32, 32), 8, (64, 8)),
        ("resnet18", (3, 32, 32), 1, (512, 1)),
        ("resnet18.a1_in1k", (3, 128, 128), None, (512, 4)),
        ("convnext_atto", (3, 64, 64), None, (160, 4)),
        ("mobilenetv3_small_050", (3, 64, 64), 2, (288, 2)),
        ("efficientnet_b0", (3, 32, 32), 4, (40, 4)),
        ("vit_tiny_patch16_224", (3, 64, 64), None, (192, 4)),
        ("vit_tiny_patch16_224", (3, 32, 32), None, (192, 2)),
        ("swin_tiny_patch4_window7_224", (3, 64, 64), 8, (192, 8)),
        ("hrnet_w18_small", (3, 64, 64), None, (512, 4)),  # some of its layers end outside the map
    ],
)
def test_any_timm_network_is_cut_where_its_map_holds_the_grid(name, shape, grid, expected):
    pytest.importorskip("timm")
    model = build_model(ModelOptions(name=f"timm:{name}", grid=grid), shape, 5)
    depth, side = expected
    assert feature_shape(model.backbone, shape) == (depth, side, side) and model.grid == (grid or side)
    assert model.training and unmoved(model, shape) == []
    trained = sum(weight.numel() for weight in model.backbone.parameters() if weight.requires_grad)
    assert trained == count(model.backbone) or "hrnet" in name


def test_a_timm_networks_last_map_is_its_own():
    timm = pytest.importorskip("timm")
    images = torch.rand(2, 3, 32, 32)
    for name in ("resnet18", "vit_tiny_patch16_224"):
        network = timm.create_model(name, **({"img_size": 32} if "vit" in name else {})).eval()
        with torch.no_grad():
            expected = network.forward_features(images)
            last = PatchModel.wrap(network, 5, 1, (3, 32, 32)).backbone(images)
        if "vit" in name:
            expected = expected[:, 1:].transpose(1, 2).unflatten(2, (2, 2))  # without the class token
        torch.testing.assert_close(last, expected)


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({"name": "timm:resnet19"}, (3, 32, 32), "timm .* has no such network; did you mean .*resnet18"),
        ({"name": "timm:resnet18", "width": 8}, (3, 32, 32), "timm:resnet18 has one width; leave it out"),
        (
            {"name": "timm:vit_tiny_patch16_224"},
            (3, 8, 8),
            "timm:vit_tiny_patch16_224: .*; take another network or size",
        ),
        (
            {"name": "timm:resnet18", "grid": 20},
            (3, 32, 32),
            "model.grid=20 is larger .*; the largest grid that fits is 16",
        ),
        ({"name": "timm:resnet18.nobody"}, (3, 32, 32), "cannot be made for images of 3x32x32 .*nobody"),
    ],
)
def test_what_timm_cannot_make_is_one_line(options, shape, words):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=words) as caught:
        build_model(ModelOptions(**options), shape, 5)
    assert "\n" not in str(caught.value)


def test_a_missing_timm_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="timm is not installed; install it with"):
        build_model(ModelOptions(name="timm:resnet18"), (3, 32, 32), 5)


# --- recipes

DATA = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny-imagenet": ((3, 64, 64), 200),
    "folder": ((3, 224, 224), 1000),
}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_builds(name):
    config = load_config(name)
    shape, classes = DATA[config.data.name]
    model = build_model(config.model, shape, classes)
    assert config.model.grid in (None, model.grid)
    head = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[:4]
    for line, start in zip(
        head, ("# ", f"# Command:  ./run train {name}", "# Duration: ", "# Expect:   "), strict=True
    ):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("name", "width", "last"), [("resnet-small", 4, False), ("preactresnet18", 7, False), ("resnet18", 8, True)]
)
def test_narrow_networks_train_in_a_format_that_does_no_harm(name, width, last, tmp_path):
    """In channels-last format torch 2.15 damages memory in the gradients of so few channels, and the process dies."""
    options = [*TINY, f"model.name={name}", f"model.width={width}", "model.grid=1", "mix.name=plain", "train.epochs=1"]
    config = load_config("digits", options)
    model = set_up(config, tmp_path / "run").model
    weights = [p for p in model.parameters() if p.dim() == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) == last for p in weights) and weights
    assert memory_format_of(model, torch.device("cuda")) == torch.channels_last

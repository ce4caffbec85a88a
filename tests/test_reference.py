"""What an objective compares the live model with: the weight average in training, or a saved run."""

import shutil
from dataclasses import replace

import pytest
import torch

from evo.errors import UserError
from tests.conftest import TINY
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import load_config
from training.experiment import search_batch
from training.models.reference import load_reference
from training.models.scaling import Prepare, Rescaled
from training.models.trained import TrainedModel, load_trained
from training.run import set_up
from training.train import train

CPU = torch.device("cpu")
SEARCH = ("search.batch_size=32", "search.population=6", "search.generations=3")


def tiny(*overrides):
    return load_config("digits", [*TINY, *overrides])


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run that keeps its weight average."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    train(tiny("search.objective=reducible"), folder)
    return folder


def live(folder, config=None):
    return load_trained(config or tiny(), folder, CPU)


def test_only_a_search_that_compares_with_it_keeps_an_average(tmp_path):
    def average(*overrides):
        return set_up(tiny(*overrides), tmp_path / "run").average

    assert average("search.objective=reducible") is not None
    assert average("search.objective=hard,hard-0.1*image_reducible", "search.reference_decay=0.5").decay == 0.5
    assert average("search.objective=hard") is None
    assert average("search.objective=reducible", "mix.name=patchmix") is None


def test_a_path_is_the_reference_instead_of_an_average(tmp_path, trained):
    run = set_up(tiny("search.objective=reducible", f"search.reference={trained}"), tmp_path / "run")
    assert run.average is None
    expected = load_checkpoint(trained / "checkpoint", "latest").tensors
    reference = run.mix.context.reference
    assert not any(module.training for module in reference.modules())
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, expected[f"model.{name}"])


def test_the_average_in_a_checkpoint_is_neither_the_model_nor_forgotten(averaged):
    tensors = load_checkpoint(averaged / "checkpoint", "latest").tensors
    names = [name.removeprefix("model.") for name in tensors if name.startswith("model.")]
    assert names and all(f"average.{name}" in tensors for name in names)
    assert not torch.equal(tensors["average.image_head.weight"], tensors["model.image_head.weight"])
    assert torch.isfinite(tensors["average.image_head.weight"]).all()


def test_every_step_is_averaged_in(tmp_path):
    """With a decay of 0 the average is the model after its last step, batch statistics included."""
    train(tiny("search.objective=reducible", "search.reference_decay=0", "train.epochs=1"), tmp_path / "run")
    tensors = load_checkpoint(tmp_path / "run" / "checkpoint", "latest").tensors
    for name in (name.removeprefix("model.") for name in tensors if name.startswith("model.")):
        assert torch.equal(tensors[f"average.{name}"], tensors[f"model.{name}"])


@pytest.mark.parametrize("objective", ["reducible", "image_reducible"])
def test_a_search_alone_compares_with_the_average_of_its_run(averaged, tmp_path, objective):
    config = tiny(*SEARCH, f"search.objective={objective}")
    result = search_batch(config, tmp_path / "search", averaged, tiny("search.objective=reducible"))
    assert result["last"] > result["first"] > -5 and result["last"] != 0


def test_a_search_alone_compares_with_a_run(trained, averaged, tmp_path):
    config = tiny(*SEARCH, "search.objective=reducible", f"search.reference={averaged}")
    assert search_batch(config, tmp_path / "search", trained, tiny())["last"] != 0
    itself = tiny(*SEARCH, "search.objective=reducible", f"search.reference={trained}")
    result = search_batch(itself, tmp_path / "itself", trained, tiny())
    assert result["first"] == result["last"] == 0  # nothing is reducible against the same model


def test_a_run_without_an_average_is_refused_with_what_to_do(trained, tmp_path):
    config = tiny(*SEARCH, "search.objective=reducible")
    with pytest.raises(UserError, match="kept no weight average; give search.reference=RUN.* or train with") as caught:
        search_batch(config, tmp_path / "search", trained, tiny())
    assert "\n" not in str(caught.value) and not (tmp_path / "search").exists()


def test_a_reference_of_another_scaling_gets_its_own(averaged):
    """Both models see the same pixels, each as it was trained to."""
    model = live(averaged)
    pixels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    other = Prepare(torch.tensor([0.2]), torch.tensor([0.6]), CPU)
    wrapped = Rescaled(model.model, model.prepare, other).eval()
    for given, expected in zip(wrapped(other(pixels)), model.model(model.prepare(pixels)), strict=True):
        torch.testing.assert_close(given, expected)

    config = tiny("search.objective=reducible", f"search.reference={averaged}")
    same = load_reference(config, model, None)
    assert not isinstance(same, Rescaled)
    elsewhere = TrainedModel(model.model, other, model.image_shape, model.class_names)
    for given, expected in zip(
        load_reference(config, elsewhere, None)(other(pixels)), same(model.prepare(pixels)), strict=True
    ):
        torch.testing.assert_close(given, expected)


def test_no_reference_is_loaded_for_an_objective_that_compares_nothing(averaged):
    assert load_reference(tiny("search.reference=nowhere"), live(averaged), None) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": list("abcdefghij")}, "its model has classes .*, the live one .*; they must be the same"),
        ({"image_shape": [1, 16, 16]}, r"its model has images \(1, 16, 16\), the live one \(1, 8, 8\)"),
    ],
)
def test_a_reference_of_other_data_is_refused(averaged, tmp_path, changes, words):
    folder = tmp_path / "other"
    shutil.copytree(averaged, folder)
    saved = load_checkpoint(folder / "checkpoint", "latest")
    save_checkpoint(folder / "checkpoint", ["latest"], 1, replace(saved, meta=saved.meta | changes))
    with pytest.raises(UserError, match=words) as caught:
        load_reference(tiny("search.objective=reducible", f"search.reference={folder}"), live(averaged), None)
    assert "\n" not in str(caught.value)


def test_a_reference_of_another_grid_is_refused(trained, tmp_path):
    train(tiny("model.grid=2", "mix.name=patchmix", "train.epochs=1"), tmp_path / "coarse")
    config = tiny("search.objective=reducible", f"search.reference={tmp_path / 'coarse'}")
    with pytest.raises(UserError, match="its model has a grid 2, the live one 4"):
        set_up(config, tmp_path / "run")


def test_untrained_cells_are_no_reference_but_their_images_are(trained, tmp_path):
    train(tiny("mix.name=plain", "mix.patch_weight=0", "train.epochs=1"), tmp_path / "plain")
    reference = f"search.reference={tmp_path / 'plain'}"
    with pytest.raises(UserError, match="its cells are untrained and cannot be compared with"):
        load_reference(tiny("search.objective=hard-reducible", reference), live(trained), None)
    assert load_reference(tiny("search.objective=image_reducible", reference), live(trained), None) is not None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no run folder is there; give the path of one that holds config.json, or average"),
        ("{", "config.json is not a run's config"),
        ("[]", "config.json is not a run's config"),
        ("{}", "config.json is not a run's config"),
        ('{"schema": 1, "model": {"name": "vit"}}', "config.json: model.name: there is no 'vit'"),
        ('{"schema": 1}', "no checkpoint 'latest'"),
    ],
)
def test_what_is_no_run_folder_is_refused_in_one_line(trained, tmp_path, content, words):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_reference(tiny("search.objective=reducible", f"search.reference={tmp_path}"), live(trained), None)
    assert "\n" not in str(caught.value)

"""Recipes: numbers as people write them, and one line for every mistake."""

import pytest

from analysis import run_format
from analysis.run_format import as_today
from evo.errors import UserError
from runs.folders import check_unchanged
from runs.transfer_command import target_config
from training import removed
from training.config import Config, load_config, make_config
from training.options import describe_options
from training.recipe import RECIPES, read_yaml


def refused(*overrides, sections=None):
    with pytest.raises(UserError) as caught:
        make_config(sections or {}, overrides, "here.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_sound_and_says_what_to_expect(path):
    assert isinstance(load_config(path.stem), Config)
    head = path.read_text()
    for word in ("Command:", f"./run train {path.stem}", "Duration:", "Expect:"):
        assert word in head
    assert "TODO" not in head


def test_overrides_arrive_with_their_types(tmp_path):
    config = load_config(
        "digits", ["train.lr=1e-3", "run.name=no", "data.subset=5", "search.budget=8", "data.download=false"]
    )
    assert config.train.lr == 0.001 and config.run.name == "no" and config.data.download is False
    assert config.data.subset == 5 and config.search.budget == 8.0
    assert make_config({}, ["data.subset=null"]).data.subset is None
    path = tmp_path / "own.yaml"
    path.write_text("train:\n  lr: 2e-1\n  weight_decay: 1E-4\nrun:\n  name: off\n")
    own = load_config(str(path), ["train.batch_size=8"])
    assert (own.train.lr, own.train.weight_decay, own.run.name, own.train.batch_size) == (0.2, 0.0001, "off", 8)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epohcs=3", "train.epohcs is not an option; did you mean 'train.epochs'?"),
        ("trian.epochs=3", "trian is not an option; did you mean 'train'?"),
        ("train.zzz=3", "zzz is not an option; known: epochs, batch"),
        ("train.epochs=0", "train.epochs: expected greater than or equal to 1, got 0"),
        ("train.epochs=1.5", "train.epochs: expected a valid integer, got 1.5"),
        ("train.epochs=many", "train.epochs: expected a valid integer, got 'many'"),
        ("train.lr=.nan", "train.lr: expected"),
        ("train.lr=.inf", "train.lr: expected"),
        ("train.lr=true", "train.lr: expected a valid number, got True"),
        ("data.download=1", "data.download: expected a valid boolean, got 1"),
        ("mix.probability=1.5", "mix.probability: expected less than or equal to 1, got 1.5"),
        ("mix.name=evolvd", "mix.name: there is no 'evolvd'; did you mean 'evolved'?"),
        ("data.name=cifar", "choose from digits, cifar10"),
        ("model.name=vit", "there is no 'vit' (choose from resnet-small"),
        (
            "search.objective=hrad",
            "search.objective: unknown objective 'hrad'; did you mean 'hard'? (choose from hard, easy",
        ),
        ("search.objective=hard+contrats", "did you mean 'contrast'?"),
        ("search.objective=hard 2", "search.objective: expected objectives such as hard, hard+0.5*contrast"),
        ("search.reference_decay=1", "search.reference_decay: expected less than 1, got 1"),
        ("search.evaluation=all", "search.evaluation: expected 'auto', 'incremental' or 'full', got 'all'"),
        ("search.forward_batch_size=0", "search.forward_batch_size: expected greater than or equal to 1, got 0"),
        ("data.subset_seed=1180591620717411303424", "data.subset_seed: expected less than"),
        ("mix.name=bank", "mix.name=bank needs mix.bank, a pattern file"),
        ("search.elites=99", "search.elites must be at most search.population, got 99 of 4"),
        ("search.batch_size=65", "search.batch_size must be a multiple of train.batch_size, got 65 and 64"),
        ("search.budget=0.5", "search.budget: expected greater than or equal to 1, got 0.5"),
        ("run.name=../away", "run.name: expected a name of letters"),
        ("run.device=tpu", "run.device: expected auto, cpu, mps, cuda or cuda:N, got 'tpu'"),
        ("run.seed=-1", "run.seed: expected greater than or equal to 0, got -1"),
        ("train.precision=fp8", "train.precision: expected 'auto', 'float32' or 'bfloat16', got 'fp8'"),
        ("train.lr=[1", "'[1' is not a value YAML can read"),
        ("epochs=3", "expected section.key=value"),
        ("train.epochs", "expected section.key=value"),
    ],
)
def test_each_mistake_is_one_line(override, words):
    assert words in refused(override)


def test_a_search_that_reads_cells_needs_a_patch_loss():
    message = refused("mix.patch_weight=0", "search.objective=hard")
    assert "mix.name=evolved needs mix.patch_weight above 0, got 0" in message
    assert make_config({}, ["mix.patch_weight=0"]).search.objective == "image_reducible"  # reads no cell


def test_sections_that_are_no_sections():
    assert "train: expected keys below it, got 5" in refused(sections={"train": 5})
    assert "train: expected keys below it" in refused("train.lr=1", sections={"train": [1]})
    assert "trian is not an option; did you mean 'train'?" in refused(sections={"trian": {}})


def test_several_mistakes_are_a_line_each():
    with pytest.raises(UserError) as caught:
        make_config({}, ["train.epochs=0", "mix.probability=2"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {lr: 1, lr: 2}", "the key 'lr' stands twice"),
        ("train: [", "not valid YAML"),
        ("- 1", "expected sections"),
        ("", "expected sections"),
        ("!!python/object/apply:os.system ['true']", "expected plain values without tags"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="bad.yaml") as caught:
        read_yaml(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipes_name_the_known():
    with pytest.raises(UserError, match=r"no recipe 'digts'; did you mean 'digits'\? \(recipes: .*cifar10-small"):
        load_config("digts")


def test_every_option_is_described():
    lines = describe_options().splitlines()
    assert len(lines) == sum(len(section) for section in Config().model_dump().values())
    assert any(line.startswith("train.lr ") and "0.1" in line and "> 0, <= 100" in line for line in lines)
    assert any(
        "mix.name" in line and "plain | mixup | cutmix | mixup-or-cutmix | patchmix | evolved | bank" in line
        for line in lines
    )


@pytest.mark.parametrize(("former", "today"), [*removed.FORMER_NAMES.items()])
def test_options_are_read_by_their_former_names_too(former, today):
    section, name = former.split(".")
    value = "adamw" if today == "optimizer" else 128  # a multiple of the other batch size
    plain = make_config({section: {today: value}})
    assert make_config({section: {name: value}}) == plain
    assert make_config({}, [f"{former}={value}"]) == plain == make_config({}, settings={former: value})
    assert make_config({section: {name: 64 if value == 128 else "sgd"}}, [f"{section}.{today}={value}"]) == plain
    recorded = as_today({section: {name: value}})
    assert recorded[section][today] == value and name not in recorded[section]
    with pytest.raises(UserError, match=f"{section}: {name} and {today} are one option by two names"):
        make_config({section: {name: value, today: value}})


def test_readers_and_trainer_know_the_same_former_names():
    assert removed.FORMER_NAMES == run_format.FORMER_NAMES


def test_commands_that_look_for_options_know_them_by_both_names():
    assert target_config("digits", ["train.batch=32"]).train.batch_size == 32
    recorded = make_config({"train": {"batch": 32}})
    with pytest.raises(
        UserError, match=r"-s train.batch=64: a run goes on with its own config, here train.batch_size=32"
    ):
        check_unchanged(recorded, make_config({"train": {"batch_size": 64}}), ["train.batch=64"])

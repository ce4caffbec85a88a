"""Every shipped ablation: its settings are sound and distinct, its models can be built, its head says what it costs."""

import itertools
import json
import re

import pytest

from evo.errors import UserError
from evo.objectives import OBJECTIVES, parse_objectives
from evo.operators import MASK_SAMPLERS
from runs.ablation.file import read_ablation, titles_of
from runs.ablation.published import with_published
from runs.ablation.tables import steps_alike
from training.config import make_config
from training.models.patch_model import build_model
from training.recipe import RECIPES, read_yaml, recipe_path

FILES = {path.stem: path for path in sorted((RECIPES.parent / "ablations").glob("*.yaml"))}
OURS = [name for name in FILES if name != "cifar10-small"]  # whose table is published with the file as it was
ASKED = {
    "patch-weight", "head", "probability", "grid", "search-or-draw", "objective", "generations-elites",
    "bank", "peers", "sampler",
}  # fmt: skip


def settings(data):
    """Settings of every variant by a name of ours: those of `variants`, then the product of `grid`."""
    found = {
        name: {key: value for key, value in (options or {}).items() if key != "title"}
        for name, options in data.get("variants", {}).items()
    }
    grid = data.get("grid", {})
    for values in itertools.product(*grid.values()) if grid else ():
        found[" ".join(map(str, values))] = dict(zip(grid, values, strict=True))
    return {name: {**data.get("common", {}), **options} for name, options in found.items()}


def configs(name):
    data = read_yaml(FILES[name])
    assert set(data) <= {"recipe", "seeds", "common", "variants", "grid"}
    sections = read_yaml(recipe_path(data["recipe"]))
    return {
        variant: make_config(sections, [f"{key}={json.dumps(value)}" for key, value in options.items()], variant)
        for variant, options in settings(data).items()
    }


def test_every_question_has_its_file():
    assert set(OURS) == ASKED


@pytest.mark.parametrize("name", FILES)
def test_variants_are_sound_and_differ(name):
    found = configs(name)
    texts = {}
    for variant, config in found.items():
        # Without a search its options are of no matter; best-of-k alone has draws and keep.
        text = config.model_dump_json(exclude=set() if config.searches else {"search"})
        assert text not in texts, f"{variant} is {texts.get(text)}"
        texts[text] = variant
        assert config.model.width == 32 and config.data.subset == 200  # small enough for a laptop
        build_model(config.model, (3, 32, 32), 10)
    assert len(found) > 1


@pytest.mark.parametrize("name", FILES)
def test_the_command_reads_the_same_variants(name):
    expected, trials = configs(name), read_ablation(FILES[name])
    seeds = {trial.seed for trial in trials}
    assert len(trials) == len(expected) * len(seeds) and len(seeds) == (5 if name in OURS else 2)
    read = [trial.config.model_dump(exclude={"run"}) for trial in trials if trial.seed == 0]
    for config, other in zip(expected.values(), read, strict=True):
        wanted = config.model_dump(exclude={"run"})
        if config.mix.name == "bank":  # by now the pattern file of that trial
            wanted["mix"]["bank"] = other["mix"]["bank"]
        assert other == wanted


@pytest.mark.parametrize("name", OURS)
def test_heads_tell_command_trials_and_duration(name):
    text = FILES[name].read_text(encoding="utf-8")
    head = text[: text.index("recipe:")]
    assert re.search(rf"^# Command:  \./run ablate {name}$", head, re.MULTILINE)
    variants, seeds = len(configs(name)), read_yaml(FILES[name])["seeds"]
    assert f"# Trials:   {variants} variants x {seeds} seeds = {variants * seeds}\n" in head
    minutes = int(re.search(r"^# Duration: about (\d+) minutes a seed on 2 cores$", head, re.MULTILINE)[1])
    assert 3 * variants < minutes < 5 * variants
    assert re.search(r"^# Expect:   \S", head, re.MULTILINE)
    assert all(line.startswith("# ") and len(line) <= 120 for line in head.splitlines())


@pytest.mark.parametrize("name", FILES)
def test_a_trial_that_another_one_needs_is_there(name):
    found = configs(name)
    for variant, config in found.items():
        for value in (config.mix.bank, config.search.start, config.search.reference):
            if value is not None and value.startswith("trial:"):
                source = value.removeprefix("trial:")
                assert source != variant and found[source].mix.name == "evolved"


def test_they_cover_what_they_are_named_for():
    by_key = {name: read_yaml(FILES[name]).get("grid", {}) for name in OURS}
    assert by_key["patch-weight"] == {"mix.patch_weight": [0, 0.1, 0.5, 1, 2]}
    assert by_key["sampler"]["mix.sampler"] == list(MASK_SAMPLERS)
    objectives = [
        part.terms
        for config in configs("objective").values()
        if config.mix.name == "evolved"
        for part in parse_objectives(config.search.objective)
    ]
    assert {name for terms in objectives for _, name in terms} == set(OBJECTIVES)


def test_the_drawn_and_the_searched_forward_about_as_many_images():
    found = configs("search-or-draw")
    chosen = [config for config in found.values() if config.mix.name == "best-of-k"]
    assert {config.mix.keep for config in chosen} == {"rows", "batch", "shuffled"}
    measured = 2.09  # forwards for each mixed image of evolved-hard-every2 in runs/results/cifar10-1000-search
    for config in chosen:
        assert 0.9 < config.mix.draws / config.search.every / measured < 1.1
        assert config.search.objective == found["evolved-hard"].search.objective


EVIDENCE = {path.stem: path for path in sorted((RECIPES.parent / "evidence").glob("*.yaml"))}


@pytest.mark.parametrize("name", EVIDENCE)
def test_what_our_results_are_of_can_be_run(name, monkeypatch):
    monkeypatch.chdir(RECIPES.parent.parent)
    trials = read_ablation(EVIDENCE[name])
    head = EVIDENCE[name].read_text(encoding="utf-8").split("\nrecipe:")[0]
    variants, seeds = ({getattr(trial, key) for trial in trials} for key in ("variant", "seed"))
    assert f"# Command:  ./run ablate {name} " in head and "--publish\n" in head
    several = "" if len(seeds) == 1 else "s"
    assert f"# Trials:   {len(variants)} variants x {len(seeds)} seed{several} = {len(trials)}\n" in head
    for trial in trials:  # of the first seed: models and images of every variant
        if trial.seed == min(seeds):
            shape = {"digits": (1, 8, 8)}.get(trial.config.data.name, (3, 32, 32))
            build_model(trial.config.model, shape, 10)


def test_what_is_published_was_made_with_the_files_that_are_there(monkeypatch):
    monkeypatch.chdir(RECIPES.parent.parent)
    for file in EVIDENCE.values():
        with_published(file, read_ablation(file))  # raises where a setting has changed since


def test_search_time_is_compared_within_runs_where_nothing_else_costs_time(monkeypatch):
    monkeypatch.chdir(RECIPES.parent.parent)
    assert steps_alike(read_ablation(EVIDENCE["cifar10-50"]))  # splits, mixes, searches
    assert steps_alike(read_ablation(EVIDENCE["cifar10-1000-p1"]))  # some seeds in another precision
    assert not steps_alike(read_ablation(FILES["search-or-draw"]))  # patchmix-longer
    assert not steps_alike(read_ablation(FILES["grid"])) and not steps_alike(read_ablation(FILES["head"]))


@pytest.mark.parametrize(
    "variants", ["", "  a: {title: [1]}\n", "  a: {title: x}\n  b: {title: x}\n", "  a: {title: b}\n  b: {}\n"]
)
def test_titles_are_checked_and_are_no_settings(tmp_path, variants):
    file = tmp_path / "study.yaml"
    file.write_text(f"recipe: digits\nseeds: 1\nvariants:\n{variants or '  a: {title: Ours, mix.name: plain}'}")
    if not variants:
        (trial,) = read_ablation(file)
        assert (trial.variant, trial.config.mix.name) == ("a", "plain") and titles_of(file) == {"a": "Ours"}
        return
    with pytest.raises(UserError, match="title") as caught:
        read_ablation(file)
    assert "\n" not in str(caught.value)

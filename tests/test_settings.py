"""Runs of one setting: what counts, what seeds may differ in, and the same answer wherever it is asked."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.curve_tables import settings_of as curve_settings
from analysis.run_folder import RunFolder
from analysis.run_format import ADDED
from analysis.run_settings import by_setting, differing, flat, settings_of, without_seed
from evo.errors import UserError
from runs.compare import read_runs
from training.config import Config
from training.removed import with_todays_names

VERSION_1 = Path(__file__).parent / "data" / "runs-v1" / "evolved"


@pytest.fixture
def make(out):
    """Copies of a run of version 1 by name, with other options; None takes one away."""

    def made(name, seed=0, model=None, **changes):
        folder = out / name
        shutil.copytree(VERSION_1, folder)
        config = json.loads((folder / "config.json").read_text())
        config["run"]["seed"] = seed
        for option, value in changes.items():
            section, _, key = option.partition("__")
            config[section][key] = value
            if value is None:
                del config[section][key]
        (folder / "config.json").write_text(json.dumps(config))
        if model:
            lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            lines[0]["model"] = model
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunFolder(folder)

    return made


def names(groups):
    return [[run.name for run in group] for group in groups]


def grouped(runs):
    """The names by setting, as the report and the curves have them, which is the same."""
    found = names(by_setting(runs))
    assert names([setting.runs for setting in settings_of(runs)]) == found
    curves, notes = curve_settings(runs)
    assert names([[history.run for history in setting.histories] for setting in curves]) == found and not notes
    return found


def bank(name, root="/x/few"):
    return f"{root}/{name}/patterns/bank.npz"


def test_options_that_came_after_version_1_are_filled_in():
    """A new option needs a line in ADDED, with what runs did before it was there."""
    recorded = with_todays_names(json.loads((VERSION_1 / "config.json").read_text()))
    old = flat(recorded)
    lacking = {name: value for name, value in flat(Config().model_dump()).items() if name not in old}
    assert lacking == {**ADDED, "search.consume": "last", "search.compose_at": "auto"}  # defaults that changed
    config = RunFolder(VERSION_1).config
    assert {name: flat(config)[name] for name in ADDED} == ADDED and config["mix"]["probability"] == 0.5


def test_an_old_run_is_of_a_new_ones_setting_where_the_new_option_has_its_default(make):
    old, own = make("old-s0"), make("own-s1", 1, model__head="own", mix__draws=4, mix__keep="rows")
    shared = make("shared-s2", 2, model__head="shared")
    assert grouped([old, own, shared]) == [["old-s0", "own-s1"], ["shared-s2"]]
    assert differing(settings_of([old, own, shared])) == {"model.head": ["own", "shared"]}


def test_an_option_that_only_some_runs_have_counts(make):
    runs = [make("with-s0"), make("without-s1", 1, data__cutout=None), make("without-s2", 2, data__cutout=None)]
    assert grouped(runs) == [["with-s0"], ["without-s1", "without-s2"]]


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("mix__bank", bank),
        ("search__start", bank),
        ("search__reference", "/x/few/{}".format),
        ("model", "/x/{}".format),
    ],
)
def test_results_of_the_runs_own_seed_are_one_value(make, option, path):
    runs = [make(f"replay-s{seed}", seed, **{option: path(f"ev-s{seed}")}) for seed in (0, 1, 11)]
    others = [make(f"other-s{seed}", seed, **{option: path(f"other-s{seed}")}) for seed in (0, 1)]
    assert grouped([*runs, *others]) == [["replay-s0", "replay-s1", "replay-s11"], ["other-s0", "other-s1"]]


def test_one_result_for_all_seeds_is_one_value_too(make):
    fixed = [make(f"fixed-s{seed}", seed, mix__bank=bank("ev-s0")) for seed in (0, 1, 2)]
    own = [make(f"own-s{seed}", seed, mix__bank=bank(f"ev-s{seed}")) for seed in (1, 2)]
    assert grouped([*fixed, *own]) == [["fixed-s0", "fixed-s1", "fixed-s2"], ["own-s1", "own-s2"]]
    assert differing(settings_of([*fixed, *own]))["mix.bank"] == [bank("ev-s0"), bank("ev-s*")]


def test_only_the_last_name_that_ends_in_the_seed_counts():
    assert without_seed("/x-s1/ev-s1/patterns/bank.npz", 1) == "/x-s1/ev-s*/patterns/bank.npz"
    assert without_seed("/x/ev-s1.npz", 1) == "/x/ev-s*.npz"
    for path in ("/x/ev-s10", "/x/ev-s1a", "/x/evs1", "average"):
        assert without_seed(path, 1) == path


def test_comparisons_accept_what_is_one_setting_and_no_more(make):
    evolved = [make(f"ev-s{seed}", seed) for seed in (0, 1)]
    replays = [make(f"bank-s{seed}", seed, mix__name="bank", mix__bank=bank(f"ev-s{seed}")) for seed in (0, 1)]
    table = read_runs([*evolved, *replays])
    assert sorted(zip(table["variant"], table["seed"], strict=True)) == [("bank", 0), ("bank", 1), ("ev", 0), ("ev", 1)]
    other = make("bank-s2", 2, mix__name="bank", mix__bank=bank("ev-s1"))
    with pytest.raises(UserError, match=r"bank-s0 and bank-s2 differ in mix.bank \(.*ev-s0.* and .*ev-s1"):
        read_runs([*replays, other])
    old = make("ev-s3", 3, data__cutout=None)
    with pytest.raises(UserError, match=r"differ in data.cutout \(0 and not recorded\)"):
        read_runs([evolved[0], old])


def test_seeds_may_have_images_of_their_own(make):
    plain = [make(f"plain-s{seed}", seed, data__subset=5, data__subset_start=5 * seed) for seed in (0, 1)]
    mixed = [make(f"mix-s{s}", s, data__subset=5, data__subset_start=5 * s, mix__name="patchmix") for s in (0, 1)]
    assert grouped([*plain, *mixed]) == [["plain-s0", "plain-s1"], ["mix-s0", "mix-s1"]]
    assert "data.subset_start" not in differing(settings_of([*plain, *mixed]))
    assert len(read_runs([*plain, *mixed])) == 4
    more = make("more-s2", 2, data__subset=6, data__subset_start=10)
    assert grouped([*plain, more]) == [["plain-s0", "plain-s1"], ["more-s2"]]


def test_of_one_seed_the_images_are_the_same(make):
    runs = [make(f"draw{start}-s0", data__subset=5, data__subset_start=start) for start in (0, 5)]
    again = make("draw5-s0-2", data__subset=5, data__subset_start=5)
    assert grouped(runs) == [["draw0-s0"], ["draw5-s0"]]
    assert differing(settings_of(runs)) == {"data.subset_start": [0, 5]}
    assert names(by_setting([*runs, again], repeats=True)) == [["draw0-s0"], ["draw5-s0", "draw5-s0-2"]]

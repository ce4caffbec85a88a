"""The search experiment: cut off at any generation and gone on with, it is as if nothing had happened."""

import numpy as np
import pytest

from analysis.log_lines import read_lines
from analysis.operator_table import ancestors, operator_table
from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from training.config import load_config
from training.experiment import Experiment, search_batch
from training.progress import Progress

MANY = (
    "search.batch_size=32",
    "search.population=6",
    "search.generations=7",
    "search.elites=2",
    "search.adaptive=true",
    "search.crossover=rows+assignment+local",
    "search.mask_mutation=flip+trade",
)


class Stopped(Progress):
    """A progress line at which somebody presses Ctrl-C, in the given generation."""

    def __init__(self, at):
        super().__init__(visible=False)
        self.left = at

    def update(self, text, final=False):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def lines(folder):
    records = read_lines(folder / "generations.jsonl")
    return [{k: v for k, v in record.items() if k != "time"} for record in records]


def checks(folder):
    """What was said of estimates beside the truth."""
    events = read_lines(folder / "log.jsonl")
    return [{k: v for k, v in event.items() if k != "time"} for event in events if event["event"] == "checked"]


def arrays(folder):
    with np.load(folder / "elites" / "000001.npz") as data:
        return dict(data)


@pytest.mark.parametrize("options", [(), ("search.islands=2",), ("search.verify=3",), ("search.compose_at=pixels",)])
@pytest.mark.parametrize("at", [1, 4])
def test_resumed_is_as_if_never_interrupted(trained, tmp_path, monkeypatch, at, options):
    monkeypatch.setattr(Experiment, "SAVE_EVERY", 0 if at == 4 else 3600)  # 3600: only the first is saved
    trained_config = load_config("digits", TINY)
    config = load_config("digits", [*TINY, *MANY, *options])
    whole = search_batch(config, tmp_path / "whole", trained, trained_config)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        search_batch(config, cut, trained, trained_config, Stopped(at + 1))
    assert len(lines(cut)) == at + 1  # the line of the generation that was not saved goes
    resumed = search_batch(config, cut, trained, trained_config, resume=True)
    assert lines(cut) == lines(tmp_path / "whole")
    assert checks(cut) == checks(tmp_path / "whole")
    ours, expected = arrays(cut), arrays(tmp_path / "whole")
    assert ours.keys() == expected.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)
    ignored = ("seconds", "search_seconds")
    assert {k: v for k, v in resumed.items() if k not in ignored} == {
        k: v for k, v in whole.items() if k not in ignored
    }


def test_the_command_goes_on_and_refuses_what_it_cannot(trained, out, cli, monkeypatch):
    import shutil

    shutil.copytree(trained, out / "tiny")
    monkeypatch.setattr(Experiment, "SAVE_EVERY", 0)
    monkeypatch.setattr("training.experiment.Progress", lambda: Stopped(3))
    options = [word for option in MANY for word in ("-s", option)]
    status, _, error = cli("search", "tiny", *options)
    assert status == 130 and "go on with: ./run search --resume tiny-search-1" in error
    monkeypatch.setattr("training.experiment.Progress", lambda: Progress(visible=False))
    status, _, error = cli("search", "--resume", "tiny-search-1", "-s", "search.elites=1")
    assert status == 2 and "-s search.elites=1: a run goes on with its own config" in error
    assert "takes no --evaluation" in cli("search", "--resume", "tiny-search-1", "--evaluation", "full")[2]
    status, text, error = cli("search", "--resume", "tiny-search-1")
    assert status == 0 and "in the first generation" in text and "operators " in text, error
    status, text, _ = cli("lineage", "tiny-search-1")
    assert status == 0 and "assignment" in text and (out / "tiny-search-1" / "patterns" / "operators.csv").is_file()
    assert "has ended; there is nothing to resume" in cli("search", "--resume", "tiny-search-1")[2]
    assert (
        "is no search that was cut off" in cli("search", "--resume", "tiny")[2]
        or "has ended" in cli("search", "--resume", "tiny")[2]
    )
    assert "expected a RUN, or --resume SEARCH" in cli("search")[2]


def test_full_evaluation_finds_the_same_elites(trained, tmp_path):
    trained_config = load_config("digits", TINY)
    config = load_config("digits", [*TINY, *MANY, "search.compose_at=pixels"])
    search_batch(config, tmp_path / "quick", trained, trained_config)
    full = load_config("digits", [*TINY, *MANY, "search.evaluation=full"])
    result = search_batch(full, tmp_path / "full", trained, trained_config)
    assert result["image_forwards"] == result["full_forwards"] == 7 * 6 * 32
    ours, expected = arrays(tmp_path / "quick"), arrays(tmp_path / "full")
    for name in ("masks", "pairings", "ids", "lineage_parents"):
        np.testing.assert_array_equal(ours[name], expected[name])
    np.testing.assert_allclose(ours["fitness"], expected["fitness"], rtol=1e-5)


def test_a_damaged_state_is_told_in_one_line(trained, tmp_path):
    trained_config = load_config("digits", TINY)
    config = load_config("digits", [*TINY, *MANY])
    with pytest.raises(KeyboardInterrupt):
        search_batch(config, tmp_path / "cut", trained, trained_config, Stopped(2))
    path = tmp_path / "cut" / "checkpoint" / "search.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="the search cannot go on from it"):
        search_batch(config, tmp_path / "cut", trained, trained_config, resume=True)


def test_options_that_do_not_fit_the_model_are_the_users_mistake(trained, tmp_path):
    trained_config = load_config("digits", TINY)
    config = load_config("digits", [*TINY, *MANY, "search.min_cells=9"])
    with pytest.raises(UserError, match=r"search: min_cells must be 0\.\.8, half of the grid's 16 cells, got 9"):
        search_batch(config, tmp_path / "never", trained, trained_config)
    assert not (tmp_path / "never").exists()


def test_the_operator_table_counts_what_the_lineage_holds(trained, tmp_path):
    config = load_config("digits", [*TINY, *MANY])
    search_batch(config, tmp_path / "run", trained, load_config("digits", TINY))
    table = operator_table(RunFolder(tmp_path / "run"))
    found = arrays(tmp_path / "run")
    for slot, place in (("crossover", 0), ("mask mutation", 1), ("pairing mutation", 2)):
        part = table[table["slot"] == slot]
        assert part["children"].sum() == (found["lineage_operators"][:, place] >= 0).sum() == 6 * 6
        assert part["ancestors"].sum() == pytest.approx(100)
    drawn = table[table["slot"] == "drawn"]
    assert drawn["children"].item() == 6
    elites = sum(
        round(row.children * row.elites / 100) for row in table[table["slot"].isin(["crossover", "drawn"])].itertuples()
    )
    assert elites == len(set(found["ids"].tolist()))


def test_ancestors_are_found_through_both_parents():
    parents = np.array([[-1, -1], [-1, -1], [-1, -1], [0, 1], [3, 3], [2, 0]])
    assert ancestors(parents, np.array([4])).tolist() == [True, True, False, True, True, False]

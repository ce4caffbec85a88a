"""TensorBoard's event files, read back: every step, generation, search and epoch once, the options, the result."""

import time

import pytest

from analysis.log_lines import read_lines
from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from tests.test_experiment import MANY, Stopped
from tests.test_resume import At, Killed, die
from training import tensorboard
from training.config import load_config
from training.experiment import Experiment, search_batch
from training.train import train

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="the extra tensorboard is not installed"
)
SEARCHES = ("mix.name=evolved", "run.tensorboard=true", "search.every=2", "search.start_epoch=1")
TIMED = ("seconds", "images_per_second")


def tiny(*overrides):
    return load_config("digits", [*TINY, *overrides])


def board_of(folder):
    board = accumulator.EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=True
    )
    return board.Reload()


def points(folder):
    """Tag -> (step, value) of each point; what depends on the machine's speed has steps alone."""
    board = board_of(folder)
    return {
        tag: [(point.step, None if tag.endswith(TIMED) else pytest.approx(point.value)) for point in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def steps(folder, tag):
    return [point.step for point in board_of(folder).Scalars(tag)]


def options_of(folder):
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = board_of(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorboard") / "run"
    began = time.time()
    train(tiny(*SEARCHES), folder)
    return folder, began, time.time()


def test_every_generation_is_one_step_of_its_own_counted_over_the_whole_run(run):
    folder, *_ = run
    records = read_lines(folder / "generations.jsonl")
    assert len(records) > 4
    for name in ("best", "mean", "diversity"):
        points = board_of(folder).Scalars(f"search/{name}")
        assert [point.step for point in points] == list(range(1, len(records) + 1))
        assert [point.value for point in points] == pytest.approx([record[name] for record in records])


def test_every_search_has_its_final_best(run):
    folder, *_ = run
    records = read_lines(folder / "generations.jsonl")
    last = {record["search"]: record["best"] for record in records}
    points = board_of(folder).Scalars("search/final_best")
    assert [point.step for point in points] == list(last) == list(range(1, len(last) + 1))
    assert [point.value for point in points] == pytest.approx(list(last.values()))


def test_every_step_has_its_losses_and_its_learning_rate(run):
    folder, *_ = run
    board, epochs = board_of(folder), RunFolder(folder).epochs
    assert all(steps(folder, f"step/{name}") == list(range(1, 21)) for name in ("loss", "image_loss", "cell_loss"))
    for name in ("image_loss", "cell_loss"):  # an epoch's loss is the mean over its steps
        values = [point.value for point in board.Scalars(f"step/{name}")]
        means = [sum(values[first : first + 10]) / 10 for first in (0, 10)]
        assert means == pytest.approx(list(epochs[name]), rel=1e-4)
    rates = [point.value for point in board.Scalars("step/learning_rate")]
    assert rates[0] == pytest.approx(0.1) and rates == sorted(rates, reverse=True) and rates[-1] < 0.01
    assert [rates[9], rates[19]] == pytest.approx(list(epochs["learning_rate"]))  # in the log as well
    assert all(point.value > 0 for point in board.Scalars("step/images_per_second"))


def test_every_epoch_has_the_numbers_of_the_log_and_times_are_those_of_the_steps(run):
    folder, began, ended = run
    board, epochs = board_of(folder), RunFolder(folder).epochs
    for name in ("accuracy", "test_loss", "training_accuracy", "image_loss"):
        found = board.Scalars(name)
        assert [(point.step, point.value) for point in found] == [
            (step, pytest.approx(value)) for step, value in zip(epochs["step"], epochs[name], strict=True)
        ]
    times = [point.wall_time for point in board.Scalars("step/loss")]
    assert began < times[0] and times[-1] < ended and times == sorted(times) and len(set(times)) == 20


def test_the_options_and_the_result_are_in_the_runs_own_folder(run):
    folder, *_ = run
    assert not [path for path in (folder / "tensorboard").iterdir() if path.is_dir()]
    options, result = options_of(folder), RunFolder(folder).result
    assert options["train.batch_size"].number_value == 16 and options["mix.name"].string_value == "evolved"
    assert options["run.tensorboard"].string_value == "True" and "mix.bank" not in options
    for name in ("last_accuracy", "median10_accuracy", "image_forwards"):
        (point,) = board_of(folder).Scalars(f"final/{name}")
        assert (point.step, point.value) == (20, pytest.approx(result[name]))


@pytest.mark.parametrize("more", [(), ("search.every=3", "search.consume=each")])
def test_a_resumed_run_has_every_point_once_as_if_never_interrupted(tmp_path, monkeypatch, more):
    monkeypatch.setattr("training.step_curves.STEPS_TOLD", 3)
    config = tiny(*SEARCHES, "train.save_minutes=1e-9", *more)
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "cut", progress=At(16, die))
    killed = points(tmp_path / "cut")
    with pytest.raises(Killed):  # gone on with twice, and killed before it was saved again the first time
        monkeypatch.setattr("training.saving.Saver.save", lambda saver, best=False: None)
        train(config, tmp_path / "cut", progress=At(1, die), resume=True)
    monkeypatch.undo()
    monkeypatch.setattr("training.step_curves.STEPS_TOLD", 3)
    train(config, tmp_path / "cut", resume=True)
    resumed = next(event for event in RunFolder(tmp_path / "cut").events if event["event"] == "resume")["step"]
    assert 10 < resumed < max(step for step, _ in killed["step/loss"])  # points that no checkpoint knew of
    whole, cut = points(tmp_path / "whole"), points(tmp_path / "cut")
    assert cut.pop("step/images_per_second") and whole.pop("step/images_per_second")  # of steps between flushes
    assert cut == whole
    assert len([path for path in (tmp_path / "cut" / "tensorboard").iterdir() if path.stat().st_size]) == 1


def test_a_tensorboard_that_watches_forgets_what_a_resumed_run_has_dropped(tmp_path):
    config = tiny(*SEARCHES, "train.save_minutes=1e-9")
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=At(16, die))
    watching = board_of(tmp_path / "run")
    assert watching.Scalars("step/loss")
    train(config, tmp_path / "run", resume=True)
    watching.Reload()
    assert [point.step for point in watching.Scalars("step/loss")] == list(range(1, 21))
    assert [point.step for point in watching.Scalars("accuracy")] == [10, 20]


def test_a_run_that_diverged_shows_the_steps_up_to_there(tmp_path):
    with pytest.raises(UserError, match="became"):
        train(
            tiny("mix.name=patchmix", "run.tensorboard=true", "train.lr=100", "train.momentum=0.999"), tmp_path / "run"
        )
    assert steps(tmp_path / "run", "step/loss")[:2] == [1, 2]


def test_muon_has_the_learning_rates_of_both_its_parts(tmp_path):
    train(tiny("mix.name=plain", "run.tensorboard=true", "train.optimizer=muon", "train.lr=0.02"), tmp_path / "run")
    board = board_of(tmp_path / "run")
    first = {name: board.Scalars(f"step/{name}")[0].value for name in ("learning_rate", "adam_learning_rate")}
    assert first == pytest.approx({"learning_rate": 0.02, "adam_learning_rate": tiny().train.adam_lr})
    assert "step/cell_loss" not in board.Tags()["scalars"]  # the cells of a plain run are not trained


def test_a_search_experiment_has_its_curve_also_after_a_resume(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "SAVE_EVERY", 0)
    config, trained_config = tiny(*MANY, "run.tensorboard=true"), tiny()
    search_batch(config, tmp_path / "whole", trained, trained_config)
    with pytest.raises(KeyboardInterrupt):
        search_batch(config, tmp_path / "cut", trained, trained_config, Stopped(5))
    search_batch(config, tmp_path / "cut", trained, trained_config, resume=True)
    whole, cut = points(tmp_path / "whole"), points(tmp_path / "cut")
    assert cut == whole and [step for step, _ in cut["search/best"]] == list(range(1, 8))
    result = RunFolder(tmp_path / "cut").result
    assert cut["final/last"] == [(7, pytest.approx(result["last"]))] and len(cut["search/final_best"]) == 1
    assert options_of(tmp_path / "cut")["search.population"].number_value == 6


def test_a_search_that_is_extended_has_every_point_once(trained, tmp_path):
    search_batch(tiny(*MANY, "run.tensorboard=true"), tmp_path / "whole", trained, tiny())
    for number in (4, 7):
        config = tiny(*MANY, "run.tensorboard=true", f"search.generations={number}")
        search_batch(
            config,
            tmp_path / "ours",
            trained,
            tiny(),
            resume=number == 7,
            other_ends=["search.generations=7"] * (number == 7),
        )
    assert points(tmp_path / "ours") == points(tmp_path / "whole")


def test_a_missing_tensorboard_is_one_line_before_anything_is_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    config = tiny("run.tensorboard=true")
    for work in (
        lambda: train(config, tmp_path / "run"),
        lambda: search_batch(config, tmp_path / "run", trained, tiny()),
    ):
        with pytest.raises(UserError, match="run.tensorboard=true needs the package tensorboard: install it with"):
            work()
    assert not (tmp_path / "run").exists()

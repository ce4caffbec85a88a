"""Ablations: their files, which trial runs when, the processes that run them, and what comes back from other machines."""

import fcntl
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis.run_folder as run_folder
import runs.ablation.command as command
import runs.ablation.engines.local as local
import runs.ablation.engines.ray as on_ray
import runs.ablation.published as kept
from analysis.run_folder import RunFolder
from analysis.run_format import SCHEMA
from evo.durations import duration
from evo.errors import UserError
from runs.ablation.command import run_ablation
from runs.ablation.engines.packed_folder import ArchiveError, pack, unpack
from runs.ablation.file import _word, chosen, read_ablation
from runs.ablation.published import published_lines
from runs.ablation.schedule import LOST, Estimate, Report, Schedule, run_schedule
from runs.ablation.trials import Outcome, run_trial
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
COMMON = {key: json.loads(value) for key, value in (o.split("=") for o in TINY)} | {"train.epochs": 1}
PLAIN = {"mix.name": "plain"}


def written(file, **keys):
    file.write_text(json.dumps({"recipe": "digits", "seeds": [0], "common": COMMON, **keys}))
    return file


def an_ablation(tmp_path, *variants, **keys):
    return read_ablation(written(tmp_path / "abl.yaml", variants=dict.fromkeys(variants, PLAIN), **keys))


def finish(trial, accuracy=50.0, seconds=10.0):
    """Write what a finished run leaves, as far as an ablation reads it."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "config.json").write_text(json.dumps({"schema": SCHEMA, **trial.config.model_dump()}))
    end = {"last_accuracy": accuracy, "median10_accuracy": accuracy, "image_forwards": 1, "seconds": seconds}
    tested = {"event": "epoch", "accuracy": accuracy, "test_loss": 1.25}
    lines = [{"event": "start"}, tested, {"event": "end", **end}]
    (trial.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial.folder / "environment.json").write_text(json.dumps({"schema": SCHEMA}))


def cut_off(trial, *, checkpoint=True):
    """As `finish`, but the run was killed."""
    finish(trial)
    log = trial.folder / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    if checkpoint:
        (trial.folder / "checkpoint").mkdir()
        (trial.folder / "checkpoint" / "latest.json").write_text("{}")


class FakeEngine:
    """Runs trials at once, as `play` says: a function from a trial to its Outcome."""

    def __init__(self, play=None, slots=1):
        self.play, self.slots = play, slots
        self.started, self._ended, self.closed = [], [], False

    def room(self):
        return len(self._ended) < self.slots

    def running(self):
        return len(self._ended)

    def start(self, trial):
        self.started.append(trial.name)
        self._ended.append((trial.name, self.play(trial) if self.play else done(trial)))

    def ended(self):
        ended, self._ended = self._ended, []
        return ended

    def stop(self):
        self._ended = [(name, Outcome("stopped")) for name, _ in self._ended]

    def close(self):
        self.closed = True


def done(trial):
    finish(trial)
    return Outcome("done")


def played(trials, play=None, *, retry=False, slots=1):
    """Run trials with a FakeEngine -> the schedule, what was started."""
    plan, engine = Schedule(trials, retry), FakeEngine(play, slots)
    run_schedule(plan, engine, Report(plan, slots))
    assert engine.closed
    return plan, engine.started


# The file


def test_a_grid_is_the_product_of_its_values_after_the_variants(tmp_path):
    grid = {"mix.patch_weight": [0, 0.5], "model.head": ["own", "shared"]}
    trials = read_ablation(
        written(tmp_path / "abl.yaml", seeds=2, common={"mix.name": "patchmix"}, variants={"plain": PLAIN}, grid=grid)
    )
    names = ["plain"] + [f"patch_weight={weight}+head={head}" for weight in ("0", "0.5") for head in ("own", "shared")]
    assert [(trial.variant, trial.seed) for trial in trials] == [(name, seed) for seed in (0, 1) for name in names]
    last = trials[-1].config
    assert (last.mix.patch_weight, last.model.head, last.mix.name, last.run.seed) == (0.5, "shared", "patchmix", 1)
    assert last.run.name == "abl/patch_weight=0.5+head=shared-s1"


def test_names_of_a_grid_are_short_where_that_is_clear(tmp_path):
    grid = {"mix.name": ["plain"], "search.batch_size": [None], "train.batch_size": [16], "search.objective": ["hard+0.5*easy"],
            "train.step_at": [[0.5, 0.75]], "model.pretrained": [False]}  # fmt: skip
    (trial,) = read_ablation(written(tmp_path / "abl.yaml", grid=grid))
    assert trial.variant == (
        "mix=plain+search.batch_size=none+train.batch_size=16+objective=hard+0.5-easy+step_at=0.5-0.75+pretrained=false"
    )


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.text())))
def test_a_grids_values_make_folder_names(value):
    assert not set(_word(value)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=+-")


def test_results_of_other_trials_are_of_the_same_seed(tmp_path, out):
    file = written(
        tmp_path / "abl.yaml",
        seeds=[3, 5],
        variants={
            "replay": {"mix.name": "bank", "mix.bank": "trial:evolved"},
            "evolved": {"mix.name": "evolved"},
            "both": {"mix.name": "evolved", "search.start": "trial:evolved", "search.reference": "trial:plain"},
            "plain": {"mix.name": "plain", "search.reference": "trial:plain"},  # counts for nothing there
        },
    )
    trials = {trial.name: trial for trial in read_ablation(file)}
    assert [trials[f"{name}-s5"].needs for name in ("replay", "evolved", "both", "plain")] == [
        ("evolved-s5",), (), ("evolved-s5", "plain-s5"), (),
    ]  # fmt: skip
    bank = str(out / "abl" / "evolved-s5" / "patterns" / "bank.npz")
    both = trials["both-s5"].config.search
    assert trials["replay-s5"].config.mix.bank == both.start == bank
    assert both.reference == str(out / "abl" / "plain-s5") and trials["plain-s3"].config.search.reference == "average"
    assert [trial.name for trial in chosen(list(trials.values()), ["repl*"])] == [
        "replay-s3", "evolved-s3", "replay-s5", "evolved-s5",
    ]  # fmt: skip
    with pytest.raises(UserError, match="--only rplay: there is no such variant .choose from replay, evolved"):
        chosen(list(trials.values()), ["rplay"])


SEARCH = {"mix.name": "evolved"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "expected the keys recipe, seeds, variants or grid"),
        ({"variants": {"a": {}}, "varaints": {}}, "expected the keys recipe, seeds, variants or grid"),
        ({"seeds": "0", "variants": {"a": {}}}, "seeds: expected their number or a list of integers"),
        ({"seeds": 0, "variants": {"a": {}}}, "seeds: expected their number or a list of integers"),
        ({"seeds": True, "variants": {"a": {}}}, "seeds: expected their number or a list of integers"),
        ({"seeds": [0, 0], "variants": {"a": {}}}, "each seed once"),
        ({"variants": []}, "variants: expected names"),
        ({"variants": {"a/b": {}}}, "variant 'a/b': expected a name"),
        ({"variants": {"a" * 201: {}}}, "expected a name of up to 200"),
        ({"variants": {"a": {"mix.nmae": "plain"}}}, "did you mean 'mix.name'?"),
        ({"recipe": "digts", "variants": {"a": {}}}, "no recipe 'digts'"),
        ({"grid": {}}, "grid: expected keys with a list of values each"),
        ({"grid": {"mix.name": "plain"}}, "grid: expected keys with a list of values each"),
        ({"grid": {"mix.name": ["plain", "plan"]}}, "abl.yaml: mix=plan: mix.name: there is no 'plan'; did you mean"),
        ({"grid": {"train.lr": [0.1, 0.1]}}, "two variants have the name lr=0.1"),
        ({"grid": {f"train.a{n}": [1, 2] for n in range(20)}}, "grid: expected up to 10,000 combinations"),
        ({"seeds": 9000, "variants": {"a": {}, "b": {}}}, "expected up to 10,000 trials"),
        ({"variants": {"a": {"mix.name": "bank", "mix.bank": "trial:b"}}}, "a: mix.bank: there is no variant 'b'"),
        (
            {
                "variants": {
                    "a": {"mix.name": "bank", "mix.bank": "trial:b", "model.grid": 2},
                    "b": {"mix.name": "evolved", "model.grid": 4},
                }
            },
            "a: mix.bank: expected patterns of its own grid, model.grid=2, and b has model.grid=4",
        ),
        (
            {"variants": {"a": {"mix.name": "bank", "mix.bank": "trial:b"}, "b": PLAIN}},
            "a: mix.bank: expected a variant that finds patterns (mix.name=evolved), and b has mix.name=plain",
        ),
        (
            {"variants": {"a": {**SEARCH, "search.start": "trial:b"}, "b": {**SEARCH, "search.reference": "trial:a"}}},
            "variants wait for each other: a -> b -> a",
        ),
        ({"variants": {"a": {**SEARCH, "search.start": "trial:a"}}}, "variants wait for each other: a -> a"),
        ({"variants": {"a": {"run.seed": 3}}}, "a: run.seed is set for each trial; use seeds: [0, 1, 2]"),
        ({"variants": {"a": {"run.name": "x"}}}, "a: run.name is set for each trial; trials are named after"),
        ({"variants": {"a": {}}, "common": {"run.seed": 3}}, "common: run.seed is set for each trial; use seeds"),
        ({"grid": {"run.seed": [3, 4]}}, "grid: run.seed is set for each trial; use seeds"),
        ({"variants": {"a": {}}, "resources": {"cpus": 0}}, "resources: expected what a trial takes"),
        ({"variants": {"a": {}}, "resources": {"gpu": 1}}, "resources: expected what a trial takes"),
    ],
)
def test_unsound_files_are_refused_in_one_line(cli, tmp_path, keys, words):
    status, _, error = cli("ablate", str(written(tmp_path / "abl.yaml", **keys)))
    assert status == 2 and words in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variants: {1: {mix.name: plain}, '1': {mix.name: cutmix}}", "the key '1' stands twice"),
        ("variants: {a: {1: 2, '1': 2}}", "the key '1' stands twice"),
        ("grid: {1: [2], '1': [2]}", "the key '1' stands twice"),
    ],
)
def test_names_that_are_equal_as_text_are_refused(tmp_path, text, words):
    file = tmp_path / "abl.yaml"
    file.write_text(f"recipe: digits\nseeds: 1\n{text}\n")
    with pytest.raises(UserError, match=words):
        read_ablation(file)


# Which trial runs when


def test_what_a_trial_needs_runs_first(tmp_path):
    file = written(
        tmp_path / "abl.yaml",
        variants={
            "c": {"mix.name": "evolved", "search.start": "trial:b"},
            "b": {"mix.name": "evolved", "search.reference": "trial:a"},
            "a": PLAIN,
        },
    )
    plan, started = played(read_ablation(file), slots=3)
    assert started == ["a-s0", "b-s0", "c-s0"] and len(plan.named("done")) == 3
    assert played(read_ablation(file))[1] == []


def test_a_failure_is_recorded_blocks_what_needs_it_and_is_run_again_only_on_demand(tmp_path, capsys):
    file = written(
        tmp_path / "abl.yaml",
        variants={
            "late": {"mix.name": "bank", "mix.bank": "trial:replay"}
            | {"mix.name": "evolved", "search.start": "trial:bad"},
            "bad": {"mix.name": "evolved"},
            "good": PLAIN,
        },
    )

    def play(trial):
        return Outcome("failed", "it burnt", "first\nlast words") if trial.variant == "bad" else done(trial)

    plan, started = played(read_ablation(file), play)
    assert started == ["bad-s0", "good-s0"]
    assert plan.standing == {"late-s0": "blocked", "bad-s0": "failed", "good-s0": "done"}
    assert plan.reasons["late-s0"] == "waits for bad, seed 0, which is not done"
    told = capsys.readouterr().err
    assert "[2/3] bad, seed 0: failed after 0 s: it burnt" in told and "    last words" in told
    record = json.loads((plan.trials["bad-s0"].notes / "failed.json").read_text())
    assert record["reason"] == "it burnt" and record["output"] == ["first", "last words"] and record["schema"] == 1

    plan, started = played(read_ablation(file), play)
    assert started == [] and plan.reasons["bad-s0"] == "it burnt" and plan.standing["late-s0"] == "blocked"
    plan, started = played(read_ablation(file), retry=True)
    assert started == ["bad-s0", "late-s0"] and len(plan.named("done")) == 3
    assert not (plan.trials["bad-s0"].notes / "failed.json").exists()


def test_an_ablations_folder_and_the_data_may_be_moved(tmp_path, monkeypatch):
    variants = {
        "evolved": SEARCH,
        "other": SEARCH,
        "replay": {"mix.name": "bank", "mix.bank": "trial:evolved"},
        "again": {**SEARCH, "search.start": "trial:evolved", "search.reference": "trial:replay"},
    }
    here = {**COMMON, "data.root": str(tmp_path / "data")}
    trials = read_ablation(written(tmp_path / "abl.yaml", variants=variants, common=here))
    for trial in trials:
        finish(trial)
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.setenv("EVOMIX_OUT", str(tmp_path / "moved"))
    moved = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    assert [trial.state() for trial in moved] == ["done"] * 4
    variants["replay"]["mix.bank"] = "trial:other"
    changed = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    with pytest.raises(UserError, match=r"replay-s0 was made with mix.bank=.*evolved-s0/patterns/bank.npz, the file"):
        changed[2].state()


def test_the_log_of_what_is_done_is_read_once_until_it_changes(tmp_path, monkeypatch):
    (trial,) = an_ablation(tmp_path, "a")
    cut_off(trial)
    read, reader = [], run_folder.read_lines
    monkeypatch.setattr(run_folder, "read_lines", lambda path, *head: read.append(path) or reader(path, *head))
    assert trial.state() == "started" and trial.result is None and len(read) == 2
    finish(trial)
    assert trial.state() == "done" and trial.result["last_accuracy"] == 50 and len(read) == 3
    finish(trial, accuracy=100.0)
    assert trial.result["last_accuracy"] == 100 and len(read) == 4
    (trial.folder / "log.jsonl").unlink()
    assert trial.state() == "started" and trial.result is None


def test_looking_whether_a_trial_is_busy_disturbs_nobody(tmp_path):
    (trial,) = an_ablation(tmp_path, "a")
    cut_off(trial)
    trial.notes.mkdir(parents=True)
    before = files_below(tmp_path)
    assert not trial.is_busy() and files_below(tmp_path) == before


def test_a_failure_with_other_settings_says_nothing(tmp_path):
    (trial,) = an_ablation(tmp_path, "a")
    trial.record_failure(Outcome("failed", "it burnt"))
    assert an_ablation(tmp_path, "a")[0].state() == "failed"
    assert an_ablation(tmp_path, "a", common={**COMMON, "train.lr": 0.01})[0].state() == "new"
    (trial.notes / "failed.json").write_text("{torn")
    assert trial.state() == "new"


def test_a_runs_own_word_that_it_failed_counts(tmp_path):
    (trial,) = an_ablation(tmp_path, "a")
    cut_off(trial)
    assert trial.state() == "started"
    with open(trial.folder / "log.jsonl", "a") as log:
        log.write('{"event": "failed", "reason": "the loss became NaN"}\n')
    assert trial.state() == "failed" and trial.why_failed() == "the loss became NaN"
    assert played([trial])[1] == [] and played([trial], retry=True)[1] == ["a-s0"]


def test_a_lost_worker_s_trial_is_run_again_a_few_times(tmp_path, capsys):
    trials, lost = an_ablation(tmp_path, "a", "b"), Outcome("lost", "its worker was lost")
    answers = iter([lost, lost])
    plan, started = played(trials, lambda trial: next(answers, None) or done(trial))
    assert started == ["a-s0", "a-s0", "a-s0", "b-s0"] and len(plan.named("done")) == 2
    assert "its worker was lost; it is run again (2 of 3 times)" in capsys.readouterr().err
    plan, started = played(an_ablation(tmp_path, "c"), lambda trial: lost)
    assert started == ["c-s0"] * (LOST + 1) and plan.standing["c-s0"] == "failed"


def test_done_trials_are_skipped_also_those_done_meanwhile(tmp_path, capsys):
    trials = an_ablation(tmp_path, "a", "b", "c")
    finish(trials[0])

    def meanwhile(trial):
        finish(trials[2])  # by another process
        return done(trial)

    plan, started = played(trials, meanwhile)
    assert started == ["b-s0"] and len(plan.named("done")) == 3
    assert "3 trials: 1 done already, 2 to run, about 20 s\n" in capsys.readouterr().err


def test_a_trial_of_another_process_is_left_to_it_but_waited_for_where_it_is_needed(tmp_path):
    variants = {"first": SEARCH, "second": {**SEARCH, "search.start": "trial:first"}}
    first, second = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    first.notes.mkdir(parents=True)
    with open(first.notes / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        plan, started = played([first])
        assert started == [] and plan.standing["first-s0"] == "busy"

        def end():
            finish(first)
            fcntl.flock(other, fcntl.LOCK_UN)

        timer = threading.Timer(0.3, end)
        timer.start()
        plan, started = played([first, second])
        timer.join()
    assert started == ["second-s0"] and len(plan.named("done")) == 2


def test_what_another_process_leaves_undone_is_taken_over(tmp_path):
    variants = {"first": SEARCH, "second": {**SEARCH, "search.start": "trial:first"}}
    trials = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    answers = iter([Outcome("busy")])  # it was a moment faster, and is gone when it is looked at
    _, started = played(trials, lambda trial: next(answers, None) or done(trial))
    assert started == ["first-s0", "first-s0", "second-s0"]


def test_a_stop_reaches_the_engine_and_keeps_what_was_not_begun(tmp_path, capsys):
    trials = an_ablation(tmp_path, "a", "b", "c")

    class Stopped(FakeEngine):
        asked = False

        def start(self, trial):
            super().start(trial)
            os.kill(os.getpid(), signal.SIGTERM)

        def ended(self):
            return super().ended() if self.asked else []

        def stop(self):
            super().stop()
            self.asked = True

    plan, engine = Schedule(trials), Stopped()
    with pytest.raises(KeyboardInterrupt):
        run_schedule(plan, engine, Report(plan, 1))
    assert engine.started == ["a-s0"] and engine.closed
    assert plan.standing == {"a-s0": "stopped", "b-s0": "waiting", "c-s0": "waiting"}
    assert "[1/3] a, seed 0: stopped" in capsys.readouterr().err


def damaged(trial):
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "config.json").write_text("{torn")


def test_a_folder_damaged_meanwhile_is_that_trials_failure_alone(tmp_path):
    variants = {"a": PLAIN, "bad": SEARCH, "late": {**SEARCH, "search.start": "trial:bad"}, "last": PLAIN}
    trials = read_ablation(written(tmp_path / "abl.yaml", variants=variants))

    def play(trial):
        damaged(trials[1])
        return done(trial)

    plan, started = played(trials, play)
    assert started == ["a-s0", "last-s0"]
    assert plan.standing == {"a-s0": "done", "bad-s0": "failed", "late-s0": "blocked", "last-s0": "done"}
    assert "config.json cannot be read" in plan.reasons["bad-s0"]


def test_a_folder_that_another_process_damaged_is_that_trials_failure(tmp_path):
    variants = {"first": SEARCH, "second": {**SEARCH, "search.start": "trial:first"}}
    trials = read_ablation(written(tmp_path / "abl.yaml", variants=variants))

    def play(trial):
        damaged(trial)
        return Outcome("busy")

    plan, started = played(trials, play)
    assert started == ["first-s0"] and plan.standing == {"first-s0": "failed", "second-s0": "blocked"}


def test_trials_write_their_checkpoints_before_an_error_of_the_schedule_ends_it(tmp_path):
    happened = []

    class Waiting(FakeEngine):
        def ended(self):
            if not happened:
                happened.append("error")
                raise OSError("the disk is full")
            happened.append("waited")
            return super().ended()

        def stop(self):
            happened.append("stop")

        def close(self):
            happened.append("close")

    plan = Schedule(an_ablation(tmp_path, "a", "b"))
    with pytest.raises(OSError, match="the disk is full"):
        run_schedule(plan, Waiting(), Report(plan, 1))
    assert happened == ["error", "stop", "waited", "close"]


def test_folders_that_do_not_fit_are_refused_before_the_first_trial(tmp_path):
    trials = an_ablation(tmp_path, "a", "b")
    finish(trials[1])
    with pytest.raises(UserError, match=r"b-s0 was made with train.lr=0.1, the file now says 0.5; remove that folder"):
        Schedule(an_ablation(tmp_path, "a", "b", common={**COMMON, "train.lr": 0.5}))
    # An option that an older version did not know has its default; a search's do not touch what has none.
    config = json.loads((trials[1].folder / "config.json").read_text())
    del config["data"]["subset_seed"]
    config["search"]["crossover"] = "rows"
    (trials[1].folder / "config.json").write_text(json.dumps(config))
    assert trials[1].state() == "done"
    trials[0].folder.mkdir(parents=True)
    (trials[0].folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="a-s0 is in the way and is not a run's; move it"):
        Schedule(trials)
    assert (trials[0].folder / "thesis.txt").is_file()


def test_time_left_is_judged_by_what_is_done(tmp_path):
    trials = an_ablation(tmp_path, "a", "b", seeds=3)
    assert Estimate([]).left(trials, (), 1) is None
    finish(trials[0], seconds=100)  # a-s0
    estimate = Estimate(trials[:1])
    assert estimate.left(trials[1:], (), 1) == 500  # b is thought to take as long
    estimate.add(trials[1], 40)
    assert estimate.of(trials[1]) == 40 and estimate.of(trials[2]) == 100
    assert estimate.left(trials[2:], (), 1) == 2 * 100 + 2 * 40 and estimate.left(trials[2:], (), 2) == 140
    assert estimate.left((), [(trials[2], 70.0), (trials[3], 90.0)], 2) == 30
    assert [duration(seconds) for seconds in (44.6, 185, 7620)] == ["45 s", "3 min 05 s", "2 h 07 min"]


# The command


@pytest.fixture
def engine(monkeypatch):
    """The engine that run_ablation starts: a fake one."""
    fake = FakeEngine()
    monkeypatch.setattr(command, "start_engine", lambda name, workers, trials: fake)
    return fake


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_tells_what_would_be_run_and_writes_nothing(tmp_path, out, engine, capsys):
    variants = {
        "new": {"mix.name": "bank", "mix.bank": "trial:started"},
        "started": SEARCH,
        "done": PLAIN,
        "failed": PLAIN,
    }
    trials = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    cut_off(trials[1])
    finish(trials[2], accuracy=75, seconds=600)
    trials[3].record_failure(Outcome("failed", "it burnt"))
    before = files_below(tmp_path)
    run_ablation(str(tmp_path / "abl.yaml"), dry_run=True)
    assert capsys.readouterr().out.splitlines() == [
        "new, seed 0      would be run after started, seed 0",
        "started, seed 0  would go on from its checkpoint",
        "done, seed 0     done, accuracy 75.00 %",
        "failed, seed 0   failed before: it burnt",
        "4 trials: 1 done already, 1 failed before, 2 to run, about 20 min 00 s",
    ]
    after = files_below(tmp_path)
    assert engine.started == [] and after == before
    run_ablation(str(tmp_path / "abl.yaml"), dry_run=True, retry=True, only=["failed"])
    assert capsys.readouterr().out.splitlines()[0] == "failed, seed 0  would be run"


def test_tables_of_what_is_done_so_far_run_nothing(tmp_path, out, engine, capsys):
    file = written(tmp_path / "abl.yaml", variants={"new": PLAIN, "done": PLAIN, "begun": SEARCH})
    with pytest.raises(UserError, match="abl: no trial is done yet"):
        run_ablation(str(file), tables=True)
    trials = read_ablation(file)
    finish(trials[1], accuracy=75)
    cut_off(trials[2])
    run_ablation(str(file), tables=True)
    told = capsys.readouterr()
    assert "75.00" in told.out and "of 1 of 3 trials" in told.err
    assert (out / "abl" / "table.md").is_file() and engine.started == []
    for other in ({"dry_run": True}, {"only": ["done"]}, {"retry": True}):
        with pytest.raises(UserError, match="--tables"):
            run_ablation(str(file), tables=True, **other)


def test_failures_are_listed_at_the_end_with_what_runs_them_again(tmp_path, engine, capsys):
    file = written(tmp_path / "abl.yaml", variants={"bad": PLAIN, "good": PLAIN})
    engine.play = lambda trial: Outcome("failed", "it burnt") if trial.variant == "bad" else done(trial)
    for _ in range(2):
        with pytest.raises(UserError) as told:
            run_ablation(str(file))
        assert str(told.value).splitlines() == [
            "1 of 2 trials failed",
            "bad, seed 0: it burnt",
            f"to run what failed again: ./run ablate {file} --retry",
        ]
    assert engine.started == ["bad-s0", "good-s0"]
    assert "good" in capsys.readouterr().out  # the table of what is done
    engine.play = None
    run_ablation(str(file), retry=True, only=["bad"])
    assert engine.started == ["bad-s0", "good-s0", "bad-s0"]
    table = (tmp_path / "out" / "abl" / "table.csv").read_text()
    assert len(table.splitlines()) == 3  # tables are of all


def test_a_stopped_ablation_says_how_to_go_on(tmp_path, engine, monkeypatch, capsys):
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN})

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_schedule", interrupted)
    with pytest.raises(SystemExit) as left:
        run_ablation(str(file))
    assert left.value.code == 130
    assert f"the same command goes on where it was: ./run ablate {file}" in capsys.readouterr().err


def test_published_tables_carry_what_made_them(tmp_path, engine, monkeypatch):
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN})
    (trial,) = read_ablation(file)
    finish(trial)
    (trial.folder / "environment.json").write_text(json.dumps({"schema": SCHEMA, "commit": "abc"}))
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    run_ablation(str(file), publish=True)
    published = tmp_path / "runs" / "results" / "abl"
    assert {path.name for path in published.iterdir()} == {
        "per_seed.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.svg", "ablation.yaml", "recipe.yaml",
        "environment.json", "trials.jsonl",
    }  # fmt: skip
    environment = json.loads((published / "environment.json").read_text())
    assert environment["command"] == "./run ablate abl --publish" and environment["commit"] == "abc"
    assert "test loss, nats" in (published / "table.md").read_text()
    assert published_lines(file)[0]["result"]["last_test_loss"] == 1.25


def test_what_another_process_runs_is_not_done(tmp_path, engine, monkeypatch):
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN, "b": PLAIN})
    trials = read_ablation(file)
    finish(trials[1])
    trials[0].notes.mkdir(parents=True)
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    with open(trials[0].notes / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError) as told:
            run_ablation(str(file), publish=True)
        assert str(told.value).splitlines() == [
            "1 of 2 trials are not done",
            "a, seed 0: is being run by another process",
        ]
    assert engine.started == [] and kept_trials(file) == ["b-s0"]
    run_ablation(str(file), publish=True)
    assert kept_trials(file) == ["b-s0", "a-s0"]
    assert (tmp_path / "runs" / "results" / "abl" / "table.md").is_file()


def kept_trials(file):
    return [f"{line['variant']}-s{line['seed']}" for line in published_lines(file)]


def test_what_is_published_counts_as_done_where_run_folders_are_lost(tmp_path, engine, monkeypatch, capsys):
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    variants = {"a": {"mix.name": "evolved"}, "replay": {"mix.name": "bank", "mix.bank": "trial:a"}, "b": PLAIN}
    file = written(tmp_path / "abl.yaml", variants=variants, seeds=2)
    run_ablation(str(file), publish=True, only=["b"])
    assert kept_trials(file) == ["b-s0", "b-s1"]
    run_ablation(str(file), publish=True, only=["a"])
    shutil.rmtree(tmp_path / "out")
    with open(kept.results_folder(file) / "trials.jsonl", "ab") as lines:
        lines.write(b'{"schema": 1, "variant": "re')  # killed while it wrote
    engine.started.clear()
    run_ablation(str(file), publish=True, only=["b"])
    assert engine.started == []
    table = (kept.results_folder(file) / "per_seed.csv").read_text().splitlines()
    assert len(table) == 1 + 4 and table[1].startswith("a,0,50.0,")
    run_ablation(str(file), publish=True)  # a replay needs the patterns, which are gone
    assert engine.started == ["a-s0", "replay-s0", "a-s1", "replay-s1"]
    assert sorted(set(kept_trials(file))) == [f"{name}-s{seed}" for name in ("a", "b", "replay") for seed in (0, 1)]
    shutil.rmtree(tmp_path / "out")
    engine.started.clear()
    run_ablation(str(file))  # who does not publish repeats the experiment
    assert len(engine.started) == 6


def test_tables_of_published_results_say_what_made_them_as_far_as_it_is_known(tmp_path, engine, monkeypatch):
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN, "b": PLAIN})
    engine.play = done
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    run_ablation(str(file), publish=True, only=["a"])
    made = kept.results_folder(file) / "environment.json"
    first = made.read_text()
    made.unlink()
    run_ablation(str(file), publish=True, tables=True)
    assert made.read_text() == first and "--publish" in first
    made.unlink()
    shutil.rmtree(read_ablation(file)[0].folder)
    run_ablation(str(file), publish=True, tables=True)
    assert not made.exists()


def test_tables_tell_which_trials_ran_on_another_device(tmp_path, engine, monkeypatch, capsys):
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN, "b": PLAIN})
    engine.play = done
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    run_ablation(str(file), publish=True)
    assert "Not on the device" not in capsys.readouterr().out
    a, b = read_ablation(file)
    lines = kept.results_folder(file) / "trials.jsonl"
    records = [json.loads(line) | {"device_name": "one"} for line in lines.read_text().splitlines()]
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.rmtree(a.folder)  # known by its line alone, b by its run folder
    environment = json.loads((b.folder / "environment.json").read_text())
    (b.folder / "environment.json").write_text(json.dumps(environment | {"device_name": "two"}))
    run_ablation(str(file), publish=True, tables=True)
    assert "Not on the device that a with the same seed ran on: b (1 of 1 pairs)." in capsys.readouterr().out
    rows = (kept.results_folder(file) / "per_seed.csv").read_text().splitlines()
    assert [row.rsplit(",", 1)[1] for row in rows] == ["device_name", "one", "two"]


def test_published_results_of_other_settings_are_refused(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(kept, "PROJECT", tmp_path)
    file = written(tmp_path / "abl.yaml", variants={"a": PLAIN})
    run_ablation(str(file), publish=True)
    shutil.rmtree(tmp_path / "out")
    written(file, variants={"a": {**PLAIN, "search.population": 7}})  # which does not count where nothing is searched
    run_ablation(str(file), publish=True)
    assert len(engine.started) == 1
    written(file, variants={"a": {**PLAIN, "train.lr": 0.7}})
    with pytest.raises(UserError, match=r"a, seed 0 was made with train.lr=.*, the file now says 0.7; remove its line"):
        run_ablation(str(file), publish=True)


def test_settings_go_by_the_seed(tmp_path):
    trials = an_ablation(tmp_path, "a", "b", seeds=3, by_seed={"data.subset_start": [0, 5]}, common=COMMON)
    assert [(trial.name, trial.config.data.subset_start) for trial in trials] == [
        ("a-s0", 0), ("b-s0", 0), ("a-s1", 5), ("b-s1", 5), ("a-s2", 0), ("b-s2", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by_seed", "words"),
    [
        ({"data.subset_start": 5}, "by_seed: expected a list of values for each key"),
        ({"mix.name": ["plain"]}, "mix.name is set by seed and for a; leave out one of them"),
        ({"run.seed": [1]}, "by_seed: run.seed is set for each trial"),
    ],
)
def test_what_cannot_go_by_the_seed_is_refused(tmp_path, by_seed, words):
    with pytest.raises(UserError, match=words):
        an_ablation(tmp_path, "a", by_seed=by_seed)


@pytest.mark.parametrize(("place", "words"), [("file", "is a file"), ("/proc/evomix", "cannot be made: ")])
def test_a_place_that_cannot_be_made_is_told_in_a_line(cli, tmp_path, monkeypatch, place, words):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVOMIX_OUT", str(tmp_path / place))
    status, _, error = cli("ablate", str(written(tmp_path / "abl.yaml", variants={"a": PLAIN})))
    assert status == 2 and words in error and "set EVOMIX_OUT" in error
    assert len(error.strip().splitlines()) == 1


def test_unknown_engines_and_no_workers_are_refused(tmp_path):
    with pytest.raises(UserError, match="--engine: expected one of local, ray, got 'slurm'"):
        run_ablation("cifar10-small", engine="slurm")
    with pytest.raises(UserError, match="--workers: expected 1 or more, got 0"):
        run_ablation("cifar10-small", workers=0)


# A trial in its process


@pytest.fixture
def trained_by(monkeypatch):
    """Calls of training.train.train, which does as its last argument says."""
    import training.train

    calls = []

    def replace(work):
        def train(config, folder, *, resume):
            calls.append((folder.name, resume))
            return work(config, folder)

        monkeypatch.setattr(training.train, "train", train)
        return calls

    return replace


def test_a_trial_begins_anew_or_goes_on(tmp_path, trained_by):
    whole, early, torn = an_ablation(tmp_path, "whole", "early", "torn")
    cut_off(whole)
    cut_off(early, checkpoint=False)
    (torn.folder / "elites").mkdir(parents=True)  # cut off before its config.json
    (torn.folder / ".lock").touch()
    calls = trained_by(lambda config, folder: folder.mkdir(parents=True, exist_ok=folder.name == "whole-s0"))
    for trial in (whole, early, torn):
        assert run_trial(trial) == "done"
    assert calls == [("whole-s0", True), ("early-s0", False), ("torn-s0", False)]
    finish(whole)
    assert run_trial(whole) == "done" and len(calls) == 3


@pytest.mark.parametrize("place", ["notes", "folder"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_trial_is_left_to_the_process_that_runs_it(tmp_path, trained_by, place, checkpoint):
    (trial,) = an_ablation(tmp_path, "a")
    cut_off(trial, checkpoint=checkpoint)
    trial.notes.mkdir(parents=True)
    before, calls = sorted(trial.folder.rglob("*")), trained_by(lambda config, folder: None)
    (trial.folder / ".lock").touch()
    with open(getattr(trial, place) / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert trial.is_busy() and run_trial(trial) == "busy"
    assert calls == [] and set(before) <= set(trial.folder.rglob("*"))
    assert not trial.is_busy()


def test_a_trial_waits_for_a_process_that_is_about_to_end(tmp_path, trained_by):
    (trial,) = an_ablation(tmp_path, "a")
    trial.notes.mkdir(parents=True)
    calls = trained_by(lambda config, folder: None)
    with open(trial.notes / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        timer = threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN))
        timer.start()
        assert run_trial(trial, patience=30) == "done" and calls == [("a-s0", False)]
        timer.join()


def test_a_run_made_by_hand_at_the_same_moment_is_no_failure(tmp_path, trained_by):
    (trial,) = an_ablation(tmp_path, "a")

    def other_was_faster(config, folder):
        finish(trial)
        raise UserError(f"{folder} is there already")

    trained_by(other_was_faster)
    assert run_trial(trial) == "done"
    (trial.folder / "log.jsonl").unlink()

    def burns(config, folder):
        raise UserError("the loss became NaN")

    trained_by(burns)
    with pytest.raises(UserError, match="became NaN"):
        run_trial(trial)


# Processes of this machine


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A TrialProcess whose process runs some Python; it reads its order first."""

    def start(code, **options):
        (trial,) = an_ablation(tmp_path, "a")
        whole = f"import json, os, sys, time\norder = json.loads(sys.stdin.readline())\n{code}"
        monkeypatch.setattr(local, "COMMAND", (sys.executable, "-c", whole))
        return local.TrialProcess(trial, **options)

    return start


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "its process was killed by SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "its process was killed by SIGKILL; the system does so when memory runs out"),
        (
            "print('run: a warning\\nelse\\nrun: no data\\nrun: fetch it', file=sys.stderr); sys.exit(2)",
            "no data; fetch it",
        ),
        ("raise RuntimeError('a bug')", "RuntimeError: a bug"),
        ("sys.exit(7)", "its process ended with exit status 7"),
        ("", "its process ended without a result"),
    ],
)
def test_how_a_process_failed_is_told(process, code, reason):
    running = process(f"print('words before', file=sys.stderr, flush=True) if {bool(reason)} else 0\n{code}")
    outcome = running.wait()
    if "status 7" in reason:
        reason = "words before"
    assert (outcome.kind, outcome.reason) == ("failed", reason) and outcome.output.startswith("words before")
    if code:
        assert running.trial.output.read_text().startswith("words before")
    assert running.poll() is None  # told once


def test_a_process_that_stops_or_finds_another_at_work_has_not_failed(process):
    assert process("sys.exit(130)").wait() == Outcome("stopped")
    assert process("sys.exit(75)").wait() == Outcome("busy")
    running = process("time.sleep(60)")
    assert list(running.trial.notes.glob("output-*.txt")) and running.poll() is None
    running.stop()
    assert running.wait() == Outcome("stopped")
    assert not list(running.trial.notes.glob("output-*.txt"))


def test_a_process_whose_folder_is_damaged_has_failed(process, tmp_path):
    running = process("sys.exit(0)")
    damaged(running.trial)
    outcome = running.wait()
    assert outcome.kind == "failed" and "config.json cannot be read" in outcome.reason


@pytest.mark.parametrize("status", [0, 1])
def test_output_that_another_process_clears_away_meanwhile_is_no_error(process, monkeypatch, status):
    running = process(f"sys.exit({status})")

    def gone(*paths):
        raise FileNotFoundError

    monkeypatch.setattr(local.os, "replace", gone)
    monkeypatch.setattr(Path, "unlink", gone)
    assert running.wait().kind == "failed"


def test_a_trial_ends_by_itself_when_nobody_waits_for_it(tmp_path):
    code = (
        "import time, runs.ablation.engines.worker as w\nw.run_trial = lambda *a: time.sleep(60)\nw.sys.exit(w.main())"
    )
    (trial,) = an_ablation(tmp_path, "a")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=ROOT)
    process.stdin.write(json.dumps({"trial": trial.as_json(), "output": "x", "patience": 0}).encode() + b"\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.stdin.close()
    assert process.wait(120) == -signal.SIGTERM


def test_an_unsound_pattern_file_is_told_in_a_line(tmp_path):
    (tmp_path / "bank.json").write_text("{}")
    bank = {"mix.name": "bank", "mix.bank": str(tmp_path / "bank.json")}
    (trial,) = read_ablation(written(tmp_path / "abl.yaml", variants={"a": bank}))
    outcome = local.TrialProcess(trial).wait()
    assert outcome.kind == "failed" and "is not a pattern bank" in outcome.reason
    assert outcome.reason.startswith(str(tmp_path))  # no exception of a traceback


def test_workers_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local.LocalEngine(1)._environment(0) == {}
    engine = local.LocalEngine(3)
    assert [engine._environment(slot) for slot in range(3)] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("2", "5", "2")
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.LocalEngine(3)._environment(1) == {"OMP_NUM_THREADS": "1"}


def test_trials_that_the_cpu_would_emulate_are_told_of_before_they_start(tmp_path, monkeypatch, capsys):
    def told(gpus="", emulated=True, **options):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(local, "emulates_bfloat16", lambda: emulated)
        file = written(tmp_path / "abl.yaml", variants={"a": PLAIN, "b": {**PLAIN, **options}})
        local.tell_of_emulation(read_ablation(file))
        return "emulates bfloat16" in capsys.readouterr().err

    slow = {"train.precision": "bfloat16"}
    assert told(**slow) and not told() and not told(emulated=False, **slow)
    assert not told(gpus="0", **slow) and told(gpus="0", **slow, **{"run.device": "cpu"})


def test_trials_run_in_processes_and_go_on_after_a_kill(tmp_path, out, capsys):
    """The whole of it, with real training: a search, and a run that replays its patterns."""
    variants = {"replay": {"mix.name": "bank", "mix.bank": "trial:evolved"}, "evolved": SEARCH}
    file = written(tmp_path / "whole.yaml", variants=variants)
    run_ablation(str(file), workers=2)
    told = capsys.readouterr()
    assert told.err.index("evolved, seed 0: accuracy") < told.err.index("replay, seed 0: started")
    assert "replay" in told.out and (out / "whole" / "table.tex").is_file()
    environment = json.loads((out / "whole" / "evolved-s0" / "environment.json").read_text())
    assert environment["command"] == f"./run ablate {file} --only evolved"
    log = out / "whole" / "replay-s0" / "log.jsonl"
    before = log.read_text().splitlines()
    log.write_text("\n".join(before[:-1]) + "\n")
    run_ablation(str(file))
    assert "replay, seed 0: going on from its checkpoint" in capsys.readouterr().err
    run = RunFolder(out / "whole" / "replay-s0")
    assert run.result["last_accuracy"] == json.loads(before[-1])["last_accuracy"]
    assert run.events[-2]["event"] == "resume"


# Ray, and what comes back from nodes that share no disk


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "été", "x.npz"]), min_size=1, max_size=3).map(tuple), st.binary(max_size=40)
    )
)
def test_a_folder_comes_back_as_it_was(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("packed")
    kept = {}
    for parts, content in files.items():
        path = root.joinpath("from", *parts)
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        kept[parts] = content
    (root / "from").mkdir(exist_ok=True)
    (root / "to").mkdir()
    (root / "to" / "old").touch()
    unpack(pack(root / "from"), root / "to")
    found = {
        path.relative_to(root / "to").parts: path.read_bytes() for path in (root / "to").rglob("*") if path.is_file()
    }
    assert found == kept and sorted(path.name for path in root.iterdir()) == ["from", "to"]


def test_what_is_packed(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint" / "latest.npz").write_bytes(b"x" * 100)
    os.link(run / "checkpoint" / "latest.npz", run / "checkpoint" / "best.npz")
    for name in (".lock", ".config.json.tmp", "log.jsonl"):
        (run / name).write_text("1")
    (run / "link").symlink_to("/etc/passwd")
    unpack(pack(run), tmp_path / "whole")
    unpack(pack(run, largest=150), tmp_path / "light")
    unpack(pack(run, below="checkpoint"), tmp_path / "part")
    assert all(
        path.is_dir() or path.parent == tmp_path / "part" / "checkpoint" for path in (tmp_path / "part").rglob("*")
    )
    assert any((tmp_path / "part").rglob("*"))
    assert {path.name for path in (tmp_path / "whole").rglob("*.*")} == {"log.jsonl", "latest.npz", "best.npz"}
    assert (tmp_path / "whole" / "checkpoint" / "best.npz").read_bytes() == b"x" * 100
    assert {path.name for path in (tmp_path / "light").iterdir()} == {"log.jsonl"}


def an_archive(*members):
    """Of (name, content) and whole TarInfos."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def sized(size):
    """An archive whose only file says so of its size, in the base-256 form that holds negative numbers."""
    packed = bytearray(an_archive(("a", b"1")))
    packed[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True)
    packed[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(packed[:512]))[0]
    return bytes(packed)


def sparse():
    member = tarfile.TarInfo("a")
    member.pax_headers = {"GNU.sparse.size": "abc", "GNU.sparse.name": "a", "GNU.sparse.map": "0,1"}
    return an_archive(member)


def a_link(kind):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc/passwd"
    return link


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (an_archive(("../out", b"1")), "not a plain file below the folder"),
        (an_archive(("a/../../out", b"1")), "not a plain file below the folder"),
        (an_archive(("/tmp/out", b"1")), "not a plain file below the folder"),
        (an_archive(("C:\\out", b"1")), "not a plain file below the folder"),
        (an_archive((".", b"1")), "not a plain file below the folder"),
        *(
            (an_archive(a_link(kind)), "not a plain file")
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
        ),
        (an_archive(("a", b"1" * 2000)), "more than 1,000 bytes"),
        (an_archive(("a", b"1"), ("a", b"2")), "is damaged"),
        (an_archive(("a", b"1"), ("a/b", b"2")), "is damaged"),
        (an_archive(("a", b"1" * 900))[:1000], "is damaged"),
        (b"no archive", "is damaged"),
        (sized(-512), "is damaged"),
        (sized(-1), "is damaged"),
        (sparse(), "is damaged"),
    ],
)
def test_nothing_escapes_from_an_archive(tmp_path, packed, words):
    folder = tmp_path / "place" / "run"
    folder.mkdir(parents=True)
    (folder / "kept").touch()
    with pytest.raises(ArchiveError, match=words):
        unpack(packed, folder, largest=1000)
    assert [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        Path("place/run/kept")
    ]


def test_what_was_there_stays_where_the_new_folder_cannot_be_put_in_place(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").touch()
    packed, rename = pack(tmp_path / "run"), Path.rename

    def fails(path, target):
        if path.name == "new":
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr("runs.ablation.engines.packed_folder.shutil.move", lambda source, target: fails(source, target))
    with pytest.raises(OSError, match="no space left"):
        unpack(packed, tmp_path / "run")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "kept"]


def test_a_node_without_our_disk_sends_the_run_folder(tmp_path, out, monkeypatch):
    variants = {"evolved": SEARCH, "replay": {"mix.name": "bank", "mix.bank": "trial:evolved"}}
    evolved, replay = read_ablation(written(tmp_path / "abl.yaml", variants=variants))
    finish(evolved)
    (evolved.folder / "patterns").mkdir()
    (evolved.folder / "patterns" / "bank.npz").write_bytes(b"patterns")
    seen = []

    def attempt(trial, threads):
        seen.append(trial.folder)
        assert out not in trial.folder.parents and Path(trial.config.mix.bank).read_bytes() == b"patterns"
        finish(trial, accuracy=60)
        return "done", "", ""

    monkeypatch.setattr(on_ray, "_attempt", attempt)
    marker = tmp_path / "marker"
    marker.write_text("other")
    needed = {"evolved-s0": pack(evolved.folder)}
    outcome, packed = on_ray.run_on_node(replay.as_json(), str(marker), "ours", needed, 1)
    assert not replay.folder.exists() and not seen[0].exists()
    assert on_ray.receive(replay, Outcome(*outcome), packed) == Outcome("done")
    assert replay.state() == "done" and replay.run.result["last_accuracy"] == 60  # also of the file's settings
    assert on_ray.receive(replay, Outcome("done"), b"late") == Outcome("done")  # another was faster
    (replay.folder / "log.jsonl").unlink()
    assert on_ray.receive(replay, Outcome("done"), b"broken").reason.startswith("its run folder did not arrive")


def test_a_node_with_our_disk_writes_there(tmp_path, monkeypatch):
    (trial,) = an_ablation(tmp_path, "a")
    monkeypatch.setattr(on_ray, "_attempt", lambda trial, threads: (finish(trial), ("done", "", ""))[1])
    marker = tmp_path / "marker"
    marker.write_text("ours")
    assert on_ray.run_on_node(trial.as_json(), str(marker), "ours", {}, 1) == (("done", "", ""), None)
    assert trial.state() == "done"


def test_what_a_trial_takes_of_a_cluster(tmp_path):
    engine = on_ray.RayEngine.__new__(on_ray.RayEngine)
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}]
    (trial,) = an_ablation(tmp_path, "a")
    engine._has_gpus = True
    assert engine._resources(trial) == (1, 1) and engine._fitting(trial, nodes) == 2
    (on_cpu,) = an_ablation(tmp_path, "a", common={**COMMON, "run.device": "cpu", "run.threads": 2})
    assert engine._resources(on_cpu) == (2, 0) and engine._fitting(on_cpu, nodes) == 4 + 1
    (half,) = an_ablation(tmp_path, "a", resources={"cpus": 1, "gpus": 0.5})
    assert engine._fitting(half, nodes) == 4
    (large,) = an_ablation(tmp_path, "a", resources={"cpus": 9})
    with pytest.raises(
        UserError, match="takes 9 CPUs and 1 GPUs, and no node has as many .the most are 8 and 2.; lower"
    ):
        engine._fitting(large, nodes)


def test_of_a_needed_trial_only_what_is_used_is_sent(tmp_path):
    variants = {"evolved": SEARCH, "replay": {"mix.name": "bank", "mix.bank": "trial:evolved"}}
    variants["compared"] = {**SEARCH, "search.objective": "image_reducible", "search.reference": "trial:evolved"}
    trials = {trial.variant: trial for trial in read_ablation(written(tmp_path / "abl.yaml", variants=variants))}
    for variant, part in (("replay", "patterns"), ("compared", "")):
        folders = on_ray._folders(trials[variant])
        assert folders == {"evolved-s0": trials["evolved"].folder}
        assert on_ray._used(trials[variant], folders["evolved-s0"]) == part


def test_without_ray_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--engine ray needs the package ray, which is missing; pip install"):
        on_ray.RayEngine(an_ablation(tmp_path, "a"))


def test_trials_run_on_ray(tmp_path, out, capsys):
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    run_ablation(str(written(tmp_path / "abl.yaml", variants={"a": PLAIN})), engine="ray")
    assert "[1/1] a, seed 0: accuracy" in capsys.readouterr().err
    assert RunFolder(out / "abl" / "a-s0").result is not None


def test_an_address_where_no_cluster_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # taken, and nobody listens
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(ConnectionRefusedError):
                on_ray._check_reachable(address)
    on_ray._check_reachable("auto")


def test_all_know_a_shared_disk_by_the_same_mark(tmp_path):
    assert on_ray.mark(tmp_path) == on_ray.mark(tmp_path) and len(on_ray.mark(tmp_path)[1]) == 32

"""Which trial of an ablation runs when: what is ready, what waits for another, what failed. Engines only run them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Literal

from evo.durations import duration
from evo.errors import UserError
from runs.ablation.engines import Engine
from runs.ablation.trials import Outcome, State, Trial
from runs.folders import shown
from training.progress import Progress
from training.stopping import Interruption

LOST = 3  # times a trial whose worker was lost is run again
STOPPING = 120.0  # seconds that trials get for their checkpoints
QUIET = 60.0  # seconds between lines on what runs, where output is piped
BUSY_INTERVAL = 1.0  # seconds between looks at what other processes run
SHOWN_LINES = 8  # of a failed trial's output

Standing = Literal["waiting", "running", "done", "failed", "blocked", "busy", "stopped"]


class Schedule:
    """How every trial stands, and what comes next.

    retry: run again what failed before. Raises UserError where a folder does not fit the file.
    """

    def __init__(self, trials: Iterable[Trial], retry: bool = False) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.standing: dict[str, Standing] = {}
        self.reasons: dict[str, str] = {}  # of failed, blocked and stopped ones
        self.lost: Counter[str] = Counter()
        self._looked = 0.0  # at busy ones
        for trial in self.trials.values():
            state = trial.state()
            if state == "failed" and not retry:
                self._set(trial, "failed", trial.why_failed())
            else:
                self._set(trial, "done" if state == "done" else "busy" if trial.is_busy() else "waiting")
        self._block()

    def named(self, *standings: Standing) -> list[Trial]:
        """The trials that stand so, in the file's order."""
        return [trial for name, trial in self.trials.items() if self.standing[name] in standings]

    def next(self) -> Trial | None:
        """A trial to start now. It is taken to run from here on."""
        for trial in self.named("waiting"):
            if any(self.standing[needed] != "done" for needed in trial.needs):
                continue
            state = self._state(trial)
            if state == "done":  # by another process meanwhile
                self._set(trial, "done")
            elif state is None:
                self._block()
            elif trial.is_busy():
                self._set(trial, "busy")
            else:
                trial.forget_failure()
                self._set(trial, "running")
                return trial
        return None

    def over(self) -> bool:
        return not self.named("waiting", "running")

    def ended(self, name: str, outcome: Outcome) -> None:
        trial = self.trials[name]
        if outcome.kind == "lost" and self.lost[name] < LOST:
            self.lost[name] += 1
            self._set(trial, "waiting")
            return
        if outcome.kind in ("failed", "lost"):
            trial.record_failure(outcome)
            self._set(trial, "failed", outcome.reason)
        elif outcome.kind == "stopped":
            self._set(trial, "stopped", "was stopped by a signal; the same command goes on with it")
        else:
            self._set(trial, "done" if outcome.kind == "done" else "busy")
        self._block()

    def look_at_busy(self) -> None:
        """Take note of what other processes have done or left."""
        if time.monotonic() - self._looked < BUSY_INTERVAL:
            return
        self._looked = time.monotonic()
        for trial in self.named("busy"):
            if trial.is_busy():
                continue
            state = self._state(trial)
            if state == "failed":
                self._set(trial, "failed", trial.why_failed())
            elif state is not None:
                self._set(trial, "done" if state == "done" else "waiting")
        self._block()

    def _state(self, trial: Trial) -> State | None:
        """Its state; None where its folder has become one of other settings or cannot be read: then it has failed."""
        try:
            return trial.state()
        except UserError as error:
            self._set(trial, "failed", str(error))
            return None

    def _set(self, trial: Trial, standing: Standing, reason: str = "") -> None:
        self.standing[trial.name] = standing
        if reason:
            self.reasons[trial.name] = reason

    def _block(self) -> None:
        """Mark what waits for a trial that will not be done."""
        for _ in self.trials:  # a chain may be as long
            found = [
                (trial, needed)
                for trial in self.named("waiting")
                for needed in trial.needs
                if self.standing[needed] in ("failed", "blocked", "stopped")
            ]
            if not found:
                return
            for trial, needed in found:
                self._set(trial, "blocked", f"waits for {self.trials[needed].title}, which is not done")


def run_schedule(
    schedule: Schedule, engine: Engine, report: Report, on_done: Callable[[Trial], None] = lambda trial: None
) -> None:
    """Run all that can be run. On Ctrl-C or SIGTERM trials write their checkpoints before KeyboardInterrupt is raised.

    on_done: called with each trial as soon as it is done.
    """
    try:
        with Interruption() as interruption:
            try:
                _run(schedule, engine, report, interruption, on_done)
            except Exception:
                report.stopping()
                _stop(engine)
                raise
    finally:
        engine.close()
        report.close()
    if interruption.asked:
        raise KeyboardInterrupt


def _run(
    schedule: Schedule, engine: Engine, report: Report, interruption: Interruption, on_done: Callable[[Trial], None]
) -> None:
    deadline = float("inf")
    while not schedule.over() and time.monotonic() < deadline:
        if interruption.asked and deadline == float("inf"):
            report.stopping()
            engine.stop()
            deadline = time.monotonic() + STOPPING
        while not interruption.asked and engine.room() and (trial := schedule.next()) is not None:
            report.started(trial)
            engine.start(trial)
        for name, outcome in engine.ended():
            schedule.ended(name, outcome)
            report.ended(schedule.trials[name], outcome)
            if outcome.kind == "done":
                on_done(schedule.trials[name])
        if interruption.asked and not schedule.named("running"):
            break
        schedule.look_at_busy()
        report.tick()


def _stop(engine: Engine) -> None:
    """Have what runs write its checkpoint, where the schedule cannot go on."""
    engine.stop()
    deadline = time.monotonic() + STOPPING
    while engine.running() and time.monotonic() < deadline:
        engine.ended()


# Time


class Estimate:
    """How long trials take, judged by those that are done."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._seconds: dict[str, list[float]] = {}  # by variant
        for trial in trials:
            if (result := trial.result) is not None:
                self.add(trial, result["seconds"])

    def add(self, trial: Trial, seconds: float) -> None:
        self._seconds.setdefault(trial.variant, []).append(seconds)

    def of(self, trial: Trial) -> float | None:
        """Seconds of a trial: its variant's mean, else that of all variants; None where nothing is known."""
        if trial.variant in self._seconds:
            return fmean(self._seconds[trial.variant])
        return fmean(map(fmean, self._seconds.values())) if self._seconds else None

    def left(self, waiting: Iterable[Trial], elapsed: Iterable[tuple[Trial, float]], slots: int) -> float | None:
        """Seconds until all are done, of which some have run for a while."""
        spent = [(trial, 0.0) for trial in waiting] + list(elapsed)
        each = [(expected, seconds) for trial, seconds in spent if (expected := self.of(trial)) is not None]
        if not each:
            return None
        rest = [max(0.0, expected - seconds) for expected, seconds in each]
        return max(sum(rest) / min(slots, len(rest)), *rest)


# What is told


class Report:
    """Lines for a person, on standard error."""

    def __init__(self, schedule: Schedule, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.schedule = schedule
        self.slots = slots
        self.clock = clock
        self.estimate = Estimate(schedule.named("done"))
        self.progress = Progress()
        self._began: dict[str, float] = {}
        self._told = clock()  # the last line of any kind
        self._say(overview(schedule, self.estimate, slots))

    def started(self, trial: Trial) -> None:
        self._began[trial.name] = self.clock()
        how = "going on from its checkpoint" if trial.onward() == "started" else "started"
        self._say(f"{self._head(trial)}: {how}")

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        took = self.clock() - self._began.pop(trial.name)
        if outcome.kind == "done" and trial.result is not None:
            self.estimate.add(trial, took)
            self._say(f"{self._head(trial)}: {accuracy(trial)} after {duration(took)}{self._left()}")
        elif outcome.kind == "busy":
            self._say(f"{self._head(trial)}: is being run by another process")
        elif outcome.kind == "stopped":
            kept = "its last checkpoint is kept" if trial.onward() == "started" else "before its first checkpoint"
            self._say(f"{self._head(trial)}: stopped; {kept}")
        elif self.schedule.standing[trial.name] == "waiting":
            again = f"it is run again ({self.schedule.lost[trial.name]} of {LOST} times)"
            self._say(f"{self._head(trial)}: {outcome.reason}; {again}")
        else:
            self._say(f"{self._head(trial)}: failed after {duration(took)}: {outcome.reason}{self._left()}")
            self._say_output(trial, outcome)

    def stopping(self) -> None:
        self._say("stopping: trials write their checkpoints; Ctrl-C again ends them at once")

    def tick(self) -> None:
        """What runs now, where that is due."""
        if self._began and (self.progress.terminal or self.clock() - self._told > QUIET):
            self.progress.update(self._now)
            self._told = self.clock()

    def close(self) -> None:
        self.progress.close()

    def _say(self, line: str) -> None:
        self.progress.update(line, final=True)
        self._told = self.clock()

    def _say_output(self, trial: Trial, outcome: Outcome) -> None:
        lines = [line for line in outcome.output.splitlines() if outcome.reason not in line and not epoch_of(line)]
        for line in lines[-SHOWN_LINES:]:
            self._say(f"    {line}")
        if lines and trial.output.is_file():
            self._say(f"    (all it printed: {shown(trial.output)})")

    def _head(self, trial: Trial) -> str:
        return f"[{list(self.schedule.trials).index(trial.name) + 1}/{len(self.schedule.trials)}] {trial.title}"

    def _left(self) -> str:
        """`; 3 left, about 4 min`"""
        waiting, running = self.schedule.named("waiting"), self.schedule.named("running")
        if not waiting and not running:
            return ""
        elapsed = [(trial, self.clock() - self._began[trial.name]) for trial in running if trial.name in self._began]
        seconds = self.estimate.left(waiting, elapsed, self.slots)
        return f"; {len(waiting) + len(running)} left" + ("" if seconds is None else f", about {duration(seconds)}")

    def _now(self) -> str:
        running = [trial for trial in self.schedule.named("running") if trial.name in self._began]
        if len(running) == 1:
            parts = [f"{running[0].title}: {last_line(running[0]) or 'starts'}"]
        else:
            parts = [f"{trial.name} {epoch_of(last_line(trial)) or 'starts'}" for trial in running]
        return ", ".join(parts) + self._left()


def overview(schedule: Schedule, estimate: Estimate, slots: int) -> str:
    """`8 trials: 4 done already, 1 failed before, 3 to run, about 12 min`"""
    words: dict[str, tuple[Standing, ...]] = {
        "done already": ("done",),
        "failed before": ("failed",),
        "being run by another process": ("busy",),
        "waiting for what failed": ("blocked",),
        "to run": ("waiting",),
    }
    counts = [(len(schedule.named(*standings)), word) for word, standings in words.items()]
    total = len(schedule.trials)
    text = f"{total} trial{'s' if total > 1 else ''}: " + ", ".join(
        f"{count} {word}" for count, word in counts if count
    )
    waiting = schedule.named("waiting")
    seconds = estimate.left(waiting, (), slots)
    return text + (f", about {duration(seconds)}" if seconds is not None else "")


def accuracy(trial: Trial) -> str:
    result = trial.result or {}
    return f"accuracy {result['last_accuracy']:.2f} %"


def last_line(trial: Trial) -> str:
    """The last thing its process printed."""
    try:
        with open(trial.output, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def epoch_of(line: str) -> str:
    """`epoch 3/30` of a line of progress, else nothing."""
    found = re.search(r"epoch \d+/\d+", line)
    return found[0] if found else ""

"""TensorBoard's event file, for those who watch their runs there. The extra `tensorboard` installs it.

What is in it, by tag, and what its steps count:

    accuracy, image_loss, ...   after every epoch, all numbers of the log's epoch event: optimizer steps
    step/...                    every step's losses (nats) and learning rate, and images/s since the last point
    search/best, search/mean, search/diversity   every generation: generations of all searches of the run, from 1
    search/hypervolume          the same, of several objectives: of the front of all compositions evaluated
    search/final_best           the fittest genome at the end of every search: searches, from 1
    search/rank_correlation, search/bias, search/gain_estimated, search/gain_true   estimated scores beside exact ones,
        at every check of them: optimizer steps, of a search experiment generations
    final/...                   the numbers of the log's end event: optimizer steps, of a search experiment generations
    the options, for the HParams page, with final/... as its metrics
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.storage import replacing

FLUSH = 2.0  # seconds that points wait at most in this process, while there are others
GENERATION = ("best", "mean", "diversity", "hypervolume")
CHECKED = ("rank_correlation", "bias", "gain_estimated", "gain_true")


def check_tensorboard() -> None:
    """Raise UserError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "run.tensorboard=true needs the package tensorboard: install it with `.venv/bin/python -m pip install "
            "tensorboard`, or set -s run.tensorboard=false"
        )


class Board:
    """Writes FOLDER/tensorboard/events.out.tfevents.TIME.evomix; it is flushed after FLUSH seconds and on `length`.

    kept: the bytes of the file that a resumed run keeps, as `length` gave them to its checkpoint; what the process
    that was cut off wrote after them would be there twice. None begins anew.
    A resumed run goes on in a new file. It begins with an event upon which a TensorBoard that is watching forgets what
    it has read so far, and the kept bytes follow; the old file is emptied.
    """

    def __init__(self, folder: Path, kept: int | None = None) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        place = folder / "tensorboard"
        place.mkdir(exist_ok=True)
        head = _head()
        older = sorted(place.glob("events.out.tfevents.*.evomix"))
        body = older[-1].read_bytes()[len(head) : kept] if older and kept else b""
        number = max([int(time.time()), *(int(path.name.split(".")[-2]) + 1 for path in older)])  # read in this order
        path = place / f"events.out.tfevents.{number:010d}.evomix"
        with replacing(path) as file:
            file.write(head + body)
        for left in older[:-1]:
            left.unlink()
        if older:  # a TensorBoard that reads this one would never go on to the next if it were gone
            os.truncate(older[-1], 0)
        self._file = open(path, "ab")  # noqa: SIM115 (close() closes it)
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()

    def add(self, step: int, values: Mapping[str, Any], when: float | None = None) -> None:
        """Write every number among `values`, as of `when` (seconds since 1970), else of now."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if numbers:
            points = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._write(Summary(value=points), step, when)

    def begin(self, options: Mapping[str, Any], metrics: list[str]) -> None:
        """Write a run's options, and which tags are its results, for the HParams page."""
        from torch.utils.tensorboard.summary import hparams

        experiment, started, _ = hparams(dict(flattened(options)), dict.fromkeys(metrics, 0.0))
        for summary in (experiment, started):
            self._write(summary, 0)

    def end(self, step: int, result: Mapping[str, Any]) -> None:
        """Write a run's result, and that it has ended well."""
        from torch.utils.tensorboard.summary import hparams

        self.add(step, {f"final/{name}": value for name, value in result.items()})
        self._write(hparams({}, {})[2], step)

    def length(self) -> int:
        """Bytes of the file, all handed to the system."""
        self._file.flush()
        self._flushed = time.monotonic()
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _write(self, summary: Any, step: int, when: float | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time() if when is None else when, step=step, summary=summary)
        self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed > FLUSH:
            self.length()


def flattened(options: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    """Options as SECTION.OPTION with a value that the HParams page can show; those without a value are left out."""
    for section, values in options.items():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if value is not None:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                yield f"{section}.{name}", value if number else str(value)


def _head() -> bytes:
    """What a file begins with, of one length always: its version, and that all points follow."""
    import io

    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter

    file, now = io.BytesIO(), time.time()
    records = RecordWriter(file)
    for event in (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, session_log=SessionLog(status=SessionLog.START)),
    ):
        records.write(event.SerializeToString())
    return file.getvalue()

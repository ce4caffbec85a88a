"""A search experiment: one batch, one trained model, many generations."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evo import storage
from evo.arrays import Array
from evo.bank_files import save_bank
from evo.ends import Stopwatch
from evo.errors import UserError
from evo.islands import Islands
from evo.search import Elites, Search
from training.belonging import checkpoint_digest
from training.config import Config
from training.data.identity import check_images
from training.data.image_set import AnyImageSet
from training.data.load import load_data
from training.devices import autocast_type, pick_device
from training.distributed import World
from training.mixes.batch import MixContext
from training.mixes.evolved import Evolved, SearchRecord
from training.models.reference import load_reference, needs_average
from training.models.trained import TrainedModel, load_trained
from training.progress import Progress, loss_text
from training.randomness import Streams
from training.registry import MIXES
from training.run_log import RunLog, command_line
from training.tensorboard import check_tensorboard

MEASURES = ("last", "image_forwards", "seconds")


def search_batch(
    config: Config,
    folder: Path,
    trained: Path,
    trained_config: Config,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    other_ends: Sequence[str] = (),
) -> dict[str, Any]:
    """Evolve the compositions of search.batch_size training images against the model of the run folder `trained`.

    Writes a run folder without training; returns its end event. The images are drawn with run.seed and not
    augmented. With resume, goes on from what the folder holds: the result is that of a search that was not
    interrupted. other_ends: overrides by which the config has other ends than the folder's, which then count as if
    they had been there from the start. Raises UserError for what the user can mend, also where the search
    would end where it already is.
    """
    progress = progress or Progress()
    device = pick_device(config.run.device, config.run.threads)
    training_set, count = _open_images(config, device)
    names = training_set.class_names
    source = load_trained(trained_config, trained, device)
    _check_source(config, trained_config, trained, source, training_set)
    average = load_trained(trained_config, trained, device, "average").model if needs_average(config) else None

    log, streams = RunLog(folder), Streams(config.run.seed)

    def on_generation(record: dict[str, Any]) -> None:
        experiment.after(record, log.generation(record))
        progress.update(_line(record, config.search.generations), final="stopped" in record)

    def on_search(record: SearchRecord) -> None:
        log.search_ended(record)
        log.search(record, names)
        log.check_place()
        _save_patterns(evolved, record, folder / "patterns" / "bank.npz")

    context = MixContext(
        config, source.model, names, source.prepare, autocast_type(config.train.precision, device), streams, World(),
        on_generation, on_search, load_reference(config, source, average), log.check, training_set.shape,
    )  # fmt: skip
    evolved = Evolved(context)
    experiment = Experiment(folder, log, training_set.identity(), evolved)
    images, labels = training_set.batch(torch.randperm(len(training_set), generator=streams.torch("order"))[:count])
    experiment.search = evolved.make_search(images, labels)
    with closing(log):
        if resume:  # what is refused leaves the folder as it was, with the end that it may have come to
            log.claim()
            experiment.take_up(bool(other_ends))
        with log.telling_failure():
            if resume:
                experiment.go_on(config, other_ends)
            else:
                experiment.begin(config, device, trained, count)
            evolved.go_on(experiment.search, experiment.elites, images, labels, checks=("first", "last"))
            result = experiment.result(full_rows=config.search.population * config.search.islands * count)
            log.event("end", **result)
            log.check_place()
    return result


def _open_images(config: Config, device: torch.device) -> tuple[AnyImageSet, int]:
    """The training images, and how many of them are searched on. Raises UserError where there are fewer."""
    if config.run.tensorboard:
        check_tensorboard()
    training_set = load_data(config.data)[0].to(device)
    count = config.search.batch_size or config.train.batch_size
    if count > len(training_set):
        raise UserError(f"search.batch_size={count} is larger than the training set of {len(training_set)} images")
    return training_set, count


def _check_source(
    config: Config, trained_config: Config, trained: Path, source: TrainedModel, training_set: AnyImageSet
) -> None:
    """Raise UserError where a trained model cannot score compositions of these images."""
    names = training_set.class_names
    if (source.image_shape, source.class_names) != (training_set.shape, names):
        raise UserError(
            f"data.name={config.data.name} has images {training_set.shape} of {len(names)} classes, the run was trained "
            f"on {source.image_shape} of {len(source.class_names)} classes, or other ones; search on the run's own data"
        )
    if _selection(config) == _selection(trained_config):
        check_images(str(trained), "training images", source.images, training_set.identity())
    if not trained_config.trains_cells:
        with_cells = " or ".join(name for name, kind in MIXES.items() if kind.trains_cells)
        raise UserError(
            f"the run was trained with mix {trained_config.mix.name}, patch_weight {trained_config.mix.patch_weight}: its "
            f"cells are untrained and cannot score a search; take a run of {with_cells} with a patch loss"
        )
    if config.model.grid not in (None, source.model.grid):
        raise UserError(
            f"model.grid={config.model.grid}, but the run was trained with {source.model.grid}; leave it out"
        )


def _line(record: Mapping[str, Any], planned: int | None) -> str:
    """A generation, for a person. planned: generations, where there is a limit."""
    volume = f"hypervolume {loss_text(record['hypervolume'])}  " if "hypervolume" in record else ""
    return (
        f"generation {record['generation']}{'' if planned is None else f'/{planned}'}  best {loss_text(record['best'])}  "
        f"mean {loss_text(record['mean'])}  {volume}{spent_text(record)}"
    )


def _save_patterns(evolved: Evolved, record: SearchRecord, path: Path) -> None:
    """Collect the rows of a search's last elites, each once, and write the pattern file."""
    last, labels = record.elites[-1], record.labels.cpu().numpy()
    genome, row = distinct_rows(last)
    evolved.bank.collect(last.masks[genome, row], labels[row], labels[last.pairings[genome, row]])
    save_bank(evolved.bank, path)


def _selection(config: Config) -> dict[str, Any]:
    """The options that say which images are trained on, wherever they lie."""
    aside = {"root", "download", "resident", "max_unreadable", "crop", "flip", "cutout", "exclude_near_duplicates"}
    return config.data.model_dump(exclude=aside)


class Experiment:
    """What a search experiment has come to, and how it is saved and gone on with: as if never interrupted.

    It is saved now and then and at its end, so that a search can be extended. A generation that the budget has cut short
    would be another one under a larger budget: of these, and of what follows, nothing is saved.
    """

    SAVE_EVERY = 1.0  # seconds, at the end of a generation: what a stop costs at most, besides that generation

    def __init__(self, folder: Path, log: RunLog, images: str, mix: Evolved) -> None:
        self.file, self.log, self.images = folder / "checkpoint" / "search.npz", log, images
        self.mix = mix
        self.search: Search | Islands
        self.elites: list[Elites] = []
        self.fitness: list[float] = []
        self.line: dict[str, Any] | None = None  # the log's last one, without the reason why the search ends there
        self.line_length = 0  # bytes of it in the log
        self.lengths: dict[str, int] = {}
        self.curtailed = False
        self.seconds = 0.0  # before this start
        self.began = self.saved = time.perf_counter()

    def begin(self, config: Config, device: torch.device, trained: Path, count: int) -> None:
        """Make the run folder, before the first generation, which a small budget may cut short."""
        self.log.begin(config, device, command_line())
        self.log.event(
            "start",
            training_images=count,
            images=self.images,
            classes=self.mix.context.class_names,
            grid=self.mix.context.model.grid,
            model=str(trained.absolute()),
            model_digest=checkpoint_digest(trained),
        )
        self.log.watch(config, MEASURES)
        self.search.ask()
        self._look_at_budget()

    def go_on(self, config: Config, other_ends: Sequence[str]) -> None:
        """Write down that it goes on, once it has taken up what was saved."""
        self.log.watch(config, MEASURES, self.cut_logs())
        self.log.record(config)
        if other_ends:
            self.log.repeat_with(other_ends)

    def after(self, record: dict[str, Any], length: int) -> None:
        """A generation has ended, and is in the log as a line of `length` bytes."""
        self.fitness.append(record["best"])
        self.line = {key: value for key, value in record.items() if key != "stopped"}
        self.line_length = length
        if self.curtailed:
            return
        due = len(self.fitness) == 1 or "stopped" in record or time.perf_counter() - self.saved > self.SAVE_EVERY
        if not self._look_at_budget() and due:
            self.save()

    def _look_at_budget(self) -> bool:
        """Save, for the last time, where the next generation will be cut short; whether that is so."""
        self.curtailed = self.search.curtailed
        if self.curtailed:
            self.save()
        return self.curtailed

    def save(self) -> None:
        self.log.check_place()
        self.file.parent.mkdir(exist_ok=True)
        fields = {
            f"elites.{name}": np.concatenate([getattr(elites, name) for elites in self.elites])
            for name in Elites._fields
            if self.elites
        }
        lengths = self.log.lengths()
        lengths["generations.jsonl"] -= self.line_length  # the last line is written anew where it goes on
        storage.write(
            self.file,
            self.search.state(),
            {
                **fields,
                "sizes": np.array([len(elites.fitness) for elites in self.elites], np.int64),
                "best": np.array(self.fitness, np.float64),
                "line": np.array(json.dumps(self.line, default=float)),
                "seconds": np.array(self.seconds + time.perf_counter() - self.began),
                "torch": torch.get_rng_state().numpy(),
                "id": np.array(self.log.id or ""),
                "log_lengths": np.array(json.dumps(lengths)),
                "images": np.array(self.images),
                "forwards": np.array([self.mix.forwards, self.mix.scores.forwards]),
            },
        )
        self.saved = time.perf_counter()

    def take_up(self, other_ends: bool) -> None:
        """Take over what was saved; nothing is written. other_ends: the search has others than when it was saved.

        Raises UserError where what was saved is unsound, or where it would end where it is under its other ends.
        """
        try:
            state, extra = storage.read(self.file)
            if str(extra.get("id", "")) != (self.log.id or ""):
                raise UserError(f"{self.file}: it is of another run than the folder's config.json")
        except UserError as error:
            raise UserError(f"{error}; the search cannot go on from it") from None
        images = str(extra["images"]) if "images" in extra else None
        check_images(str(self.file.parent.parent), "training images", images, self.images)
        try:
            self.search.set_state(state)
            sizes = extra["sizes"].tolist()
            if sizes:
                cuts = np.cumsum(sizes)[:-1]
                parts = zip(*(np.split(extra[f"elites.{name}"], cuts) for name in Elites._fields), strict=True)
                self.elites = [Elites(*part) for part in parts]
            self.fitness = extra["best"].tolist()
            self.line = json.loads(str(extra["line"])) if "line" in extra else None  # older ones have none
            self.seconds = float(extra["seconds"])
            forwards = extra.get("forwards", np.array([0, self.search.forwards]))  # older ones forwarded every row
            spent, of_scores = (int(count) for count in forwards)
            torch.set_rng_state(torch.from_numpy(extra["torch"]))
            self.lengths = json.loads(str(extra["log_lengths"]))
        except (ValueError, LookupError, TypeError, RuntimeError) as error:
            raise UserError(f"{self.file}: {error}; the search cannot go on from it") from None
        self.mix.take_up(spent, of_scores)
        for search in self.search.searches if isinstance(self.search, Islands) else [self.search]:
            search.stopwatch = Stopwatch(self.seconds)  # a time limit counts from the start, also one that is given now
        self.search.ask()
        self.curtailed = self.search.curtailed
        if other_ends and self.search.stopped is not None:
            raise UserError(self._ends_here(self.search.stopped))

    def _ends_here(self, reason: str) -> str:
        """Why it cannot go on under its ends, and what to do."""
        place = f"{self.file.parent.parent.name}: with these ends the search ends where it is, after "
        place += f"generation {len(self.fitness)}"
        if reason == "exhausted":
            return (
                f"{place}, since it finds nothing new; only search.generations makes it go on for so many generations"
            )
        ends = list(dict.fromkeys(reason.split(", ")))
        return (
            f"{place}, by {' and '.join(f'search.{end}' for end in ends)}; give a larger value, or null for no such end"
        )

    def cut_logs(self) -> int | None:
        """Cut from the logs what came after what was saved; return the bytes of TensorBoard's file that are kept, if there
        is one.
        """
        self.log.cut(self.lengths)
        if self.line is not None:
            line = {**self.line, "stopped": self.search.stopped}
            if self.search.stopped is None:  # it has other ends now, and verifies what it will come to then
                line = {key: value for key, value in self.line.items() if not key.startswith("verified")}
            self.line_length = self.log.generation(line)
        self.log.event("resume", generation=len(self.fitness), seconds=self.seconds)
        return self.lengths.get("tensorboard")

    def result(self, full_rows: int) -> dict[str, Any]:
        """The `end` event. full_rows: of a whole generation.

        full_forwards: what evaluating every row of every generation takes. scored: what the rows scored would have taken
        where scores are estimates, and verified_last the exact fitness of what was then verified.
        """
        seconds = round(self.seconds + time.perf_counter() - self.began, 3)
        line = self.line or {}
        return {
            "first": self.fitness[0],
            "last": self.fitness[-1],
            "generations": len(self.fitness),
            "stopped": self.search.stopped,
            "image_forwards": self.mix.forwards,
            "search_forwards": self.mix.forwards,
            "full_forwards": len(self.fitness) * full_rows * self.mix.row_cost,
            "seconds": seconds,
            "search_seconds": seconds,
            **({"scored": self.search.forwards} if self.mix.estimates else {}),
            **({"verified_last": line["verified_fitness"]} if "verified_fitness" in line else {}),
        }


def spent_text(record: Mapping[str, Any]) -> str:
    """What a generation's line says of the forwards so far, for a person."""
    text = f"{record['forwards']:,} image forwards"
    return text if "scored" not in record else f"{text} in place of {record['scored']:,}"


def distinct_rows(elites: Elites) -> tuple[Array, Array]:
    """Indices (genome, row) of rows no earlier elite has too: kin share most rows, which count once."""
    genomes, rows = elites.pairings.shape
    packed = np.packbits(elites.masks.reshape(genomes, rows, -1), axis=2)
    partner = elites.pairings.astype(np.int32)[..., None].view(np.uint8)
    index = np.broadcast_to(np.arange(rows, dtype=np.int32)[None, :, None], (genomes, rows, 1)).copy().view(np.uint8)
    genes = np.concatenate([index, partner, packed], axis=2).reshape(genomes * rows, -1)
    first = np.sort(np.unique(genes, axis=0, return_index=True)[1])
    return first // rows, first % rows

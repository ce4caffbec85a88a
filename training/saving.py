"""Checkpoints of a run: when they are written, what they hold, and how a run goes on from one.

They are written between two groups of batches, when the mix holds nothing in hand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from evo.bank_files import save_bank
from evo.errors import UserError
from training.belonging import check_belonging
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.divergence import check_finite
from training.mixes.evolved import Evolved
from training.models.trained import load_weights
from training.origin import check_origin
from training.run import Run
from training.run_events import continue_run
from training.run_state import COUNTERS, GENERATORS
from training.stopping import Interruption
from training.sums import Sums

CHEAP = 0.5  # seconds: a checkpoint that takes less is written after every epoch
SPARING = 20  # else so many times what the last one took lie between two
OPTIMIZER = "optimiser"  # what checkpoints of all versions call its tensors
AVERAGES = ("average", "ema")


class Saver:
    """Decides when a run is saved, and does so.

    saved: when it last was, by time.monotonic. took: the seconds that this took.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.saved = time.monotonic()
        self.took = 0.0

    def pays(self) -> bool:
        """Whether the end of an epoch is worth a checkpoint: it took little, or the last one is long enough ago."""
        return self.took < CHEAP or time.monotonic() - self.saved > SPARING * self.took

    def after_epoch(self, epoch: int, *, best: bool) -> None:
        """Save a best epoch, the last one, and others where it pays in a process."""
        run = self.run
        if best or epoch == run.config.train.epochs or run.world.any(self.pays())[0]:
            self.save(best=best)

    def between_groups(self, interruption: Interruption) -> None:
        """Save where it is due, or where someone asked to stop; then raise KeyboardInterrupt."""
        run = self.run
        run.log.check_place(every=1.0)
        due = time.monotonic() - self.saved > 60 * run.config.train.save_minutes
        stops, due = run.world.any(interruption.asked, due)
        if stops or due:
            self.save()
            run.clock.tick(counts=False)
        if stops:
            raise KeyboardInterrupt

    def save(self, *, best: bool = False) -> None:
        """Write the latest checkpoint, the best one too if this is it, and the patterns trained on so far.

        All processes call it, one writes. Raises UserError where a loss since the last checkpoint, or a weight, was not
        finite; the old one stays.
        """
        run = self.run
        began = time.monotonic()
        run.curves.tell()
        sums = run.state.sums.over(run.world)
        check_finite(run, sums, weights=True)
        if run.world.main:
            # `best` first: once `latest` counts, this epoch is never run again.
            names = ["best", "latest"] if best else ["latest"]
            save_checkpoint(run.log.folder / "checkpoint", names, run.state.step, take_checkpoint(run, sums))
            if isinstance(run.mix, Evolved) and len(run.mix.bank):
                save_bank(run.mix.bank, run.log.folder / "patterns" / "bank.npz")
        run.state.has_checkpoint = True
        self.saved = time.monotonic()
        self.took = self.saved - began


def take_checkpoint(run: Run, sums: Sums) -> Checkpoint:
    """All that a run needs to go on as if nothing had happened. sums: of the epoch so far, over all processes."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {"input.mean": run.prepare.mean, "input.std": run.prepare.std}
    tensors |= {f"{OPTIMIZER}.{name}": tensor for name, tensor in run.optimizer.state().items()}
    for name in AVERAGES:
        average = getattr(run, name)
        if average is not None:
            tensors |= {f"{name}.{key}": tensor for key, tensor in average.state().items()}
    arrays = {f"mix.{name}": array for name, array in run.mix.state().items()}
    arrays |= {f"rng.{name}": getattr(run.state, name).get_state().numpy() for name in GENERATORS}
    arrays["rng.order"] = run.state.order_before.numpy()  # the epoch's shuffling is drawn again
    arrays["rng.torch"] = torch.get_rng_state().numpy()
    if run.device.type == "cuda":
        arrays["rng.cuda"] = torch.cuda.get_rng_state(run.device).numpy()
    arrays["sums"] = sums.values.cpu().numpy()
    meta = {**run.state.counters(), "seconds": run.clock.seconds}
    meta |= {
        "id": run.log.id,
        "log_lengths": run.log.lengths(),
        "snapshots": sorted(run.log.snapshots),
        **run.origin,
    }
    return Checkpoint(tensors, arrays, meta)


def resume_run(run: Run) -> None:
    """Take over the folder's latest checkpoint; drop from the logs what came after it.

    Raises UserError where there is none, it is damaged, of another model or of an older version.
    """
    folder = run.log.folder
    run.log.claim()
    saved = load_checkpoint(folder / "checkpoint", "latest")
    check_belonging(folder, saved.meta)
    if any(name not in saved.meta for name in (*COUNTERS, "seconds", "snapshots", "labels")):
        raise UserError(
            f"{folder}: its checkpoint was made by an older version, which kept less than a run needs to go on; "
            "train anew, or go on with that version"
        )
    check_origin(folder, saved.meta, run.origin, run.config.search.reference)
    load_weights(run.model, saved)
    run.optimizer.restore(_below(OPTIMIZER, saved.tensors))
    for name in AVERAGES:
        average = getattr(run, name)
        if average is not None:
            average.restore(_below(name, saved.tensors), updates=saved.meta["step"])
    run.mix.restore(_below("mix", saved.arrays))
    generators = {name: torch.from_numpy(state) for name, state in _below("rng", saved.arrays).items()}
    run.state.restore(saved.meta, generators)
    run.clock.seconds = saved.meta["seconds"]
    if run.world.main:
        torch.set_rng_state(generators["torch"])
        if run.device.type == "cuda" and "cuda" in generators:
            torch.cuda.set_rng_state(generators["cuda"], run.device)
        run.state.sums = Sums(torch.from_numpy(saved.arrays["sums"]).to(run.device))  # of all processes so far
    else:  # the first one's is saved; the others' dropout may be any
        torch.manual_seed(run.streams.number("global") + run.world.rank + run.state.step)
    run.log.snapshots = set(saved.meta["snapshots"])
    run.log.cut(saved.meta["log_lengths"])
    run.log.record(run.config)
    continue_run(run, saved.meta["log_lengths"].get("tensorboard"))


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries `prefix.NAME`, by NAME."""
    return {key.removeprefix(f"{prefix}."): value for key, value in values.items() if key.startswith(f"{prefix}.")}

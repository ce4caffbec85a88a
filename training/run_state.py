"""A run's state as a checkpoint, and back: between two groups of batches, when the mix holds nothing in hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evo.bank_files import save_bank
from evo.errors import UserError
from training.belonging import check_belonging
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.data.identity import check_images
from training.mixes.evolved import Evolved
from training.models.trained import load_weights
from training.run import GENERATORS, Run

COUNTERS = ("epoch", "position", "step", "seconds", "accuracies")
AVERAGES = ("average", "ema")
IMAGES = {"images": "training images", "test": "test images"}  # digests; checkpoints of older versions have none


def save_run(run: Run, *, best: bool = False) -> None:
    """Write the latest checkpoint, the best one too if this is it, and the patterns trained on so far.

    All processes call it, one writes. Raises UserError where a loss since the last checkpoint, or a weight, was not
    finite; the old one stays.
    """
    began = time.monotonic()
    run.tell_steps()
    sums = run.world.sum(run.sums.clone())
    run.check(sums, weights=True)
    _write(run, sums, best)
    run.has_checkpoint = True
    run.saved = time.monotonic()
    run.saving_took = run.saved - began


def _write(run: Run, sums: Tensor, best: bool) -> None:
    if not run.world.main:
        return
    folder = run.log.folder
    # `best` first: once `latest` counts, this epoch is never run again.
    save_checkpoint(folder / "checkpoint", ["best", "latest"] if best else ["latest"], run.step, run_state(run, sums))
    if isinstance(run.mix, Evolved) and len(run.mix.bank):
        save_bank(run.mix.bank, folder / "patterns" / "bank.npz")


def resume_run(run: Run) -> None:
    """Take over the folder's latest checkpoint; drop from the logs what came after it.

    Raises UserError where there is none, it is damaged, of another model or of an older version.
    """
    run.log.claim()
    saved = load_checkpoint(run.log.folder / "checkpoint", "latest")
    check_belonging(run.log.folder, saved.meta)
    _check_origin(run, saved.meta)
    load_weights(run.model, saved)
    run.optimiser.restore(_below("optimiser", saved.tensors))
    for name in AVERAGES:
        average = getattr(run, name)
        if average is not None:
            average.restore(_below(name, saved.tensors), updates=saved.meta["step"])
    run.mix.restore(_below("mix", saved.arrays))
    for name in COUNTERS:
        setattr(run, name, saved.meta[name])
    for name in GENERATORS:
        getattr(run, name).set_state(torch.from_numpy(saved.arrays[f"rng.{name}"]))
    run.order_before = run.order.get_state()
    if run.world.main:
        torch.set_rng_state(torch.from_numpy(saved.arrays["rng.torch"]))
        if run.device.type == "cuda" and "rng.cuda" in saved.arrays:
            torch.cuda.set_rng_state(torch.from_numpy(saved.arrays["rng.cuda"]), run.device)
        run.sums = torch.from_numpy(saved.arrays["sums"]).to(run.device)  # of all processes so far
    else:  # the first one's is saved; the others' dropout may be any
        torch.manual_seed(run.streams.number("global") + run.world.rank + run.step)
    run.log.snapshots = set(saved.meta["snapshots"])
    run.checked = run.step
    run.has_checkpoint = True
    run.log.cut(saved.meta["log_lengths"])
    run.log.record(run.config)
    run.continued(saved.meta["log_lengths"].get("tensorboard"))


def run_state(run: Run, sums: Tensor) -> Checkpoint:
    """All that a run needs to go on as if nothing had happened. sums: of the epoch so far, over all processes."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {"input.mean": run.prepare.mean, "input.std": run.prepare.std}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in run.optimiser.state().items()}
    for name in AVERAGES:
        average = getattr(run, name)
        if average is not None:
            tensors |= {f"{name}.{key}": tensor for key, tensor in average.state().items()}
    arrays = {f"mix.{name}": array for name, array in run.mix.state().items()}
    arrays |= {f"rng.{name}": getattr(run, name).get_state().numpy() for name in GENERATORS}
    arrays["rng.order"] = run.order_before.numpy()  # the epoch's shuffling is drawn again
    arrays["rng.torch"] = torch.get_rng_state().numpy()
    if run.device.type == "cuda":
        arrays["rng.cuda"] = torch.cuda.get_rng_state(run.device).numpy()
    arrays["sums"] = sums.cpu().numpy()
    meta = {name: getattr(run, name) for name in COUNTERS}
    meta |= {
        "id": run.log.id,
        "log_lengths": run.log.lengths(),
        "snapshots": sorted(run.log.snapshots),
        **run.origin,
    }
    return Checkpoint(tensors, arrays, meta)


def _check_origin(run: Run, meta: Mapping[str, Any]) -> None:
    """Raise UserError where a checkpoint is of an older version, of other data, or compared with another model."""
    if any(name not in meta for name in (*COUNTERS, "snapshots", "labels")):
        raise UserError(
            f"{run.log.folder}: its checkpoint was made by an older version, which kept less than a run needs to go on; "
            "train anew, or go on with that version"
        )
    now = run.origin
    if meta["reference"] != now["reference"]:
        raise UserError(
            f"search.reference={run.config.search.reference}: that run has another checkpoint now than when this one "
            "began; restore it, or train anew"
        )
    if any(name in meta and meta[name] != value for name, value in now.items() if name not in IMAGES):
        raise UserError(
            f"{run.log.folder}: its checkpoint is of {meta['training_images']} training images {meta['image_shape']} of "
            f"{len(meta['class_names'])} classes, the data are {now['training_images']} {now['image_shape']} of "
            f"{len(now['class_names'])}, or other ones; restore the data it was trained on"
        )
    for name, what in IMAGES.items():
        check_images(str(run.log.folder), what, meta.get(name), now[name])


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries `prefix.NAME`, by NAME."""
    return {key.removeprefix(f"{prefix}."): value for key, value in values.items() if key.startswith(f"{prefix}.")}

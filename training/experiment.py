"""A search experiment: one batch, one trained model, many generations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evo.search import Elites
from training.config import Config, UserError
from training.data.load import load_data
from training.distributed import World
from training.mixes.batch import Array, MixContext
from training.mixes.evolved import Evolved, SearchRecord
from training.models.trained import autocast_type, load_trained, pick_device
from training.progress import Progress
from training.randomness import Streams
from training.run_log import RunLog, command_line


def search_batch(
    config: Config, folder: Path, trained: Path, trained_config: Config, progress: Progress | None = None
) -> dict[str, Any]:
    """Evolve the compositions of search.batch training images against the model of the run folder `trained`.

    Writes a run folder without training; returns its end event. The images are drawn with run.seed and not
    augmented. Raises UserError for what the user can mend.
    """
    progress = progress or Progress()
    device = pick_device(config.run)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    training_set = load_data(config.data)[0].to(device)
    names = training_set.class_names
    count = config.search.batch or config.train.batch
    if count > len(training_set):
        raise UserError(f"search.batch={count} is larger than the training set of {len(training_set)} images")
    source = load_trained(trained_config, trained, device)
    model = source.model
    if (source.image_shape, source.class_names) != (training_set.shape, names):
        raise UserError(
            f"data.name={config.data.name} has images {training_set.shape} of {len(names)} classes, the run was trained "
            f"on {source.image_shape} of {len(source.class_names)} classes, or other ones; search on the run's own data"
        )
    if trained_config.mix.name in ("plain", "mixup", "cutmix") or trained_config.mix.patch_weight == 0:
        raise UserError(
            f"the run was trained with mix {trained_config.mix.name}, patch_weight {trained_config.mix.patch_weight}: its "
            "cells are untrained and cannot score a search; take a run of patchmix, evolved or bank with a patch loss"
        )
    if config.model.grid not in (None, model.grid):
        raise UserError(f"model.grid={config.model.grid}, but the run was trained with {model.grid}; leave it out")

    log = RunLog(folder)
    streams = Streams(config.run.seed)
    fitness: list[float] = []

    def on_generation(record: dict[str, Any]) -> None:
        log.generation(record)
        fitness.append(record["best"])
        progress.update(
            f"generation {record['generation']}/{config.search.generations}  best {record['best']:.3f}  "
            f"mean {record['mean']:.3f}  {record['forwards']:,} image forwards",
            final=record["generation"] == config.search.generations,
        )

    def on_search(record: SearchRecord) -> None:
        log.search(record, names)
        genome, row = distinct_rows(record.elites[-1])
        labels, last = record.labels.cpu().numpy(), record.elites[-1]
        evolved.bank.collect(last.masks[genome, row], labels[row], labels[last.pairings[genome, row]])
        evolved.bank.save(folder / "patterns" / "bank.npz")

    evolved = Evolved(
        MixContext(
            config,
            model,
            names,
            source.prepare,
            autocast_type(config, device),
            streams,
            World(),
            on_generation,
            on_search,
        )
    )
    images, labels = training_set.batch(torch.randperm(len(training_set), generator=streams.torch("order"))[:count])
    log.begin(config, device, command_line())
    log.event("start", training_images=count, classes=names, grid=model.grid, model=str(trained))
    began = time.perf_counter()
    evolved.evolve(images, labels)
    seconds = round(time.perf_counter() - began, 3)
    result = {
        "first": fitness[0],
        "last": fitness[-1],
        "generations": len(fitness),
        "image_forwards": evolved.forwards,
        "search_forwards": evolved.forwards,
        "full_forwards": len(fitness) * config.search.population * count,
        "seconds": seconds,
        "search_seconds": seconds,
    }
    log.event("end", **result)
    log.close()
    return result


def distinct_rows(elites: Elites) -> tuple[Array, Array]:
    """Indices (genome, row) of rows no earlier elite has too: kin share most rows, which count once."""
    genomes, rows = elites.pairings.shape
    packed = np.packbits(elites.masks.reshape(genomes, rows, -1), axis=2)
    partner = elites.pairings.astype(np.int32)[..., None].view(np.uint8)
    index = np.broadcast_to(np.arange(rows, dtype=np.int32)[None, :, None], (genomes, rows, 1)).copy().view(np.uint8)
    genes = np.concatenate([index, partner, packed], axis=2).reshape(genomes * rows, -1)
    first = np.sort(np.unique(genes, axis=0, return_index=True)[1])
    return first // rows, first % rows

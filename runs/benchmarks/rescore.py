"""`./run bench rescore`: what to do with a search's losses when the trainer has changed the weights.

A search goes on while the model trains: some optimizer steps, then `Search.forget()` and a fixed number of
image forwards, and so on. After each round the genome that the search holds for its best is evaluated whole
under the present weights, outside the count. Contestants: the values of Search's `rescore`, at equal
forwards and equal steps, on the same batches. Their mean true fitness over the rounds is compared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from analysis.run_folder import RunFolder
from evo.search import Elites, Rescore, Rows, Search
from runs.benchmarks import row
from runs.benchmarks.search_quality import model_folder, open_scene
from runs.folders import known_config
from training.compose import cell_targets
from training.data.image_set import AnyImageSet
from training.data.load import load_data
from training.losses import cell_losses, image_losses
from training.mixes.patchmix import PatchMix
from training.models.trained import TrainedModel, load_trained
from training.probe import probe
from training.progress import Progress

LEARNING_RATE = 0.02


@dataclass(frozen=True)
class Scale:
    population: int = 32
    batch: int = 64
    seeds: int = 3
    rounds: int = 8
    forwards: int = 3072  # in each round; one whole population is 2,048
    steps: tuple[int, ...] = (1, 16)  # of the optimizer, between rounds


FULL = Scale()
QUICK = Scale(population=16, batch=32, seeds=1, rounds=3, forwards=768, steps=(4,))


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    scale = QUICK if quick else FULL
    progress = Progress()
    recipe = open_scene("digits" if quick else "cifar10-small", progress).name.split(",")[0]
    folder = model_folder(recipe)
    config = known_config(RunFolder(folder))
    images = load_data(config.data)[0]
    rows, ratios = [], []
    default = "survivors"
    for steps in scale.steps:
        case = f"{recipe}, {steps} steps a round"
        found: dict[str, list[float]] = {}
        for rescore in get_args(Rescore):
            for seed in range(scale.seeds):
                progress.update(f"{case}: rescore {rescore}, seed {seed + 1}/{scale.seeds}", final=True)
                trained = load_trained(config, folder, torch.device("cpu"))
                found.setdefault(rescore, []).append(true_fitness(trained, images, scale, steps, rescore, seed))
            rows.append(row(case, f"rescore {rescore}", found[rescore], "nats"))
        ratios += [
            {"case": case, "over": f"rescore {name}", "value": median(found[default]) / median(values), "target": None}
            for name, values in found.items()
            if name != default
        ]
    return rows, ratios


def true_fitness(
    trained: TrainedModel, images: AnyImageSet, scale: Scale, steps: int, rescore: Rescore, seed: int
) -> float:
    """The mean, over rounds, of the true fitness (nats) of the genome held for the best."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(trained.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    mix = PatchMix(num_classes=len(trained.class_names), grid=model.grid, generator=generator)
    pixels, labels = images.batch(torch.randperm(len(images), generator=generator)[: scale.batch])
    search = Search(
        scale.batch,
        model.grid,
        labels.numpy(),
        population=scale.population,
        objective="hard",
        sampler="bernoulli",
        seed=seed,
    )

    def evaluate(wanted: Rows) -> Any:
        return probe(model, pixels, labels, wanted, prepare=trained.prepare, chunk=512)

    fitness = []
    for _ in range(scale.rounds + 1):  # the first finds something to go on from
        limit = search.forwards + scale.forwards
        while (proposal := search.ask()) is not None and search.forwards + int(proposal.new.sum()) <= limit:
            search.tell(*evaluate(proposal.rows))
        fitness.append(_mean_cell_loss(evaluate, search.elites(1)))
        for _ in range(steps):
            _step(model, optimizer, mix, trained, images, generator)
        search.forget(rescore)
    return float(np.mean(fitness[1:]))


def _mean_cell_loss(evaluate: Any, elites: Elites) -> float:
    rows = np.arange(elites.pairings.shape[1], dtype=np.int32)
    return float(evaluate(Rows(rows, elites.masks[0], elites.pairings[0]))[0].mean())


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mix: PatchMix,
    trained: TrainedModel,
    images: AnyImageSet,
    generator: torch.Generator,
) -> None:
    pixels, labels = images.batch(torch.randint(len(images), (128,), generator=generator))
    mixed: Tensor
    mixed, targets, masks, pairing = mix(pixels, labels, return_composition=True)
    model.train()
    image_logits, cell_logits = model(trained.prepare(mixed))
    loss = image_losses(image_logits, targets).mean()
    loss = loss + cell_losses(cell_logits, cell_targets(labels, masks, pairing)).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

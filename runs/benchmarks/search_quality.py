"""`./run bench search`: how good a composition is found for how many image forwards, and what finding it costs.

A small ResNet, trained once by `patchmix` and kept, scores compositions of a batch by their mean cell loss (objective
`hard`). Peers evaluate every row of every new genome; identical rows are computed once to save waiting, and counted
as often as they are asked for. All contestants see the same batches, one for each seed, and the same precision.

Of several objectives it compares the hypervolume of the front of all genomes evaluated, at equal forwards: ours, which
puts the scores of all generations on one scale; the same with the scores that each row had in its own generation; and
NSGA-II with textbook crossovers.

The figure: runs/results/bench/search.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor, nn

from analysis.run_folder import RunFolder, out_root
from analysis.style import GREY, colour, look, new_figure, save, tidy
from evo.archive import RowArchive
from evo.arrays import Array
from evo.genome import Population
from evo.packed import Masks
from evo.row_scores import Scoring, combine_scores, measure_scale
from evo.search import Rows, Search
from runs.benchmarks import package_version, result_path, row
from runs.benchmarks.images import recipe_at_hand
from runs.benchmarks.peers import LISTS, PYMOO, Peer, Problem
from runs.folders import known_config
from training.config import Config, load_config
from training.data.load import load_data
from training.devices import autocast_type
from training.models.patch_model import build_model
from training.models.trained import load_trained
from training.probe import probe
from training.progress import Progress
from training.train import train

Evaluate = Callable[[Rows], Array]  # R rows -> their cell losses (R,G,G), nats

OURS = "Evomix Search"
PEERS = (LISTS, PYMOO)
FEWER = 50  # times fewer image forwards than a peer, at least
SEARCH_SHARE = 3.0  # percent of a generation's time that is not the model's, at most
FRONT_OBJECTIVES = "hard,contrast"
FRONT_POPULATION = 16
FRONT_FORWARDS = 40  # an image
IDLE = 100  # generations without a new row, after which nothing more is to be found
MILESTONES = (4096, 8192, 24576)  # image forwards at which fitness is compared


@dataclass(frozen=True)
class Scale:
    population: int = 32
    batch: int = 64
    seeds: int = 5
    generations: int = 100  # of the peers
    our_forwards: int = 65_536  # at most, and no more than the peers: it has little left to find by then
    share_generations: int = 10


FULL = Scale()
QUICK = Scale(population=16, batch=32, seeds=2, generations=12, our_forwards=5_000, share_generations=2)


@dataclass(frozen=True)
class Curve:
    """One search: image forwards spent, (T,), and the best fitness until then, (T,) nats."""

    forwards: Array
    best: Array

    def at(self, forwards: float) -> float:
        """The best fitness within so many image forwards."""
        reached = int(np.searchsorted(self.forwards, forwards, side="right"))
        return float(self.best[reached - 1]) if reached else float("nan")

    def until(self, fitness: float) -> float:
        """Image forwards until a fitness is reached; infinite where it never is."""
        reached = self.best >= fitness
        return float(self.forwards[reached.argmax()]) if reached.any() else float("inf")


@dataclass(frozen=True)
class Scene:
    """A trained model and the images that batches are drawn from."""

    name: str
    grid: int
    draw: Callable[[int, int], tuple[Tensor, Tensor]]  # batch, seed -> images, labels
    evaluate: Callable[[Tensor, Tensor], Evaluate]


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    scale = QUICK if quick else FULL
    progress = Progress()
    scene = open_scene("digits" if quick else "cifar10-small", progress)
    curves = run_searches(scene, scale, progress)
    rows, ratios = compare(scene, scale, curves)
    draw(scene, scale, curves, result_path("search", quick, "png"))
    of_fronts = compare_fronts(scene, scale, progress)
    rows += of_fronts[0]
    ratios += of_fronts[1]
    usual = replace(FULL, share_generations=scale.share_generations)  # a smaller search has less to forward
    shares = search_share(usual, progress)
    case = f"ResNet-18, 32 px, {_size(usual)}, float32"
    rows.append(row(case, f"{OURS}, all but the model's forward", shares, "%"))
    ratios.append(
        {"case": case, "over": f"{SEARCH_SHARE:g} % of the time", "value": SEARCH_SHARE / median(shares), "target": 1}
    )
    return rows, ratios


def open_scene(recipe: str, progress: Progress) -> Scene:
    """The model that `recipe` trains with mix patchmix, trained where none is kept; of digits where its data are absent."""
    recipe = recipe_at_hand([recipe], progress)
    config = load_config(recipe, ["mix.name=patchmix", "run.device=cpu", "data.download=false"])
    images = load_data(config.data)[0]
    folder = model_folder(recipe)
    train_once(config, folder, progress)
    trained = load_trained(known_config(RunFolder(folder)), folder, torch.device("cpu"))
    autocast = autocast_type(config.train.precision, torch.device("cpu"))

    def draw_batch(batch: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return images.batch(torch.randperm(len(images), generator=generator)[:batch])

    def evaluator(batch_images: Tensor, labels: Tensor) -> Evaluate:
        def losses(wanted: Rows) -> Array:
            found = probe(
                trained.model, batch_images, labels, wanted, prepare=trained.prepare, chunk=512, autocast=autocast
            )
            return np.asarray(found[0])

        return losses

    precision = "bfloat16" if autocast is not None else "float32"
    return Scene(f"{recipe}, {precision}", trained.model.grid, draw_batch, evaluator)


def model_folder(recipe: str) -> Path:
    """The run folder of the benchmarks' model."""
    return out_root() / f"bench-model-{recipe}"


def train_once(config: Config, folder: Path, progress: Progress) -> None:
    if (folder / "config.json").is_file() and RunFolder(folder).result is not None:
        return
    begun = (folder / "checkpoint" / "latest.json").is_file()
    train(config, folder, resume=begun, progress=progress)


def run_searches(scene: Scene, scale: Scale, progress: Progress) -> dict[str, list[Curve]]:
    """A curve for each seed, of the peers that are installed and of ours."""
    peers = [peer for peer in PEERS if package_version(peer.package)]
    curves: dict[str, list[Curve]] = {OURS: [], **{peer.name: [] for peer in peers}}
    for seed in range(scale.seeds):
        images, labels = scene.draw(scale.batch, seed)
        evaluate = scene.evaluate(images, labels)
        for peer in peers:
            curves[peer.name].append(peer_curve(peer, scene, scale, seed, evaluate, progress))
        limit = min(scale.our_forwards, *(int(curves[peer.name][-1].forwards[-1]) for peer in peers))
        curves[OURS].append(our_curve(scene, scale, seed, labels.numpy(), evaluate, limit, progress))
    return curves


def peer_curve(peer: Peer, scene: Scene, scale: Scale, seed: int, evaluate: Evaluate, progress: Progress) -> Curve:
    genomes = WholeGenomes(evaluate)
    contestant = peer.start(Problem(scale.population, scale.batch, scene.grid, seed, genomes))
    records = contestant.advance(0)
    for generation in range(1, scale.generations + 1):
        records += contestant.advance(1)[1:]
        progress.update(
            f"{peer.name}, seed {seed + 1}/{scale.seeds}: generation {generation}/{scale.generations}  best "
            f"{contestant.best:.3f} nats  {genomes.forwards:,} image forwards, {genomes.computed:,} of them different",
            final=generation == scale.generations,
        )
    forwards = scale.batch * np.cumsum([record.evaluated for record in records])
    if forwards[-1] != genomes.forwards:
        raise RuntimeError(f"{peer.name} reports {forwards[-1]} image forwards, {genomes.forwards} were asked for")
    return Curve(forwards, np.maximum.accumulate([record.maximum for record in records]))


def our_curve(
    scene: Scene, scale: Scale, seed: int, labels: Array, evaluate: Evaluate, limit: int, progress: Progress
) -> Curve:
    search = Search(
        scale.batch, scene.grid, labels, population=scale.population, objective="hard", sampler="bernoulli", seed=seed
    )
    forwards = []
    best = []
    idle = 0
    while (proposal := search.ask()) is not None and search.forwards + (new := int(proposal.new.sum())) <= limit:
        idle = 0 if new else idle + 1
        if idle > IDLE:
            break
        record = search.tell(evaluate(proposal.rows))
        forwards.append(search.forwards)
        best.append(float(record["best"]))
        progress.update(_our_line(scale, seed, search, best[-1]))
    progress.update(_our_line(scale, seed, search, best[-1]), final=True)
    return Curve(np.array(forwards), np.maximum.accumulate(best))


def _our_line(scale: Scale, seed: int, search: Search, best: float) -> str:
    return (
        f"{OURS}, seed {seed + 1}/{scale.seeds}: generation {search.generation}  best {best:.3f} nats  "
        f"{search.forwards:,} image forwards"
    )


class WholeGenomes:
    """Every row of every genome: masks (N,B,G,G) bool, pairings (N,B) -> mean cell losses (N,), nats.

    forwards counts all rows; a row that was seen before is looked up, which gives what its forward would.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self.forwards = 0
        self.scores: dict[bytes, float] = {}

    @property
    def computed(self) -> int:
        return len(self.scores)

    def __call__(self, masks: Array, pairings: Array) -> Array:
        genomes, rows = pairings.shape
        self.forwards += genomes * rows
        index = np.tile(np.arange(rows, dtype=np.int32), genomes)
        partner = pairings.astype(np.int32).reshape(-1)
        flat = masks.reshape(genomes * rows, *masks.shape[2:])
        genes = np.concatenate(
            [array.view(np.uint8).reshape(len(flat), -1) for array in (index, partner, Masks.pack(flat).words)], axis=1
        )
        keys = [gene.tobytes() for gene in genes]
        new = list({key: place for place, key in enumerate(keys) if key not in self.scores}.values())
        if new:
            losses = self.evaluate(Rows(index[new], flat[new], partner[new]))
            scores = losses.mean(axis=(1, 2), dtype=np.float64)
            self.scores.update(zip([keys[place] for place in new], scores.tolist(), strict=True))
        return np.array([self.scores[key] for key in keys]).reshape(genomes, rows).mean(axis=1)


def compare(
    scene: Scene, scale: Scale, curves: dict[str, list[Curve]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Forwards to the peers' best fitness, and the best fitness at equal forwards."""
    rows, ratios = [], []
    ours = curves[OURS]
    case = f"{scene.name}, {_size(scale)}, {scale.seeds} seeds"
    end = 0
    for peer in PEERS:
        name = f"{peer.name}, {scale.generations} generations"
        theirs = curves.get(peer.name)
        if theirs is None:
            rows.append(row(case, name, None, "forwards", peer.package))
            continue
        end = max(end, *(int(curve.forwards[-1]) for curve in theirs))
        spent = [float(curve.forwards[-1]) for curve in theirs]
        best = [float(curve.best[-1]) for curve in theirs]
        needed = [mine.until(fitness) for mine, fitness in zip(ours, best, strict=True)]
        # Not all that it spent was needed for its best: what was, beside the total that the target speaks of.
        until_best = [curve.until(fitness) for curve, fitness in zip(theirs, best, strict=True)]
        rows += [
            row(case, name, spent, "forwards", peer.package),
            row(case, f"{peer.name}, until its best", until_best, "forwards", peer.package),
        ]
        if np.isfinite(median(needed)):  # else most seeds never got there, and the ratios are 0
            rows.append(row(case, f"{OURS}, until {peer.name}'s best", needed, "forwards"))
        ratios += [
            {"case": case, "over": name, "value": median(spent) / median(needed),
             "target": FEWER if scale == FULL else None},
            {"case": case, "over": f"{peer.name}, until its best", "value": median(until_best) / median(needed),
             "target": None},
        ]  # fmt: skip
    for forwards in (*(stop for stop in MILESTONES if stop < end), end):
        for name, found in curves.items():
            package = next((peer.package for peer in PEERS if peer.name == name), None)
            fitness = [curve.at(forwards) for curve in found]
            last = max(int(curve.forwards[-1]) for curve in found)
            label = name if last > 0.9 * forwards else f"{name}, which stopped at {last:,}"
            rows.append(row(f"fitness at {forwards:,} forwards", label, fitness, "nats", package))
    return rows, ratios


class OwnScales(Scoring):
    """Objectives under which rows keep the scores that their own generation standardised."""

    rated: Array | None = None

    def rate(self, archive: RowArchive, pool: Population) -> Array:
        before = np.zeros(0, np.float32) if self.rated is None else self.rated
        scale = measure_scale(self.score(self.gather_rows(pool)))
        new = combine_scores(archive.objective_scores[len(before) :].T, scale)
        self.rated = np.concatenate([before, new])
        archive.rate(self.rated)
        return scale


def search_by_own_scales(*arguments: Any, **options: Any) -> Search:
    """A search whose rows keep the scores of their own generation."""
    search = Search(*arguments, **options)
    search.scoring = OwnScales(search.scoring.objectives, search.labels)
    return search


def compare_fronts(scene: Scene, scale: Scale, progress: Progress) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Hypervolumes at equal image forwards."""
    contestants: dict[str, Callable[..., Search]] = {
        f"{OURS}, one scale": Search,
        f"{OURS}, each generation's own scale": search_by_own_scales,
        "NSGA-II, uniform and PMX": partial(Search, crossover="uniform"),
    }
    limit = FRONT_FORWARDS * scale.batch
    case = f"{scene.name}, {FRONT_OBJECTIVES}, B{scale.batch} P{FRONT_POPULATION}, {limit:,} forwards"
    rows, volumes = [], {}
    for name, make in contestants.items():
        volumes[name] = [front_volume(scene, scale, make, seed, limit) for seed in range(scale.seeds)]
        progress.update(f"{name}: hypervolume {median(volumes[name]):.3f}", final=True)
        rows.append(row(case, name, volumes[name], "nats²"))
    first, *others = volumes.values()
    ratios = [
        {"case": case, "over": name, "value": median(a / b for a, b in zip(first, other, strict=True)), "target": 1}
        for name, other in zip(list(volumes)[1:], others, strict=True)
    ]
    return rows, ratios


def front_volume(scene: Scene, scale: Scale, make: Callable[..., Search], seed: int, limit: int) -> float:
    """The hypervolume that a search of one seed has reached within `limit` forwards."""
    images, labels = scene.draw(scale.batch, seed)
    evaluate = scene.evaluate(images, labels)
    options = {"population": FRONT_POPULATION, "objective": FRONT_OBJECTIVES, "sampler": "bernoulli", "seed": seed}
    search = make(scale.batch, scene.grid, labels.numpy(), budget=limit / scale.batch, **options)
    search.run(lambda rows: (evaluate(rows),))
    return float(search.records[-1]["hypervolume"])


def draw(scene: Scene, scale: Scale, curves: dict[str, list[Curve]], path: Path) -> Path:
    """Best fitness against image forwards, logarithmic: the median over seeds and their range."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    tidy(axes, xlabel="image forwards", ylabel="best fitness: mean cell loss (nats)")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    for index, (name, found) in enumerate(curves.items()):
        end = min(curve.forwards[-1] for curve in found)
        grid = np.geomspace(max(curve.forwards[0] for curve in found), end, 400)
        values = np.array([[curve.at(forwards) for forwards in grid] for curve in found])
        middle = np.median(values, axis=0)
        axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour(index), alpha=0.18, linewidth=0)
        axes.plot(grid, middle, color=colour(index), linestyle=look(index).line, linewidth=2, label=name)
    if LISTS.name in curves:
        _mark_saving(axes, curves[OURS], curves[LISTS.name])
    axes.set_title(
        f"{scene.name}: {_size(scale)}; median and range of {scale.seeds} seeds", fontsize=10, loc="left", color=GREY
    )
    axes.legend(loc="upper left", frameon=False)
    return save(figure, path)


def _mark_saving(axes: Any, ours: list[Curve], theirs: list[Curve]) -> None:
    """An arrow from the textbook's end to where ours is as good."""
    fitness = median(float(curve.best[-1]) for curve in theirs)
    spent = median(float(curve.forwards[-1]) for curve in theirs)
    needed = median(mine.until(float(curve.best[-1])) for mine, curve in zip(ours, theirs, strict=True))
    if not np.isfinite(needed) or needed >= spent:
        return
    axes.annotate("", (needed, fitness), (spent, fitness), arrowprops={"arrowstyle": "->", "color": GREY})
    axes.annotate(
        f"{spent / needed:.0f} times fewer",
        (np.sqrt(needed * spent), fitness), (0, 4), textcoords="offset points", ha="center", color=GREY,
    )  # fmt: skip


class Timed(nn.Module):
    """A model that adds up the seconds of its forwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seconds = 0.0

    def forward(self, images: Tensor) -> Any:
        began = time.perf_counter()
        outputs = self.model(images)
        self.seconds += time.perf_counter() - began
        return outputs


def search_share(scale: Scale, progress: Progress) -> list[float]:
    """Percent of each generation's time that is not spent in the forward of an untrained ResNet-18 at 32 px.

    It holds drawing children, composing and scaling images, losses, selection and the log.
    """
    config = load_config("cifar10", ["run.device=cpu"])
    torch.manual_seed(0)
    model = Timed(build_model(config.model, (3, 32, 32), 10).to(memory_format=torch.channels_last).eval())
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (scale.batch, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (scale.batch,), generator=generator)

    def prepare(mixed: Tensor) -> Tensor:
        return (mixed.float() / 255).contiguous(memory_format=torch.channels_last)

    search = Search(
        scale.batch, 4, labels.numpy(), population=scale.population, objective="hard", sampler="bernoulli", seed=0
    )
    shares = []
    for generation in range(scale.share_generations + 1):
        progress.update(f"ResNet-18: generation {generation}/{scale.share_generations}")
        began = time.perf_counter()
        model.seconds = 0.0
        proposal = search.ask()
        if proposal is None:
            break
        search.tell(*probe(model, images, labels, proposal.rows, prepare=prepare, chunk=512))
        if generation:  # the first one draws, and warms up
            shares.append(100 * (1 - model.seconds / (time.perf_counter() - began)))
    return shares


def _size(scale: Scale) -> str:
    return f"B{scale.batch} P{scale.population}"

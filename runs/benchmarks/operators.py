"""`./run bench operators`: one generation of the same genetic algorithm, here and as peers write it.

Milliseconds per generation on one thread: selection, crossover, mutation, a trivial fitness, statistics and the
hall of fame. Contestants take turns, a few generations each, and go on where they stopped. Extra memory is what
our loop allocates beyond the population it is given, at its peak.

The last rows are whole searches by `Search`: ask, tell and elites of every generation, with losses that cost nothing.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from evo.search import Search
from runs.benchmarks import package_version, row
from runs.benchmarks.peers import ARRAYS, LISTS, OURS, PEERS, PYMOO, SLICES, Contestant, Peer, Problem
from runs.benchmarks.timed_searches import draw_losses, time_generation
from training.progress import Progress

SMALL, LARGE = Problem(64, 128, 4), Problem(512, 256, 8)
# Fewest times that a peer should need over ours.
TARGETS = {
    SMALL: {LISTS.name: 80, SLICES.name: 25, ARRAYS.name: 3, PYMOO.name: 14},
    LARGE: {LISTS.name: 300, SLICES.name: 100, ARRAYS.name: 6, PYMOO.name: 50},
}
SEARCHES = ((4, 2), (8, 8), (16, 30))  # genomes and generations, over 64 images of a grid of 4
EXTRA_MIB = 25  # at most, in the large case
# (rounds, generations a round) for contestants of about this many seconds a generation.
SCHEDULES = {
    False: {0.002: (12, 80), 0.02: (12, 20), 0.5: (8, 4), 60.0: (3, 2)},
    True: {0.002: (6, 40), 0.02: (6, 10), 0.5: (3, 3), 60.0: (1, 2)},
}


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    progress = Progress()
    rows, ratios = [], []
    for problem, targets in TARGETS.items():
        case = f"P{problem.population} B{problem.batch} G{problem.grid}"
        contestants = (OURS, *(peer for peer in PEERS if package_version(peer.package)))
        times = time_generations(problem, contestants, SCHEDULES[quick], progress)
        rows += [row(case, peer.name, times.get(peer.name), "ms", peer.package) for peer in (OURS, *PEERS)]
        ratios += [
            {"case": case, "over": peer.name, "value": median(times[peer.name]) / median(times[OURS.name]),
             "target": targets[peer.name]}
            for peer in contestants if peer is not OURS
        ]  # fmt: skip
        if problem is LARGE:
            extra = extra_memory(problem)
            rows.append(row(case, f"{OURS.name}, extra memory", [extra], "MiB"))
            ratios.append({"case": case, "over": f"{EXTRA_MIB} MiB of memory", "value": EXTRA_MIB / extra, "target": 1})
    for population, generations in SEARCHES:
        progress.update(f"a search of {population} genomes, {generations} generations")
        times_of_search = time_searches(population, generations, count=5 if quick else 40)
        rows.append(row(f"P{population} B64 G4", f"Search, {generations} generations", times_of_search, "ms"))
    return rows, ratios


def time_searches(population: int, generations: int, count: int) -> list[float]:
    """Milliseconds that each of `count` searches takes by itself, after one that warms up."""
    times = []
    for seed in range(count + 1):
        labels, losses = draw_losses(seed, 64, 4)
        search = Search(64, 4, labels, population=population, objective="hard", generations=generations, seed=seed)
        seconds = 0.0
        while (taken := time_generation(search, losses, elites=1)) is not None:
            seconds += taken
        times.append(1000 * seconds)
    return times[1:]


def time_generations(
    problem: Problem, peers: Sequence[Peer], schedule: dict[float, tuple[int, int]], progress: Progress
) -> dict[str, list[float]]:
    """Milliseconds of single generations of each, in rounds that all contestants share."""
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    running: list[tuple[Peer, Contestant, int, int]] = []
    for peer in peers:
        progress.update(f"{problem.population} x {problem.batch} x {problem.grid}: {peer.name}")
        contestant = peer.start(problem)
        first = _generations(contestant, 2)[-1]  # warm: the hall of fame is full
        rounds, generations = next(plan for limit, plan in schedule.items() if first < 1000 * limit)
        running.append((peer, contestant, rounds, generations))
    last = max(rounds for _, _, rounds, _ in running)
    for number in range(last):
        progress.update(f"{problem.population} x {problem.batch} x {problem.grid}: round {number + 1}/{last}")
        for index, (peer, contestant, rounds, generations) in enumerate(running):
            # Those with few rounds have them spread over the others'.
            if (number + index) * rounds // last != (number + index + 1) * rounds // last:
                gc.collect()  # not what the one before left
                times[peer.name] += _generations(contestant, generations)
    return times


def _generations(contestant: Contestant, count: int) -> list[float]:
    clocks = [generation.clock for generation in contestant.advance(count)]
    return [1000 * (after - before) for before, after in pairwise(clocks)]


def extra_memory(problem: Problem) -> float:
    """MiB that our loop allocates at its peak over three generations, beyond the population given to it."""
    contestant = OURS.start(problem)
    contestant.advance(1)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        contestant.advance(3)
        return (tracemalloc.get_traced_memory()[1] - before) / 2**20
    finally:
        tracemalloc.stop()

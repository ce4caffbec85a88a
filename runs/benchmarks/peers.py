"""The same genetic algorithm as people write it elsewhere, and as it is written here.

Tournament of 3, crossover with probability 0.9 (uniform on the cells, PMX on the pairing; pymoo has OX), each cell
flipped with probability 0.01, a stretch of the pairing inverted with probability 0.2; minimum, mean, maximum and
deviation of every generation and the ten best genomes so far. Each contestant runs its own library's loop.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from deap import algorithms, base, tools

from evo.arrays import Array
from evo.operators import MASK_SAMPLERS

TOURNAMENT = 3
CROSSOVER = 0.9
FLIP = 0.01
INVERSION = 0.2
FAME = 10


@dataclass(frozen=True)
class Problem:
    """P genomes over B rows of G x G cells.

    evaluate: masks (N,B,G,G) bool, True = the cell keeps the row's own image, pairings (N,B) -> values (N,), larger
    is fitter. None: the share of cells kept, which each contestant takes from its own representation.
    """

    population: int
    batch: int
    grid: int
    seed: int = 0
    evaluate: Callable[[Array, Array], Array] | None = None

    def first_genomes(self) -> tuple[Array, Array]:
        """Masks (P,B,G,G) bool and pairings (P,B), of the distribution that a Search starts from."""
        rng = np.random.default_rng(self.seed)
        masks = MASK_SAMPLERS["bernoulli"](self.population * self.batch, self.grid, rng)
        pairings = np.argsort(rng.random((self.population, self.batch)), axis=1)
        return masks.reshape(self.population, self.batch, self.grid, self.grid), pairings


class Generation(NamedTuple):
    """One generation's record: when it was complete (seconds), how many genomes it evaluated, their fitness."""

    clock: float
    evaluated: int
    minimum: float
    mean: float
    maximum: float
    deviation: float


class Contestant(Protocol):
    """An algorithm with its population. `advance` runs T generations more.

    It returns T + 1 records, the first of the population as it stood: evaluated at the first call, 0 genomes later.
    """

    def advance(self, generations: int) -> list[Generation]: ...

    @property
    def best(self) -> float: ...


@dataclass(frozen=True)
class Peer:
    """How it is called in tables, the package whose version matters, and what starts it."""

    name: str
    package: str
    start: Callable[[Problem], Contestant]


class Maximise(base.Fitness):
    weights = (1.0,)


class DeapContestant:
    """A population that DEAP's eaSimple, or one called like it, evolves."""

    def __init__(
        self,
        population: Any,
        toolbox: base.Toolbox,
        loop: Callable[..., Any] = algorithms.eaSimple,
        value: Callable[[Any], float] = lambda genome: genome.fitness.values[0],
    ) -> None:
        self.population = population
        self.toolbox = toolbox
        self.loop = loop
        self.hall_of_fame = tools.HallOfFame(FAME)
        self.statistics = tools.Statistics(key=value)
        for name, function in (("min", np.min), ("mean", np.mean), ("max", np.max), ("std", np.std)):
            self.statistics.register(name, function)
        self.statistics.register("clock", lambda values: time.perf_counter())

    def advance(self, generations: int) -> list[Generation]:
        self.population, logbook = self.loop(
            self.population,
            self.toolbox,
            cxpb=CROSSOVER,
            mutpb=1.0,  # the flips' own rate is per cell
            ngen=generations,
            stats=self.statistics,
            halloffame=self.hall_of_fame,
            verbose=False,
        )
        return [
            Generation(*(line[key] for key in ("clock", "nevals", "min", "mean", "max", "std"))) for line in logbook
        ]

    @property
    def best(self) -> float:
        return float(self.hall_of_fame[0].fitness.values[0])


class ListGenome(list[list[int]]):
    """Textbook DEAP: [cells as 0 and 1, (B*G*G,), pairing (B,)], with a fitness."""

    def __init__(self, genes: Sequence[list[int]] = ()) -> None:
        super().__init__(genes)
        self.fitness = Maximise()


class SlicedGenome(ListGenome):
    """A ListGenome that copies its two lists by slices, also into the hall of fame, which calls deepcopy."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SlicedGenome:
        twin = SlicedGenome([genes[:] for genes in self])
        twin.fitness.wvalues = self.fitness.wvalues
        return twin


def start_lists(problem: Problem, genome: type[ListGenome] = ListGenome) -> DeapContestant:
    """Textbook DEAP: lists, deepcopy, DEAP's own operators."""
    random.seed(problem.seed)  # DEAP draws from Python's global generator
    masks, pairings = problem.first_genomes()
    cells = masks.reshape(problem.population, -1).astype(int).tolist()
    population = [genome([own, pairing]) for own, pairing in zip(cells, pairings.tolist(), strict=True)]

    def mate(first: ListGenome, second: ListGenome) -> tuple[ListGenome, ListGenome]:
        tools.cxUniform(first[0], second[0], indpb=0.5)
        tools.cxPartialyMatched(first[1], second[1])
        return first, second

    def mutate(child: ListGenome) -> tuple[ListGenome]:
        tools.mutFlipBit(child[0], indpb=FLIP)
        if random.random() < INVERSION:
            tools.mutInversion(child[1])
        return (child,)

    def unpack(genomes: Sequence[ListGenome]) -> tuple[Array, Array]:
        masks = np.array([genome[0] for genome in genomes], bool)
        shape = (len(genomes), problem.batch, problem.grid, problem.grid)
        return masks.reshape(shape), np.array([genome[1] for genome in genomes])

    toolbox = _deap_toolbox(problem, mate, mutate, unpack, lambda genome: sum(genome[0]) / len(genome[0]))
    return DeapContestant(population, toolbox)


def start_sliced_lists(problem: Problem) -> DeapContestant:
    """As textbook DEAP, with clones copied by slices."""
    contestant = start_lists(problem, SlicedGenome)
    contestant.toolbox.register("clone", copy.deepcopy)  # which SlicedGenome answers with slices
    return contestant


class ArrayGenome:
    """masks (B,G,G) bool, True = the cell keeps the row's own image; pairing (B,); a DEAP fitness."""

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, masks: Array, pairing: Array) -> None:
        self.masks = masks
        self.pairing = pairing
        self.fitness = Maximise()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayGenome):
            return NotImplemented
        return np.array_equal(self.pairing, other.pairing) and np.array_equal(self.masks, other.masks)

    def __deepcopy__(self, memo: dict[int, Any]) -> ArrayGenome:
        twin = ArrayGenome(self.masks.copy(), self.pairing.copy())
        twin.fitness.wvalues = self.fitness.wvalues
        return twin


def start_arrays(problem: Problem) -> DeapContestant:
    """DEAP on individuals of two numpy arrays, with operators vectorised by hand."""
    random.seed(problem.seed)
    rng = np.random.default_rng(problem.seed)
    population = [
        ArrayGenome(masks.copy(), pairing.copy()) for masks, pairing in zip(*problem.first_genomes(), strict=True)
    ]

    def mate(first: ArrayGenome, second: ArrayGenome) -> tuple[ArrayGenome, ArrayGenome]:
        traded = (first.masks ^ second.masks) & rng.integers(0, 2, first.masks.shape, dtype=bool)
        first.masks ^= traded
        second.masks ^= traded
        low, high = np.sort(rng.integers(0, problem.batch + 1, 2))
        first.pairing, second.pairing = (
            partially_matched(first.pairing, second.pairing, low, high),
            partially_matched(second.pairing, first.pairing, low, high),
        )
        return first, second

    def mutate(child: ArrayGenome) -> tuple[ArrayGenome]:
        child.masks ^= rng.random(child.masks.shape, dtype=np.float32) < FLIP
        if rng.random() < INVERSION:
            low, high = np.sort(rng.integers(0, problem.batch + 1, 2))
            child.pairing[low:high] = child.pairing[low:high][::-1].copy()
        return (child,)

    def unpack(genomes: Sequence[ArrayGenome]) -> tuple[Array, Array]:
        return np.stack([genome.masks for genome in genomes]), np.stack([genome.pairing for genome in genomes])

    toolbox = _deap_toolbox(problem, mate, mutate, unpack, lambda genome: genome.masks.mean())
    return DeapContestant(population, toolbox)


def partially_matched(receiver: Array, donor: Array, low: int, high: int) -> Array:
    """PMX of two pairings (B,): the donor's partners in low..high, the receiver's elsewhere.

    A partner that the donor brought already is followed along donor -> receiver to a free one.
    Goldberg and Lingle, Alleles, loci, and the traveling salesman problem, ICGA 1985.
    """
    place = np.empty_like(donor)  # place[v]: the row at which the donor has partner v
    place[donor] = np.arange(len(donor))
    child = receiver.copy()
    child[low:high] = donor[low:high]
    rows = np.concatenate([np.arange(low), np.arange(high, len(child))])
    while rows.size:
        source = place[child[rows]]
        clash = (source >= low) & (source < high)
        rows = rows[clash]
        child[rows] = receiver[source[clash]]
    return child


def _deap_toolbox(
    problem: Problem,
    mate: Callable[..., Any],
    mutate: Callable[..., Any],
    unpack: Callable[[Sequence[Any]], tuple[Array, Array]],
    share_kept: Callable[[Any], float],
) -> base.Toolbox:
    """Operators under DEAP's names; a fitness of whole genomes is asked for once a generation."""
    toolbox = base.Toolbox()
    toolbox.register("select", tools.selTournament, tournsize=TOURNAMENT)
    toolbox.register("mate", mate)
    toolbox.register("mutate", mutate)
    evaluate = problem.evaluate
    if evaluate is None:
        toolbox.register("evaluate", lambda genome: (share_kept(genome),))
    else:

        def values(genomes: Sequence[Any]) -> list[tuple[float]]:
            return [(value,) for value in evaluate(*unpack(genomes)).tolist()] if genomes else []

        toolbox.register("evaluate", values)
        toolbox.register("map", lambda function, genomes: function(genomes))
    return toolbox


class PymooContestant:
    """pymoo's GA: P children join their P parents, and the better P of both stay."""

    def __init__(self, algorithm: Any, evaluated: Callable[[], int]) -> None:
        self.algorithm = algorithm
        self._evaluated = evaluated
        self.hall_of_fame: list[tuple[float, Array]] = []  # fitness and genes, the fittest first

    def advance(self, generations: int) -> list[Generation]:
        if self.algorithm.pop is None:
            self.algorithm.next()  # evaluates the first genomes
            records = [self._record(self._evaluated())]
        else:
            records = [self._record(0)]
        for _ in range(generations):
            before = self._evaluated()
            self.algorithm.next()
            records.append(self._record(self._evaluated() - before))
        return records

    def _record(self, evaluated: int) -> Generation:
        population = self.algorithm.pop
        values = -population.get("F")[:, 0]
        # Its survivors are the best genomes so far, so the hall of fame is among them.
        self.hall_of_fame = [
            (float(values[i]), population[i].X.copy()) for i in np.argsort(-values, kind="stable")[:FAME]
        ]
        figures = (float(values.min()), float(values.mean()), float(values.max()), float(values.std()))
        return Generation(time.perf_counter(), evaluated, *figures)

    @property
    def best(self) -> float:
        return self.hall_of_fame[0][0]


def _fittest(population: Any, rivals: Array, **kwargs: Any) -> Array:
    """The winners of pymoo's tournaments, (N,1) of rivals (N,K): indices."""
    values = population.get("F")[:, 0]
    return rivals[np.arange(len(rivals)), values[rivals].argmin(axis=1)][:, None]


def start_pymoo(problem: Problem) -> PymooContestant:
    """pymoo's GA on one row of integers per genome, as its own samplings make them: B*G*G cells, then the pairing."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.ox import ox, random_sequence
    from pymoo.operators.mutation.inversion import inversion_mutation
    from pymoo.operators.selection.tournament import TournamentSelection

    cells = problem.batch * problem.grid**2

    class Compositions(PymooProblem):
        def __init__(self) -> None:
            super().__init__(n_var=cells + problem.batch, n_obj=1)

        def _evaluate(self, genes: Array, out: dict[str, Array], *args: Any, **kwargs: Any) -> None:
            if problem.evaluate is None:
                values = genes[:, :cells].mean(axis=1)
            else:
                shape = (len(genes), problem.batch, problem.grid, problem.grid)
                values = problem.evaluate(genes[:, :cells].astype(bool).reshape(shape), genes[:, cells:].astype(int))
            out["F"] = -values[:, None]  # pymoo minimises

    class UniformAndOrder(Crossover):
        def __init__(self) -> None:
            super().__init__(n_parents=2, n_offsprings=2, prob=CROSSOVER)

        def _do(self, task: Any, genes: Array, *args: Any, random_state: Any = None, **kwargs: Any) -> Array:
            children = genes.copy()  # (2, matings, variables)
            traded = random_state.random((genes.shape[1], cells)) < 0.5
            children[:, :, :cells] = np.where(traded, genes[::-1, :, :cells], genes[:, :, :cells])
            for mating in range(genes.shape[1]):
                first, second = genes[:, mating, cells:]
                stretch = random_sequence(problem.batch, random_state=random_state)
                children[0, mating, cells:] = ox(first, second, seq=stretch)
                children[1, mating, cells:] = ox(second, first, seq=stretch)
            return children

    class FlipAndInversion(Mutation):
        def _do(self, task: Any, genes: Array, *args: Any, random_state: Any = None, **kwargs: Any) -> Array:
            children = genes.copy()
            children[:, :cells] ^= random_state.random((len(genes), cells)) < FLIP
            for index in np.flatnonzero(random_state.random(len(genes)) < INVERSION):
                inversion_mutation(children[index, cells:], random_sequence(problem.batch, random_state=random_state))
            return children

    masks, pairings = problem.first_genomes()
    algorithm = GA(
        pop_size=problem.population,
        sampling=np.concatenate([masks.reshape(len(masks), cells), pairings], axis=1).astype(int),
        selection=TournamentSelection(func_comp=_fittest, pressure=TOURNAMENT),
        crossover=UniformAndOrder(),
        mutation=FlipAndInversion(),
        eliminate_duplicates=False,  # nobody else here compares genomes
    )
    algorithm.setup(Compositions(), seed=problem.seed, termination=("n_gen", 10**9), verbose=False)
    return PymooContestant(algorithm, lambda: int(algorithm.evaluator.n_eval))


def start_ours(problem: Problem) -> DeapContestant:
    """Evomix: the same keywords as DEAP's loop, over the population's arrays."""
    from evo.algorithms import eaSimple, first_value
    from evo.genome import Population
    from evo.operators.masks import flip_cells, uniform_cells
    from evo.operators.pairings import inversion, pmx
    from evo.packed import Masks
    from evo.selection import tournament

    rng = np.random.default_rng(problem.seed)

    def mate(first: Population, second: Population) -> tuple[Masks, Array]:
        return uniform_cells(first.packed, second.packed, rng), pmx(first.pairings, second.pairings, rng)

    def mutate(masks: Masks, pairings: Array) -> tuple[Masks, Array]:
        return (
            flip_cells(masks, rng, row_rate=1, cells=FLIP * problem.grid**2),
            inversion(pairings, rng, rate=INVERSION),
        )

    def evaluate(population: Population) -> Array:
        if problem.evaluate is None:
            return population.packed.kept().mean(axis=1) / problem.grid**2
        return problem.evaluate(population.masks, population.pairings)

    toolbox = base.Toolbox()
    toolbox.register("select", tournament, rng=rng, tournsize=TOURNAMENT)
    toolbox.register("mate", mate)
    toolbox.register("mutate", mutate)
    toolbox.register("evaluate", evaluate)
    return DeapContestant(Population(*problem.first_genomes()), toolbox, partial(eaSimple, rng=rng), first_value)


OURS = Peer("Evomix eaSimple", "evomix", start_ours)
LISTS = Peer("textbook DEAP", "deap", start_lists)
SLICES = Peer("DEAP, slice-copy clone", "deap", start_sliced_lists)
ARRAYS = Peer("DEAP, two numpy arrays", "deap", start_arrays)
PYMOO = Peer("pymoo GA", "pymoo", start_pymoo)
PEERS = (LISTS, SLICES, ARRAYS, PYMOO)

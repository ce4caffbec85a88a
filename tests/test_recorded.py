"""Searches that were recorded take the same course: equal seeds, equal genomes, in every generation.

The file was written before the engine was parted into modules, but for the cases named `assignment`, whose operator
changed after it. To record anew what is meant to change: python -m tests.test_recorded
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from deap import tools

from evo.operators import MASK_MUTATIONS, PAIRING_MUTATIONS
from evo.search import Search
from tests.searches import NEED_NO_TABLE

FILE = Path(__file__).parent / "data" / "recorded_searches.json"
WITHOUT_ASSIGNMENT = "+".join(name for name in NEED_NO_TABLE if name != "assignment")
CASES = {
    **{f"crossover {name}": {"crossover": name} for name in ("rows", "local", "uniform", "block/ox", "kpoint/cx")},
    **{f"sampler {name}": {"sampler": name, "crossover": "rows"} for name in ("bernoulli", "box", "connected")},
    "all operators": {
        "crossover": WITHOUT_ASSIGNMENT,
        "mask_mutation": "+".join(MASK_MUTATIONS),
        "pairing_mutation": "+".join(PAIRING_MUTATIONS),
        "adaptive": True,
    },
    "lexicase": {"selection": "lexicase", "crossover": "rows"},
    "redraw": {"duplicates": "redraw", "crossover": "rows"},
    "keep": {"duplicates": "keep", "crossover": "rows"},
    "hold": {"hold": True, "min_cells": 1, "crossover": "rows"},
    "rules": {"min_cells": 2, "self_pairing": False, "same_class": False, "crossover": "rows"},
    "full": {"evaluation": "full", "crossover": "rows"},
    "forget survivors": {"forget": "survivors", "crossover": "rows"},
    "forget all": {"forget": "all", "crossover": "rows"},
    "forget none": {"forget": "none", "crossover": "rows"},
    "image_reducible": {"objective": "image_reducible", "crossover": "rows"},
    "image_hard": {"objective": "image_hard", "crossover": "rows"},
    "sum": {"objective": "hard+0.5*contrast", "crossover": "rows"},
    "learnable": {"objective": "learnable", "crossover": "rows"},
    "diversity": {"objective": "diversity", "crossover": "rows"},
    "not finite": {"nan": 3, "crossover": "rows"},
    "budget": {"budget": 20.5, "crossover": "rows"},
    "patience": {"patience": 3, "crossover": "rows"},
    "one genome": {"population": 1, "crossover": "rows"},
    "no labels": {"labels": False, "crossover": "rows"},
    "DEAP selects": {"deap": True, "crossover": "rows"},
    "large batch": {"batch_size": 140, "grid": 4, "generations": 5, "crossover": "rows"},
    "large grid": {"batch_size": 20, "grid": 9, "generations": 6, "crossover": "rows"},
    "two images": {"batch_size": 2, "grid": 2, "crossover": "rows"},
    "assignment": {},
    "assignment, as trained with": {"population": 4, "sampler": "box", "objective": "image_reducible"},
    "assignment, large batch": {"batch_size": 140, "grid": 4, "generations": 5, "population": 6},
}


class Quarters:
    """A table of losses in steps of 1/64, so that no sum of them is rounded, on any machine."""

    def __init__(self, batch_size, grid, seed=0):
        shape = (batch_size, batch_size, grid, grid, 2)
        self.losses = (np.random.default_rng(seed).integers(0, 256, shape) / 64).astype(np.float32)

    def __call__(self, rows, nan):
        i, j = np.indices(self.losses.shape[2:4])
        cells = self.losses[rows.image[:, None, None], rows.partner[:, None, None], i, j, rows.masks.astype(int)]
        if nan is not None:
            cells[(rows.image == nan) & (rows.partner % 2 == 1)] = np.nan
        whole = cells.sum((1, 2)) / np.float32(4)
        return cells, whole, cells / 2, whole / 4


def follow(*, batch_size=12, grid=3, generations=12, labels=True, forget=None, nan=None, deap=False, **settings):
    """A line a generation: a digest of the genomes and their numbers, and the forwards so far."""
    settings = {"population": 10, "objective": "hard", "sampler": "bernoulli", "seed": 1, **settings}
    search = Search(batch_size, grid, np.arange(batch_size) % 3 if labels else None, **settings)
    if deap:
        search.toolbox.register("select", tools.selTournament, tournsize=3)
    table, lines = Quarters(batch_size, grid), []
    for generation in range(generations):
        proposal = search.ask()
        if proposal is None:
            break
        search.tell(*table(proposal.rows, nan))
        alive = search.population
        digest = hashlib.sha256(b"".join(map(bytes, (alive.packed.words, alive.pairings, alive.ids))))
        lines.append(f"{digest.hexdigest()[:12]} {search.forwards}")
        if forget and generation % 3 == 2:
            search.forget(forget)
            table = Quarters(batch_size, grid, seed=generation)
    return [*lines, str(search.stopped)]


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_search_takes_the_same_course(case):
    assert follow(**CASES[case]) == json.loads(FILE.read_text())[case]


if __name__ == "__main__":
    FILE.write_text(json.dumps({case: follow(**options) for case, options in CASES.items()}, indent=0) + "\n")

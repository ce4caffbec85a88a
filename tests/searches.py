"""What tests of the engine share: a model whose losses are known, and a search of `hard` over its batch."""

import numpy as np

from evo.operators import ALL_CROSSOVERS, TABLE_CROSSOVERS
from evo.search import Search

B, G = 12, 3
NEED_NO_TABLE = tuple(name for name in ALL_CROSSOVERS if name not in TABLE_CROSSOVERS)


class Table:
    """A model whose cell losses are known: a table over (image, partner, cell, kept)."""

    def __init__(self, seed: int = 0) -> None:
        self.losses = np.random.default_rng(seed).random((B, B, G, G, 2)).astype(np.float32)
        self.asked = 0

    def __call__(self, rows):
        self.asked += len(rows.image)
        i, j = np.indices((G, G))
        return self.losses[rows.image[:, None, None], rows.partner[:, None, None], i, j, rows.masks.astype(int)]

    def full(self, population):
        """(P,B,G,G): every row looked up anew."""
        i, j = np.indices((G, G))
        image = np.arange(B)[None, :, None, None]
        return self.losses[image, population.pairings[:, :, None, None], i, j, population.masks.astype(int)]


def hard_search(batch_size=B, grid=G, labels=None, **options):
    """A search with masks of single cells by mean cell loss, as far as options do not say otherwise."""
    return Search(
        batch_size, grid, labels, **{"population": 16, "objective": "hard", "sampler": "bernoulli", **options}
    )


def run(generations=10, table=None, **options):
    """A search after some generations."""
    table = table or Table()
    search = hard_search(labels=np.arange(B) % 3, **{"population": 10, "seed": 1, **options})
    for _ in range(generations):
        proposal = search.ask()
        if proposal is None:
            break
        search.tell(table(proposal.rows))
    return search


def evaluate(rows):
    """An evaluator, of the table with seed 0."""
    return (Table()(rows),)

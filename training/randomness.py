"""All of a run's random streams, from one seed.

Each use has a stream of its own, so that runs of one seed share initial weights, data order and crops
whatever their mix draws: that is what pairs them in a comparison.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


class Streams:
    """Generators by name; the same seed and name give the same stream."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def torch(self, name: str) -> torch.Generator:
        """A CPU generator."""
        return torch.Generator().manual_seed(self.number(name))

    def numpy(self, name: str) -> np.random.Generator:
        return np.random.default_rng(self._sequence(name))

    def number(self, name: str) -> int:
        """A seed of 63 bits."""
        return int(self._sequence(name).generate_state(1, np.uint64)[0] >> 1)

    def _sequence(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, zlib.crc32(name.encode())])

"""Batches made ahead of the consumer, in threads of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from torch import Tensor

from training.cores import usable_cores
from training.launched import launched

Batch = tuple[Tensor, Tensor]
AHEAD = 3  # batches held besides the consumer's: decoding is uneven, more would cost memory


def prefetch(make: Callable[[Tensor], Batch], indices: Iterable[Tensor]) -> Generator[Batch, None, None]:
    """make(each of `indices`) in order, made a few batches ahead of the consumer.

    What `make` raises is raised where its batch was due. `indices` is read in the consumer's thread, so that
    generators it draws from are used by one thread. The threads end with the iterator, also when it is closed early.
    """
    waiting: deque[Future[Batch]] = deque()
    rest = iter(indices)
    pool = ThreadPoolExecutor(1, "prefetch")  # one: a batch is decoded by several threads already
    try:
        waiting.extend(pool.submit(make, chosen) for chosen in islice(rest, AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make, chosen) for chosen in islice(rest, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_with_threads(
    make: Callable[[Tensor, ThreadPoolExecutor], Batch], indices: Iterable[Tensor]
) -> Generator[Batch, None, None]:
    """`prefetch` for a `make` that wants threads to decode in: the same ones for all batches."""
    with (
        ThreadPoolExecutor(decoding_threads(), "decode") as pool,
        closing(prefetch(lambda chosen: make(chosen, pool), indices)) as batches,
    ):
        yield from batches


def decoding_threads() -> int:
    """Threads to decode with: the cores this process may use, shared by the processes of this machine."""
    return max(1, usable_cores() // max(1, launched("LOCAL_WORLD_SIZE", 1)))

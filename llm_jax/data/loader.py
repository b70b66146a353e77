"""Batches: a pure function of (seed, step), read ahead in threads.

The rows are permuted anew for every epoch, the permutations follow each other without end (of
mixtures see `llm_jax.data.order`), and the global batch of step `s` is what stands at the places
`s*B .. (s+1)*B - 1` of that stream. A process reads the block of it that is its own, so the global
batch does not depend on how many processes there are, and starting at any step costs the same. What
chance does to an example (masks, crops) is drawn from a generator of (seed, its place in the
stream); where an objective's masks are static, of (seed, its index, one of their copies in turn). A
run may leave batches out: the steps behind them take the batches that follow, as if those had never
been there.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.mixture import MixedRows, Mixing
from llm_jax.data.order import by_length, hashed, shuffled

# Batches in the endless stream.
_ENDLESS = 1 << 40


class Rows(Protocol):
    """The examples of a split; see `llm_jax.data.rows`."""

    split: str
    static_copies: int  # generators that an example has for good; 0: a new one each time

    def __len__(self) -> int: ...

    def take(
        self, indices: np.ndarray, randoms: Sequence[np.random.Generator]
    ) -> dict[str, np.ndarray]:
        """Returns a batch of the examples `indices`; -1 gives one of weight 0."""

    def amount(self) -> str:
        """Says how many examples there are."""


def batches(
    rows: Rows,
    *,
    seed: int,
    batch_size: int,
    mixing: Mixing | None = None,
    start_step: int = 0,
    skipped: Sequence[tuple[int, int]] = (),
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns the endless batches from `start_step` on, this process's rows of each.

    Args:
      rows: the train split.
      seed: of the order; any integer.
      batch_size: rows of the global batch, B.
      mixing: how the parts of a mixture are mixed; None where there is but one.
      start_step: the step whose batch comes first; no step costs more to start at than another.
      skipped: batches of the stream that no step takes, see `position`.
      process_index, process_count: this process takes rows `p*B/P .. (p+1)*B/P - 1`.
      threads: how many read ahead; 0 reads when asked.

    Returns:
      an iterator of `rows.take` dicts, [B/P, ...], with `example_ids` [B/P] int32: the row's index
      in the global batch. It has `close()`, which ends its threads.

    Raises:
      ConfigError: fewer rows than one batch, a batch that the processes do not divide, a mixture
        without `mixing`, or shares of it that cannot be.
    """
    import grain

    local = _local_size(batch_size, process_count)
    if isinstance(rows, MixedRows) != (mixing is not None):
        raise ConfigError(
            "mixing is for the rows of a mixture, which need it: give `DataConfig.mixing` of theirs"
        )
    if len(rows) < batch_size:
        raise ConfigError(
            f"the {rows.split} split has {rows.amount()} and batch_size is {batch_size}: give more "
            "data, or a smaller batch_size"
        )
    example_ids = np.arange(process_index * local, (process_index + 1) * local, dtype=np.int32)

    sized = hasattr(rows, "length")  # rows are as long as their batch needs
    if sized:
        order = by_length(rows.sizes, batch_size, f"order {seed}")
    elif mixing is None:
        order = shuffled(len(rows), f"order {seed}")
    else:
        order = mixing.order(rows, seed, batch_size)

    def read(step: int) -> dict[str, np.ndarray]:
        begin = position(step, skipped) * batch_size
        places, more = begin + example_ids.astype(np.int64), {}
        if sized:  # the same on all processes
            more["length"] = rows.length(order(begin + np.arange(batch_size)))
        indices, draws = order(places), f"example {seed}"
        if copies := rows.static_copies:
            places, draws = indices * copies + places // len(rows) % copies, f"static {seed}"
        randoms = _Generators(draws, places)
        return rows.take(indices, randoms, **more) | {"example_ids": example_ids.copy()}

    dataset = grain.MapDataset.range(start_step, _ENDLESS).map(read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(dataset.to_iter_dataset(options))


def position(step: int, skipped: Sequence[tuple[int, int]]) -> int:
    """Returns which batch of the stream the step after `step` steps takes.

    Args:
      step: steps taken before.
      skipped: `[from, to)` in batches of the stream, ascending and disjoint, that no step takes.
    """
    for first, end in skipped:
        if step >= first:
            step += end - first
    return step


def eval_batches(
    rows: Rows, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every row once, in order, as batches like those of `batches`.

    A row's masks follow from its index, so that two evaluations ask the same.

    The last batch is filled up with rows of weight 0. In a run of several processes each gets its
    block of every global batch.

    Raises:
      ConfigError: a batch that the processes do not divide.
    """
    local = _local_size(batch_size, process_count)
    block = np.arange(process_index * local, (process_index + 1) * local, dtype=np.int32)

    def generate():
        for start in range(0, len(rows), batch_size):
            indices = start + block
            known = np.where(indices < len(rows), indices, -1)
            more = {}
            if hasattr(rows, "length"):
                whole = start + np.arange(batch_size)
                more["length"] = rows.length(np.where(whole < len(rows), whole, -1))
            yield rows.take(known, _Generators("evaluation", indices), **more) | {
                "example_ids": block.copy()
            }

    return generate()


class _Generators(Sequence):
    """A generator for each place, of (name, place) alone; made when it is asked for."""

    def __init__(self, name: str, places: np.ndarray):
        self._key, self._places = hashed(name), places.tolist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> np.random.Generator:
        key = np.array([self._key, self._places[index]], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(
            f"batch_size is {batch_size} for {process_count} processes: give a multiple of them"
        )
    return batch_size // process_count

"""In which order examples come: an endless stream of them, with random access to every place.

`shuffled` is grain's: all examples in a new permutation for every epoch. `mixed` takes them from
several such streams, by shares that may change over the run.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

# Rows in the endless stream: grain takes lengths through floating point, exact up to here.
_ENDLESS = 1 << 53
# Places in which a mixture's shares are met exactly.
BLOCK = 4096
# Batches whose examples are sorted by length together.
WINDOW = 50

Order = Callable[[np.ndarray], np.ndarray]


def hashed(text: str) -> int:
    """Returns 64 bits that follow from `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def shuffled(size: int, seed: str) -> Order:
    """Returns what gives, for places [n] of the stream, the examples [n] there.

    Args:
      size: examples; those of places `e*size .. (e+1)*size - 1` are a permutation of them all.
      seed: any text.
    """
    import grain

    # Hashed, because grain counts the seed up by one an epoch: seed 1 would begin with the order
    # of seed 0's second epoch.
    order = grain.MapDataset.range(size).shuffle(seed=hashed(seed) >> 32).repeat(_ENDLESS // size)
    return lambda places: np.array([order[place] for place in np.asarray(places).tolist()])


def by_length(lengths: np.ndarray, batch_size: int, seed: str) -> Order:
    """Returns the order of examples that are batched with others of about their length.

    In every epoch the examples are permuted; of each `WINDOW` batches of them, the last ones
    included, those of like length make a batch; and the batches are permuted. What does not fill
    one is left out of that epoch.

    Args:
      lengths: [n] of the examples.
      batch_size: B, at most n; places `s*B .. (s+1)*B - 1` are one batch.
      seed: any text.
    """
    count = len(lengths) // batch_size

    @functools.lru_cache(maxsize=2)
    def epoch_of(epoch: int) -> np.ndarray:
        key = np.array([hashed(f"{seed} lengths"), epoch], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key))
        order = random.permutation(len(lengths))[: count * batch_size]
        for begin in range(0, len(order), WINDOW * batch_size):
            window = order[begin : begin + WINDOW * batch_size]
            window[:] = window[np.argsort(lengths[window], kind="stable")]
        return order.reshape(count, batch_size)[random.permutation(count)]

    def order(places: np.ndarray) -> np.ndarray:
        steps, inside = np.divmod(np.asarray(places), batch_size)
        epochs, numbers = np.divmod(steps, count)
        return np.array([epoch_of(e)[n, i] for e, n, i in zip(epochs.tolist(), numbers, inside)])

    return order


def mixed(
    sizes: Sequence[int], shares: Callable[[int], np.ndarray], changing: int, seed: str
) -> Order:
    """Returns the order of several parts' examples, mixed.

    Of every `BLOCK` places each part has a number that is its share of them, rounded, in random
    order; and it gives its examples as `shuffled` does, each once before any comes again.

    Args:
      sizes: examples of each part; they are numbered through, one part behind the other.
      shares: gives positive weights [parts] at a place of the stream.
      changing: places behind which the shares stay as they are.
      seed: any text.
    """
    orders = [shuffled(size, f"{seed} part {part}") for part, size in enumerate(sizes)]
    begins = np.cumsum([0, *sizes[:-1]])
    blocks = -(-changing // BLOCK)
    counts = np.array([apportion(shares(block * BLOCK), BLOCK) for block in range(blocks + 1)])
    taken = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts[:-1], axis=0)])

    @functools.lru_cache(maxsize=8)
    def block_of(block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part at each place of a block, and which of its stream it gives there."""
        known = min(block, blocks)
        parts = np.repeat(np.arange(len(sizes)), counts[known])
        key = np.array([hashed(f"{seed} blocks"), block], np.uint64)
        parts = np.random.Generator(np.random.Philox(key=key)).permutation(parts)
        before = taken[known] + (block - known) * counts[known]
        numbers = np.empty(BLOCK, np.int64)
        for part, count in enumerate(counts[known]):
            numbers[parts == part] = before[part] + np.arange(count)
        return parts, numbers

    def order(places: np.ndarray) -> np.ndarray:
        places = np.asarray(places)
        found = np.empty(len(places), np.int64)
        for block in np.unique(places // BLOCK).tolist():
            mine = np.flatnonzero(places // BLOCK == block)
            inside = places[mine] - block * BLOCK
            parts, numbers = (array[inside] for array in block_of(block))
            for part in np.unique(parts).tolist():
                chosen = parts == part
                found[mine[chosen]] = begins[part] + orders[part](numbers[chosen])
        return found

    return order


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Returns int64 numbers with the sum `total`, by the largest remainders of `weights`."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    behind = np.argsort(counts - exact, kind="stable")
    counts[behind[: total - counts.sum()]] += 1
    return counts

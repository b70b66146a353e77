"""Best-fit packing: rows of whole documents, as few of them cut as can be.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830): documents longer
than a row are cut into rows, and the pieces that are left are put, the longest first, each into the
row that it fills best. Every piece begins with BOS, so that it is a document of its own to
`packing.unpack`; what no piece fills is padding.
"""

from collections.abc import Iterable, Iterator

import numpy as np

# Pieces are held until they have so many tokens, then packed.
_WINDOW_TOKENS = 1 << 22


def pack(
    parts: Iterable[tuple[int, list[int]]], length: int, *, bos_id: int, eos_id: int
) -> Iterator[np.ndarray]:
    """Packs documents into rows.

    Args:
      parts: (number, token ids) of the parts of documents in turn; part 0 begins a document.
      length: tokens of a row, 2 or more.
      bos_id: begins every piece.
      eos_id: ends every document. Where it is `bos_id`, the mark that begins the next piece of a
        row ends the one before it, as does a last one in the row.

    Yields:
      int64 arrays of at most `length` tokens. Each token of a document stands in one of them.
    """
    shared = bos_id == eos_id
    capacity = length - shared
    held, tokens = [], 0
    for piece in _pieces(parts, length, bos_id, [] if shared else [eos_id]):
        if len(piece) > capacity:  # a row of its own, and no document ends in it
            yield piece
            continue
        held.append(piece)
        tokens += len(piece)
        if tokens > max(_WINDOW_TOKENS, length):
            yield from _rows(held, capacity, [bos_id] if shared else [])
            held, tokens = [], 0
    yield from _rows(held, capacity, [bos_id] if shared else [])


def _pieces(parts, length: int, bos_id: int, end: list[int]) -> Iterator[np.ndarray]:
    """Yields pieces of `length` tokens, and of each document the shorter one with its end."""
    held, size = None, length - 1
    for number, ids in parts:
        if number == 0:
            if held is not None:
                yield np.array([bos_id, *held, *end])
            held = []
        held = [*held, *ids]
        whole = len(held) // size * size
        for start in range(0, whole, size):
            yield np.array([bos_id, *held[start : start + size]])
        held = held[whole:]
    if held is not None:
        yield np.array([bos_id, *held, *end])


def _rows(pieces: list[np.ndarray], capacity: int, end: list[int]) -> Iterator[np.ndarray]:
    """Puts pieces of at most `capacity` tokens into rows, and `end` behind each row."""
    rows: list[list[np.ndarray]] = []
    # Of each room that rows have, these rows; bit r of `rooms` is set where there are some.
    with_room: dict[int, list[int]] = {}
    rooms = 0
    for index in np.argsort([-len(piece) for piece in pieces], kind="stable").tolist():
        size = len(pieces[index])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(pieces[index])
        with_room.setdefault(room - size, []).append(row)
        rooms |= 1 << (room - size)
    for row in rows:
        yield np.concatenate([*row, end]).astype(np.int64)

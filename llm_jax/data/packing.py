"""Token rows: documents one after another, cut to equal lengths, kept in array_record files.

The stream of a split is `BOS tokens EOS` for each document in turn; where one mark is both, it
stands once between two documents. To predict next tokens, row `i`
holds its tokens `i*T .. i*T + T` (T + 1 of them): inputs are the first T, targets the last T, so
rows overlap by one token and every token is a target exactly once. A record is the row's tokens
alone, in the smallest unsigned type that holds an id; the last one may be shorter. What else a
batch needs follows from where BOS stands, and `unpack` works it out for a whole batch at a time.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llm_jax.data.record_writer import record_writer

_FLUSH_TOKENS = 1 << 22

# Of a record of one document's sentences: the document's number comes first, in two parts.
HEADER = 2


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the smallest little-endian unsigned type for ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def pack(pieces: Iterable[np.ndarray], length: int, overlap: int = 1) -> Iterator[np.ndarray]:
    """Cuts a token stream, given in pieces of any length, into rows.

    Args:
      pieces: the stream.
      length: tokens of a row, more than `overlap`.
      overlap: how many of them are the last of the row before.

    Yields:
      arrays of `length` tokens; the last may be shorter, but brings one token that is new.
    """
    stride = length - overlap
    pending: list[np.ndarray] = []
    held = 0
    for piece in pieces:
        pending.append(piece)
        held += len(piece)
        if held > max(_FLUSH_TOKENS, length):
            stream = np.concatenate(pending)
            count = (len(stream) - overlap) // stride
            for row in range(count):
                yield stream[row * stride : row * stride + length]
            pending = [stream[count * stride :]]
            held = len(pending[0])
    stream = np.concatenate(pending) if pending else np.zeros(0, np.uint16)
    for start in range(0, len(stream) - overlap, stride):
        yield stream[start : start + length]


def pack_sentences(
    parts: Iterable[tuple[int, list[int]]], length: int, line_ends: np.ndarray
) -> Iterator[np.ndarray]:
    """Cuts each document into records of whole sentences; a longer sentence is cut itself.

    Args:
      parts: (number, token ids) of the parts of documents in turn; part 0 begins a document.
      length: tokens of a record, its header included.
      line_ends: bool [vocabulary]; a sentence or a line ends with the piece.

    Yields:
      int64 arrays of the header (`document_numbers` reads it) and at least two tokens.
    """
    most = length - HEADER
    for number, tokens in enumerate(_documents(parts)):
        ends = 1 + np.flatnonzero(line_ends[tokens])
        start = 0
        while start < len(tokens):
            stop = min(start + most, len(tokens))
            if stop < len(tokens):
                last = np.searchsorted(ends, stop, side="right") - 1
                if last >= 0 and ends[last] >= start + 2:
                    stop = int(ends[last])
            if stop - start >= 2:
                header = [number & 0xFFFF, number >> 16]
                yield np.concatenate([header, tokens[start:stop]])
            start = stop


def _documents(parts: Iterable[tuple[int, list[int]]]) -> Iterator[np.ndarray]:
    pieces: list[list[int]] = []
    for part, ids in parts:
        if part == 0 and pieces:
            yield np.concatenate(pieces).astype(np.int64)
            pieces = []
        pieces.append(ids)
    if pieces:
        yield np.concatenate(pieces).astype(np.int64)


def document_numbers(records: np.ndarray) -> np.ndarray:
    """Returns the number [n] of each record's document, of `pack_sentences`' records [n, W]."""
    return records[:, 0] + (records[:, 1].astype(np.int64) << 16)


def write_rows(path: Path, rows: Iterable[np.ndarray], dtype: np.dtype) -> int:
    """Writes each row as one record and returns their number."""
    count = 0
    with record_writer(path) as writer:
        for row in rows:
            writer.write(row.astype(dtype).tobytes())
            count += 1
    return count


def unpack(
    rows: np.ndarray,
    lengths: np.ndarray,
    *,
    bos_id: int,
    cross_document_attention: bool,
    eos_id: int | None = None,
) -> dict[str, np.ndarray]:
    """Turns rows of tokens into a batch.

    Args:
      rows: [B, T + 1] token ids.
      lengths: [B] how many of a row's tokens are real (0 or 2 .. T + 1); the rest is padding.
      bos_id: the token that begins a document.
      cross_document_attention: leave segment ids and positions out: a row is one sequence.
      eos_id: the token that ends a document; one that is `bos_id` as well is predicted.

    Returns:
      tokens, targets [B, T] int32; weights [B, T] float32, 1 where the target is real and belongs
      to its input's document (the next document's BOS is not predicted), else 0; segment_ids
      [B, T] int32, counted from 1 along each row, 0 on padding; positions [B, T] int32, from 0 at
      each segment's first token in the row. Padding is token 0.
    """
    width = rows.shape[1]
    real = np.arange(width) < lengths[:, None]
    rows = np.where(real, rows, 0).astype(np.int32)
    starts = (rows == bos_id) & real
    batch = {
        "tokens": rows[:, :-1],
        "targets": rows[:, 1:],
        "weights": (real[:, 1:] & ~(starts[:, 1:] & (bos_id != eos_id))).astype(np.float32),
    }
    if cross_document_attention:
        return batch
    # The last input of a padded row is real but predicts nothing: it counts as padding.
    return batch | segments(starts[:, :-1], real[:, 1:])


def segments(starts: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """Returns which document each token of a row belongs to, and its place there.

    Args:
      starts: bool [B, T], where a document begins; a row's first token begins one in any case.
      real: bool [B, T], false on padding.

    Returns:
      segment_ids [B, T] int32, counted from 1 along each row, 0 on padding; positions [B, T] int32,
      from 0 at each segment's first token in the row, 0 on padding.
    """
    index = np.broadcast_to(np.arange(starts.shape[1], dtype=np.int32), starts.shape)
    starts = starts.copy()
    starts[:, 0] = True
    begin = np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    return {
        "segment_ids": np.cumsum(starts, axis=1, dtype=np.int32) * real,
        "positions": (index - begin) * real,
    }

"""Batches: a pure function of (seed, step), read ahead in threads.

Order is grain's: the rows are permuted anew for every epoch, the permutations follow each other
without end, and the global batch of step `s` is the rows `s*B .. (s+1)*B - 1` of that stream. A
process reads the block of it that is its own, so the global batch does not depend on how many
processes there are, and starting at any step costs the same.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.manifest import Manifest, load_manifest, verify
from llm_jax.data.prepare import TOKENIZER_FILE, token_file
from llm_jax.data.sources import SPLITS

# A split up to this size is held in memory; a larger one is read record by record.
IN_MEMORY_BYTES = 256 << 20

# Rows in the endless stream: grain takes lengths through floating point, exact up to here.
_ENDLESS = 1 << 53


class TokenRows:
    """Random access to the packed rows of one split.

    Attributes:
      split: "train" or "validation".
      manifest: of the directory.
      sequence_length: inputs in a row, T.
      documents, bytes, tokens: the split's documents, UTF-8 bytes, and targets of weight 1.
    """

    def __init__(self, path: Path, split: str, manifest: Manifest):
        """Opens the token file at `path`; `open_split` is the way in."""
        from array_record.python import array_record_module

        self.split, self.manifest = split, manifest
        self.sequence_length = manifest.sequence_length
        self.documents: int = manifest.documents[split]
        self.bytes: int = manifest.bytes[split]
        self.tokens: int = manifest.tokens[split]
        self._length: int = manifest.rows[split]
        self._cross = bool(manifest.inputs["cross_document_attention"])
        self._dtype = packing.token_dtype(manifest.vocab_size)
        self._reader = array_record_module.ArrayRecordReader(
            str(path), "readahead_buffer_size:0,max_parallelism:0"
        )
        self._held = None
        if path.stat().st_size <= IN_MEMORY_BYTES:
            self._held = self._read(range(self._length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns row `index`: the arrays of `take`, each [T]."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {key: value[0] for key, value in self.take([index % len(self)]).items()}

    def take(self, indices) -> dict[str, np.ndarray]:
        """Returns the rows `indices` ([n] integers; -1 gives a row of weight 0) as one batch.

        Returns:
          tokens, targets [n, T] int32, weights [n, T] float32, and unless the data has
          cross_document_attention positions and segment_ids [n, T] int32 (see `packing.unpack`).
        """
        indices = np.asarray(indices)
        if self._held is None:
            tokens, lengths = self._read(np.maximum(indices, 0).tolist())
        else:
            tokens, lengths = (array[indices] for array in self._held)
        return packing.unpack(
            tokens,
            np.where(indices < 0, 0, lengths),
            bos_id=self.manifest.bos_id,
            cross_document_attention=self._cross,
        )

    def _read(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tokens [n, T + 1], lengths [n]) from the file."""
        records = self._reader.read(list(indices))
        lengths = np.array([len(record) for record in records]) // self._dtype.itemsize
        width = self.sequence_length + 1
        padded = b"".join(record.ljust(width * self._dtype.itemsize, b"\0") for record in records)
        return np.frombuffer(padded, self._dtype).reshape(len(records), width), lengths


def open_split(directory: str | os.PathLike, split: str) -> TokenRows:
    """Opens the rows of a split ("train" or "validation") of prepared data.

    Raises:
      ConfigError: an unknown split, no prepared data, or a token file or tokenizer that is
        missing or damaged (named).
    """
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}: give one of {', '.join(SPLITS)}")
    directory = Path(directory)
    manifest = load_manifest(directory)
    verify(directory, manifest, [TOKENIZER_FILE, token_file(split)])
    return TokenRows(directory / token_file(split), split, manifest)


def batches(
    rows: TokenRows,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns the endless batches from `start_step` on, this process's rows of each.

    Args:
      rows: the train split.
      seed: of the order; any integer.
      batch_size: rows of the global batch, B.
      start_step: the step whose batch comes first; no step costs more to start at than another.
      process_index, process_count: this process takes rows `p*B/P .. (p+1)*B/P - 1`.
      threads: how many read ahead; 0 reads when asked.

    Returns:
      an iterator of `TokenRows.take` dicts, [B/P, T], with `example_ids` [B/P] int32: the row's
      index in the global batch. It has `close()`, which ends its threads.

    Raises:
      ConfigError: fewer rows than one batch, or a batch that the processes do not divide.
    """
    import grain

    local = _local_size(batch_size, process_count)
    if len(rows) < batch_size:
        raise ConfigError(
            f"the {rows.split} split has {rows.tokens} tokens, {len(rows)} rows of "
            f"{rows.sequence_length}, and batch_size is {batch_size}: give more text, or a smaller "
            "batch_size or data.sequence_length"
        )
    example_ids = np.arange(process_index * local, (process_index + 1) * local, dtype=np.int32)

    def read(indices: np.ndarray) -> dict[str, np.ndarray]:
        return rows.take(indices) | {"example_ids": example_ids.copy()}

    # Hashed, because grain counts the seed up by one an epoch: seed 1 would begin with the order
    # of seed 0's second epoch.
    order_seed = int.from_bytes(hashlib.sha256(f"order {seed}".encode()).digest()[:4], "big")
    order = grain.MapDataset.range(len(rows)).shuffle(seed=order_seed).repeat(_ENDLESS // len(rows))
    blocks = order.batch(local)
    own = slice(start_step * process_count + process_index, None, process_count)
    dataset = blocks.slice(own).map(read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(dataset.to_iter_dataset(options))


def eval_batches(
    rows: TokenRows, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every row once, in order, as batches like those of `batches`.

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
            yield rows.take(np.where(indices < len(rows), indices, -1)) | {
                "example_ids": block.copy()
            }

    return generate()


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(
            f"batch_size is {batch_size} for {process_count} processes: give a multiple of them"
        )
    return batch_size // process_count

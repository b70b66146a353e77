"""Random access to the examples of a prepared split, made into what an objective trains on.

`take(indices, randoms)` is the one way in: it gives a batch of examples, each of which depends on
its index and its own random generator alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.images import ImageRows
from llm_jax.data.labelled_rows import SPLITS as LABELLED_SPLITS
from llm_jax.data.labelled_rows import LabelledRows, TaggedRows, bucket
from llm_jax.data.manifest import FILE_NAME, Manifest, load_manifest, verify
from llm_jax.data.mixture import MixedRows
from llm_jax.data.objectives import NextToken, Vocabulary
from llm_jax.data.prepare import token_file
from llm_jax.data.sources import SPLITS
from llm_jax.data.tokenizers import FILES, load_tokenizer

# A split up to this size is held in memory; a larger one is read record by record.
IN_MEMORY_BYTES = 256 << 20


class _Records:
    """The rows of a token file: arrays of at most `width` tokens."""

    def __init__(self, path: Path, split: str, manifest: Manifest, width: int):
        from array_record.python import array_record_module

        self.split, self.manifest = split, manifest
        self.sequence_length = manifest.sequence_length
        self.documents: int = manifest.documents[split]
        self.bytes: int = manifest.bytes[split]
        self.tokens: int = manifest.tokens[split]
        self._length: int = manifest.rows[split]
        self.static_copies = 0
        self._dtype, self._width = packing.token_dtype(manifest.vocab_size), width
        self._reader = array_record_module.ArrayRecordReader(
            str(path), "readahead_buffer_size:0,max_parallelism:0"
        )
        self._held = None
        if path.stat().st_size <= IN_MEMORY_BYTES:
            self._held = self._read(range(self._length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns row `index`: the arrays of `take` without their first axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {key: value[0] for key, value in self.take([index % len(self)]).items()}

    def _rows(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Returns int32 [n, width] and the lengths [n]; an index of -1 gives length 0."""
        indices = np.asarray(indices)
        if self._held is None:
            rows, lengths = self._read(np.maximum(indices, 0).tolist())
        else:
            rows, lengths = (array[indices] for array in self._held)
        return rows.astype(np.int32), np.where(indices < 0, 0, lengths)

    def _read(self, indices) -> tuple[np.ndarray, np.ndarray]:
        records = self._reader.read(list(indices))
        lengths = np.array([len(record) for record in records]) // self._dtype.itemsize
        size = self._width * self._dtype.itemsize
        padded = b"".join(record.ljust(size, b"\0") for record in records)
        return np.frombuffer(padded, self._dtype).reshape(len(records), self._width), lengths


class TokenRows(_Records):
    """The packed rows of one split of text.

    Attributes:
      split: "train" or "validation".
      manifest: of the directory.
      sequence_length: inputs in a row, T.
      documents, bytes, tokens: the split's documents, UTF-8 bytes, and tokens with one EOS each.
      static_copies: of the objective.
    """

    def __init__(self, path: Path, split: str, manifest: Manifest, objective, vocabulary):
        """Opens the token file at `path`; `open_split` is the way in.

        Raises:
          ConfigError: an objective that needs other documents, and less than two of them.
        """
        self._objective, self._vocabulary = objective, vocabulary
        self._cross = bool(manifest.inputs["cross_document_attention"])
        super().__init__(path, split, manifest, objective.record_length(manifest.sequence_length))
        self.static_copies = objective.static_copies
        if objective.needs_others:
            ends = packing.document_numbers(self._rows([0, len(self) - 1])[0]) if len(self) else []
            if len(set(ends)) < 2:
                raise ConfigError(
                    f"the {split} split has one document with sentences, and objective.name "
                    f"{objective.name!r} takes a wrong one from another: give more documents"
                )

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{self.tokens} tokens, {len(self)} rows of {self.sequence_length}"

    def take(self, indices, randoms: Sequence[np.random.Generator] = ()) -> dict[str, np.ndarray]:
        """Returns the rows `indices` ([n] integers; -1 gives a row of weight 0) as one batch.

        Args:
          indices: of the rows.
          randoms: a generator for each row; an objective without chance takes none.

        Returns:
          the arrays of the objective's `batch`, each [n, ...]; of next tokens those of
          `packing.unpack`.
        """
        rows, lengths = self._rows(indices)
        others = None
        if self._objective.needs_others:
            randoms = list(randoms)  # each goes on where it has chosen the other record
            others = self._others(packing.document_numbers(rows), randoms)
        return self._objective.batch(
            rows,
            lengths,
            randoms,
            self._vocabulary,
            self.sequence_length,
            cross_document_attention=self._cross,
            others=others,
        )

    def _others(self, numbers: np.ndarray, randoms) -> tuple[np.ndarray, np.ndarray]:
        """Returns a record by chance for each of the documents `numbers`, of another document."""
        found = np.zeros(len(numbers), np.int64)
        wanted = np.arange(len(numbers))
        while len(wanted):
            found[wanted] = [randoms[place].integers(len(self)) for place in wanted]
            same = packing.document_numbers(self._rows(found[wanted])[0]) == numbers[wanted]
            wanted = wanted[same]
        return self._rows(found)


class PairRows(_Records):
    """The pairs of one split: sources and targets as `prepare` cut them.

    Attributes:
      target_length: tokens of the longest target.
      split, manifest, sequence_length, documents, bytes: as of `TokenRows`; `tokens` are those of
        the targets with one EOS each.
    """

    def __init__(self, path: Path, split: str, manifest: Manifest, objective):
        """Opens the token file at `path`; `open_split` is the way in."""
        self.target_length = objective.target_length
        super().__init__(path, split, manifest, objective.record_length(manifest.sequence_length))

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{len(self)} pairs"

    def take(self, indices, randoms=()) -> dict[str, np.ndarray]:
        """Returns the pairs `indices` ([n] integers; -1 gives one of weight 0) as one batch.

        Returns:
          source [n, S], source_mask [n, S] (1 where real), targets [n, D] int32 and weights [n, D]
          float32; a target ends in EOS, padding is 0.
        """
        del randoms
        rows, lengths = self._rows(indices)
        source, target = np.split(rows[:, 2:], [self.sequence_length], axis=1)
        sizes = np.where(lengths[:, None] > 0, rows[:, :2], 0)
        real = [np.arange(part.shape[1]) < size[:, None] for part, size in
                zip((source, target), sizes.T)]  # fmt: skip
        # A row of weight 0 still sees one token, so that its softmax has something to sum.
        real[0][:, 0] = True
        return {
            "source": np.where(real[0], source, 0),
            "source_mask": real[0].astype(np.int32),
            "targets": np.where(real[1], target, 0),
            "weights": real[1].astype(np.float32),
        }


class AnswerRows(PairRows):
    """Pairs as rows of one decoder: source and target behind each other, as long as they need.

    Attributes:
      sizes: int64 [n], the tokens of each row.
    """

    def __init__(self, path: Path, split: str, manifest: Manifest, objective):
        """Opens the token file at `path`; `open_split` is the way in."""
        super().__init__(path, split, manifest, objective)
        self._longest = self.sequence_length + self.target_length - 1
        parts = [
            self._rows(np.arange(begin, min(begin + 1024, len(self))))[0][:, :2].sum(axis=1) - 1
            for begin in range(0, len(self), 1024)
        ]
        self.sizes = np.concatenate(parts).astype(np.int64)

    def length(self, indices) -> int:
        """Returns the tokens that a batch of `indices` has for each row, one of few lengths."""
        return bucket(int(self.sizes[np.maximum(indices, 0)].max()), self._longest)

    def take(self, indices, randoms=(), length: int | None = None) -> dict[str, np.ndarray]:
        """Returns the pairs `indices` ([n] integers; -1 gives one of weight 0) as one batch.

        Returns:
          tokens and targets int32 [n, T], each target the token behind; weights float32 [n, T], 1
          where the target is of the answer or its end.
        """
        batch = super().take(indices, randoms)
        length = length or self.length(np.asarray(indices))
        shape = len(batch["source"]), length
        tokens, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for row, index in enumerate(np.asarray(indices).tolist()):
            if index < 0:
                continue
            source = batch["source"][row][batch["source_mask"][row] > 0]
            target = batch["targets"][row][batch["weights"][row] > 0]
            ids = np.concatenate([source, target])
            tokens[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
            weights[row, len(source) - 1 : len(ids) - 1] = 1
        return {"tokens": tokens, "targets": targets, "weights": weights}


def open_split(directory: str | os.PathLike, split: str, objective=NextToken()):
    """Opens the examples of a split ("train" or "validation") of prepared data.

    Args:
      directory: of `prepare`.
      split: which of the two; labelled texts have a "test" too.
      objective: what is made of an example, of `llm_jax.data.objectives`; the one of `prepare`.

    Returns:
      `TokenRows`, `PairRows`, `ImageRows`, `LabelledRows` or `TaggedRows`, by the objective, or
      `MixedRows` of a mixture.

    Raises:
      ConfigError: an unknown split, no prepared data, or a file of it that is missing or damaged
        (named).
    """
    known = LABELLED_SPLITS if objective.kind == "labelled" else SPLITS
    if split not in known:
        raise ConfigError(f"split is {split!r}: give one of {', '.join(known)}")
    directory = Path(directory)
    manifest = load_manifest(directory)
    if manifest.parts:
        verify(directory, manifest, [f"{name}/{FILE_NAME}" for name in manifest.parts])
        parts = {name: open_split(directory / name, split, objective) for name in manifest.parts}
        return MixedRows(parts, split, manifest)
    if objective.kind == "images":
        return ImageRows(directory, split, manifest, objective)
    if objective.kind == "labelled":
        kind = TaggedRows if manifest.inputs["target"] == "tags" else LabelledRows
        return kind(directory, split, manifest)
    tokenizer_files = [name for name in FILES if name in manifest.files]
    verify(directory, manifest, [*tokenizer_files, token_file(split)])
    path = directory / token_file(split)
    if objective.kind == "pairs":
        kind = AnswerRows if objective.name == "answers" else PairRows
        return kind(path, split, manifest, objective)
    vocabulary = Vocabulary.of(load_tokenizer(directory))
    return TokenRows(path, split, manifest, objective, vocabulary)

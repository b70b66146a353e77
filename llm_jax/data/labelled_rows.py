"""Batches of labelled texts, and of tagged sentences: rows that are as long as they need."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.data.manifest import Manifest, verify

SPLITS = ("train", "validation", "test")


def labelled_files(part: str) -> tuple[str, str]:
    """Returns the names of a split's arrays and texts."""
    return f"labelled-{part}.npz", f"labelled-{part}.jsonl"


class TextRows:
    """Texts of tokens, in memory.

    Attributes:
      sizes: int64 [n], the tokens of each row.
      static_copies: 0.
    """

    static_copies = 0

    def __init__(
        self, ids: np.ndarray, ends: np.ndarray, *,
        longest: int, padding: int, seconds=None, window: int = 0,
    ):  # fmt: skip
        """Takes the tokens of all rows, one behind the other, and where each row ends.

        Of pairs `seconds` says where in its row the second text begins; `window` is of
        `DataConfig`.
        """
        self._seconds, self._window = seconds, window
        self._ids, self._begins = ids, np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self.sizes = ends - self._begins
        self._longest, self._padding = longest, padding

    def __len__(self) -> int:
        return len(self.sizes)

    def length(self, indices) -> int:
        """Returns the tokens that a batch of `indices` has for each row, one of few lengths."""
        size = int(self.sizes[np.maximum(indices, 0)].max())
        if size <= self._window or not self._window:
            return bucket(size, self._longest)
        return bucket(-(-size // self._window), self._longest, smallest=1) * self._window

    def take(
        self, indices, randoms: Sequence[np.random.Generator] = (), length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the rows `indices` ([n] integers; -1 gives a row of weight 0) as one batch.

        Args:
          indices: of the rows.
          randoms: not used.
          length: of the rows, at least that of the longest; None: `length(indices)`.

        Returns:
          tokens, mask int32 [n, T] (1 where real), of windows [n, W, T]; weights float32 [n]; of
          pairs token_types int32 [n, T], 1 from the second text on.
        """
        del randoms
        indices = np.asarray(indices)
        length = length or self.length(indices)
        tokens = np.full((len(indices), length), self._padding, np.int32)
        mask = np.zeros((len(indices), length), np.int32)
        mask[:, 0] = 1  # a row of weight 0 still sees one token
        for row, index in enumerate(indices.tolist()):
            if index >= 0:
                size, begin = self.sizes[index], self._begins[index]
                tokens[row, :size] = self._ids[begin : begin + size]
                mask[row, :size] = 1
        batch = {"tokens": tokens, "mask": mask, "weights": (indices >= 0).astype(np.float32)}
        if self._seconds is not None:
            begins = self._seconds[np.maximum(indices, 0), None]
            batch["token_types"] = ((np.arange(length) >= begins) & (mask > 0)).astype(np.int32)
        if self._window:
            shape = (len(indices), -1, min(self._window, length))
            batch |= {name: batch[name].reshape(shape) for name in ("tokens", "mask")}
        return batch


class LabelledRows(TextRows):
    """The examples of one split, in memory, the shortest first; of tags see `TaggedRows`.

    Attributes:
      split: one of `SPLITS`.
      manifest: of the directory.
      labels: int32 [n], float32 [n, classes] of 0 and 1, or float32 [n], as the target has it.
      documents, bytes, tokens: numbers of the split.
    """

    def __init__(self, directory: Path, part: str, manifest: Manifest):
        """Opens the split in `directory`; `open_split` is the way in."""
        arrays, texts = labelled_files(part)
        verify(directory, manifest, [arrays, texts])
        size = {"longest": manifest.sequence_length, "padding": manifest.pad_id or 0}
        size["window"] = manifest.inputs.get("window", 0)
        with np.load(directory / arrays, allow_pickle=False) as file:
            super().__init__(file["ids"], file["ends"], seconds=file.get("seconds"), **size)
            self.labels = file["labels"]
        self._texts = directory / texts
        self.split, self.manifest = part, manifest
        for name in ("documents", "bytes", "tokens"):
            setattr(self, name, getattr(manifest, name)[part])

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{len(self)} labelled texts"

    def texts(self) -> list[str]:
        """Returns the texts, by row."""
        with self._texts.open(encoding="utf-8") as file:
            return [json.loads(line)["text"] for line in file]

    def take(self, indices, randoms=(), length: int | None = None) -> dict[str, np.ndarray]:
        """Returns what `TextRows.take` does, and the labels."""
        labels = self.labels[np.maximum(indices, 0)]
        return super().take(indices, randoms, length) | {"labels": labels}


class TaggedRows(LabelledRows):
    """The sentences of one split, in memory, the shortest first.

    Attributes:
      labels: int32 [units], the tags of all units that are read, one sentence behind the other.
      places: int32 [units], where in its row each of them has its first token.
      units: int64 [n], where among them each sentence ends.
    """

    def __init__(self, directory: Path, part: str, manifest: Manifest):
        """Opens the split in `directory`; `open_split` is the way in."""
        super().__init__(directory, part, manifest)
        with np.load(directory / labelled_files(part)[0], allow_pickle=False) as file:
            self.places, self.units = file["places"], file["units"]

    def amount(self) -> str:
        """Says how many sentences there are."""
        return f"{len(self)} tagged sentences"

    def own(self, row: int) -> slice:
        """Returns which of all units are those of a row."""
        return slice(self.units[row - 1] if row else 0, self.units[row])

    def take(self, indices, randoms=(), length: int | None = None) -> dict[str, np.ndarray]:
        """Returns what `TextRows.take` does; labels int32 and weights float32 are [n, T].

        The weight is 1 where the first token of a unit is.
        """
        batch = TextRows.take(self, indices, randoms, length)
        labels = np.zeros(batch["tokens"].shape, np.int32)
        weights = np.zeros(batch["tokens"].shape, np.float32)
        for row, index in enumerate(np.asarray(indices).tolist()):
            if index >= 0:
                own = self.own(index)
                labels[row, self.places[own]], weights[row, self.places[own]] = self.labels[own], 1
        return batch | {"labels": labels, "weights": weights}


def bucket(size: int, longest: int, smallest: int = 8) -> int:
    """Returns the smallest of few lengths that holds `size` tokens, at most `longest`.

    Up to 8 times the `smallest` they are its multiples; then four between each power of two and the
    next, so that a row is a fifth longer than it must be at most.
    """
    step = max(smallest, 1 << max(0, (size - 1).bit_length() - 3))
    return min(-(-size // step) * step, longest)

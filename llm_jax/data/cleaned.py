"""Cleaned documents as a source of text: what `llm_jax.data.pipeline` leaves in `cleaned/`.

A document is held out for validation where the hash of its name says so, see
`llm_jax.data.sources`; near-duplicates are gone by then, so that the splits share none.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig
from llm_jax.data.manifest import sha256_of
from llm_jax.data.sources import SPLITS, Document, is_held_out

DOCUMENTS = "documents.array_record"
MANIFEST = "manifest.json"
_AT_ONCE = 256
# Files that are held open.
_OPEN = 16


class DocumentRecords:
    """Random access to the records {"id", "text"} of array_record files, one behind the other."""

    def __init__(self, paths: Iterable[Path], counts: Sequence[int] | None = None):
        """Takes the files at `paths`; with how many records each has, none is opened before it
        must be.
        """
        self._paths = list(paths)
        self._open = functools.lru_cache(_OPEN)(_opened)
        if counts is None:
            counts = [self._open(path).num_records() for path in self._paths]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices) -> list[dict]:
        """Returns the records of ascending `indices`."""
        indices, found = np.asarray(indices, np.int64), []
        files = np.searchsorted(self._ends, indices, side="right")
        for file in np.unique(files):
            begin = self._ends[file - 1] if file else 0
            mine = (indices[files == file] - begin).tolist()
            found += [json.loads(record) for record in self._open(self._paths[file]).read(mine)]
        return found

    def __iter__(self) -> Iterator[dict]:
        for begin in range(0, len(self), _AT_ONCE):
            yield from self.read(range(begin, min(begin + _AT_ONCE, len(self))))


def _opened(path: Path):
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(
        str(path), "readahead_buffer_size:0,max_parallelism:0"
    )


@dataclasses.dataclass(frozen=True)
class CleanedSource:
    """The documents of one `cleaned/`; attributes as of `llm_jax.data.sources.Source`."""

    files: tuple[tuple[str, Path], ...]
    content_sha256: str
    cut_within_files: bool = False

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the documents of `split`, in the order of the raw files."""
        held_out = split == "validation"
        for record in DocumentRecords(path for _, path in self.files):
            if is_held_out(record["id"]) == held_out:
                yield Document(record["id"], record["text"])


def open_cleaned(config: DataConfig) -> CleanedSource:
    """Checks the directory behind `config`.

    Raises:
      ConfigError: it holds no cleaned documents, others than its manifest says, or too few for two
        splits.
    """
    directory = Path(config.path).expanduser()
    path = directory / DOCUMENTS
    if not path.is_file() or not (directory / MANIFEST).is_file():
        raise ConfigError(
            f"data.path is {config.path!r}, which holds no cleaned documents: give the directory "
            "cleaned/ that python -m experiments.prepare_data wrote"
        )
    digest = sha256_of(path)
    if json.loads((directory / MANIFEST).read_text())["sha256"] != digest:
        raise ConfigError(
            f"{path} is damaged (its sha256 is not the manifest's): restore it, or clean the text "
            "again"
        )
    source = CleanedSource(((DOCUMENTS, path),), digest)
    if empty := [split for split in SPLITS if next(source.documents(split), None) is None]:
        raise ConfigError(
            f"{directory} has too few documents: none falls to {empty[0]}; clean more text"
        )
    return source

"""Text straight from the columns of raw files: source "records", without cleaning.

A document is held out for validation where the hash of its text says so, see
`llm_jax.data.sources`: equal texts stand in one split.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data import readers
from llm_jax.data.config import DataConfig
from llm_jax.data.manifest import sha256_of
from llm_jax.data.sources import SPLITS, Document, is_held_out


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """The records of some files; attributes as of `llm_jax.data.sources.Source`.

    Attributes:
      path: of `DataConfig`.
      columns: which hold the text.
    """

    path: str
    columns: readers.Columns
    files: tuple[tuple[str, Path], ...]
    content_sha256: str
    cut_within_files: bool = False

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the documents of `split`, in the order of the files, empty ones left out.

        Raises:
          ConfigError: a record that cannot be read.
        """
        held_out = split == "validation"
        for item in readers.read(self.path, self.columns):
            if isinstance(item, readers.Bad):
                raise ConfigError(
                    f"{item.file} at {item.offset}: {item.reason}; mend it, or clean the files "
                    "with python -m experiments.prepare_data, which leaves bad records out"
                )
            if item.text.strip() and is_held_out(item.text) == held_out:
                yield Document(item.id, item.text)


def open_records(config: DataConfig) -> RecordSource:
    """Lists the files behind `config`.

    Raises:
      ConfigError: a path that is not there, a file of an unknown format, a record that cannot be
        read before both splits have one, or too few for two splits.
    """
    files = tuple((file.name, file.path) for file in readers.files_of(config.path))
    digest = hashlib.sha256(f"column {config.text}".encode())
    for name, path in files:
        digest.update(f"\n{name} {sha256_of(path)}".encode("utf-8", "surrogateescape"))
    columns = readers.Columns(text=config.text)
    source = RecordSource(config.path, columns, files, digest.hexdigest())
    if empty := [split for split in SPLITS if next(source.documents(split), None) is None]:
        raise ConfigError(
            f"{config.path} has too few records: none falls to {empty[0]}; give more text"
        )
    return source

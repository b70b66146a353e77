"""Texts of TFDS's datasets by name, from where they lie prepared: source "tfds".

Nothing is downloaded and no TensorFlow is imported: the files are array_record, and read by place.
The dataset's split "train" is read; a text is held out for validation where its hash says so, see
`llm_jax.data.sources`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.config import DataConfig
from llm_jax.data.manifest import sha256_of
from llm_jax.data.sources import SPLITS, Document, is_held_out


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """The texts of one dataset; attributes as of `llm_jax.data.sources.Source`.

    Attributes:
      records: of its train split, by place.
      text: the feature with the text.
    """

    records: Any
    text: str
    files: tuple[tuple[str, Path], ...]
    content_sha256: str
    cut_within_files: bool = False

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the documents of `split`, in the dataset's order, empty ones left out."""
        held_out = split == "validation"
        for place in range(len(self.records)):
            text = self.records[place][self.text].decode("utf-8")
            if text.strip() and is_held_out(text) == held_out:
                yield Document(str(place), text)


def open_tfds(config: DataConfig) -> TfdsSource:
    """Finds the dataset `config.path`, e.g. "imdb_reviews" or "wiki40b/en:1.3.0".

    It is looked for where TFDS keeps datasets: ~/tensorflow_datasets, or TFDS_DATA_DIR.

    Raises:
      ConfigError: it is not there, not in array_record files, has no such text, or too few of them.
    """
    from tensorflow_datasets.core import constants, read_only_builder, registered

    name = config.path
    build = f"tfds build {name} --file_format=array_record"
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=constants.DATA_DIR)
    except (registered.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"data.path is {name!r}, which is no TFDS dataset in {constants.DATA_DIR}: on a "
            f"machine with a network run `{build}`, and copy the folder there"
        ) from error
    if builder.info.file_format.value != "array_record":
        raise ConfigError(
            f"{name} is kept in {builder.info.file_format.value} files, which have no random "
            f"access: run `{build}`"
        )
    found = builder.info.features.items()
    features = sorted(key for key, of in found if type(of).__name__ == "Text")
    if config.text not in features:
        raise ConfigError(
            f"data.text is {config.text!r}, and {name} has the texts {', '.join(features)}: "
            f"{nearest(config.text, features)}"
        )
    folder = Path(builder.data_path)
    files = tuple((path.name, path) for path in sorted(folder.iterdir()) if path.is_file())
    digest = hashlib.sha256(f"feature {config.text}".encode())
    for file, path in files:
        digest.update(f"\n{file} {sha256_of(path)}".encode())
    records = builder.as_data_source("train")
    source = TfdsSource(records, config.text, files, digest.hexdigest())
    if empty := [split for split in SPLITS if next(source.documents(split), None) is None]:
        raise ConfigError(f"{name} has too few texts: none falls to {empty[0]}; take another one")
    return source

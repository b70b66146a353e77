"""Documents on disk: a TFDS builder that writes a source's text to array_record files.

TensorFlow is never imported: the builder is made with `file_format="array_record"` and read back
with `as_data_source`. Only `prepare` imports this file, because TFDS takes most of a second.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from llm_jax.data.record_writer import record_writer
from llm_jax.data.sources import SPLITS, Source

# A long document is stored in parts of at most this many characters, so that neither a record nor
# the tokenizer's work on one grows with the user's file.
PART_CHARACTERS = 1 << 20


class TextDocuments(tfds.core.GeneratorBasedBuilder):
    """The documents of one `Source`, in its order, in the splits train and validation."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.0.0": "Documents stored in parts.", "1.1.0": "Targets of pairs."}
    # Nothing is downloaded; looking for a checksum file would import importlib_resources.
    url_infos = {}

    def __init__(self, *, source: Source, **kwargs):
        self._source = source
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "UTF-8 documents; `part` counts the parts of one document from 0. `target` is "
                "empty but in pairs, where `text` is the source."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "part": tfds.features.Scalar(dtype=np.int64),
                    "text": tfds.features.Text(),
                    "target": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        key = 0
        for document in self._source.documents(split):
            name = document.name.encode("utf-8", "surrogateescape")
            target = document.target.encode("utf-8")
            for part, text in enumerate(split_parts(document.text)):
                text = text.encode("utf-8")
                yield key, {"name": name, "part": part, "text": text, "target": target}
                key += 1


def split_parts(text: str) -> list[str]:
    """Cuts `text` after line ends into parts of at most PART_CHARACTERS (a longer line as well)."""
    parts, start = [], 0
    while len(text) - start > PART_CHARACTERS:
        limit = start + PART_CHARACTERS
        cut = text.rfind("\n", start, limit) + 1 or limit
        parts.append(text[start:cut])
        start = cut
    return [*parts, text[start:]]


def write_documents(source: Source, directory: Path) -> None:
    """Writes both splits of `source` under `directory`, one shard each.

    The files are those of the builder's own `download_and_prepare`, which holds all examples in
    memory to sort them by keys that ascend already.
    """
    builder = TextDocuments(source=source, data_dir=str(directory), file_format="array_record")
    folder, features, splits = Path(builder.data_path), builder.info.features, []
    folder.mkdir(parents=True)
    for split, examples in builder._split_generators(None).items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=builder.data_path, dataset_name=builder.name, split=split,
            filetype_suffix="array_record",
        )  # fmt: skip
        count, size = 0, 0
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        with record_writer(path, "group_size:1") as writer:
            for _, example in examples:
                record = features.serialize_example(features.encode_example(example))
                writer.write(record)
                count, size = count + 1, size + len(record)
        splits.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[count], num_bytes=size, filename_template=template
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(builder.data_path)


def read_documents(directory: Path, split: str) -> Iterator[tuple[int, str]]:
    """Yields (part, text) in order: a document is a part 0 and the parts that follow it."""
    for record in _records(directory, split):
        yield int(record["part"]), record["text"].decode("utf-8")


def read_pairs(directory: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yields (source, target) in order; of a long source its first part."""
    for record in _records(directory, split):
        if not record["part"]:
            yield record["text"].decode("utf-8"), record["target"].decode("utf-8")


def _records(directory: Path, split: str):
    builder = tfds.builder_from_directory(str(directory / "text_documents" / "1.1.0"))
    return builder.as_data_source(split)

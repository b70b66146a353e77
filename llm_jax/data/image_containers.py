"""Pictures in parquet files, in Hugging Face's saved datasets (arrow) and in WebDataset's tars.

They are read one after the other, by the rules of `llm_jax.data.readers`: memory holds a few rows
and a page of a parquet file (at most its row group), and a path inside a file is never followed.
Unlike text, of which bad records may be left out, the first thing that is no labelled picture ends
the reading, with its file and its row or member.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from itertools import groupby

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig
from llm_jax.data.image_folders import SUFFIXES, Example, decode_picture
from llm_jax.data.manifest import sha256_of
from llm_jax.data.readers.files import File, files_of
from llm_jax.data.readers.records import Damaged, Limits
from llm_jax.data.readers.streams import CountedReads, blocks
from llm_jax.data.readers.tables import (
    TooLongCell,
    cells_of,
    check_ratio,
    reason_of,
)
from llm_jax.data.readers.tar import extension_of, key_of, members_of
from llm_jax.data.sources import user_files

_FORMATS = ("parquet", "arrow", "tar", "tar.gz")
_ENDS = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz")
_PICTURES = tuple(end[1:] for end in SUFFIXES)
_WANTED = (*_PICTURES, *(kind.upper() for kind in _PICTURES), "cls")
_LIMITS = Limits()
_ROWS_AT_ONCE = 8
_BUFFER = 1 << 20  # bytes; without one a row group's whole column is read at once


def list_containers(config: DataConfig) -> list[File]:
    """Returns the files at `config.path` that hold pictures; none where pictures lie there openly.

    Raises:
      ConfigError: a path that is not there, or a saved dataset of several splits.
    """
    found = user_files(config.path)
    if several := [path for _, path in found if path.name == "dataset_dict.json"]:
        raise ConfigError(
            f"{several[0].parent} has several splits: give one, such as "
            f"data.path={several[0].parent / 'train'}"
        )
    openly = any(path.suffix.lower() in SUFFIXES for _, path in found)
    if openly or not any(path.name.lower().endswith(_ENDS) for _, path in found):
        return []
    files = files_of(config.path, unknown_as_text=True)
    return [file for file in files if file.format in _FORMATS]


def digest_of(files: list[File], config: DataConfig) -> str:
    """Returns the sha256 of the files' names and contents, and of how they are read."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_of(file.path)}\n".encode())
    digest.update(f"side {config.image_size} {config.image!r} {config.label!r}".encode())
    return digest.hexdigest()


def class_names(files: list[File], config: DataConfig) -> tuple[str, ...]:
    """Returns the names of the classes that the files' Hugging Face features give; () without.

    Raises:
      ConfigError: a file is damaged, or two give different names.
    """
    found = {}
    for file in files:
        if file.format in ("parquet", "arrow"):
            schema = _guarded(file, _schema, file)
            found[_names_in(schema.metadata or {}, config.label)] = file.path
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise ConfigError(f"{one} and {other} name the classes differently: give one of them")
    return next(iter(found), ())


def read_containers(files: list[File], config: DataConfig) -> Iterator[Example]:
    """Yields the labelled pictures of all files.

    Raises:
      ConfigError: something is none, or a file is damaged.
    """
    for file in files:
        samples = _tar_samples if file.format.startswith("tar") else _table_samples
        pairs = samples(file, config)
        while (found := _guarded(file, next, pairs, None)) is not None:
            place, content, label = found
            name = f"{file.path} {place}"
            yield Example(name, decode_picture(io.BytesIO(content), name, config.image_size), label)


def _guarded(file: File, function, *arguments):
    """Calls a function that reads `file`; damage is a ConfigError that names it."""
    import pyarrow as pa

    try:
        return function(*arguments)
    except Damaged as error:
        raise ConfigError(f"{file.path} {error}: mend it or remove it") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{file.path} is damaged or no {file.format} ({reason_of(error)}): mend it or remove it"
        ) from None


def _schema(file: File):
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.format == "parquet":
        return pq.read_schema(file.path)
    with pa.memory_map(str(file.path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.schema


def _names_in(metadata: dict, label: str) -> tuple[str, ...]:
    """Returns the names of a ClassLabel in the schema's metadata, as `datasets` writes them."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if named else ()


def _table_samples(file: File, config: DataConfig) -> Iterator[tuple[str, bytes, int | str]]:
    """Yields (place, bytes of the picture, label) of a parquet file's or an arrow stream's rows."""
    taken, made, row = file.path.stat().st_size, 0, 0
    for batch in _batches(file, config, taken):
        pictures = cells_of(_bytes_of(batch.column(config.image)), _LIMITS.max_record_bytes)
        labels = cells_of(batch.column(config.label), _LIMITS.max_record_bytes)
        for content, label in zip(pictures, labels):
            if isinstance(content, TooLongCell):
                raise Damaged(f"row {row} has {content} bytes in column {config.image!r}")
            if content is None:
                raise Damaged(f"row {row} has no bytes in column {config.image!r}")
            if label is None or isinstance(label, TooLongCell):
                raise Damaged(f"row {row} has no label in column {config.label!r}")
            made += len(content)
            check_ratio(made, taken, _LIMITS)
            label = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
            yield f"row {row}", content, label
            row += 1


def _batches(file: File, config: DataConfig, taken: int) -> Iterator:
    """Yields arrow batches of a few rows of the two columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.format == "parquet":
        with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER) as opened:
            _check(opened.schema_arrow, config)
            for group in range(opened.num_row_groups):
                check_ratio(opened.metadata.row_group(group).total_byte_size, taken, _LIMITS)
            names = [config.image, config.label]
            yield from opened.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False)
        return
    with pa.memory_map(str(file.path)) as source, pa.ipc.open_stream(source) as reader:
        _check(reader.schema, config)
        for batch in reader:
            for begin in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield batch.slice(begin, _ROWS_AT_ONCE)


def _check(schema, config: DataConfig) -> None:
    """Raises Damaged if a table with `schema` has no such columns, or of other types."""
    import pyarrow.types as types

    for key, column in (("image", config.image), ("label", config.label)):
        if schema.names.count(column) != 1:
            raise Damaged(
                f"has no column {column!r}, or several, but {', '.join(schema.names)[:200]}: "
                f"give data.{key}"
            )
    kind = schema.field(config.image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise Damaged(f"column {config.image!r} is {kind}, neither bytes nor a struct of them")
    kind = schema.field(config.label).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise Damaged(f"column {config.label!r} is {kind}, neither whole numbers nor strings")


def _bytes_of(array):
    """Returns the bytes of a column of pictures; of `datasets.Image` those of its structs."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    if not types.is_struct(array.type):
        return array
    array.validate(full=True)
    return pc.struct_field(array, "bytes")


def _tar_samples(file: File, config: DataConfig) -> Iterator[tuple[str, bytes, int]]:
    """Yields (place, bytes of the picture, label) of the samples KEY.png (or so) with KEY.cls."""
    if (config.image, config.label) != ("image", "label"):
        raise Damaged("is a tar, which has no columns: leave data.image and data.label out")
    source = blocks(file.path, file.format.endswith(".gz"), _LIMITS)
    members = members_of(CountedReads(source), _LIMITS.max_record_bytes, _WANTED)
    for _, sample in groupby(members, key=lambda member: key_of(member.name)):
        sample = list(sample)
        for member in sample:
            if member.problem:
                raise Damaged(f"member {member.name!r} {member.problem}")
        pictures = [one for one in sample if extension_of(one.name).lower() in _PICTURES]
        labels = [one.data.strip() for one in sample if extension_of(one.name) == "cls"]
        if len(pictures) != 1 or len(labels) != 1:
            raise Damaged(
                f"sample {sample[0].name!r} has {len(pictures)} pictures and {len(labels)} "
                "members .cls, not one and one"
            )
        if not (labels[0].isdigit() and len(labels[0]) < 10):
            raise Damaged(f"sample {sample[0].name!r} has a .cls that is no whole number")
        yield f"member {pictures[0].name!r}", pictures[0].data, int(labels[0])

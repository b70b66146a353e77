"""Readers: raw files in, records and bad records out, one after another and in bounded memory.

`read` reads all files at a path, `files_of` lists them, `read_file` reads one, `read_span` a part
of a large one (`spans_of`). Bad data raise
nothing: they come as `Bad`, with file, place and reason. Where the rest of a file cannot be read,
the records before it stand, one `Bad` says what happened, and the next file follows.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.readers.files import File, files_of
from llm_jax.data.readers.records import Bad, Columns, Limits, Record
from llm_jax.data.readers.spans import Span, spans_of
from llm_jax.data.readers.tables import read_arrow, read_parquet
from llm_jax.data.readers.tar import read_tar
from llm_jax.data.readers.text_lines import read_json_lines, read_table, read_text

_STREAMS = {
    "text": read_text,
    "jsonl": read_json_lines,
    "csv": partial(read_table, delimiter=","),
    "tsv": partial(read_table, delimiter="\t"),
    "tar": read_tar,
}
_READERS = {
    **{name: partial(reader, compressed=False) for name, reader in _STREAMS.items()},
    **{f"{name}.gz": partial(reader, compressed=True) for name, reader in _STREAMS.items()},
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def read(
    path: str | Path,
    columns: Columns = Columns(),
    *,
    limits: Limits = Limits(),
    unknown_as_text: bool = False,
    start: tuple[str, int] | None = None,
) -> Iterator[Record | Bad]:
    """Reads all files at `path`, in the order of their names.

    Args:
      path: as for `files_of`, like `unknown_as_text`.
      columns: which hold the text and the id; text files have none.
      limits: of memory.
      start: (file, offset) of a record or bad record: what follows it in a full read.

    Raises:
      ConfigError: as `files_of`, or no such file to start in; before anything is read.
    """
    files = files_of(path, unknown_as_text=unknown_as_text)
    if start is not None:
        names = [file.name for file in files]
        if start[0] not in names:
            raise ConfigError(f"start names {start[0]!r}, which is none of the files of {path}")
        files = files[names.index(start[0]) :]
    offsets = [start[1] if start else -1] + [-1] * (len(files) - 1)
    return (
        item
        for file, offset in zip(files, offsets)
        for item in read_file(file, columns, limits=limits, start=offset)
    )


def read_file(
    file: File, columns: Columns = Columns(), *, limits: Limits = Limits(), start: int = -1
) -> Iterator[Record | Bad]:
    """Reads one file of `files_of`; `start` is an offset, what follows it is read."""
    items = _READERS[file.format](file.name, file.path, columns, limits, start=start)
    return (item for item in items if item.offset > start)


def read_span(
    span: Span, columns: Columns = Columns(), *, limits: Limits = Limits()
) -> Iterator[Record | Bad]:
    """Reads one of `spans_of`; those of a file together give what `read_file` does.

    After damage within a parquet file the spans behind it are still read.
    """
    for item in read_file(span.file, columns, limits=limits, start=span.begin - 1):
        if span.end is not None and item.offset >= span.end:
            return
        yield item

"""Spans of large files, so that many workers read one: they follow from the file alone.

JSON lines are cut behind a line, parquet files between row groups. The other formats are read from
their beginning: gzip and arrow streams have no places to begin in, a quoted cell of a table may
hold line ends, and a text file is one document.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llm_jax.data.readers.files import File

_BLOCK = 1 << 20


class Span(NamedTuple):
    """Those records of a file whose offset is at least `begin` and below `end`.

    Attributes:
      file: which.
      begin, end: offsets as in `llm_jax.data.readers.Record`; an end of None is the file's.
      size: about how many bytes of the file it takes.
    """

    file: File
    begin: int
    end: int | None
    size: int


def spans_of(file: File, size: int) -> Iterator[Span]:
    """Yields the spans of a file, in order, each of about `size` bytes where it can be cut."""
    whole = file.path.stat().st_size
    cut = {"jsonl": _line_starts, "parquet": _group_starts}.get(file.format)
    starts = [(0, 0), *cut(file.path, whole, size)] if cut and whole > size else [(0, 0)]
    for (begin, at), (end, until) in zip(starts, [*starts[1:], (None, whole)]):
        yield Span(file, begin, end, until - at)


def _line_starts(path: Path, whole: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the first byte of a line after every `size` bytes, twice."""
    begin = 0
    with path.open("rb") as lines:
        while begin + size < whole:
            lines.seek(begin + size - 1)  # this byte may end a line
            while (block := lines.read(_BLOCK)) and b"\n" not in block:
                pass
            begin = lines.tell() - len(block) + block.find(b"\n") + 1
            if not block or begin == whole:
                return
            yield begin, begin


def _group_starts(path: Path, whole: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the first row of a row group, and about its byte, after every `size` bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        total = max(1, sum(group.total_byte_size for group in groups))
        row, read, begin = 0, 0.0, 0.0
        for group in groups:
            if read - begin >= size:
                yield row, int(read)
                begin = read
            row += group.num_rows
            read += whole * group.total_byte_size / total
    except (pa.ArrowException, OSError, ValueError):
        return  # the reader says what is wrong with it

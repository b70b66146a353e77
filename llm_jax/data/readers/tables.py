"""Records of parquet files and of arrow streams (the files of Hugging Face's `save_to_disk`).

Cells are taken as bytes and decoded here, so that one broken cell costs one record; arrow files are
memory-mapped, and their offsets are checked before a byte is touched.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llm_jax.data.readers.records import (
    Bad,
    Columns,
    Damaged,
    Limits,
    Record,
    make_record,
    not_utf8,
    one_line,
)

# Few, for each may be as long as a record can be.
_ROWS_AT_ONCE = 32


def read_parquet(
    file: str, path: Path, columns: Columns, limits: Limits, *, start: int
) -> Iterator[Record | Bad]:
    """Yields a record for each row, one row group at a time; memory holds a page and a few rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as opened:
            _check(opened.schema_arrow, columns)
            names = columns.names
            for group in range(opened.num_row_groups):
                about = opened.metadata.row_group(group)
                if row + about.num_rows <= start + 1:
                    row += about.num_rows
                    continue
                # Not by its columns: asking for one of a damaged file ends the process.
                taken = path.stat().st_size
                check_ratio(about.total_byte_size, taken, limits)
                batches = opened.iter_batches(
                    _ROWS_AT_ONCE, row_groups=[group], columns=names, use_threads=False
                )
                made = 0
                for batch in batches:
                    for item in _records(file, row, batch, columns, limits):
                        made += len(item.text) if isinstance(item, Record) else 0
                        check_ratio(made, taken, limits)
                        yield item
                        row = item.offset + 1
    except Damaged as error:
        yield Bad(file, row, str(error))
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        yield Bad(file, row, f"is damaged or no parquet ({reason_of(error)})")


def read_arrow(
    file: str, path: Path, columns: Columns, limits: Limits, *, start: int
) -> Iterator[Record | Bad]:
    """Yields a record for each row of an arrow IPC stream."""
    import pyarrow as pa

    row = 0
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            _check(reader.schema, columns)
            for batch in reader:
                if row + batch.num_rows <= start + 1:
                    row += batch.num_rows
                    continue
                made = 0
                for begin in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    part = batch.slice(begin, _ROWS_AT_ONCE)
                    for item in _records(file, row, part, columns, limits):
                        made += len(item.text) if isinstance(item, Record) else 0
                        check_ratio(made, source.size(), limits)
                        yield item
                        row = item.offset + 1
    except Damaged as error:
        yield Bad(file, row, str(error))
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        yield Bad(file, row, f"is damaged or no arrow stream ({reason_of(error)})")


def _check(schema, columns: Columns) -> None:
    """Raises Damaged if a table with `schema` has no such columns."""
    import pyarrow as pa

    for column in columns.names:
        if schema.names.count(column) != 1:
            raise Damaged(
                f"has no column {column!r}, or several, but {one_line(', '.join(schema.names))}"
            )
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        number = column not in (columns.text, columns.second) and pa.types.is_integer(kind)
        if column == columns.label:
            number = number or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or number):
            raise Damaged(f"column {column!r} is {kind}, not a string")


def check_ratio(made: int, taken: int, limits: Limits) -> None:
    """Raises Damaged if what is read has grown too much."""
    if limits.bomb(made, taken):
        raise Damaged(f"is a decompression bomb: {made} bytes of {taken}")


def _records(
    file: str, row: int, batch, columns: Columns, limits: Limits
) -> Iterator[Record | Bad]:
    """Yields the records of one batch, of which the first is row `row` of the file."""
    names = columns.names
    cells = {name: list(cells_of(batch.column(name), limits.max_record_bytes)) for name in names}
    for place in range(batch.num_rows):
        values, reason = {}, ""
        for name in names:
            value = cells[name][place]
            try:
                values[name] = value.decode("utf-8") if isinstance(value, bytes) else value
            except UnicodeDecodeError as error:
                reason = f"column {name!r} {not_utf8(error, 0)}"
            if isinstance(value, TooLongCell):
                reason = f"column {name!r} has {value} bytes, more than {limits.max_record_bytes}"
        if reason:
            yield Bad(file, row + place, reason)
        else:
            yield make_record(file, row + place, values, columns)


class TooLongCell(int):
    """The bytes of a cell that is not read."""


def cells_of(array, limit: int) -> list:
    """Returns the bytes, numbers or None of an arrow array; TooLongCell for those above `limit`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array.validate()
    if pa.types.is_dictionary(array.type):
        used = array.indices.drop_null().unique()
        numbers = np.asarray(used).tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(array.dictionary):
            raise Damaged("has a dictionary's index that is none")
        found = dict(zip(numbers, cells_of(_binary(array.dictionary).take(used), limit)))
        return [found.get(index) for index in array.indices.to_pylist()]
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return array.to_pylist()
    array = _binary(array)
    sizes = np.asarray(pc.binary_length(array).fill_null(0))
    short = pc.if_else(pa.array(sizes <= limit), array, None).to_pylist()
    return [TooLongCell(n) if n > limit else cell for n, cell in zip(sizes.tolist(), short)]


def _binary(array):
    """Returns an arrow array of strings as one of bytes, its offsets checked."""
    import pyarrow as pa

    if pa.types.is_string(array.type):
        array = array.view(pa.binary())
    elif pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())
    array.validate(full=True)
    return array


def reason_of(error: Exception) -> str:
    """Returns what a library said of damage, as one line."""
    return one_line(str(error)) or type(error).__name__

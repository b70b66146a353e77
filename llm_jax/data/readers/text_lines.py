"""Records of text files, JSON lines and tables of comma- or tab-separated values (RFC 4180)."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from llm_jax.data.readers.records import (
    Bad,
    Columns,
    Damaged,
    Limits,
    Record,
    TooLong,
    decode,
    make_record,
    one_line,
)
from llm_jax.data.readers.streams import blocks, lines


def read_text(
    file: str, path: Path, columns: Columns, limits: Limits, *, compressed: bool, start: int
) -> Iterator[Record | Bad]:
    """Yields a text file as one record; a file above max_record_bytes in parts, cut after lines."""
    del columns
    limit, begin = limits.max_record_bytes, max(start, 0)
    held, first, size = [], begin, 0
    for offset, line in lines(blocks(path, compressed, limits, begin), limit, begin):
        failed = isinstance(line, Damaged)
        full = isinstance(line, TooLong) if failed else size + len(line) > limit
        if held and full:
            yield _text(file, first, b"".join(held))
        if failed or full:
            # Without the rest that is damaged, what was held is no whole document.
            held, size = [], 0
        if failed:
            yield Bad(file, offset, str(line))
        else:
            first = first if held else offset
            held.append(line)
            size += len(line)
    if held:
        yield _text(file, first, b"".join(held))


def _text(file: str, offset: int, raw: bytes) -> Record | Bad:
    try:
        return Record(f"{file}:{offset}", decode(raw, offset), file, offset)
    except Damaged as error:
        return Bad(file, offset, str(error))


def read_json_lines(
    file: str, path: Path, columns: Columns, limits: Limits, *, compressed: bool, start: int
) -> Iterator[Record | Bad]:
    """Yields a record for each line; blank lines are passed over."""
    begin = max(start, 0)
    source = blocks(path, compressed, limits, begin)
    for offset, line in lines(source, limits.max_record_bytes, begin):
        if isinstance(line, bytes) and not line.strip():
            continue
        try:
            if isinstance(line, Damaged):
                raise line
            yield make_record(file, offset, json_object(line, offset), columns)
        except Damaged as error:
            yield Bad(file, offset, str(error))


def json_object(raw: bytes, offset: int) -> dict:
    """Returns the JSON object in `raw`, which stands at byte `offset` of its file.

    Raises:
      Damaged: there is none.
    """
    try:
        row = json.loads(decode(raw, offset))
    except json.JSONDecodeError as error:
        raise Damaged(f"is not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"is not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise Damaged(f"is no JSON object but a {type(row).__name__}")
    return row


def read_table(
    file: str,
    path: Path,
    columns: Columns,
    limits: Limits,
    *,
    compressed: bool,
    start: int,
    delimiter: str,
) -> Iterator[Record | Bad]:
    """Yields a record for each row behind the header; a quoted cell may go over several lines.

    A row that is not closed takes at most max_record_bytes with it; reading goes on at the line
    behind. The csv module's limit of a cell is raised for the process, never lowered.
    """
    limit = limits.max_record_bytes
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    head = _rows(lines(blocks(path, compressed, limits), limit), limit, delimiter)
    offset, header = next(head, (0, "has no header"))
    if isinstance(header, str):
        yield Bad(file, offset, header)
        return
    for column in columns.names:
        if column not in header:
            yield Bad(file, offset, f"has no column {column!r}, but {one_line(', '.join(header))}")
            return
    if start > offset:
        source = lines(blocks(path, compressed, limits, start), limit, start)
        head = _rows(source, limit, delimiter)
    for offset, row in head:
        if isinstance(row, str):
            yield Bad(file, offset, row)
        elif len(row) != len(header):
            yield Bad(file, offset, f"has {len(row)} cells where the header has {len(header)}")
        else:
            yield make_record(file, offset, dict(zip(header, row)), columns)


def _rows(
    source: Iterator[tuple[int, bytes | Damaged]], limit: int, delimiter: str
) -> Iterator[tuple[int, list[str] | str]]:
    """Yields (offset, the cells of a row), or (offset, the reason why there is none)."""
    begin, size, broken = None, 0, ""

    def texts() -> Iterator[str]:
        nonlocal begin, size, broken
        for offset, line in source:
            begin = offset if begin is None else begin
            if isinstance(line, Damaged):
                raise line
            size += len(line)
            if size > limit:
                raise Damaged(f"is a row of more than {limit} bytes, or has an open quote")
            try:
                yield decode(line, offset)
            except Damaged as error:
                # The row must be read to its end, to find the next one.
                broken = broken or str(error)
                yield line.decode("utf-8", "replace")

    ended = False
    while not ended:
        reader = csv.reader(texts(), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    yield begin, broken or row
                begin, size, broken = None, 0, ""
            ended = True
        except (Damaged, csv.Error) as error:
            reason = str(error) if isinstance(error, Damaged) else f"is no row: {error}"
            yield begin, reason
            begin, size, broken = None, 0, ""

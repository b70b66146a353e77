"""What readers give and take: records, bad records, columns and limits."""

import dataclasses
from typing import NamedTuple

from llm_jax.configuration import ConfigError


class Record(NamedTuple):
    """One document.

    Attributes:
      id: of the column named for it; without one `FILE:OFFSET`, in archives `FILE:KEY`.
      text: the document; it can be encoded as UTF-8.
      file: the name of its file.
      offset: where it begins: the byte in the (decompressed) file; in parquet and arrow files the
        number of the row. Within a file it grows from item to item, bad ones included.
      second, label: of the columns named for them, else empty; a list's parts have ";" between.
    """

    id: str
    text: str
    file: str
    offset: int
    second: str = ""
    label: str = ""


class Bad(NamedTuple):
    """What is no record: its file, the place as in `Record`, and why, in one line."""

    file: str
    offset: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns, or keys: of the text, and of the id (None: the place is the id).

    Where they are named: `second`, of a text that goes with the first, and `label`, of text, a
    number, or in JSON a list of these.
    """

    text: str = "text"
    id: str | None = None
    second: str | None = None
    label: str | None = None

    def __post_init__(self):
        if not self.text:
            raise ConfigError("columns.text is empty: name the column with the text")
        for name in ("id", "second", "label"):
            if getattr(self, name) == "":
                raise ConfigError(f"columns.{name} is empty: name its column, or give None")

    @property
    def names(self) -> list[str]:
        """Each column once."""
        found = (self.text, self.id, self.second, self.label)
        return list(dict.fromkeys(name for name in found if name is not None))


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file may ask of the machine.

    Attributes:
      max_record_bytes: of a line, a cell or an archive's member; larger ones are bad.
      max_ratio: decompressed bytes for each byte of the file; beyond it the file is left.
      free_bytes: decompressed bytes before `max_ratio` counts.
    """

    max_record_bytes: int = 16 << 20
    max_ratio: float = 1000.0
    free_bytes: int = 10 << 20

    def __post_init__(self):
        for name in ("max_record_bytes", "max_ratio"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name} is {getattr(self, name)}: give 1 or more")
        if self.free_bytes < 0:
            raise ConfigError(f"limits.free_bytes is {self.free_bytes}: give 0 or more")

    def bomb(self, made: int, taken: int) -> bool:
        """Whether `made` bytes out of `taken` ones are too many."""
        return made > self.free_bytes and made > self.max_ratio * taken


class Damaged(Exception):
    """Bytes of a file cannot be read; the message says why. Readers make it a `Bad`."""


class TooLong(Damaged):
    """A line is longer than the limit; reading goes on behind it."""


def make_record(file: str, offset: int, row: dict, columns: Columns, id: str = "") -> Record | Bad:
    """Returns the record in `row`, or what is wrong with it.

    Args:
      file: its name.
      offset: its place.
      row: values by the names of columns.
      columns: which of them.
      id: in place of `FILE:OFFSET` where no column is named for it.
    """
    for column in columns.names:
        if column not in row:
            return Bad(file, offset, f"has no column {column!r}")
    text, id, second, label = row[columns.text], id or f"{file}:{offset}", "", ""
    if columns.second is not None:
        second = row[columns.second]
    for column, value in ((columns.text, text), (columns.second, second)):
        if not isinstance(value, str):
            return Bad(file, offset, f"column {column!r} is {_kind(value)}, not a string")
    if columns.label is not None:
        parts = row[columns.label]
        parts = parts if isinstance(parts, list) else [parts]
        if not all(isinstance(part, str | int | float) for part in parts):
            return Bad(file, offset, f"column {columns.label!r} is {_kind(row[columns.label])}")
        label = ";".join(map(str, parts))
    if columns.id is not None:
        id = row[columns.id]
        if not isinstance(id, str | int) or isinstance(id, bool):
            return Bad(file, offset, f"column {columns.id!r} is {_kind(id)}, not a string or whole")
        id = str(id)
    try:
        [value.encode() for value in (text, id, second, label)]
    except UnicodeEncodeError as error:
        return Bad(file, offset, f"character {error.start} is half a surrogate pair")
    return Record(id, text, file, offset, second, label)


def decode(raw: bytes, offset: int) -> str:
    """Returns the UTF-8 text of `raw`, which stands at byte `offset` of its file.

    Raises:
      Damaged: it is not UTF-8; the message has the offset of the first bad byte.
    """
    begin = 3 if not offset and raw.startswith(b"\xef\xbb\xbf") else 0
    try:
        return raw[begin:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(not_utf8(error, offset + begin)) from None


def not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    """Returns the reason for bytes that stand at `offset` of their file."""
    byte = error.object[error.start]
    return f"is not UTF-8: byte {offset + error.start} is 0x{byte:02x}"


def one_line(text: str) -> str:
    """Returns `text`, which a file brought, as one line that is not too long."""
    return " ".join(text.split())[:200]


def _kind(value) -> str:
    return "null" if value is None else f"a {type(value).__name__}"

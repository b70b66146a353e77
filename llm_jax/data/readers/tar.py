"""Records of tar archives in WebDataset's layout: a sample is the members with one key in a row.

A member's key is its name up to the first dot behind the last slash. A sample's text is its member
`.txt`, else the text column of its member `.json`; members of other kinds are passed over.
Nothing is ever written: a member is bytes in memory. Read here and not with `tarfile`, which holds
extended headers of any size. Format: POSIX.1-2001 `pax` and GNU long names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llm_jax.data.readers.records import Bad, Columns, Damaged, Limits, Record, decode, make_record
from llm_jax.data.readers.streams import CountedReads, blocks
from llm_jax.data.readers.text_lines import json_object

_BLOCK = 512
_LONGEST_HEADER = 1 << 16
_FILES = (b"0", b"\0", b"7")
_NO_FILES = {
    b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a named pipe",
}  # fmt: skip


class Member(NamedTuple):
    """A member: its bytes if they are wanted, or what is wrong with it."""

    offset: int
    name: str
    data: bytes
    problem: str


def read_tar(
    file: str, path: Path, columns: Columns, limits: Limits, *, compressed: bool, start: int
) -> Iterator[Record | Bad]:
    """Yields a record for each sample; one with a member that must not be is bad as a whole."""
    begin = max(start, 0)
    stream = CountedReads(blocks(path, compressed, limits, begin), begin)
    sample: list[Member] = []
    damage = None
    members = members_of(stream, limits.max_record_bytes)
    while damage is None:
        offset = stream.offset
        try:
            member = next(members, None)
        except Damaged as error:
            damage, member = Bad(file, offset, str(error)), None
        if sample and (member is None or key_of(member.name) != key_of(sample[0].name)):
            item = _sample(file, sample, columns)
            # What damage left of a sample may do, if it has the text.
            if damage is None or isinstance(item, Record):
                yield item
            sample = []
        if member is None:
            break
        sample.append(member)
    if damage is not None:
        yield damage


def key_of(name: str) -> str:
    """Returns what the members of a sample share."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def extension_of(name: str) -> str:
    """Returns what tells a sample's members apart: `seg.png` of `a/b.seg.png`."""
    return name.rpartition("/")[2].partition(".")[2]


def _sample(file: str, members: list[Member], columns: Columns) -> Record | Bad:
    offset = members[0].offset
    for member in members:
        if member.problem:
            return Bad(file, offset, f"member {member.name!r} {member.problem}")
    found = {extension_of(member.name): member for member in members}
    if not {"txt", "json"} & found.keys():
        return Bad(file, offset, f"sample {members[0].name!r} has no member .txt or .json")
    row = {}
    for extension in ("json", "txt"):
        if extension not in found:
            continue
        member = found[extension]
        try:
            if extension == "json":
                row = json_object(member.data, 0)
            else:
                row[columns.text] = decode(member.data, 0)
        except Damaged as error:
            return Bad(file, offset, f"member {member.name!r} {error}")
    return make_record(file, offset, row, columns, f"{file}:{key_of(members[0].name).lstrip('/')}")


def members_of(
    stream: CountedReads, limit: int, wanted_kinds: tuple[str, ...] = ("txt", "json")
) -> Iterator[Member]:
    """Yields the members but folders, with the bytes of those whose extension is wanted.

    Raises:
      Damaged: a header is none, or the archive ends before its end mark.
    """
    name, size, begin = "", None, stream.offset
    while any(header := _whole(stream, _BLOCK)):
        kind = header[156:157]
        length = _number(_checked(header)[124:136])
        if kind in b"xLgK":
            # A header before the header: of the next member, or (g) of all.
            if length > _LONGEST_HEADER:
                raise Damaged(f"has a header of {length} bytes at byte {stream.offset - _BLOCK}")
            data = _whole(stream, _padded(length))[:length]
            if kind == b"L":
                name = _text(data)
            elif kind == b"x":
                entries = _pax(data)
                name = entries.get("path", name)
                size = entries.get("size", size)
            continue
        name = name or _name(header)
        length = length if size is None else _decimal(size)
        folder, problem = kind == b"5" or name.endswith("/"), ""
        if kind in _NO_FILES:
            problem = f"is {_NO_FILES[kind]}"
        elif kind not in (*_FILES, b"5"):
            problem = f"is of unknown type {kind!r}"
        elif name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            problem = "leaves its folder"
        if kind == b"5" or kind in _NO_FILES:
            length = 0
        wanted = not folder and not problem and extension_of(name) in wanted_kinds
        if wanted and length > limit:
            problem, wanted = f"has {length} bytes, more than {limit}", False
        data = b""
        if wanted:
            data = _whole(stream, _padded(length))[:length]
        elif not stream.skip(_padded(length)):
            raise Damaged("is truncated")
        if problem or not folder:
            yield Member(begin, name, data, problem)
        name, size, begin = "", None, stream.offset


def _whole(stream: CountedReads, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise Damaged("is truncated")
    return data


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _checked(header: bytes) -> bytes:
    """Returns `header` if its sum is right, as unsigned bytes (or, in old archives, signed)."""
    given, counted = _number(header[148:156]), header[:148] + b" " * 8 + header[156:]
    signed = sum(counted) - 256 * sum(byte > 127 for byte in counted)
    if given not in (sum(counted), signed):
        raise Damaged("has a header with a wrong checksum")
    return header


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.translate(None, b"01234567"):
        raise Damaged("has a header with a number that is none")
    return int(digits or b"0", 8)


def _decimal(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise Damaged("has a header with a number that is none")
    return int(digits)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _pax(data: bytes) -> dict[str, str]:
    """Returns the entries of an extended header: lines `LENGTH KEY=VALUE`."""
    entries = {}
    while data:
        length = _decimal(data[:20].partition(b" ")[0].decode("latin-1"))
        entry = data[:length]
        key, equals, value = entry.partition(b" ")[2].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise Damaged("has an extended header that is none")
        entries[key.decode("latin-1")] = _text(value[:-1])
        data = data[length:]
    return entries

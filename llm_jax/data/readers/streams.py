"""Bytes of files, plain or gzip, in bounded memory: as blocks, as lines, and as counted reads."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from llm_jax.data.readers.records import Damaged, Limits, TooLong

_BLOCK = 1 << 20
_GZIP_BLOCK = 1 << 16


def blocks(path: Path, compressed: bool, limits: Limits, start: int = 0) -> Iterator[bytes]:
    """Yields the (decompressed) bytes of the file from byte `start` on, never an empty block.

    Raises:
      Damaged: the file cannot be read on: truncated or broken gzip, a decompression bomb, an error
        of the system. What is before it has been yielded.
    """
    if not compressed:
        yield from _raw(path, _BLOCK, start)
        return
    skip = start
    for block in _gunzip(_raw(path, _GZIP_BLOCK, 0), limits):
        if len(block) > skip:
            yield block[skip:]
        skip = max(0, skip - len(block))


def _raw(path: Path, size: int, start: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while block := file.read(size):
                yield block
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror})") from None


def _gunzip(compressed: Iterator[bytes], limits: Limits) -> Iterator[bytes]:
    """Decompresses members one behind the other (RFC 1952), at most _BLOCK bytes at a time."""
    state, taken, made, at_end = zlib.decompressobj(31), 0, 0, False
    for block in compressed:
        taken += len(block)
        pending = True
        while block or pending:
            if at_end:
                # Zeros behind the last member are padding.
                block = block.lstrip(b"\0")
                if not block:
                    break
                state, at_end = zlib.decompressobj(31), False
            before = state.copy()
            try:
                out = state.decompress(block, _BLOCK)
            except zlib.error as error:
                yield from _until_error(before, block)
                raise Damaged(f"is damaged gzip ({error})") from None
            made += len(out)
            if out:
                yield out
            block = state.unused_data if state.eof else state.unconsumed_tail
            at_end, pending = state.eof, len(out) == _BLOCK
            if limits.bomb(made, taken - len(block)):
                raise Damaged(f"is a decompression bomb: {made} bytes of {taken - len(block)}")
    if not at_end:
        raise Damaged("is truncated gzip")


def _until_error(state, block: bytes) -> Iterator[bytes]:
    """Yields what can be decompressed before the error that `block` brings, byte by byte."""
    for place in range(len(block)):
        try:
            out = state.decompress(block[place : place + 1])
        except zlib.error:
            return
        if out:
            yield out


def lines(
    source: Iterator[bytes], limit: int, start: int = 0
) -> Iterator[tuple[int, bytes | Damaged]]:
    """Cuts blocks, of which the first stands at byte `start`, after each `\\n`.

    Yields:
      (offset, the line with its end), or (offset, why there is none): a line of more than `limit`
      bytes is not held; damage ends the file, and the line in which it is goes.
    """
    offset, size, held = start, 0, []
    try:
        for block in source:
            *ended, rest = block.split(b"\n")
            for piece in ended:
                size += len(piece) + 1
                if size > limit:
                    yield offset, TooLong(f"is a line of {size} bytes, more than {limit}")
                else:
                    yield offset, b"".join([*held, piece, b"\n"])
                offset, size, held = offset + size, 0, []
            size += len(rest)
            held = [*held, rest] if size <= limit else []
    except Damaged as error:
        yield offset, error
        return
    if size > limit:
        yield offset, TooLong(f"is a line of {size} bytes, more than {limit}")
    elif size:
        yield offset, b"".join(held)


class CountedReads:
    """Reads of a given length from blocks, with the place in the file."""

    def __init__(self, source: Iterator[bytes], start: int = 0):
        """`start` is the place of the first block."""
        self._source, self._block, self.offset = source, memoryview(b""), start

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes, fewer at the end of the file."""
        return b"".join(self._pieces(count))

    def skip(self, count: int) -> bool:
        """Passes over `count` bytes; returns whether there were as many."""
        return sum(map(len, self._pieces(count))) == count

    def _pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            if not self._block:
                self._block = memoryview(next(self._source, b""))
                if not self._block:
                    return
            piece, self._block = self._block[:count], self._block[count:]
            self.offset += len(piece)
            count -= len(piece)
            yield piece

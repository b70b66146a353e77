"""A fuzzer of the readers: `python -m tests.data.fuzz_readers SECONDS [SEED]`.

Writes small valid files of every format, breaks them (bytes changed, cut out, doubled, spliced from
other files, numbers set to extremes), reads them, and reads again from a place in the middle. Only
records and bad records may come, in order, and memory must stay. Equal seeds make equal files.
"""

import gzip
import io
import itertools
import json
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llm_jax.data.readers import Bad, Columns, File, Limits, Record, read_file

LIMITS = Limits(max_record_bytes=4096, max_ratio=50, free_bytes=1 << 16)
MEMORY_BOUND_BYTES = 512 << 20
COLUMNS = (Columns(), Columns(id="id"), Columns(text="body"))
TEXTS = (
    "plain words",
    "",
    "中文文字",
    'a "quoted", one\nwith lines',
    "x" * 3000,
    "\u0085é😀",
    "\t",
)


def rows(draw, count):
    return [{"id": f"n{n}", "text": draw.choice(TEXTS), "score": n} for n in range(count)]


def make_jsonl(draw):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(draw, 20))


def make_table(draw, delimiter):
    cells = [["id", "text"]] + [[row["id"], row["text"]] for row in rows(draw, 20)]
    quoted = ['"' + cell.replace('"', '""') + '"' for line in cells for cell in line]
    return "".join(a + delimiter + b + "\r\n" for a, b in zip(quoted[::2], quoted[1::2])).encode()


def make_tar(draw):
    out = io.BytesIO()
    form = draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for index, row in enumerate(rows(draw, 8)):
            folder = "d" * draw.choice([1, 90, 150])
            text = row["text"].encode()
            data = json.dumps(row).encode()
            for end, content in (("txt", text), ("json", data), ("jpg", b"\xff" * 99)):
                if end == "txt" and index % 2:
                    continue
                # USTAR holds 155 bytes before a slash and 100 behind it.
                info = tarfile.TarInfo(f"{folder}/{index:04}.{end}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def make_parquet(draw):
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows(draw, 40))
    codec = draw.choice(["none", "snappy", "gzip", "zstd"])
    dictionary = draw.random() < 0.5
    pq.write_table(table, out, row_group_size=16, compression=codec, use_dictionary=dictionary)
    return out.getvalue()


def make_arrow(draw):
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows(draw, 40))
    if draw.random() < 0.3:
        table = table.set_column(1, "text", table["text"].dictionary_encode())
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    return out.getvalue()


MAKERS = {
    "text": lambda draw: "\n".join(row["text"] for row in rows(draw, 20)).encode(),
    "jsonl": make_jsonl,
    "csv": lambda draw: make_table(draw, ","),
    "tsv": lambda draw: make_table(draw, "\t"),
    "tar": make_tar,
    "parquet": make_parquet,
    "arrow": make_arrow,
}
FORMATS = [*MAKERS, *(f"{name}.gz" for name in ("text", "jsonl", "csv", "tsv", "tar"))]


def make(draw, form):
    """Returns the bytes of a valid file of format `form`."""
    data = MAKERS[form.removesuffix(".gz")](draw)
    return gzip.compress(data, draw.choice([0, 1, 9]), mtime=0) if form.endswith(".gz") else data


def break_bytes(draw, data, other):
    """Returns `data` with one to six mutations, or random bytes."""
    if draw.random() < 0.03:
        return draw.randbytes(draw.randint(0, 3000))
    data = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        place = draw.randint(0, len(data))
        length = draw.choice([1, 2, 4, 8, 64, 512])
        match draw.randint(0, 7):
            case 0:
                data[place : place + 1] = draw.randbytes(1)
            case 1 if data:
                data[min(place, len(data) - 1)] ^= 1 << draw.randint(0, 7)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4 if draw.random() < 0.3:
                del data[place:]
            case 5:
                start = draw.randint(0, len(other))
                data[place : place + length] = other[start : start + length]
            case 6:
                number = draw.choice([0, 1, 127, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40])
                data[place : place + 8] = struct.pack(draw.choice(["<Q", ">Q"]), number)
            case _:
                mark = draw.choice(
                    [b'"', b"\n", b"\r", b"\0", b"\xff", b"[" * 999, b"\\ud800", b","]
                )
                data[place:place] = mark
    return bytes(data)


def check(file, columns, draw):
    """Reads `file` in whole and from an item on; returns how many records and bad ones it has."""
    items = list(read_file(file, columns, limits=LIMITS))
    last = -1
    for item in items:
        assert isinstance(item, Record | Bad), item
        assert item.file == file.name
        assert item.offset > last, (last, item)
        last = item.offset
        if isinstance(item, Record):
            item.text.encode()
            item.id.encode()
            assert len(item.text.encode()) <= LIMITS.max_record_bytes
        else:
            assert item.reason, item
            assert "\n" not in item.reason, item
    if items:
        place = draw.randrange(len(items))
        rest = list(read_file(file, columns, limits=LIMITS, start=items[place].offset))
        assert rest == items[place + 1 :], (items[place:], rest)
    return sum(isinstance(item, Record) for item in items), len(items)


def fuzz(seconds, seed=0):
    """Fuzzes for `seconds`; returns (files, records, items) read."""
    files = records = items = 0
    end = time.monotonic() + seconds
    at_first = None
    with tempfile.TemporaryDirectory() as folder:
        for number in itertools.count():
            draw = random.Random(f"{seed} {number}")
            form = FORMATS[number % len(FORMATS)]
            # A broken file may have broken content within sound gzip.
            inside = form.endswith(".gz") and draw.random() < 0.5
            whole = make(draw, form.removesuffix(".gz") if inside else form)
            data = break_bytes(draw, whole, make(draw, draw.choice(FORMATS)))
            path = Path(folder, "file")
            path.write_bytes(gzip.compress(data, mtime=0) if inside else data)
            try:
                good, all_items = check(File("file", path, form), draw.choice(COLUMNS), draw)
            except BaseException:
                kept = Path(tempfile.gettempdir(), f"fuzz_readers_{seed}_{number}.{form}")
                kept.write_bytes(path.read_bytes())
                print(f"broken by {kept} (format {form})", file=sys.stderr)
                raise
            files, records, items = files + 1, records + good, items + all_items
            if number == 2 * len(FORMATS):
                at_first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if time.monotonic() > end and at_first is not None:
                break
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first)
    assert grown < MEMORY_BOUND_BYTES, f"memory grew by {grown} bytes"
    return files, records, items


if __name__ == "__main__":
    counts = fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("{} files, {} records, {} items".format(*counts))

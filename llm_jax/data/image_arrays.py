"""Images that a file holds as numbers, `*.npz` and `*.csv`, read one after the other."""

import gzip
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from llm_jax.data.image_folders import Example

_LINES_AT_ONCE = 256


def read_npz(path: Path) -> Iterator[Example]:
    """Yields the `images` (uint8 [N, H, W] or [N, H, W, C]) with their `labels` (integers [N]).

    Raises:
      ValueError, KeyError, OSError, zipfile.BadZipFile, zlib.error: the file is none of this form.
    """
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        with archive.open("labels.npy") as other:
            labels = np.lib.format.read_array(other, allow_pickle=False)
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, dtype = header(file)
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise ValueError(f"images are {dtype} {shape}, not uint8 [N, H, W, C]")
        if by_columns:
            raise ValueError("images are in Fortran's order: save np.ascontiguousarray of them")
        if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {labels.dtype} {labels.shape} for {shape[0]} images")
        shape = shape if len(shape) == 4 else (*shape, 1)
        size = int(np.prod(shape[1:]))
        for number, label in enumerate(labels.tolist()):
            image = np.frombuffer(file.read(size), np.uint8).reshape(shape[1:])
            yield Example(f"{path} image {number}", image, label)


def read_csv(path: Path) -> Iterator[Example]:
    """Yields an image for each line: the pixels of a gray square, and the label behind them.

    Raises:
      ValueError, OSError, EOFError: the file is none of this form.
    """
    columns, number = 0, 0
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        while lines := list(islice(file, _LINES_AT_ONCE)):
            if not any(line.strip() for line in lines):
                continue
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32, ndmin=2)
            columns = columns or table.shape[1]
            side = round((columns - 1) ** 0.5)
            if side * side != columns - 1 or not side or table.shape[1] != columns:
                raise ValueError(f"{table.shape[1]} columns are no square image and a label")
            whole = np.all(table == np.round(table))
            if not whole or not np.all((table[:, :-1] >= 0) & (table[:, :-1] <= 255)):
                raise ValueError("a value is no whole number from 0 to 255")
            for row in table:
                image = row[:-1].astype(np.uint8).reshape(side, side, 1)
                yield Example(f"{path} image {number}", image, int(row[-1]))
                number += 1

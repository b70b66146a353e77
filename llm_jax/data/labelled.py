"""Labelled texts in memory, from a table or from a folder with one of text files for each class.

They are what splits, balance and augmentation of text take, and a classifier is tuned on.
"""

import dataclasses
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import readers


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts with a class each.

    Attributes:
      texts: [n].
      labels: int64 [n], from 0.
      names: of the classes: what stands in the table, or the folders' names; in sorted order,
        numbers by their value.
    """

    texts: list[str]
    labels: np.ndarray
    names: tuple[str, ...]


def read_labelled(path: str | Path, *, text: str = "text", label: str = "label") -> Labelled:
    """Reads everything at `path`.

    Args:
      path: JSON lines, CSV, TSV, parquet, tar or arrow files (also as `.gz`, or several with commas
        between), or a folder whose folders hold the text files of a class each.
      text, label: the columns of a table; a folder has none.

    Raises:
      ConfigError: nothing there, a record or a file that cannot be read, a record without text, a
        class without texts, or less than two classes.
    """
    root = Path(path).expanduser()
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if (
        root.is_dir()
    ) else []  # fmt: skip
    if folders:
        pairs = [
            (one.text, folder.name)
            for folder in folders
            for one in _records(folder, readers.Columns(), unknown_as_text=True)
        ]
    else:
        columns = readers.Columns(text=text, id=label)
        pairs = [(one.text, one.id) for one in _records(path, columns)]
    names = _sorted({name for _, name in pairs})
    if len(names) < 2:
        raise ConfigError(f"{path} has the classes {', '.join(names) or 'none'}: give two or more")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[name] for _, name in pairs], np.int64)
    return Labelled([given for given, _ in pairs], labels, names)


def _records(path, columns: readers.Columns, **given):
    for item in readers.read(path, columns, **given):
        if isinstance(item, readers.Bad):
            raise ConfigError(f"{item.file} at {item.offset}: {item.reason}; mend or remove it")
        if not item.text.strip():
            raise ConfigError(f"{item.file} at {item.offset} has no text: remove it")
        yield item


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Returns the names in order, numbers by their value."""
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))

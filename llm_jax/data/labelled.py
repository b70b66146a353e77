"""Labelled texts in memory, from a table, or from a folder with the texts of each class.

They are what splits, balance and augmentation of text take, and a classifier is tuned on.
"""

import dataclasses
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import readers

# Between the two texts of a pair: the file separator, which text does not have.
BETWEEN = "\x1c"
# The share of bad records that are left out.
MOST_BAD = 0.01


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
    """Reads everything at `path`; arguments and errors as of `read_examples`.

    Raises:
      ConfigError: a class without texts, or less than two classes.
    """
    pairs, _ = read_examples(path, text=text, label=label)
    names = in_order({name for _, name in pairs})
    if len(names) < 2:
        raise ConfigError(f"{path} has the classes {', '.join(names) or 'none'}: give two or more")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[name] for _, name in pairs], np.int64)
    return Labelled([given for given, _ in pairs], labels, names)


def read_examples(
    path: str | Path, *, text: str = "text", label: str = "label", second: str = ""
) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns each text with what stands as its label, and what was left out because it is bad.

    Of pairs the text is both, with `BETWEEN` between.

    Args:
      path: JSON lines, CSV, TSV, parquet, tar or arrow files (also as `.gz`, or several with commas
        between), a folder whose folders hold the text files of a class each, or one with a file
        `CLASS.txt` for each, an example a line.
      text, label: the columns of a table; a folder has none.
      second: the column of a text that goes with the first; empty: there is none.

    Raises:
      ConfigError: a second text of what is no table; nothing there, or more than `MOST_BAD` of the
        records cannot be read or have no text or no label; the first of them is named.
    """
    root = Path(path).expanduser()
    inside = sorted(root.iterdir()) if root.is_dir() else []
    folders = [p for p in inside if p.is_dir() and p.name[0] != "."]
    files = [p for p in inside if p.suffix == ".txt"]
    if second and (folders or files):
        raise ConfigError(f"{path} is no table: it has no column {second!r}")
    if folders:
        given = ((folder, folder.name, readers.Columns()) for folder in folders)
    elif files:
        return [(line, file.stem) for file in files for line in _lines(file)], []
    else:
        given = [(path, None, readers.Columns(text, second=second or None, label=label))]
    found, bad = [], []
    for place, name, columns in given:
        for item in readers.read(place, columns, unknown_as_text=name is not None):
            where = f"{item.file} at {item.offset}"
            if isinstance(item, readers.Bad):
                bad.append(f"{where}: {item.reason}")
            elif not item.text.strip():
                bad.append(f"{where} has no text")
            elif second and not item.second.strip():
                bad.append(f"{where} has no second text")
            elif not (name or item.label.strip()):
                bad.append(f"{where} has no label")
            else:
                parts = (item.text, item.second) if second else (item.text,)
                whole = BETWEEN.join(part.replace(BETWEEN, " ") for part in parts)
                found.append((whole, name or item.label))
    if len(bad) > MOST_BAD * (len(found) + len(bad)):
        raise ConfigError(f"{bad[0]}; {len(bad)} of {len(found) + len(bad)} are bad: mend them")
    return found, bad


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no UTF-8 ({error}): mend it") from None
    return [line.strip() for line in lines if line.strip()]


def in_order(names: set[str]) -> tuple[str, ...]:
    """Returns the names in order, numbers by their value."""
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))

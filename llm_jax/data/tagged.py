"""Sentences with a tag for each word or character: how they are read, and made into tokens.

Between reading and writing a sentence is one text, its units with `UNIT` between, and one label,
its tags with spaces between: so that it is split, and found twice, as labelled texts are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.labelled import MOST_BAD
from llm_jax.data.tokenizers.units import encode_units

# Between the units of a sentence: the unit separator, which text does not have.
UNIT = "\x1f"
_TAG = re.compile(r"O|[BI]-\S+")


def read_tagged(path: str, *, text: str, label: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns the sentences at `path` and their tags, and what was left out because it is bad.

    Args:
      path: files, with commas between. Of `*.jsonl` each line has two lists, units and tags; any
        other has a unit and, behind a space or tab, its tag a line (the last column, as in CoNLL
        2003), and an empty line behind each sentence.
      text, label: the lists' keys.

    Raises:
      ConfigError: a file that is not there or no UTF-8, or more than `MOST_BAD` of the sentences
        are bad: another number of tags than units, or a tag that is no BIO; the first is named.
    """
    found, bad = [], []
    for name in path.split(","):
        file = Path(name.strip()).expanduser()
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{file} cannot be read ({error}): give files of UTF-8 text in data.path and "
                "data.test_path"
            ) from None
        sentences = _json(lines, text, label) if file.suffix == ".jsonl" else _columns(lines)
        for number, units, tags in sentences:
            if wrong := _wrong(units, tags):
                bad.append(f"{file.name} line {number}: {wrong}")
            else:
                found.append((UNIT.join(units), " ".join(tags)))
    if not found or len(bad) > MOST_BAD * (len(found) + len(bad)):
        first = bad[0] if bad else f"{path} has no sentence"
        raise ConfigError(f"{first}; {len(bad)} of {len(found) + len(bad)} are bad: mend them")
    return found, bad


def _wrong(units, tags) -> str:
    for part in (units, tags):
        if not isinstance(part, list) or not all(isinstance(one, str) for one in part):
            return "no two lists of texts under data.text and data.label"
    if len(units) != len(tags):
        return f"{len(units)} units and {len(tags)} tags"
    for unit in units:
        if not unit.strip() or UNIT in unit:
            return f"{unit!r} is no unit"
    for tag in tags:
        if not _TAG.fullmatch(tag):
            return f"{tag!r} is no tag: give O, B-type or I-type"
    return "" if units else "no unit"


def _json(lines: list[str], text: str, label: str) -> Iterator[tuple[int, object, object]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
        except ValueError:
            one = None
        one = one if isinstance(one, dict) else {}
        yield number, one.get(text), one.get(label)


def _columns(lines: list[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    units, tags = [], []
    for number, line in enumerate([*lines, ""], 1):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            units.append(parts[0])
            tags += parts[1:][-1:]
        elif units:
            yield number - len(units), units, tags
            units, tags = [], []


def encoded_units(
    sentences: Sequence[str], tokenizer, longest: int, *, units: str
) -> tuple[list[list[int]], list[int], list[np.ndarray]]:
    """Returns the ids of each sentence, at most `longest`; how many it had; where its units are.

    A unit is where its first piece is, as is usual (Devlin et al. 2018, section 5.3); those that
    are cut have no place. Each unit is encoded by itself, see
    `llm_jax.data.tokenizers.units`.

    Args:
      sentences: units with `UNIT` between; an empty one has none.
      tokenizer: of `llm_jax.data.load_tokenizer`.
      longest: tokens, marks included.
      units: "words" or "characters".

    Raises:
      ConfigError: a unit that the tokenizer makes nothing of, and no mark for unknown ones.
    """
    split = [sentence.split(UNIT) if sentence else [] for sentence in sentences]
    encoded = encode_units(tokenizer, split, spaced=units == "words")
    unknown = tokenizer.symbols.get("[UNK]", tokenizer.symbols.get("<unk>"))
    begin, end = tokenizer.frame
    if not (begin or end):
        begin, end = ([mark] for mark in tokenizer.marks)
    room = longest - len(begin) - len(end)
    if room < 1:
        raise ConfigError(f"data.sequence_length is {longest}: the marks around a text need more")
    found, sizes, places = [], [], []
    for own, parts in zip(split, encoded):
        for unit, part in zip(own, parts):
            if not part and unknown is None:
                raise ConfigError(f"the tokenizer makes nothing of {unit!r}: leave it out")
        parts = [part or [unknown] for part in parts]
        firsts = np.cumsum([0, *map(len, parts)])[:-1]
        ids = [one for part in parts for one in part]
        sizes.append(len(ids) + len(begin) + len(end))
        places.append(len(begin) + firsts[firsts < room])
        found.append([*begin, *ids[:room], *end])
    return found, sizes, places

"""Pairs of a source and a target: of the user's files, or functions and their names.

The task of "functions" is naming (Allamanis et al. 2016, arXiv:1602.03001): the source is a
function of Python's standard library in which its name is `_` wherever it stands, the target the
name. Names between double underscores are left out: a language fixes them.

Hold-out rule. Of "functions" those of a held-out module (see `llm_jax.data.sources`); of a user's
files a pair whose source is a held-out name, so that equal sources stay together.
"""

import ast
import dataclasses
import hashlib
import json
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig
from llm_jax.data.sources import Document, is_held_out, library_files, user_files


@dataclasses.dataclass(frozen=True)
class PairSource:
    """A fixed list of pairs, in memory.

    Attributes:
      files: (relative posix path, path) in reading order.
      pairs: of each split, as `Document`s with a target.
      content_sha256: over all of them.
    """

    files: tuple[tuple[str, Path], ...]
    pairs: dict[str, tuple[Document, ...]]
    content_sha256: str
    cut_within_files: bool = False

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the pairs of `split` ("train" or "validation")."""
        yield from self.pairs[split]


def open_pairs(config: DataConfig) -> PairSource:
    """Reads and checks the pairs behind `config`.

    Raises:
      ConfigError: a path that is not there, a line that is no pair (named), or no pair at all for
        one of the splits.
    """
    if config.source == "functions":
        files = library_files(Path(sysconfig.get_paths()["stdlib"]))
        read, held_out = _functions, lambda name, source: is_held_out(name)
    else:
        files = user_files(config.path)
        read, held_out = _lines, lambda name, source: is_held_out(source)
    digest = hashlib.sha256()
    pairs = {"train": [], "validation": []}
    for name, path in files:
        for source, target in read(path):
            split = "validation" if held_out(name, source) else "train"
            pairs[split].append(Document(name, source, target))
            digest.update(f"{len(source)} {len(target)} {source}{target}".encode())
    for split, found in pairs.items():
        if not found:
            raise ConfigError(
                f"{config.path or config.source} has no pair for {split}, which one in twenty "
                "goes to: give more pairs"
            )
    found = {split: tuple(documents) for split, documents in pairs.items()}
    return PairSource(tuple(files), found, digest.hexdigest())


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (function without its name, name) of a module; a file that is no UTF-8 has none."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("__") or not node.name.strip("_"):
            continue
        source = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
        yield re.sub(rf"\b{re.escape(node.name)}\b", "_", source), node.name


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the pairs of a `*.tsv` or `*.jsonl` file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 ({error}): mend or leave it out") from (
            None
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            pair = _json_pair(line)
            form = 'an object with the texts "source" and "target"'
        else:
            pair, form = line.split("\t"), "a source, a tab and a target"
        if pair is None or len(pair) != 2 or not all(part.strip() for part in pair):
            raise ConfigError(f"{path} line {number} is no pair: give {form}")
        yield tuple(pair)


def _json_pair(line: str) -> tuple[str, str] | None:
    try:
        record = json.loads(line)
        pair = record["source"], record["target"]
    except (ValueError, TypeError, KeyError):
        return None
    return pair if all(isinstance(part, str) for part in pair) else None

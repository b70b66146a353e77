"""Writes prepared text: documents, tokenizer, rows of tokens; `llm_jax.data.prepare` calls it."""

import dataclasses
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from llm_jax.configuration import ConfigError
from llm_jax.data import best_fit, documents, packing
from llm_jax.data.config import DataConfig
from llm_jax.data.manifest import FORMAT, Manifest, sha256_of
from llm_jax.data.objectives import Vocabulary
from llm_jax.data.prepare import inputs_of, token_file
from llm_jax.data.sources import SPLITS
from llm_jax.data.tokenizers import FILES, load_tokenizer, train_tokenizer

_ENCODE_PARTS = 64


def write_text(
    config: DataConfig, source, inputs: dict, vocab_size: int, objective, directory: Path
) -> Manifest:
    """Writes documents, tokenizer and rows; of a mixture those of each part in its own folder.

    Args:
      config, vocab_size, objective: of `prepare`.
      source: what gives the documents; of a mixture one for each part, by name.
      inputs: of the manifest.
      directory: which is there, and empty.

    Returns:
      the manifest, which is not yet written.
    """
    given = config.tokenizer.path
    tokenizer = _given_tokenizer(given, vocab_size, objective) if given else None
    sources = source if config.source == "mixture" else {"": source}
    counts = {}
    for name, part in sources.items():
        logging.info("data: writing the documents of %d files", len(part.files))
        documents.write_documents(part, directory / name / "documents")
        counts[name] = _counts(directory / name / "documents")
    if tokenizer is None:
        logging.info(
            "data: training a %s tokenizer of %d pieces", config.tokenizer.kind, vocab_size
        )
        folders = [directory / name / "documents" for name in sources]
        size = sum(part["bytes"]["train"] for part in counts.values())
        tokenizer = train_tokenizer(
            _texts(folders, config.kind),
            vocab_size=vocab_size,
            config=config.tokenizer,
            every=-(-size // config.tokenizer.sample_bytes),
            symbols=objective.symbols,
        )
    if config.source != "mixture":
        rows = _write_rows(config, tokenizer, objective, directory)
        return _manifest(config, source, inputs, tokenizer, counts[""] | rows, directory)
    parts = {}
    for name, part in sources.items():
        own, folder = config.of_part(name), directory / name
        rows = _write_rows(own, tokenizer, objective, folder)
        known = inputs_of(own, part, vocab_size, objective)
        parts[name] = _manifest(own, part, known, tokenizer, counts[name] | rows, folder)
        parts[name].save(folder)
    tokenizer.save(directory)
    return _joined(config, inputs, parts, directory)


def _counts(folder: Path) -> dict[str, dict]:
    """Returns how many documents and bytes `folder` holds, by split."""
    counts = {"documents": dict.fromkeys(SPLITS, 0), "bytes": dict.fromkeys(SPLITS, 0)}
    for split in SPLITS:
        for part, text in documents.read_documents(folder, split):
            counts["documents"][split] += part == 0
            counts["bytes"][split] += len(text.encode("utf-8"))
    return counts


def _texts(folders: list[Path], kind: str) -> Iterator[str]:
    """Yields the train split's texts that are stored in `folders`."""
    for folder in folders:
        if kind == "pairs":
            yield from (text for pair in documents.read_pairs(folder, "train") for text in pair)
        else:
            yield from (text for _, text in documents.read_documents(folder, "train"))


def _joined(config: DataConfig, inputs: dict, parts: dict, directory: Path) -> Manifest:
    """Returns the manifest of a mixture, whose parts have theirs."""
    counts = {
        key: {split: sum(getattr(part, key)[split] for part in parts.values()) for split in SPLITS}
        for key in ("documents", "bytes", "rows", "tokens")
    }
    tokens_sha256 = {
        split: hashlib.sha256(
            "".join(part.tokens_sha256[split] for part in parts.values()).encode()
        ).hexdigest()
        for split in SPLITS
    }
    first = next(iter(parts.values()))
    return dataclasses.replace(
        first,
        inputs=inputs,
        source=config.source,
        hold_out="by part",
        tokens_sha256=tokens_sha256,
        files=_files(directory),
        parts={name: part.tokens["train"] for name, part in parts.items()},
        **counts,
    )


def _files(directory: Path) -> dict[str, str]:
    """Returns the checksums of all files in `directory`."""
    return {
        path.relative_to(directory).as_posix(): sha256_of(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _write_rows(config: DataConfig, tokenizer, objective, directory: Path) -> dict[str, dict]:
    """Writes the rows of the documents in `directory`, and the tokenizer beside them.

    Returns:
      how many rows and tokens there are, by split.
    """
    tokenizer.save(directory)
    counts = {"rows": {}, "tokens": {}}
    bos_id, eos_id = tokenizer.marks
    dtype = packing.token_dtype(tokenizer.vocab_size)
    for split in SPLITS:
        logging.info("data: tokenizing the %s split", split)
        path = directory / token_file(split)
        if config.kind == "pairs":
            pairs = documents.read_pairs(directory / "documents", split)
            asked = getattr(objective, "asked", None)
            sizes = config.sequence_length, objective.target_length
            rows = _PairRecords(pairs, tokenizer, *sizes, asked)
            counts["rows"][split] = packing.write_rows(path, rows, dtype)
            counts["tokens"][split] = rows.target_tokens
            continue
        encoded = _Encoded(documents.read_documents(directory / "documents", split), tokenizer)
        length = objective.record_length(config.sequence_length)
        if objective.by_document:
            rows = packing.pack_sentences(encoded, length, Vocabulary.of(tokenizer).line_ends)
        elif config.packing == "best_fit":
            rows = best_fit.pack(encoded, length, bos_id=bos_id, eos_id=eos_id)
        else:
            rows = packing.pack(_stream(encoded, bos_id, eos_id, dtype), length, objective.overlap)
        counts["rows"][split] = packing.write_rows(path, rows, dtype)
        counts["tokens"][split] = encoded.tokens
    return counts


def _manifest(
    config: DataConfig, source, inputs: dict, tokenizer, counts: dict, directory: Path
) -> Manifest:
    files = _files(directory)
    bos_id, eos_id = tokenizer.marks
    return Manifest(
        format=FORMAT,
        inputs=inputs,
        source=config.source,
        python=platform.python_version(),
        sequence_length=config.sequence_length,
        vocab_size=tokenizer.vocab_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=tokenizer.pad_id,
        hold_out="file ends" if source.cut_within_files else _HOLD_OUT[config.source],
        tokenizer_sha256=next(files[name] for name in FILES if name in files),
        tokens_sha256={split: files[token_file(split)] for split in SPLITS},
        files=files,
        **counts,
    )


def _given_tokenizer(path: str, vocab_size: int, objective):
    """Returns the tokenizer of `path`, which fits the model and the objective."""
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size is {vocab_size} and the tokenizer of {path} has "
            f"{tokenizer.vocab_size} pieces: give that, or another data.tokenizer.path"
        )
    if missing := [name for name in objective.symbols if name not in tokenizer.symbols]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"objective.name {objective.name!r} needs {', '.join(missing[:3])}{more}, which the "
            f"tokenizer of {path} has not: choose another objective or data.tokenizer.path"
        )
    return tokenizer


_HOLD_OUT = {
    "stdlib": "files", "text": "files", "cleaned": "documents", "records": "texts",
    "tfds": "texts", "functions": "files", "pairs": "sources",
}  # fmt: skip


class _PairRecords:
    """Records of (source, target) pairs: two lengths, the source's tokens and the target's.

    What is longer than a row is cut; every target ends in EOS. A pretrained tokenizer puts its
    marks around both, which are never cut. With `asked`, of `objectives.Answers`, the source is
    what that makes of it, its beginning cut, and the target has an end mark only. `target_tokens`
    counts those of the targets that have passed.
    """

    def __init__(self, pairs, tokenizer, source_length: int, target_length: int, asked=None):
        self._asked = asked
        self._pairs, self._tokenizer = pairs, tokenizer
        self._lengths = source_length, target_length
        self.target_tokens = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        longest_source, longest_target = self._lengths
        before, behind = self._tokenizer.frame
        end = behind or [self._tokenizer.marks[1]]
        if self._asked:
            before, end = [], [self._tokenizer.marks[1]]
        for group in _groups(self._pairs):
            encoded = self._tokenizer.encode_documents([text for pair in group for text in pair])
            for (text, _), source, target in zip(group, encoded[::2], encoded[1::2]):
                if self._asked:
                    source = self._asked(text, self._tokenizer)[-longest_source:]
                else:
                    source = _framed(source, before, behind, longest_source)
                target = _framed(target, before, end, longest_target)
                self.target_tokens += len(target)
                row = np.zeros(2 + longest_source + longest_target, np.int64)
                row[:2] = len(source), len(target)
                row[2 : 2 + len(source)] = source
                row[2 + longest_source : 2 + longest_source + len(target)] = target
                yield row


def _framed(ids: list[int], before: list[int], behind: list[int], length: int) -> list[int]:
    """Returns at most `length` tokens with the marks around `ids`."""
    return [*before, *ids[: max(0, length - len(before) - len(behind))], *behind][-length:]


class _Encoded:
    """The (part, token ids) of (part, text) pairs.

    `tokens` counts what has passed: those of the documents, and one end mark each.
    """

    def __init__(self, parts: Iterator[tuple[int, str]], tokenizer):
        self._parts, self._tokenizer = parts, tokenizer
        self.tokens = 0

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for group in _groups(self._parts):
            encoded = self._tokenizer.encode_documents([text for _, text in group])
            for (part, _), ids in zip(group, encoded):
                self.tokens += len(ids) + (part == 0)
                yield part, ids


def _stream(encoded, bos_id: int, eos_id: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yields the token stream of a split, in pieces."""
    between = [bos_id] if bos_id == eos_id else [eos_id, bos_id]
    first = True
    for part, ids in encoded:
        if part == 0:
            yield np.asarray([bos_id] if first else between, dtype)
            first = False
        yield np.asarray(ids, dtype)
    if not first:
        yield np.asarray([eos_id], dtype)


def _groups(parts: Iterator[tuple]) -> Iterator[list[tuple]]:
    group = []
    for item in parts:
        group.append(item)
        if len(group) == _ENCODE_PARTS:
            yield group
            group = []
    if group:
        yield group

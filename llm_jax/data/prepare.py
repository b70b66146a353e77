"""From text to rows of tokens on disk: documents, tokenizer, packed rows, manifest.

A prepared directory holds `documents/` (TFDS, array_record), the tokenizer (`tokenizer.model`, or
`tokenizer.json` and `tokenizer_config.json` of a pretrained one), `tokens-train.array_record`,
`tokens-validation.array_record` and `manifest.json`; of images see `llm_jax.data.images`. It
appears at once and whole: everything is written to `NAME.partial` beside it, which is renamed at
the end.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from llm_jax.configuration import ConfigError, to_dict
from llm_jax.data import packing
from llm_jax.data.cleaned import open_cleaned
from llm_jax.data.config import DataConfig
from llm_jax.data.images import open_images, write_images
from llm_jax.data.manifest import FILE_NAME, FORMAT, Manifest, again, load_manifest, sha256_of
from llm_jax.data.manifest import verify as verify_files
from llm_jax.data.objectives import NextToken
from llm_jax.data.pairs import open_pairs
from llm_jax.data.sources import SPLITS, open_source
from llm_jax.data.tokenizers import FILES, Tokenizer, load_tokenizer, train

_ENCODE_PARTS = 64


def token_file(split: str) -> str:
    """Returns the name of the file with the split's rows."""
    return f"tokens-{split}.array_record"


def prepare(
    config: DataConfig, *, vocab_size: int, directory: str | os.PathLike, objective=NextToken()
) -> Manifest:
    """Makes `directory` hold the data of `config`; what is there and fits is used again.

    In a run of several processes one of them calls this and the others wait for it.

    Args:
      config: source, row length and tokenizer options.
      vocab_size: pieces wanted of a tokenizer that is trained (short texts may give fewer), and
        the most that one of `config.tokenizer.path` may have.
      directory: where; made if missing, together with its parents.
      objective: of `llm_jax.data.objectives`: how long records are, and which symbols the
        tokenizer must have.

    Returns:
      the manifest.

    Raises:
      ConfigError: no usable text (see `open_source`), a vocabulary too small, a tokenizer that is
        not there or lacks symbols of the objective, a directory that cannot be written, that holds
        something else or data of another configuration (the differing keys are named), or a file
        in it that is damaged or missing (named).
    """
    directory = Path(directory)
    source = _OPEN[config.source](config)
    inputs = _inputs(config, source, vocab_size, objective)
    if (directory / FILE_NAME).exists():
        manifest = load_manifest(directory)
        _refuse_other_inputs(directory, manifest, inputs)
        verify_files(directory, manifest)
        return manifest
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} is there but holds no prepared data: name another directory, or "
            "move it away"
        )
    partial = directory.with_name(directory.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if config.kind == "images":
            manifest = write_images(source, inputs, partial)
        else:
            manifest = _write(config, source, inputs, vocab_size, objective, partial)
        manifest.save(partial)
        partial.replace(directory)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written ({error.strerror or error}): make room or name a "
            "directory that is yours"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


_OPEN = {
    "stdlib": open_source, "text": open_source, "cleaned": open_cleaned, "functions": open_pairs,
    "pairs": open_pairs, "images": open_images,
}  # fmt: skip


def _inputs(config: DataConfig, source, vocab_size: int, objective) -> dict:
    inputs = {"source": config.source, "content_sha256": source.content_sha256}
    if config.kind == "images":
        return inputs
    inputs |= {
        "record_length": objective.record_length(config.sequence_length),
        "symbols": tuple(objective.symbols),
        "vocab_size": vocab_size,
        "sequence_length": config.sequence_length,
        "cross_document_attention": config.cross_document_attention,
        "tokenizer": to_dict(config.tokenizer),
    }
    if config.source in ("stdlib", "functions"):
        inputs["python"] = platform.python_version()
    return inputs


def _refuse_other_inputs(directory: Path, manifest: Manifest, inputs: dict) -> None:
    if manifest.format != FORMAT:
        raise ConfigError(
            f"{directory} has data of format {manifest.format}, this program writes {FORMAT}: "
            + again(directory)
        )
    differing = [
        f"{key} (there {manifest.inputs.get(key)!r}, asked for {inputs.get(key)!r})"
        for key in sorted(manifest.inputs.keys() | inputs.keys())
        if manifest.inputs.get(key) != inputs.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{directory} holds data prepared from something else, differing in "
            f"{', '.join(differing)}: use another work directory, or delete this one"
        )


def _write(
    config: DataConfig, source, inputs: dict, vocab_size: int, objective, directory: Path
) -> Manifest:
    from llm_jax.data import documents

    given = config.tokenizer.path
    tokenizer = _given_tokenizer(given, vocab_size, objective) if given else None
    logging.info("data: writing the documents of %d files", len(source.files))
    documents.write_documents(source, directory / "documents")
    counts = {"documents": {}, "bytes": {}, "tokens": {}, "rows": {}}
    for split in SPLITS:
        sizes = [
            (part, len(text.encode("utf-8")))
            for part, text in documents.read_documents(directory / "documents", split)
        ]
        counts["documents"][split] = sum(part == 0 for part, _ in sizes)
        counts["bytes"][split] = sum(size for _, size in sizes)

    if tokenizer is None:
        logging.info("data: training a tokenizer of %d pieces", vocab_size)
        texts = (text for _, text in documents.read_documents(directory / "documents", "train"))
        if config.kind == "pairs":
            pairs = documents.read_pairs(directory / "documents", "train")
            texts = (text for pair in pairs for text in pair)
        tokenizer = Tokenizer(
            train(
                texts,
                vocab_size=vocab_size,
                config=config.tokenizer,
                every=-(-counts["bytes"]["train"] // config.tokenizer.sample_bytes),
                symbols=objective.symbols,
            )
        )
    tokenizer.save(directory)

    dtype = packing.token_dtype(tokenizer.vocab_size)
    for split in SPLITS:
        logging.info("data: tokenizing the %s split", split)
        path = directory / token_file(split)
        if config.kind == "pairs":
            pairs = documents.read_pairs(directory / "documents", split)
            lengths = objective.lengths(config.sequence_length)
            rows = _PairRecords(pairs, tokenizer, lengths["source"], lengths["targets"])
            counts["rows"][split] = packing.write_rows(path, rows, dtype)
            counts["tokens"][split] = rows.target_tokens
            continue
        parts = documents.read_documents(directory / "documents", split)
        stream = _Stream(parts, tokenizer, dtype)
        length = objective.record_length(config.sequence_length)
        rows = packing.pack(stream, length, objective.overlap)
        counts["rows"][split] = packing.write_rows(path, rows, dtype)
        counts["tokens"][split] = stream.tokens

    files = {
        path.relative_to(directory).as_posix(): sha256_of(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
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
    "stdlib": "files", "text": "files", "cleaned": "documents", "functions": "files",
    "pairs": "sources",
}  # fmt: skip


class _PairRecords:
    """Records of (source, target) pairs: two lengths, the source's tokens and the target's.

    What is longer than a row is cut; every target ends in EOS. A pretrained tokenizer puts its
    marks around both, which are never cut. `target_tokens` counts those of the targets that have
    passed.
    """

    def __init__(self, pairs, tokenizer, source_length: int, target_length: int):
        self._pairs, self._tokenizer = pairs, tokenizer
        self._lengths = source_length, target_length
        self.target_tokens = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        longest_source, longest_target = self._lengths
        before, behind = self._tokenizer.frame
        end = behind or [self._tokenizer.marks[1]]
        for group in _groups(self._pairs):
            encoded = self._tokenizer.encode_documents([text for pair in group for text in pair])
            for source, target in zip(encoded[::2], encoded[1::2]):
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


class _Stream:
    """The token stream of (part, text) pairs, in pieces.

    `tokens` counts what has passed: those of the documents, and one end mark each.
    """

    def __init__(self, parts: Iterator[tuple[int, str]], tokenizer, dtype: np.dtype):
        self._parts, self._tokenizer, self._dtype = parts, tokenizer, dtype
        self.tokens = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece in self._pieces():
            yield np.asarray(piece, self._dtype)

    def _pieces(self) -> Iterator[list[int]]:
        bos, eos = self._tokenizer.marks
        between = [bos] if bos == eos else [eos, bos]
        first = True
        for group in _groups(self._parts):
            encoded = self._tokenizer.encode_documents([text for _, text in group])
            for (part, _), ids in zip(group, encoded):
                if part == 0:
                    yield [bos] if first else between
                    first = False
                    self.tokens += 1
                self.tokens += len(ids)
                yield ids
        if not first:
            yield [eos]


def _groups(parts: Iterator[tuple]) -> Iterator[list[tuple]]:
    group = []
    for item in parts:
        group.append(item)
        if len(group) == _ENCODE_PARTS:
            yield group
            group = []
    if group:
        yield group

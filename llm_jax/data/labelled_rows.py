"""Labelled texts as prepared splits of tokens, and batches of rows that are as long as they need.

Equal texts (but for white space) are one example, and none where their labels differ: they are
dropped before anything is split. Of `data.path` a tenth is validation, and another one the test
where there is no `data.test_path`, each class by the same shares; of a test set of its own, texts
that are in `data.path` too are dropped from training. All this is counted in the manifest.
"""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import readers
from llm_jax.data.config import DataConfig
from llm_jax.data.labelled import BETWEEN, in_order, read_examples
from llm_jax.data.manifest import FORMAT, Manifest, sha256_of, verify
from llm_jax.data.splits import split
from llm_jax.data.tokenizers import load_tokenizer, train_tokenizer

SPLITS = ("train", "validation", "test")
_HELD_OUT = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclasses.dataclass(frozen=True)
class LabelledSource:
    """What stands in the tables: texts with labels, not yet split.

    Attributes:
      examples: of `data.path`.
      tested: of `data.test_path`; None without one.
      content_sha256: of all files.
      bad: what could not be read, in words.
    """

    examples: list[tuple[str, str]]
    tested: list[tuple[str, str]] | None
    content_sha256: str
    bad: list[str]


def open_labelled(config: DataConfig) -> LabelledSource:
    """Reads the tables behind `config`; `ConfigError` as `llm_jax.data.labelled.read_labelled`."""
    digest, found, bad = hashlib.sha256(), [], []
    for path in (config.path, config.test_path):
        if not path:
            found.append(None)
            continue
        examples, left_out = read_examples(
            path, text=config.text, label=config.label, second=config.second
        )
        found.append(examples)
        bad += left_out
        for file in readers.files_of(path, unknown_as_text=True):
            digest.update(f"\n{file.name} {sha256_of(file.path)}".encode("utf-8", "replace"))
    return LabelledSource(*found, digest.hexdigest(), bad)


def labelled_files(part: str) -> tuple[str, str]:
    """Returns the names of a split's arrays and texts."""
    return f"labelled-{part}.npz", f"labelled-{part}.jsonl"


def write_labelled(
    config: DataConfig, source: LabelledSource, inputs: dict, vocab_size: int, directory: Path
) -> Manifest:
    """Writes tokenizer, tokens and texts of the three splits; returns their manifest.

    A split's rows stand by length, the shortest first.

    Raises:
      ConfigError: a class of the test set that training has not, or too few examples of one.
    """
    parts, told = _split(source, inputs["target"])
    names = _names(parts, inputs["target"], config)
    given = config.tokenizer
    if given.path:
        tokenizer = load_tokenizer(given.path)
        if vocab_size and tokenizer.vocab_size > vocab_size:
            raise ConfigError(
                f"the tokenizer in {given.path} has {tokenizer.vocab_size} pieces and the model "
                f"{vocab_size}: set model.vocab_size"
            )
    else:
        texts = (text for text, _ in parts["train"])
        tokenizer = train_tokenizer(texts, vocab_size=vocab_size, config=given, every=1, symbols=())
    tokenizer.save(directory)
    counts = {key: {} for key in ("rows", "tokens", "bytes")}
    told |= {"names": names, "bad": source.bad, "cut": {}, "cut_tokens": {}}
    for part, examples in parts.items():
        cut, sizes, seconds = encoded(
            [text for text, _ in examples], tokenizer, config.sequence_length
        )
        order = sorted(range(len(cut)), key=lambda index: (len(cut[index]), index))
        arrays, texts = labelled_files(part)
        ends = np.cumsum([len(cut[index]) for index in order])
        ids = np.array([token for index in order for token in cut[index]], np.uint32)
        labels = [_numbered(examples[index][1], names, inputs["target"]) for index in order]
        second = {"seconds": np.array([seconds[i] for i in order])} if config.second else {}
        np.savez(directory / arrays, ids=ids, ends=ends, labels=np.array(labels), **second)
        lines = [dict(zip(("text", "label"), examples[index])) for index in order]
        written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (directory / texts).write_text(written, encoding="utf-8")
        counts["rows"][part], counts["tokens"][part] = len(examples), len(ids)
        counts["bytes"][part] = sum(len(text.encode()) for text, _ in examples)
        # Truncation is told: how many texts, and which share of all tokens.
        told["cut"][part] = sum(len(ids) < size for ids, size in zip(cut, sizes))
        told["cut_tokens"][part] = 1 - len(ids) / max(sum(sizes), 1)
    return Manifest(
        format=FORMAT,
        inputs=inputs,
        source=config.source,
        python=platform.python_version(),
        hold_out="the files of data.test_path" if source.tested is not None else "a tenth, twice",
        documents=counts["rows"],
        files={
            path.relative_to(directory).as_posix(): sha256_of(path)
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
        sequence_length=config.sequence_length,
        vocab_size=tokenizer.vocab_size,
        pad_id=getattr(tokenizer, "pad_id", None),
        labels=told,
        **counts,
    )


def _split(source: LabelledSource, target: str):
    """Returns the examples of each split by its name, and what was left out."""
    kept, told = distinct(source.examples)
    tested = source.tested
    if tested is not None:
        tested, more = distinct(tested)
        told = {key: told[key] + more[key] for key in told}
        known = {_key(text) for text, _ in tested}
        before = len(kept)
        kept = [example for example in kept if _key(example[0]) not in known]
        told["in_test_too"] = before - len(kept)
    shares = {name: share for name, share in _HELD_OUT.items() if tested is None or name != "test"}
    strata = [label if target == "class" else "" for _, label in kept]
    chosen = split(strata, shares)
    parts = {name: [kept[index] for index in indices] for name, indices in chosen.items()}
    return parts | ({} if tested is None else {"test": tested}), told


def _key(text: str) -> bytes:
    text = BETWEEN.join(" ".join(part.split()) for part in text.split(BETWEEN))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def distinct(examples):
    """Returns each text once, those with several labels not at all, and how many that leaves out.

    Texts are equal but for white space; their order is kept.
    """
    labels: dict = {}
    for text, label in examples:
        labels.setdefault(_key(text), set()).add(label)
    seen, kept, conflicts = set(), [], 0
    for text, label in examples:
        key = _key(text)
        if len(labels[key]) > 1:
            conflicts += 1
        elif key not in seen:
            seen.add(key)
            kept.append((text, label))
    return kept, {
        "duplicates": len(examples) - conflicts - len(kept),
        "of_several_labels": conflicts,
    }


def _names(parts: dict, target: str, config: DataConfig) -> list[str]:
    """Returns the classes; nothing where numbers are predicted."""
    if target == "number":
        for examples in parts.values():
            for text, label in examples:
                _number(label, text)
        return []
    found = {
        part: {name for _, label in examples for name in _several(label, target)}
        for part, examples in parts.items()
    }
    names = in_order(found["train"])
    for part, others in found.items():
        if unknown := sorted(others - found["train"]):
            raise ConfigError(
                f"label {unknown[0]!r} of the {part} split is not in training, which has "
                f"{', '.join(names[:6])}{', ...' * (len(names) > 6)}: mend column {config.label!r}"
            )
    if len(names) < 2 and target == "class":
        raise ConfigError(f"{config.path} has one class, {', '.join(names)}: give two or more")
    return list(names)


def _several(label: str, target: str) -> list[str]:
    if target == "class":
        return [label]
    return [name.strip() for name in label.replace(";", ",").split(",") if name.strip()]


def _number(label: str, text: str) -> float:
    try:
        value = float(label)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ConfigError(
            f"the label {label!r} of {text[:40]!r} is no number: mend it, or set objective.target"
        )
    return value


def _numbered(label: str, names: list[str], target: str):
    if target == "number":
        return np.float32(float(label))
    if target == "class":
        return np.int32(names.index(label))
    own = _several(label, target)
    return np.array([name in own for name in names], np.float32)


def encoded(
    texts: list[str], tokenizer, longest: int
) -> tuple[list[list[int]], list[int], list[int]]:
    """Returns the ids of each text, at most `longest`; how many it had; where its second begins.

    The marks that the tokenizer puts around a text, or around and between a pair's, are among them,
    where it puts none those of a document; where a text is cut, they stay. Of a pair the longer
    text is cut first.

    Args:
      texts: strings; those of a pair with `llm_jax.data.labelled.BETWEEN` between.
      tokenizer: of `llm_jax.data.load_tokenizer`.
      longest: tokens.
    """
    pairs = [text.split(BETWEEN) for text in texts]
    flat = tokenizer.encode_documents([part for pair in pairs for part in pair])
    found, sizes, seconds = [], [], []
    for pair in pairs:
        parts, flat = flat[: len(pair)], flat[len(pair) :]
        marks = tokenizer.frame if len(pair) == 1 else tokenizer.pair_frame
        if not any(marks):
            begin, end = ([mark] for mark in tokenizer.marks)
            marks = (begin, end) if len(pair) == 1 else (begin, end, end)
        room = longest - sum(map(len, marks))
        if room < len(pair):
            raise ConfigError(
                f"data.sequence_length is {longest}: the marks around a text need more"
            )
        sizes.append(sum(map(len, (*parts, *marks))))
        if len(pair) == 1:
            parts = [parts[0][:room]]
        else:
            half = (room + (len(parts[0]) > len(parts[1]))) // 2
            first = parts[0][: max(half, room - len(parts[1]))]
            parts = [first, parts[1][: room - len(first)]]
        ids = [*marks[0], *parts[0], *marks[1]]
        seconds.append(len(ids))
        found.append(ids if len(pair) == 1 else [*ids, *parts[1], *marks[2]])
    return found, sizes, seconds


class TextRows:
    """Texts of tokens, in memory.

    Attributes:
      sizes: int64 [n], the tokens of each row.
      static_copies: 0.
    """

    static_copies = 0

    def __init__(
        self, ids: np.ndarray, ends: np.ndarray, *, longest: int, padding: int, seconds=None
    ):
        """Takes the tokens of all rows, one behind the other, and where each row ends.

        Of pairs `seconds` says where in its row the second text begins.
        """
        self._seconds = seconds
        self._ids, self._begins = ids, np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self.sizes = ends - self._begins
        self._longest, self._padding = longest, padding

    def __len__(self) -> int:
        return len(self.sizes)

    def length(self, indices) -> int:
        """Returns the tokens that a batch of `indices` has for each row, one of few lengths."""
        return bucket(int(self.sizes[np.maximum(indices, 0)].max()), self._longest)

    def take(
        self, indices, randoms: Sequence[np.random.Generator] = (), length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the rows `indices` ([n] integers; -1 gives a row of weight 0) as one batch.

        Args:
          indices: of the rows.
          randoms: not used.
          length: of the rows, at least that of the longest; None: `length(indices)`.

        Returns:
          tokens, mask int32 [n, T] (1 where real); weights float32 [n]; of pairs token_types int32
          [n, T], 1 from the second text on.
        """
        del randoms
        indices = np.asarray(indices)
        length = length or self.length(indices)
        tokens = np.full((len(indices), length), self._padding, np.int32)
        mask = np.zeros((len(indices), length), np.int32)
        mask[:, 0] = 1  # a row of weight 0 still sees one token
        for row, index in enumerate(indices.tolist()):
            if index >= 0:
                size, begin = self.sizes[index], self._begins[index]
                tokens[row, :size] = self._ids[begin : begin + size]
                mask[row, :size] = 1
        batch = {"tokens": tokens, "mask": mask, "weights": (indices >= 0).astype(np.float32)}
        if self._seconds is not None:
            begins = self._seconds[np.maximum(indices, 0), None]
            batch["token_types"] = ((np.arange(length) >= begins) & (mask > 0)).astype(np.int32)
        return batch


class LabelledRows(TextRows):
    """The examples of one split, in memory, the shortest first.

    Attributes:
      split: one of `SPLITS`.
      manifest: of the directory.
      labels: int32 [n], float32 [n, classes] of 0 and 1, or float32 [n], as the target has it.
      documents, bytes, tokens: numbers of the split.
    """

    def __init__(self, directory: Path, part: str, manifest: Manifest):
        """Opens the split in `directory`; `open_split` is the way in."""
        arrays, texts = labelled_files(part)
        verify(directory, manifest, [arrays, texts])
        size = {"longest": manifest.sequence_length, "padding": manifest.pad_id or 0}
        with np.load(directory / arrays, allow_pickle=False) as file:
            super().__init__(file["ids"], file["ends"], seconds=file.get("seconds"), **size)
            self.labels = file["labels"]
        self._texts = directory / texts
        self.split, self.manifest = part, manifest
        for name in ("documents", "bytes", "tokens"):
            setattr(self, name, getattr(manifest, name)[part])

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{len(self)} labelled texts"

    def texts(self) -> list[str]:
        """Returns the texts, by row."""
        with self._texts.open(encoding="utf-8") as file:
            return [json.loads(line)["text"] for line in file]

    def take(self, indices, randoms=(), length: int | None = None) -> dict[str, np.ndarray]:
        """Returns what `TextRows.take` does, and the labels."""
        labels = self.labels[np.maximum(indices, 0)]
        return super().take(indices, randoms, length) | {"labels": labels}


def bucket(size: int, longest: int) -> int:
    """Returns the smallest of few lengths that holds `size` tokens, at most `longest`.

    Up to 64 they are the multiples of 8; then four between each power of two and the next, so that
    a row is a fifth longer than it must be at most.
    """
    step = max(8, 1 << max(0, (size - 1).bit_length() - 3))
    return min(-(-size // step) * step, longest)

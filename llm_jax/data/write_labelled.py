"""Labelled texts, and tagged sentences, as prepared splits of tokens.

Equal texts (but for white space) are one example, and none where their labels differ: they are
dropped before anything is split. Of `data.path` a tenth is validation, and another one the test
where there is no `data.test_path`, each class by the same shares; of a test set of its own, texts
that are in `data.path` too are dropped from training. With `data.folds` the test is one of as many
folds, by the same shares, and validation a tenth of the others; of a test set nothing is read then
but which texts to drop. All this is counted in the manifest.
"""

import dataclasses
import hashlib
import json
import platform
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import readers
from llm_jax.data.config import DataConfig
from llm_jax.data.labelled import BETWEEN, in_order, read_examples
from llm_jax.data.labelled_rows import labelled_files
from llm_jax.data.manifest import FORMAT, Manifest, sha256_of
from llm_jax.data.splits import folds, split
from llm_jax.data.tagged import UNIT, encoded_units, read_tagged
from llm_jax.data.tokenizers import load_tokenizer, train_tokenizer

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
        columns = {"text": config.text, "label": config.label}
        if config.source == "tagged":
            examples, left_out = read_tagged(path, **columns)
        else:
            examples, left_out = read_examples(path, second=config.second, **columns)
        found.append(examples)
        bad += left_out
        for file in readers.files_of(path, unknown_as_text=True):
            digest.update(f"\n{file.name} {sha256_of(file.path)}".encode("utf-8", "replace"))
    return LabelledSource(*found, digest.hexdigest(), bad)


def write_labelled(
    config: DataConfig, source: LabelledSource, inputs: dict, vocab_size: int, directory: Path
) -> Manifest:
    """Writes tokenizer, tokens and texts of the three splits; returns their manifest.

    A split's rows stand by length, the shortest first.

    Raises:
      ConfigError: a class of the test set that training has not, or too few examples of one.
    """
    parts, told = _split(source, inputs["target"], config)
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
        between = " " if inputs.get("units") == "words" else ""
        texts = (text.replace(UNIT, between) for text, _ in parts["train"])
        tokenizer = train_tokenizer(texts, vocab_size=vocab_size, config=given, every=1, symbols=())
    tokenizer.save(directory)
    counts = {key: {} for key in ("rows", "tokens", "bytes")}
    told |= {"names": names, "bad": source.bad, "cut": {}, "cut_tokens": {}, "members": {}}
    for part, examples in parts.items():
        texts, longest = [text for text, _ in examples], config.sequence_length
        if inputs["target"] == "tags":
            cut, sizes, places = encoded_units(texts, tokenizer, longest, units=inputs["units"])
        else:
            cut, sizes, seconds = encoded(texts, tokenizer, longest, config.window)
        order = sorted(range(len(cut)), key=lambda index: (len(cut[index]), index))
        arrays, texts = labelled_files(part)
        ends = np.cumsum([len(cut[index]) for index in order])
        ids = np.array([token for index in order for token in cut[index]], np.uint32)
        labels = [_numbered(examples[index][1], names, inputs["target"]) for index in order]
        more = {"seconds": np.array([seconds[i] for i in order])} if config.second else {}
        if inputs["target"] == "tags":
            kept = [places[index] for index in order]
            labels = np.concatenate([own[: len(there)] for own, there in zip(labels, kept)])
            more["places"] = np.concatenate(kept)
            more["units"] = np.cumsum([len(there) for there in kept])
        labels = np.array(labels)
        np.savez(directory / arrays, ids=ids, ends=ends, labels=labels, **more)
        if names:
            several = labels.ndim == 2
            members = labels.sum(0) if several else np.bincount(labels, minlength=len(names))
            told["members"][part] = members.astype(int).tolist()
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
        hold_out=_held_out(source, config),
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


def _held_out(source: LabelledSource, config: DataConfig) -> str:
    if config.folds:
        return f"fold {config.fold} of {config.folds}, and a tenth of the others"
    return "the files of data.test_path" if source.tested is not None else "a tenth, twice"


def _split(source: LabelledSource, target: str, config: DataConfig):
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
    strata = [label if target == "class" else "" for _, label in kept]
    if config.folds:
        own = folds(strata, config.folds) == config.fold
        tested = [kept[index] for index in np.flatnonzero(own)]
        kept, strata = (
            [given[index] for index in np.flatnonzero(~own)] for given in (kept, strata)
        )
    shares = {name: share for name, share in _HELD_OUT.items() if tested is None or name != "test"}
    chosen = split(strata, shares)
    parts = {name: [kept[index] for index in indices] for name, indices in chosen.items()}
    if config.per_class:
        parts["train"] = _few(parts["train"], config)
    return parts | ({} if tested is None else {"test": tested}), told


def _few(examples: list[tuple[str, str]], config: DataConfig) -> list[tuple[str, str]]:
    """Returns so many examples of each class, in their order, drawn by what they say."""
    members: dict[str, list[int]] = {}
    for index in sorted(range(len(examples)), key=lambda index: _key(examples[index][0])):
        members.setdefault(examples[index][1], []).append(index)
    for name, own in members.items():
        if len(own) < config.per_class:
            raise ConfigError(
                f"data.per_class is {config.per_class} and class {name!r} has {len(own)} examples "
                "in training: give less"
            )
    chosen = sorted(index for own in members.values() for index in own[: config.per_class])
    return [examples[index] for index in chosen]


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
    known = found["train"]
    if target == "tags":  # a rare one may stand in what was held out alone
        foreign = config.test_path and not config.folds
        known = known.union(*(found[p] for p in found if p != "test" or not foreign))
    names = in_order(known)
    for part, others in found.items():
        if unknown := sorted(others - known):
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
    if target == "tags":
        return label.split(" ")
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
    if target == "tags":
        return np.array([names.index(name) for name in own], np.int32)
    return np.array([name in own for name in names], np.float32)


def encoded(
    texts: list[str], tokenizer, longest: int, window: int = 0
) -> tuple[list[list[int]], list[int], list[int]]:
    """Returns the ids of each text, at most `longest`; how many it had; where its second begins.

    The marks that the tokenizer puts around a text, or around and between a pair's, are among them,
    where it puts none those of a document; where a text is cut, they stay. Of a pair the longer
    text is cut first. Each window has its marks, and all but the last are full.

    Args:
      texts: strings; those of a pair with `llm_jax.data.labelled.BETWEEN` between.
      tokenizer: of `llm_jax.data.load_tokenizer`.
      longest: tokens.
      window: tokens of a window, of which `longest` is a multiple; 0: a text is one.
    """
    if window:
        return _windows(texts, tokenizer, longest, window)
    pairs = [text.split(BETWEEN) for text in texts]
    flat = tokenizer.encode_documents([part for pair in pairs for part in pair])
    found, sizes, seconds = [], [], []
    for pair in pairs:
        parts, flat = flat[: len(pair)], flat[len(pair) :]
        marks = _marks(tokenizer, len(pair))
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


def _marks(tokenizer, texts: int):
    """Returns the marks before, between and behind one or two texts."""
    marks = tokenizer.frame if texts == 1 else tokenizer.pair_frame
    if any(marks):
        return marks
    begin, end = ([mark] for mark in tokenizer.marks)
    return (begin, end) if texts == 1 else (begin, end, end)


def _windows(texts, tokenizer, longest: int, window: int):
    begin, end = _marks(tokenizer, 1)
    room, most = window - len(begin) - len(end), longest // window
    if room < 1:
        raise ConfigError(f"data.window is {window}: the marks around a text need more")
    found, sizes = [], []
    for ids in tokenizer.encode_documents(texts):
        parts = [ids[first : first + room] for first in range(0, max(len(ids), 1), room)]
        sizes.append(len(ids) + len(parts) * (window - room))
        found.append([token for part in parts[:most] for token in (*begin, *part, *end)])
    return found, sizes, [0] * len(found)

"""One part of the raw files, read and filtered: what a worker does, and leaves in a folder.

A part is some files that follow each other, or a span of a large one. Its folder holds
`documents.array_record` (records {"id", "text"}), `hashes.npy` (V16, of their contents),
`bad.jsonl` (records that could not be read, with file, offset and reason) and `counts.json`. It
appears whole, so that a run that was killed goes on with the parts that are missing; and it depends
on nothing but its files and the configuration, so that any number of workers leave the same.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from llm_jax.data import readers
from llm_jax.data.cleaned import DOCUMENTS, DocumentRecords
from llm_jax.data.dedup.exact import DIGEST, content_hash
from llm_jax.data.manifest import sha256_of
from llm_jax.data.pipeline.config import PipelineConfig
from llm_jax.data.pipeline.filter import Filter
from llm_jax.data.record_writer import record_writer

COUNTS, HASHES, BAD = "counts.json", "hashes.npy", "bad.jsonl"
# Files go into one part until it has so many bytes; a larger one is cut where it can be.
PART_BYTES = 8 << 20
# Of each rule the report shows so many documents of a part, with so many characters.
SAMPLES, SAMPLE_CHARACTERS = 3, 300


def divide(files) -> list[list[readers.Span]]:
    """Returns the spans of `readers.File`s in parts, in their order."""
    parts, held = [], 0
    for file in files:
        for span in readers.spans_of(file, PART_BYTES):
            if not parts or held + span.size > PART_BYTES:
                parts.append([])
                held = 0
            parts[-1].append(span)
            held += span.size
    return parts


def write_part(spans, config: PipelineConfig, folder: Path) -> None:
    """Reads and filters `spans`, and leaves the part in `folder`, which is not there yet."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    judge = Filter(config.filter)
    hashes, counts = [], Account()
    with (
        record_writer(partial / DOCUMENTS) as writer,
        (partial / BAD).open("w", encoding="utf-8") as bad,
    ):
        for record in records(spans, config):
            if isinstance(record, readers.Bad):
                counts.bad += 1
                line = {"file": record.file, "offset": record.offset, "reason": record.reason}
                bad.write(json.dumps(line, ensure_ascii=False) + "\n")
                continue
            verdict = judge(record.text)
            counts.add(record.text, verdict)
            if verdict.rule is None:
                document = {"id": record.id, "text": verdict.text}
                writer.write(json.dumps(document, ensure_ascii=False).encode())
                hashes.append(content_hash(verdict.text))
    np.save(partial / HASHES, np.array(hashes, DIGEST))
    content = [sha256_of(span.file.path) for span in spans if span.begin == 0]
    known = counts.as_dict() | {"sha256": content}
    (partial / COUNTS).write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    partial.rename(folder)


def open_documents(folders: list[Path]) -> DocumentRecords:
    """Returns the documents of parts, one behind the other."""
    return DocumentRecords(
        (folder / DOCUMENTS for folder in folders), [digests(folder).shape[0] for folder in folders]
    )


def digests(folder: Path) -> np.ndarray:
    """Returns the hashes of a part's documents, V16 [n]."""
    return np.load(folder / HASHES)


def records(spans, config: PipelineConfig):
    """Yields `readers.Record` and `readers.Bad` of `spans`."""
    columns = readers.Columns(config.data.text, config.data.id or None)
    limits = readers.Limits(max_record_bytes=config.data.max_record_bytes)
    for span in spans:
        yield from readers.read_span(span, columns, limits=limits)


class Account:
    """What became of documents: counts, bytes, lengths, languages and a few samples."""

    def __init__(self):
        self.bad = 0
        self._sums = Counter()
        self._groups = {name: Counter() for name in ("removed", "personal", "languages", "lengths")}
        self._samples: dict[str, list[str]] = {}

    def add(self, raw: str, verdict) -> None:
        """Counts one document, `raw` as it came."""
        size = len(raw.encode("utf-8", "surrogatepass"))
        self._sums.update(documents_in=1, bytes_in=size)
        self._groups["personal"].update(verdict.personal)
        if verdict.language:
            self._groups["languages"][verdict.language] += 1
        if verdict.rule is None:
            self._sums.update(documents_out=1, bytes_out=len(verdict.text.encode()))
            self._groups["lengths"][str(len(verdict.text).bit_length())] += 1
            return
        self._groups["removed"][verdict.rule] += 1
        self._sums[f"bytes_removed:{verdict.rule}"] += size
        samples = self._samples.setdefault(verdict.rule, [])
        if len(samples) < SAMPLES:
            samples.append(raw[:SAMPLE_CHARACTERS])

    def as_dict(self) -> dict:
        """Returns it as JSON holds it."""
        groups = {name: dict(counts) for name, counts in self._groups.items()}
        return {"bad": self.bad, "sums": dict(self._sums), "samples": self._samples} | groups

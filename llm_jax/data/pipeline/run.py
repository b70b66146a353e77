"""The whole pipeline: raw files -> parts, in any number of places -> one `cleaned/`.

A work directory holds `pipeline.json` (the configuration and the files), `parts/` while the run
goes on, and at its end `cleaned/` (documents, manifest), `bad.jsonl`, `report.md`, `report.html`
and `funnel.png`. A run that was killed goes on with the parts that are missing. What is in the
files follows from the raw files and the configuration alone.
"""

import contextlib
import fcntl
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError, flatten, to_dict
from llm_jax.data import readers
from llm_jax.data.cleaned import DOCUMENTS, MANIFEST, DocumentRecords
from llm_jax.data.dedup.exact import DIGEST, first_occurrences
from llm_jax.data.manifest import sha256_of
from llm_jax.data.pipeline import report
from llm_jax.data.pipeline.config import PipelineConfig
from llm_jax.data.pipeline.local import Local, Runner
from llm_jax.data.pipeline.parts import BAD, COUNTS, digests, divide, open_documents, write_part
from llm_jax.data.record_writer import record_writer

_COPIED_AT_ONCE = 256
_COUNTS = ("data", "filter", "dedup")
_PACKAGES = ("ftfy", "numpy", "py3langid")


def clean(
    config: PipelineConfig,
    workdir: Path,
    say: Callable[[str], None],
    runner: Runner | None = None,
) -> dict:
    """Runs the pipeline, or what of it is not done yet; returns the manifest.

    Args:
      config: what is read, and what is done to it.
      workdir: for all that it writes; made if missing.
      say: is given a line of progress now and then.
      runner: where the work is done; None: in `config.workers` processes of this machine. What is
        written is the same.

    Raises:
      ConfigError: no files, files or a configuration other than those that the directory was begun
        with, another run that writes there now, too many bad records, or nothing left.
    """
    runner = runner or Local(config.workers)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        files = readers.files_of(config.data.path, unknown_as_text=config.data.unknown_as_text)
        _same_as_before(workdir / "pipeline.json", config, files)
        done, parts = workdir / "cleaned" / MANIFEST, workdir / "parts"
        if not done.exists():
            folders = _write_parts(divide(files), config, parts, say, runner)
            counts = _add_up(folders)
            _not_too_bad(counts, config, folders)
            _write_cleaned(config, folders, counts, workdir, say, runner)
        shutil.rmtree(parts, ignore_errors=True)
        return json.loads(done.read_text())


@contextlib.contextmanager
def _alone(workdir: Path):
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another run writes into {workdir}: wait for it, or give another --workdir"
            ) from None
        yield


def _same_as_before(path: Path, config: PipelineConfig, files) -> None:
    asked = _what_counts(config)
    asked["files"] = {file.name: file.path.stat().st_size for file in files}
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asked, indent=1, sort_keys=True) + "\n")
        partial.rename(path)
        return
    before, asked = flatten(json.loads(path.read_text())), flatten(asked)
    differing = [key for key in sorted(before.keys() | asked.keys()) if
                 before.get(key) != asked.get(key)]  # fmt: skip
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            f"{path.parent} was begun with another {', '.join(differing[:5])}{more}: give another "
            "--workdir, or delete this one"
        )


def _what_counts(config: PipelineConfig) -> dict:
    """Returns what the documents follow from."""
    counting = {name: value for name, value in to_dict(config).items() if name in _COUNTS}
    del counting["data"]["max_bad_share"]  # it decides whether there is a result, not which
    return counting


def _write_parts(parts, config: PipelineConfig, folder: Path, say, runner) -> list[Path]:
    """Returns the parts' folders, all of them whole."""
    folders = [folder / f"{number:05}" for number in range(len(parts))]
    missing = [number for number, path in enumerate(folders) if not path.exists()]
    sizes = [sum(span.size for span in part) for part in parts]
    total, read, began = sum(sizes[number] for number in missing), 0, time.monotonic()
    jobs = {number: (parts[number], config, folders[number]) for number in missing}
    for number in runner.each(write_part, jobs):
        read += sizes[number]
        seconds = time.monotonic() - began
        left = seconds * (total - read) / max(read, 1)
        say(f"read {read / 1e6:.1f} of {total / 1e6:.1f} MB, {read / 1e6 / seconds:.1f} MB/s, "
            f"{left:.0f} s left")  # fmt: skip
    return folders


def _add_up(folders: list[Path]) -> dict:
    """Returns the counts of all parts, and the first samples of each rule."""
    groups = ("sums", "removed", "personal", "languages", "lengths")
    total = {name: Counter() for name in groups}
    samples: dict[str, list[str]] = {}
    bad, content = 0, []
    for folder in folders:
        counts = json.loads((folder / COUNTS).read_text())
        bad += counts["bad"]
        content += counts["sha256"]
        for name in groups:
            total[name].update(counts[name])
        for rule, texts in counts["samples"].items():
            samples.setdefault(rule, []).extend(texts)
    return total | {"bad": bad, "samples": samples, "raw_sha256": content}


def _not_too_bad(counts: dict, config: PipelineConfig, folders: list[Path]) -> None:
    bad, good = counts["bad"], counts["sums"]["documents_in"]
    if bad > config.data.max_bad_share * (bad + good):
        lines = (line for folder in folders for line in (folder / BAD).read_text().splitlines())
        first = json.loads(next(lines))
        raise ConfigError(
            f"{bad} of {bad + good} records are bad, the first at {first['file']} "
            f"{first['offset']}: {first['reason']}; mend the files, or raise data.max_bad_share "
            f"(now {config.data.max_bad_share})"
        )
    if not good:
        raise ConfigError(f"{config.data.path} has no records: give files with documents in them")


def _write_cleaned(config, folders, counts, workdir: Path, say, runner) -> None:
    documents = open_documents(folders)
    kept = _distinct(config, folders, documents, counts, workdir / "parts" / "bands", say, runner)
    partial = workdir / "cleaned.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    size = 0
    with record_writer(partial / DOCUMENTS) as writer:
        for start in range(0, len(kept), _COPIED_AT_ONCE):
            for document in documents.read(kept[start : start + _COPIED_AT_ONCE]):
                size += len(document["text"].encode())
                writer.write(json.dumps(document, ensure_ascii=False).encode())
    with (workdir / "bad.jsonl").open("w", encoding="utf-8") as bad:
        for folder in folders:
            bad.write((folder / BAD).read_text(encoding="utf-8"))
    manifest = {
        "documents_in": counts["sums"]["documents_in"],
        "documents_out": len(kept),
        "bytes_in": counts["sums"]["bytes_in"],
        "bytes_out": size,
        "bad_records": counts["bad"],
        "removed": {rule: counts["removed"][rule] for rule in _in_order(config, counts["removed"])},
        **{
            name: dict(sorted(counts[name].items()))
            for name in ("personal", "languages", "lengths")
        },
        "sha256": sha256_of(partial / DOCUMENTS),
        "raw_sha256": counts["raw_sha256"],
        "versions": {name: version(name) for name in _PACKAGES},
        "config": _what_counts(config),
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    report.write(workdir, manifest, counts["samples"])
    partial.rename(workdir / "cleaned")


def _in_order(config: PipelineConfig, removed) -> list[str]:
    """Returns the rules among `removed` in the order in which documents meet them."""
    rules = config.filter.rule_names()[1]
    every = ("empty", "words", *rules, "language", "personal", "exact_duplicate", "near_duplicate")
    return [rule for rule in every if rule in removed]


def _distinct(
    config, folders, documents: DocumentRecords, counts, bands: Path, say, runner
) -> np.ndarray:
    """Returns the numbers of the documents that repeat no earlier one; counts the others."""
    kept = np.arange(len(documents))

    def remove(rule: str, first: np.ndarray) -> None:
        nonlocal kept
        again = first != np.arange(len(kept))
        counts["removed"][rule] = int(again.sum())
        shown = documents.read(kept[again][:3])
        counts["samples"][rule] = [document["text"][:300] for document in shown]
        kept = kept[~again]

    if config.dedup.exact:
        hashes, end = np.empty(len(documents), DIGEST), 0
        for folder in folders:
            own = digests(folder)
            hashes[end : end + len(own)] = own
            end += len(own)
        remove("exact_duplicate", first_occurrences(hashes))
        del hashes
        say(f"{len(kept)} documents without exact duplicates")
    if config.dedup.near:
        remove(
            "near_duplicate", runner.near_duplicates(kept, folders, config.dedup.settings, bands)
        )
        say(f"{len(kept)} documents without near-duplicates")
    return kept

"""Measures the pipeline's memory and rate at several sizes of input.

    python -m tests.data.pipeline.benchmark_memory [MEGABYTES ...] [--workers=N]

For each size (10 and 100 unless told) it writes JSON lines of about 2 KB of varied words, one
document in ten an exact or near copy of an earlier one, and runs `experiments.prepare_data` on them
from raw files to rows, deduplication included, in a process of its own. Resident memory is what the
whole tree of processes held at its peak: the sum of VmRSS, asked 20 times a second. The last line
is one JSON list with megabytes, seconds and stages for each size. The tokenizer learns from 3 MB of
text, which the smallest input fills as the others do.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.data.dedup.synthetic import edited, vocabulary

FILE_BYTES = 25_000_000


def write_input(folder: Path, size: int) -> None:
    """Writes about `size` bytes of JSON lines into files of at most FILE_BYTES."""
    random = np.random.default_rng(0)
    known = vocabulary(random)
    folder.mkdir()
    written, number, recent = 0, 0, []
    while written < size:
        limit = min(written + FILE_BYTES, size)
        with (folder / f"{written:012}.jsonl").open("w", encoding="utf-8") as file:
            while written < limit:
                kind = random.random()
                if recent and kind < 0.1:
                    words = recent[random.integers(len(recent))]
                    words = words if kind < 0.05 else edited(random, words, known, 0.9)
                else:
                    words = random.choice(known, random.integers(150, 450))
                    recent = [*recent[-200:], words]
                line = json.dumps({"id": f"d{number}", "text": " ".join(words)}) + "\n"
                written += file.write(line)
                number += 1


def resident_bytes(root: int) -> int:
    """Returns the resident memory of a process and all below it."""
    parents, sizes = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has ended
            continue
        found = dict(re.findall(r"^(PPid|VmRSS):\s+(\d+)", text, re.MULTILINE))
        parents[int(status.parent.name)] = int(found.get("PPid", 0))
        sizes[int(status.parent.name)] = 1024 * int(found.get("VmRSS", 0))
    tree = {root}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(sizes.get(process, 0) for process in tree)


def measure(megabytes: int, workers: int, scratch: Path) -> dict:
    """Runs the command once; returns its peak, its seconds and how long each stage took."""
    raw = scratch / "raw"
    write_input(raw, megabytes * 1_000_000)
    command = [sys.executable, "-m", "experiments.prepare_data", "--config=configs/data_text.py",
               f"--workdir={scratch / 'run'}", f"--config.data.path={raw}",
               "--config.data.id=id", "--config.rows.tokenizer.sample_bytes=3000000",
               f"--config.workers={workers}"]  # fmt: skip
    log = scratch / "log"
    began, peak, peak_of, marks = time.monotonic(), 0, {}, []
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                held = resident_bytes(process.pid)
                lines = log.read_text().splitlines()
                stage = stage_of(lines)
                if stage not in peak_of:
                    marks.append((stage, time.monotonic()))
                peak, peak_of[stage] = max(peak, held), max(peak_of.get(stage, 0), held)
        finally:
            process.kill()
            process.wait()
    ended = time.monotonic()
    if process.returncode:
        raise SystemExit(log.read_text())
    result = json.loads(log.read_text().splitlines()[-1])
    ends = [at for _, at in marks[1:]] + [ended]
    return {
        "megabytes": megabytes,
        "documents_in": result["documents_in"],
        "documents_out": result["documents_out"],
        "removed": result["removed"],
        "peak_megabytes": round(peak / 1e6),
        "seconds": round(ended - began, 1),
        "stages": {
            stage: {"seconds": round(end - at, 1), "peak_megabytes": round(peak_of[stage] / 1e6)}
            for (stage, at), end in zip(marks, ends)
        },
    }


def stage_of(lines: list[str]) -> str:
    """Returns what the command does, from its lines of progress so far."""
    marks = (("tokenizing", "tokenize and pack"), ("without near", "copy"),
             ("without exact", "near-duplicates"))  # fmt: skip
    for mark, stage in marks:
        if any(mark in line for line in lines):
            return stage
    return "read, clean and filter"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("megabytes", nargs="*", type=int, default=[10, 100])
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    results = []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as scratch:
            results.append(measure(megabytes, given.workers, Path(scratch)))
        print(json.dumps(results[-1]), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

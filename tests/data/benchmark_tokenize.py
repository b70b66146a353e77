"""Times tokenize-and-pack beside `datasets.map` with the same tokenizer on the same documents.

    python -m tests.data.benchmark_tokenize [MEGABYTES]

Documents are this Python's installed modules (6 MB unless told). Both get the texts, encode them
with one sentencepiece model, put BOS and EOS around each, cut the stream into rows of 256 and leave
these on disk: ours as `llm_jax.data.write_text` does, in array_record; `datasets` by two batched
maps as in Hugging Face's `run_clm.py`, in its Arrow cache. It is timed at its faster one of
`num_proc=2` and of one process in which sentencepiece has two threads. Its second map takes all
documents at once, for otherwise it drops the end of each batch and the rows differ. They take
turns; the last line is one JSON object with the medians of the seconds that passed and of the
processors' seconds, child processes included, which other work on the machine changes less.
"""

import contextlib
import itertools
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
from array_record.python import array_record_module

from llm_jax.data import packing, write_text
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.tokenizers import Tokenizer, train

LENGTH, ROUNDS, PIECES = 256, 3, 4096


def documents(size: int) -> list[str]:
    """Returns modules of this Python's packages, at least `size` bytes of them if there are."""
    texts, held = [], 0
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        held += path.stat().st_size
        if held >= size:
            break
    return texts


@contextlib.contextmanager
def timed(seconds: list, worked: list):
    """Appends how long the block took, and how long processors worked for it."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    yield
    seconds.append(time.perf_counter() - start)
    worked.append(sum(os.times()[:4]) - before)


def ours(texts, tokenizer, folder: Path) -> Path:
    """Returns the file of rows."""
    encoded = write_text._Encoded(((0, text) for text in texts), tokenizer)
    dtype = packing.token_dtype(tokenizer.vocab_size)
    stream = write_text._stream(encoded, tokenizer.bos_id, tokenizer.eos_id, dtype)
    path = folder / "rows.array_record"
    packing.write_rows(path, packing.pack(stream, LENGTH + 1), dtype)
    return path


def theirs(texts, tokenizer, model: bytes, folder: Path, *, processes: int, threads: int):
    """Returns a Dataset of rows."""
    import sentencepiece

    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(batch):
        ids = processor.encode(batch["text"], out_type=int, num_threads=threads)
        return {"input_ids": [[bos, *own, eos] for own in ids]}

    def group(batch):
        ids = list(itertools.chain.from_iterable(batch["input_ids"]))
        end = len(ids) // LENGTH * LENGTH
        return {"input_ids": [ids[at : at + LENGTH] for at in range(0, end, LENGTH)]}

    raw = datasets.Dataset.from_dict({"text": texts})
    encoded = raw.map(
        encode, batched=True, remove_columns=["text"], num_proc=processes,
        cache_file_name=str(folder / "encoded.arrow"), load_from_cache_file=False,
    )  # fmt: skip
    return encoded.map(
        group, batched=True, batch_size=None, cache_file_name=str(folder / "rows.arrow"),
        load_from_cache_file=False,
    )  # fmt: skip


def main():
    datasets.disable_progress_bars()
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    texts = documents(size * 1_000_000)
    model = train(iter(texts), vocab_size=PIECES, config=TokenizerConfig(), every=8)
    tokenizer = Tokenizer(model)
    ways = {"processes": (2, 1), "threads": (None, 2)}
    seconds = {name: [] for name in ("ours", *ways)}
    worked = {name: [] for name in seconds}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with timed(seconds["ours"], worked["ours"]):
                path = ours(texts, tokenizer, folder)
            reader = array_record_module.ArrayRecordReader(str(path))
            rows = [np.frombuffer(row, "<u2")[:LENGTH] for row in reader.read_all()]
            for name, (processes, threads) in ways.items():
                with timed(seconds[name], worked[name]):
                    found = theirs(
                        texts, tokenizer, model, folder, processes=processes, threads=threads
                    )
                table = np.stack(found.with_format("numpy")["input_ids"][:])
                equal = np.array_equal(table, np.stack(rows[: len(table)]))
                if not equal or len(rows) - len(table) > 1:
                    raise SystemExit("the rows differ")
        print({name: round(times[-1], 2) for name, times in seconds.items()}, flush=True)
    result = {"megabytes": sum(len(text.encode()) for text in texts) / 1e6, "rows": len(rows)}
    for what, times in (("seconds", seconds), ("processor_seconds", worked)):
        medians = {name: statistics.median(own) for name, own in times.items()}
        best = min(medians[name] for name in ways)
        result[what] = medians | {"ratio": best / medians["ours"]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

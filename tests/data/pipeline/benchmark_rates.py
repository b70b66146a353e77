"""Measures how many processor seconds each stage takes, on the input of `benchmark_memory`.

    python -m tests.data.pipeline.benchmark_rates [MEGABYTES]

Processor seconds of this process and its threads, not seconds that pass: other work on the machine
changes them less, and they say what a core does. The last line is one JSON object with megabytes of
raw text for each processor second, by stage.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llm_jax import data
from llm_jax.data import write_text
from llm_jax.data.dedup import shuffle
from llm_jax.data.dedup.exact import first_occurrences
from llm_jax.data.dedup.lsh import NearDuplicates
from llm_jax.data.pipeline import parts, run
from llm_jax.data.pipeline.config import PipelineConfig, Reading
from llm_jax.data.readers import files_of
from tests.data.pipeline.benchmark_memory import write_input


def main():
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    rates = {}

    def timed(stage, function, *arguments, **keywords):
        before = time.process_time()
        result = function(*arguments, **keywords)
        rates[stage] = round(size / (time.process_time() - before), 2)
        return result

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_input(folder / "raw", size * 1_000_000)
        config = PipelineConfig(Reading(str(folder / "raw"), id="id"))
        jobs = parts.divide(files_of(config.data.path))
        folders = [folder / str(number) for number in range(len(jobs))]
        parts.Filter(config.filter)("the first one loads what it needs")
        timed("read, clean, filter", lambda: [
            parts.write_part(job, config, own) for job, own in zip(jobs, folders)
        ])  # fmt: skip
        documents = parts.open_documents(folders)
        hashes = np.concatenate([parts.digests(own) for own in folders])
        timed("exact duplicates", first_occurrences, hashes)
        settings, file = NearDuplicates(), folder / "signatures"

        def read(number):
            return documents.read([number])[0]["text"]

        signed = range(len(documents))
        dealt = timed("near-duplicates: sign", shuffle.sign, signed, read, settings, 1, file)
        signatures = np.memmap(file, np.uint32, "r").reshape(-1, settings.num_permutations)
        pairs = timed(
            "near-duplicates: join", shuffle.join, dealt, read, signatures.__getitem__, settings
        )
        timed("near-duplicates: merge", shuffle.merge, len(documents), [pairs])
        run.clean(config, folder / "run", lambda line: None)
        source = data.DataConfig("cleaned", str(folder / "run" / "cleaned"), sequence_length=256)
        train = write_text.train
        spent = []

        def trained(*arguments, **keywords):
            before = time.process_time()
            model = train(*arguments, **keywords)
            spent.append(time.process_time() - before)
            return model

        write_text.train = trained
        before = time.process_time()
        data.prepare(source, vocab_size=4096, directory=folder / "data")
        seconds = time.process_time() - before - sum(spent)  # learning does not grow with the text
        rates["tokenize and pack"] = round(size / seconds, 2)
        print(json.dumps(rates | {"documents": len(documents), "pairs": len(pairs)}))


if __name__ == "__main__":
    main()

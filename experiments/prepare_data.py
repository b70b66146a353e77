"""From raw files to rows of tokens: read, clean, filter, deduplicate, tokenize, pack.

  python -m experiments.prepare_data --config=configs/data_text.py --workdir=runs/data \\
      --config.data.path=DIR

leaves in the work directory `cleaned/` (documents), `data/` (tokenizer and rows), `report.md` and
`report.html` (what was thrown away by which rule, with samples), and `bad.jsonl` (records that
could not be read). Run again after Ctrl-C or a kill it goes on. --config.workers=N reads in N
processes, --runner=ray on a Ray cluster (docs/cluster_data.md); both give the same bytes. To train
on it:

  python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/data \\
      --config.data.source=cleaned --config.data.path=runs/data/cleaned

The last line of stdout is one JSON object: documents_in, documents_out, removed (rule -> count),
tokens, rows, bytes_in, bytes_out, bad_records, seconds, finished.
"""

import dataclasses
import time
from pathlib import Path

from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.configuration import parse
from llm_jax.data.pipeline.cluster import Cluster
from llm_jax.data.pipeline.config import PipelineConfig
from llm_jax.data.pipeline.local import Local
from llm_jax.data.pipeline.run import clean

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.")
RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "ray"],
    "Where it is cleaned: in --config.workers processes of this machine, or on a Ray cluster.",
)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    config = parse(PipelineConfig, entry.required(CONFIG))
    workdir = Path(entry.required(WORKDIR))
    began = time.perf_counter()
    runner = Cluster() if RUNNER.value == "ray" else Local(config.workers)
    manifest = clean(config, workdir, entry.say, runner)
    entry.say("tokenizing")
    rows = dataclasses.asdict(config.rows) | {"tokenizer": config.rows.tokenizer}
    vocab_size = rows.pop("vocab_size")
    source = data.DataConfig(source="cleaned", path=str(workdir / "cleaned"), **rows)
    prepared = data.prepare(source, vocab_size=vocab_size, directory=workdir / "data")
    names = ("documents_in", "documents_out", "removed", "bytes_in", "bytes_out", "bad_records")
    return {name: manifest[name] for name in names} | {
        "tokens": sum(prepared.tokens.values()),
        "rows": sum(prepared.rows.values()),
        "seconds": time.perf_counter() - began,
        "finished": True,
    }


if __name__ == "__main__":
    entry.launch(main)

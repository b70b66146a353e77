"""Any folder of text files, JSON lines, CSV, parquet or archives, cleaned into rows of tokens.

Command:   python -m experiments.prepare_data --config=configs/data_text.py --workdir=runs/data \\
               --config.data.path=DIR

Variant `web` adds the quality rules of C4, Gopher and FineWeb, made for English web pages.
"""

from dataclasses import asdict

import ml_collections

from configs import gpt_quickstart
from llm_jax.data.pipeline.config import Deduplication, Filtering, Reading, RowsConfig


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "web"."""
    if variant not in ("", "web"):
        raise ValueError(f"variant {variant!r} is unknown: give none, or 'web'")
    config = ml_collections.ConfigDict({"workers": 1})
    config.data = asdict(Reading(path="x")) | {"path": ""}
    config.filter, config.dedup = asdict(Filtering()), asdict(Deduplication())
    config.rows = asdict(RowsConfig())
    run = gpt_quickstart.get_config()  # so that it trains on what is made here
    config.rows.update({key: run.data[key] for key in config.rows if key in run.data})
    config.rows.vocab_size = run.model.vocab_size
    if variant == "web":
        config.filter.rules = ("c4", "gopher", "fineweb")
    return config

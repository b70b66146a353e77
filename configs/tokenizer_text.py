"""A tokenizer, or several side by side, trained on any text: by itself Python's standard library.

Command:   python -m experiments.train_tokenizer --config=configs/tokenizer_text.py \\
               --workdir=runs/tokenizer --config.data.source=text --config.data.path=DIR

The special tokens are those that the objectives of text ask for, so that one tokenizer serves them
all. Variant `compare` trains all four kinds, of 4,096 and 8,192 pieces; `tiny` trains them in
seconds.
"""

from dataclasses import asdict

import ml_collections

from llm_jax.data.config import TOKENIZERS, DataConfig
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.data.tokenizers.study import StudyConfig

_DATA = ("source", "path", "mixture", "temperature", "tokenizer")


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "compare" or "tiny"."""
    if variant not in ("", "compare", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'compare' or 'tiny'")
    config = ml_collections.ConfigDict(asdict(StudyConfig()))
    config.data = {key: value for key, value in asdict(DataConfig()).items() if key in _DATA}
    special = [name for each in OBJECTIVES.values() for name in getattr(each(), "symbols", ())]
    config.data.tokenizer.special_tokens = tuple(dict.fromkeys(special))
    if variant:
        config.kinds = TOKENIZERS
    if variant == "compare":
        config.vocab_sizes = (4096, 8192)
    if variant == "tiny":
        config.vocab_sizes, config.measured_bytes = (1024,), 100_000
        config.data.tokenizer.sample_bytes = 200_000
    return config

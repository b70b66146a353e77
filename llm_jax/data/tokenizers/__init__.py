"""Tokenizers: text to token ids and back, exactly."""

import os
from pathlib import Path

from llm_jax.data.tokenizers import bpe
from llm_jax.data.tokenizers.bpe import StreamDecoder, Tokenizer, train
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer, load_pretrained_tokenizer


def load_tokenizer(path: str | os.PathLike) -> Tokenizer | PretrainedTokenizer:
    """Reads the tokenizer of a work directory or a checkpoint.

    Args:
      path: a `tokenizer.model` of ours, or a folder with it or with a checkpoint's tokenizer.json.

    Raises:
      ConfigError: there is none, or it is damaged.
    """
    if Path(path, "tokenizer.json").is_file():
        return load_pretrained_tokenizer(path)
    return bpe.load_tokenizer(path)

"""Tokenizers: text to token ids and back, exactly."""

import os
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers import bpe, gguf, pretrained
from llm_jax.data.tokenizers.bpe import StreamDecoder, Tokenizer, train
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer
from llm_jax.data.tokenizers.training import train_tokenizer

# What `Tokenizer` and `PretrainedTokenizer` are kept in, beside data and checkpoints.
FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer | PretrainedTokenizer:
    """Reads a tokenizer, ours or a checkpoint's.

    Args:
      path: a folder of Hugging Face's, a llama-type file `*.gguf`, a run's work directory, or a
        `tokenizer.model` of ours, or the folder with it.

    Raises:
      ConfigError: there is none, it is damaged, or of a kind that is not known.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(
            f"{path} is not there: it cannot be read for a tokenizer, give a folder, a *.gguf or "
            "a tokenizer.model"
        )
    if path.suffix == ".gguf":
        return gguf.load_gguf_tokenizer(path)
    if checkpoints := sorted(path.glob("checkpoints/[0-9]*")):
        path = checkpoints[-1]
    if path.is_dir() and (pretrained.is_there(path) or not (path / FILES[0]).is_file()):
        return pretrained.load_pretrained_tokenizer(path)
    return bpe.load_tokenizer(path)


def find_tokenizer(path: str | os.PathLike) -> Tokenizer | PretrainedTokenizer | None:
    """Returns `load_tokenizer(path)`, or None where a folder has no file of a tokenizer."""
    path = Path(path)
    if path.is_dir() and not pretrained.is_there(path) and not (path / FILES[0]).is_file():
        return None
    return load_tokenizer(path)

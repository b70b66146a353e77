"""The tokenizer inside a GGUF file, and the opening of such a file."""

import os
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers.backends import byte_level
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer

# Which pre-tokenizers cut numbers into digits before GPT-2's pattern is applied.
_SINGLE_DIGITS = {"smollm": True, "gpt-2": False, "default": False}
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_CONTROL = 3


def open_gguf(path: str | os.PathLike):
    """Returns a `gguf.GGUFReader` of the file.

    Raises:
      ConfigError: no package gguf, no such file, or a damaged one.
    """
    try:
        import gguf
    except ImportError:
        raise ConfigError("GGUF files need the package gguf: pip install llm_jax[gguf]") from None
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} is no file: give a *.gguf")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # its own errors have no common class
        raise ConfigError(f"{path} is damaged: {error}; fetch it anew") from error


def field(reader, name: str, default=None):
    """Returns what the field `name` of an opened file holds, or `default`."""
    found = reader.get_field(name)
    return default if found is None else found.contents()


def load_gguf_tokenizer(path: str | os.PathLike) -> PretrainedTokenizer:
    """Returns the tokenizer in a GGUF file, with its chat template.

    Raises:
      ConfigError: as `open_gguf`, or a kind other than byte-level BPE.
    """
    reader = open_gguf(path)
    kind = field(reader, "tokenizer.ggml.model")
    pre = field(reader, "tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in _SINGLE_DIGITS:
        raise ConfigError(f"{path} has a tokenizer {kind!r}/{pre!r}, which is not known")
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in field(reader, "tokenizer.ggml.merges")]
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = byte_level(vocab, merges, single_digits=_SINGLE_DIGITS[pre])
    types = field(reader, "tokenizer.ggml.token_type", [])
    backend.add_special_tokens([t for t, type_ in zip(tokens, types) if type_ == _CONTROL])
    special = {}
    for role, name in _ROLES.items():
        number = field(reader, f"tokenizer.ggml.{name}_token_id")
        if number is not None:
            special[role] = tokens[number]
    return PretrainedTokenizer(backend, special, field(reader, "tokenizer.chat_template"))

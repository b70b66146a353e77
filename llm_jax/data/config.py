"""The data room's configuration: which text, how it is cut into tokens and rows."""

import dataclasses

from llm_jax.configuration import ConfigError, nearest

SOURCES = ("stdlib", "text")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How the sentencepiece BPE tokenizer is trained (its size is the model's vocab_size).

    Attributes:
      sample_bytes: at most about this many bytes of the train split are read for training, as
        evenly spaced chunks of lines.
      cross_spaces: whether a piece may hold spaces inside (`"return None\\n"`); on Python code
        this gives about 10% fewer tokens a byte at 4,096 pieces.
      max_piece_length: characters of the longest piece.
    """

    sample_bytes: int = 6_000_000
    cross_spaces: bool = True
    max_piece_length: int = 32

    def __post_init__(self):
        if self.sample_bytes < 1:
            raise ConfigError(
                f"data.tokenizer.sample_bytes is {self.sample_bytes}: give 1 or more bytes"
            )
        if not 1 <= self.max_piece_length <= 512:
            raise ConfigError(
                f"data.tokenizer.max_piece_length is {self.max_piece_length}: give 1 to 512"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how rows are made of it.

    Attributes:
      source: "stdlib" (the running Python's standard library) or "text" (`path`).
      path: for "text": a directory, a file, or several of them with commas between.
      sequence_length: inputs in a row, in tokens.
      cross_document_attention: let a token attend to earlier documents in its row; the rows then
        carry neither segment ids nor positions: each is one sequence.
      tokenizer: how the tokenizer is trained.
      read_threads: threads that read batches ahead; 0 reads when asked.
    """

    source: str = "stdlib"
    path: str = ""
    sequence_length: int = 256
    cross_document_attention: bool = False
    tokenizer: TokenizerConfig = TokenizerConfig()
    read_threads: int = 2

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ConfigError(f"data.source is {self.source!r}: {nearest(self.source, SOURCES)}")
        if self.source == "text" and not self.path.strip(", "):
            raise ConfigError(
                "data.path is empty with data.source 'text': give a directory, or files with "
                "commas between"
            )
        if self.source != "text" and self.path:
            raise ConfigError(
                f"data.path is {self.path!r} but data.source is {self.source!r}: "
                "set data.source to 'text', or leave the path empty"
            )
        if self.sequence_length < 1:
            raise ConfigError(
                f"data.sequence_length is {self.sequence_length}: give 1 or more tokens"
            )
        if self.read_threads < 0:
            raise ConfigError(f"data.read_threads is {self.read_threads}: give 0 or more")

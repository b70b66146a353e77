"""The data room's configuration: which text or images, how they are cut into tokens and rows."""

import dataclasses

from llm_jax.configuration import ConfigError, nearest

# Every source and the kind of examples that it gives.
SOURCES = {
    "stdlib": "text",
    "text": "text",
    "cleaned": "text",
    "functions": "pairs",
    "pairs": "pairs",
    "images": "images",
}
_WITHOUT_PATH = ("stdlib", "functions")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, or how a sentencepiece BPE one is trained, of model.vocab_size pieces.

    Attributes:
      path: what `llm_jax.data.load_tokenizer` reads: a Hugging Face folder, a `*.gguf`, a run's
        work directory. Empty: that of `init_from`, else one is trained, as the other keys say.
      sample_bytes: at most about this many bytes of the train split are read for training, as
        evenly spaced chunks of lines.
      cross_spaces: whether a piece may hold spaces inside (`"return None\\n"`); on Python code
        this gives about 10% fewer tokens a byte at 4,096 pieces.
      max_piece_length: characters of the longest piece.
    """

    path: str = ""
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
    """Where the examples come from and how rows are made of them.

    Attributes:
      source: "stdlib" (the running Python's standard library), "text" (UTF-8 files in `path`),
        "cleaned" (`path`: what `experiments.prepare_data` wrote),
        "functions" (of the standard library: a function with its name left out, and the name),
        "pairs" (`path`: files `*.tsv` with a source and a target in each line, or `*.jsonl` with
        these two keys) or "images" (`path`: see `llm_jax.data.images`).
      path: a directory, a file, or several of them with commas between.
      sequence_length: inputs in a row, in tokens; of pairs the longest source.
      cross_document_attention: let a token attend to earlier documents in its row; the rows then
        carry neither segment ids nor positions: each is one sequence.
      tokenizer: which, or how it is trained.
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
        if self.source not in _WITHOUT_PATH and not self.path.strip(", "):
            raise ConfigError(
                f"data.path is empty with data.source {self.source!r}: give a directory, or files "
                "with commas between"
            )
        if self.source in _WITHOUT_PATH and self.path:
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

    @property
    def kind(self) -> str:
        """What an example is: "text", "pairs" or "images"."""
        return SOURCES[self.source]

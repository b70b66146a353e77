"""What a study of tokenizers trains on and compares."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.config import TOKENIZERS, DataConfig, TokenizerConfig
from llm_jax.data.prepare import open_documents
from llm_jax.data.tokenizers.bpe import sample


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Which tokenizers are trained, and on what.

    Attributes:
      data: source, path and mixture of the text; `data.tokenizer` says how tokenizers are trained.
      kinds: in place of `data.tokenizer.kind` several, each with every size; `lowercase` is for
        "wordpiece" among them.
      vocab_sizes: pieces of each, special ones included.
      measured_bytes: at most about this much of the validation split is measured.
    """

    data: DataConfig = DataConfig()
    kinds: tuple = ()
    vocab_sizes: tuple = (4096,)
    measured_bytes: int = 2_000_000

    def __post_init__(self):
        for kind in self.kinds:
            if kind not in TOKENIZERS:
                raise ConfigError(f"kinds has {kind!r}: {nearest(str(kind), TOKENIZERS)}")
        for size in self.vocab_sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"vocab_sizes has {size!r}: give whole numbers of pieces")
        for name in ("kinds", "vocab_sizes"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ConfigError(f"{name} is {given}: give each once")
        if not self.vocab_sizes:
            raise ConfigError("vocab_sizes is empty: give one size or more, such as (4096,)")
        if self.measured_bytes < 1:
            raise ConfigError(f"measured_bytes is {self.measured_bytes}: give 1 or more")
        if self.data.kind == "images":
            raise ConfigError(
                f"data.source is {self.data.source!r}, which has no text: give another"
            )
        if self.data.tokenizer.path:
            raise ConfigError(
                f"data.tokenizer.path is {self.data.tokenizer.path!r}, but tokenizers are trained "
                "here: leave it empty"
            )

    @property
    def several(self) -> bool:
        """Whether there is more than one candidate."""
        return len(self.kinds) > 1 or len(self.vocab_sizes) > 1

    def candidates(self) -> Iterator[tuple[str, int, TokenizerConfig]]:
        """Yields (name, pieces, options) of each tokenizer to train."""
        options = self.data.tokenizer
        for kind, size in itertools.product(self.kinds or (options.kind,), self.vocab_sizes):
            lowercase = options.lowercase and kind == "wordpiece"
            given = dataclasses.replace(options, kind=kind, lowercase=lowercase)
            yield f"{kind}-{size}", size, given


def open_texts(config: DataConfig, split: str, size: int) -> list[str]:
    """Returns evenly spaced chunks of a split's text, of about `size` bytes at most in all.

    They are those that `prepare` trains its tokenizer on. The text is read twice and never held.
    """
    source = open_documents(config)
    sources = list(source.values()) if isinstance(source, dict) else [source]
    total = sum(len(text.encode()) for text in _texts(sources, split, config.kind))
    return list(sample(_texts(sources, split, config.kind), max(1, -(-total // size))))


def _texts(sources: list, split: str, kind: str) -> Iterator[str]:
    from llm_jax.data.documents import split_parts  # imports TFDS, most of a second

    for source in sources:
        for document in source.documents(split):
            if kind == "pairs":
                yield from (split_parts(document.text)[0], document.target)
            else:
                yield from split_parts(document.text)


def refuse_used(workdir: Path) -> None:
    """Raises ConfigError where `workdir` is there and not an empty folder."""
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ConfigError(f"{workdir} is in use: give another --workdir, or move it away")

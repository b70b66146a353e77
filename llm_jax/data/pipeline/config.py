"""The pipeline's configuration: what is read, how it is cleaned, and what is thrown away."""

import dataclasses

from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.cleaning import normalize, quality
from llm_jax.data.cleaning.personal import KINDS
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.dedup.lsh import NearDuplicates

ACTIONS = ("keep", "mask", "remove")


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which records of the raw files are documents.

    Attributes:
      path: a directory, a file, or several of them with commas between; the format is by the
        suffix, see `llm_jax.data.readers`.
      text: the column, or key, with a document's text.
      id: that with its name; empty: the file's path and the place in it.
      unknown_as_text: files of other suffixes are texts, each one document.
      max_record_bytes: a larger record counts as bad.
      max_bad_share: of all records; where more are bad, the run stops.
    """

    path: str = ""
    text: str = "text"
    id: str = ""
    unknown_as_text: bool = False
    max_record_bytes: int = 16 << 20
    max_bad_share: float = 0.01

    def __post_init__(self):
        if not self.path.strip(", "):
            raise ConfigError("data.path is empty: give a directory, or files with commas between")
        if not self.text:
            raise ConfigError("data.text is empty: name the column with the text")
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"data.max_bad_share is {self.max_bad_share}: give 0 to 1")


@dataclasses.dataclass(frozen=True)
class Filtering:
    """Which documents stay, and as what.

    Attributes:
      steps: what is done to a text first, names of `llm_jax.data.cleaning.normalize.STEPS`.
      languages: codes of ISO 639-1 of which one must be identified; none: any.
      min_probability: with which it must.
      rules: of quality, names of `quality.LINE_RULES` and `quality.RULES`, or all of those that
        begin alike: "c4", "gopher", "fineweb".
      thresholds: other thresholds of these, by name.
      personal: what is done about personal data: "keep", "mask", or "remove" the document.
      kinds: of personal data.
      words: files with words that no document may have, one a line.
      allowed_words: longer words in which they may stand.
    """

    steps: tuple = ("unicode", "control")
    languages: tuple = ()
    min_probability: float = 0.5
    rules: tuple = ()
    thresholds: dict = dataclasses.field(default_factory=dict)
    personal: str = "mask"
    kinds: tuple = tuple(KINDS)
    words: tuple = ()
    allowed_words: tuple = ()

    def __post_init__(self):
        for key, known in (("steps", normalize.STEPS), ("kinds", KINDS)):
            for name in getattr(self, key):
                if name not in known:
                    raise ConfigError(f"filter.{key} has {name!r}: {nearest(name, known)}")
        chosen = sum(self.rule_names(), ())
        for name in self.thresholds:
            if name not in chosen:
                raise ConfigError(
                    f"filter.thresholds has {name!r}, which is none of filter.rules: "
                    f"{nearest(name, chosen)}"
                )
        if self.personal not in ACTIONS:
            raise ConfigError(
                f"filter.personal is {self.personal!r}: {nearest(self.personal, ACTIONS)}"
            )
        if not 0 <= self.min_probability <= 1:
            raise ConfigError(f"filter.min_probability is {self.min_probability}: give 0 to 1")

    def rule_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the rules of lines and those of documents that `rules` stands for."""
        every = (*quality.LINE_RULES, *quality.RULES)
        chosen = []
        for given in self.rules:
            meant = [name for name in every if name == given or name.startswith(f"{given}_")]
            if not meant:
                groups = sorted({name.partition("_")[0] for name in every})
                raise ConfigError(
                    f"filter.rules has {given!r}: {nearest(given, (*groups, *every))}"
                )
            chosen += [name for name in meant if name not in chosen]
        lines = tuple(name for name in chosen if name in quality.LINE_RULES)
        return lines, tuple(name for name in chosen if name in quality.RULES)


@dataclasses.dataclass(frozen=True)
class Deduplication:
    """Which documents are one and the same; the first of them stays.

    Attributes:
      exact: texts that are equal but for white space.
      near: texts whose word n-grams are equal to a share of `settings.threshold`.
      settings: of the near ones.
    """

    exact: bool = True
    near: bool = True
    settings: NearDuplicates = NearDuplicates()


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """How what is left becomes rows of tokens: the same keys as `model` and `data` of a run.

    Attributes:
      vocab_size, sequence_length, cross_document_attention, tokenizer: as there.
    """

    vocab_size: int = 4096
    sequence_length: int = 256
    cross_document_attention: bool = False
    tokenizer: TokenizerConfig = TokenizerConfig()


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """All of it; `workers` processes give what one gives."""

    data: Reading
    filter: Filtering = dataclasses.field(default_factory=Filtering)
    dedup: Deduplication = Deduplication()
    rows: RowsConfig = RowsConfig()
    workers: int = 1

    def __post_init__(self):
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}: give 1 or more")

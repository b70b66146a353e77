"""The data room's configuration: which text or images, how they are cut into tokens and rows."""

import dataclasses
import re

from llm_jax.configuration import ConfigError, nearest, parse, to_dict
from llm_jax.data.mixture import Mixing, Part

# Every source and the kind of examples that it gives.
SOURCES = {
    "stdlib": "text",
    "text": "text",
    "cleaned": "text",
    "records": "text",
    "tfds": "text",
    "mixture": "text",
    "functions": "pairs",
    "pairs": "pairs",
    "images": "images",
    "labelled": "labelled",
    "csv": "labelled",
    "tagged": "labelled",
}
_WITHOUT_PATH = ("stdlib", "functions", "mixture")
PACKINGS = ("split", "best_fit")
TOKENIZERS = ("bpe", "unigram", "byte_bpe", "wordpiece")
# Those that every manifest tells.
_FIRST_KEYS = ("path", "sample_bytes", "cross_spaces", "max_piece_length")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, or how one is trained, of model.vocab_size pieces.

    Attributes:
      path: what `llm_jax.data.load_tokenizer` reads: a Hugging Face folder, a `*.gguf`, a run's
        work directory. Empty: that of `init_from`, else one is trained, as the other keys say.
      kind: "bpe" or "unigram" (sentencepiece's), "byte_bpe" (GPT-2's) or "wordpiece" (BERT's).
      sample_bytes: at most about this many bytes of the train split are read for training, as
        evenly spaced chunks of lines.
      cross_spaces: whether a piece of "bpe" or "unigram" may hold spaces inside
        (`"return None\\n"`); on Python code this gives about 10% fewer tokens a byte at 4,096
        pieces. Those of the other kinds never do, but for runs of white space in "byte_bpe".
      max_piece_length: characters of the longest piece, of "byte_bpe" its bytes; 1 gives a
        vocabulary of characters.
      split_digits: every digit is a piece of its own.
      lowercase: of "wordpiece": small letters without accents, as in BERT's uncased models.
      special_tokens: pieces that text never encodes to, beside the objective's own.
    """

    path: str = ""
    kind: str = "bpe"
    sample_bytes: int = 6_000_000
    cross_spaces: bool = True
    max_piece_length: int = 32
    split_digits: bool = False
    lowercase: bool = False
    special_tokens: tuple = ()

    def __post_init__(self):
        if self.kind not in TOKENIZERS:
            raise ConfigError(
                f"data.tokenizer.kind is {self.kind!r}: {nearest(self.kind, TOKENIZERS)}"
            )
        if self.sample_bytes < 1:
            raise ConfigError(
                f"data.tokenizer.sample_bytes is {self.sample_bytes}: give 1 or more bytes"
            )
        if not 1 <= self.max_piece_length <= 512:
            raise ConfigError(
                f"data.tokenizer.max_piece_length is {self.max_piece_length}: give 1 to 512"
            )
        if self.lowercase and self.kind != "wordpiece":
            raise ConfigError(
                f"data.tokenizer.lowercase is set with kind {self.kind!r}, which keeps every text "
                "as it is: leave it, or choose 'wordpiece'"
            )
        for token in self.special_tokens:
            if not isinstance(token, str) or not token or token != token.strip():
                raise ConfigError(
                    f"data.tokenizer.special_tokens has {token!r}: give texts such as '<|user|>', "
                    "without spaces around"
                )
        if len(set(self.special_tokens)) < len(self.special_tokens):
            raise ConfigError(f"data.tokenizer.special_tokens has one twice: {self.special_tokens}")

    def inputs(self) -> dict:
        """Returns what a manifest tells of it: newer keys only where they are set."""
        new = {f.name: f.default for f in dataclasses.fields(self) if f.name not in _FIRST_KEYS}
        told = to_dict(self)
        return {key: value for key, value in told.items() if getattr(self, key) != new.get(key)}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the examples come from and how rows are made of them.

    Attributes:
      source: "stdlib" (the running Python's standard library), "text" (UTF-8 files in `path`),
        "cleaned" (`path`: what `experiments.prepare_data` wrote), "records" (column `text` of the
        JSON lines, CSV, TSV, parquet, tar and arrow files in `path`), "tfds" (feature `text` of
        the dataset of this name, see `llm_jax.data.tfds_texts`),
        "functions" (of the standard library: a function with its name left out, and the name),
        "pairs" (`path`: files `*.tsv` with a source and a target in each line, or `*.jsonl` with
        these two keys), "images" (`path`: see `llm_jax.data.images`), "labelled", also called "csv"
        (columns `text` and `label` of a table, or a folder for each class, see
        `llm_jax.data.labelled`), "tagged" (sentences, see `llm_jax.data.tagged`) or "mixture" (of
        `mixture`).
      path: a directory, a file, or several of them with commas between.
      text: the column, or key, with a document's text, of sources "records", "tfds", "labelled".
      second: of source "labelled": the column with a text that goes with the first, where pairs are
        classified; empty: there is none.
      image, label: the columns with pictures and with labels, of sources "images" (parquet files
        and saved datasets) and "labelled".
      window: of source "labelled": texts are read in windows of so many tokens, of which the head
        reads all together; 0: a text is one row.
      test_path: of source "labelled": the test set, of the same columns; empty: a part of `path`.
      per_class: of classes: training takes but so many examples of each; 0: all.
      folds, fold: of labels: `path` is cut into so many folds, and the one of this number, from
        0, is the test; 0: off. Texts of `test_path` are then in none.
      image_size: of pictures, to which they are scaled and cut; 0 leaves them.
      sequence_length: inputs in a row, in tokens; of pairs the longest source.
      packing: "split" (documents one behind the other, cut into rows) or "best_fit" (rows of whole
        documents, padded, see `llm_jax.data.best_fit`).
      mixture: by name the parts of source "mixture", each a group of keys of
        `llm_jax.data.mixture.Part`; their tokenizer is one.
      temperature: of the mixture, see there.
      cross_document_attention: let a token attend to earlier documents in its row; the rows then
        carry neither segment ids nor positions: each is one sequence.
      tokenizer: which, or how it is trained.
      read_threads: threads that read batches ahead; 0 reads when asked.
    """

    source: str = "stdlib"
    path: str = ""
    text: str = "text"
    second: str = ""
    image: str = "image"
    label: str = "label"
    window: int = 0
    test_path: str = ""
    per_class: int = 0
    folds: int = 0
    fold: int = 0
    image_size: int = 0
    sequence_length: int = 256
    packing: str = "split"
    mixture: dict = dataclasses.field(default_factory=dict)
    temperature: float = 0.0
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
        if self.image_size < 0:
            raise ConfigError(f"data.image_size is {self.image_size}: give 0 or more pixels")
        for key in ("image", "label"):
            if not getattr(self, key):
                raise ConfigError(f"data.{key} is empty: name the column")
        if self.second and self.source == "tagged":
            raise ConfigError(
                f"data.second is {self.second!r} and data.source 'tagged', which has no second "
                "text: leave it empty"
            )
        if self.window and (self.source not in ("labelled", "csv") or self.second):
            raise ConfigError(
                f"data.window is {self.window}, which is for labelled texts that are no pairs: "
                "leave it 0"
            )
        if self.window and (self.window < 8 or self.sequence_length % self.window):
            raise ConfigError(
                f"data.window is {self.window} and data.sequence_length {self.sequence_length}: "
                "give 8 or more, and a multiple of it as the length"
            )
        if self.per_class < 0 or (self.per_class and self.source not in ("labelled", "csv")):
            raise ConfigError(
                f"data.per_class is {self.per_class} with data.source {self.source!r}: give 0 or "
                "more, to labelled texts"
            )
        if self.folds and (self.kind != "labelled" or self.folds < 2):
            raise ConfigError(
                f"data.folds is {self.folds} with data.source {self.source!r}: give 2 or more, to "
                "labelled or tagged texts"
            )
        if not 0 <= self.fold < max(self.folds, 1):
            raise ConfigError(
                f"data.fold is {self.fold} of {self.folds} data.folds: they count from 0"
            )
        if not self.text:
            raise ConfigError("data.text is empty: name the column with the text")
        if self.sequence_length < 1:
            raise ConfigError(
                f"data.sequence_length is {self.sequence_length}: give 1 or more tokens"
            )
        if self.packing not in PACKINGS:
            raise ConfigError(
                f"data.packing is {self.packing!r}: {nearest(self.packing, PACKINGS)}"
            )
        if self.temperature < 0:
            raise ConfigError(f"data.temperature is {self.temperature}: give 0 or more")
        self._check_mixture()
        if self.read_threads < 0:
            raise ConfigError(f"data.read_threads is {self.read_threads}: give 0 or more")

    @property
    def kind(self) -> str:
        """What an example is: "text", "pairs", "images" or "labelled"."""
        return SOURCES[self.source]

    @property
    def mixing(self) -> Mixing | None:
        """How the parts are mixed; None where the source is no mixture."""
        if self.source != "mixture":
            return None
        # By name, as in the manifest: no order of keys changes a batch.
        parts = {
            name: parse(Part, given, f"data.mixture.{name}")
            for name, given in sorted(self.mixture.items())
        }
        return Mixing(parts, self.temperature)

    def of_part(self, name: str) -> "DataConfig":
        """Returns the configuration of a mixture's part."""
        part = self.mixing.parts[name]
        given = {"source": part.source, "path": part.path, "text": part.text}
        return dataclasses.replace(self, **given, mixture={})

    def _check_mixture(self) -> None:
        if (self.source == "mixture") != bool(self.mixture):
            raise ConfigError(
                f"data.source is {self.source!r} and data.mixture has {len(self.mixture)} parts: "
                'give parts to source "mixture", and to no other'
            )
        for name in self.mixture:
            if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ConfigError(
                    f"data.mixture has a part {name!r}: name it with letters, digits, - and _"
                )
            part = self.mixing.parts[name]
            part.check(f"data.mixture.{name}")
            possible = [of for of, kind in SOURCES.items() if kind == "text" and of != "mixture"]
            if part.source not in possible:
                raise ConfigError(
                    f"data.mixture.{name}.source is {part.source!r}: give one of "
                    f"{', '.join(possible)}"
                )
            try:
                self.of_part(name)
            except ConfigError as error:
                raise ConfigError(f"data.mixture.{name}: {error}") from None

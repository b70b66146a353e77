"""The manifest beside prepared data: what it was made from, how much it is, and its checksums."""

import dataclasses
import hashlib
import json
from pathlib import Path

from llm_jax.configuration import ConfigError, parse, to_dict

FILE_NAME = "manifest.json"
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Prepared data in one page; `manifest.json` holds the same.

    Attributes:
      format: version of the directory's layout.
      inputs: everything the data follows from: source, content_sha256, python (of its own library
        only), and of text vocab_size, sequence_length, cross_document_attention, tokenizer,
        record_length and symbols.
      source: a name of `llm_jax.data.config.SOURCES`.
      python: version of the Python that prepared it.
      hold_out: what validation is made of, in words.
      documents: number of documents, pairs or images, by split (as are the next three).
      bytes: their UTF-8 bytes, or of pixels.
      rows: rows, the partly filled last one included.
      tokens: the documents' tokens, of pairs the targets', and one EOS each.
      files: sha256 of every file in the directory but this one, by relative path.
      sequence_length: inputs in a row.
      vocab_size: pieces of the tokenizer (at most the number asked for).
      bos_id, eos_id: the tokens before and behind each document.
      pad_id: the tokenizer's padding, where it has one.
      tokenizer_sha256: of `tokenizer.model`, or of a pretrained one's `tokenizer.json`.
      tokens_sha256: of each split's token file.
      parts: of a mixture the train tokens of each part, by name.
      labels: of labelled texts what `llm_jax.data.labelled_rows` counted; else empty.
      images: of images their shape (C, H, W), number of classes, mean and deviation of the train
        split's pixels; else empty.
    """

    format: int
    inputs: dict
    source: str
    python: str
    hold_out: str
    documents: dict
    bytes: dict
    rows: dict
    files: dict
    tokens: dict = dataclasses.field(default_factory=dict)
    sequence_length: int = 0
    vocab_size: int = 0
    bos_id: int = 0
    eos_id: int | None = None
    pad_id: int | None = None
    tokenizer_sha256: str = ""
    tokens_sha256: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)
    labels: dict = dataclasses.field(default_factory=dict)
    images: dict = dataclasses.field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Writes the manifest into `directory`."""
        text = json.dumps(to_dict(self), indent=2, sort_keys=True)
        (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def load_manifest(directory: Path) -> Manifest:
    """Reads the manifest of prepared data.

    Raises:
      ConfigError: there is none, or it cannot be read as one.
    """
    path = Path(directory) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{path} is not there or not readable: {directory} holds no prepared data; run "
            "pretrain (it prepares them), or name the directory that has them"
        ) from None
    try:
        return parse(Manifest, json.loads(text), "manifest")
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): {again(directory)}") from None


def verify(directory: Path, manifest: Manifest, names: list[str] | None = None) -> None:
    """Checks files of `directory` (None: all) against the manifest's checksums.

    Raises:
      ConfigError: naming the first file that is missing or has other bytes.
    """
    for name in sorted(manifest.files) if names is None else names:
        path = Path(directory) / name
        if not path.is_file():
            raise ConfigError(f"{path} is missing: {again(directory)}")
        if sha256_of(path) != manifest.files.get(name):
            raise ConfigError(
                f"{path} is damaged (its sha256 is not the manifest's): {again(directory)}"
            )


def again(directory: Path) -> str:
    """Returns the advice to restore or remake `directory`."""
    return f"restore it, or delete {directory} to have the data prepared again"


def sha256_of(path: Path) -> str:
    """Returns the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

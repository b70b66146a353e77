"""BPE and unigram models by sentencepiece, with byte fallback: every text comes back as it was.

Chosen for code (bytes a token on held-out modules of the standard library at 4,096 pieces):
sentencepiece's defaults give 2.2, whitespace-only pieces 3.6, pieces that cross spaces 3.9, and
spaces counted to the piece before them 4.1, because a line end then merges with the indentation
that follows it. No text normalization, no prefix space, no trimmed spaces.
Reference: Sennrich et al. 2016 (arXiv:1508.07909); Kudo 2018 (arXiv:1804.10959); Kudo &
Richardson 2018 (arXiv:1808.06226).
"""

import codecs
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.tokenizers import cuts

# sentencepiece writes a space as this character, and would read the character itself as a space.
_SPACE_MARK = "▁"
_UNK_ID, _BOS_ID, _EOS_ID = 0, 1, 2
_FIXED_PIECES = 3 + 256
_CHUNK_CHARACTERS = 2000
_CHARACTER_COVERAGE = 0.9995


class Tokenizer:
    """A trained tokenizer. Build it with `load_tokenizer`.

    Attributes:
      vocab_size: number of pieces; token ids are below it.
      bos_id, eos_id: the marks before and after a document; text never encodes to them.
      pad_id: what fills up rows; text never encodes to it either.
      symbols: ids of the special pieces that `train` was given, by name; text never encodes to
        them, and they decode to nothing.
    """

    def __init__(self, model: bytes):
        """Reads a serialized sentencepiece model (raises RuntimeError for other bytes)."""
        import sentencepiece

        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.pad_id: int = _UNK_ID
        self.symbols: dict[str, int] = {
            self._processor.id_to_piece(piece_id): piece_id
            for piece_id in range(self.vocab_size)
            if self._processor.is_control(piece_id) and piece_id not in (self.bos_id, self.eos_id)
        }
        self._pairs = cuts.inner_pairs(model)
        self._bytes = [self._read_piece(piece_id) for piece_id in range(self.vocab_size)]
        self._space_mark = [
            self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()
        ]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`, without marks; `decode` gives back exactly `text`.

        Raises:
          ConfigError: `text` holds a lone surrogate, which no UTF-8 text can.
        """
        return self.encode_all([text], threads=1)[0]

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a text to continue: the mark of a document's beginning, and `text`."""
        return [self.bos_id, *self.encode(text)]

    def encode_all(self, texts: Sequence[str], *, threads: int | None = None) -> list[list[int]]:
        """Returns `encode` of each text, worked on by `threads` (None: as many as processors)."""
        try:
            for text in texts:
                text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"text has the lone surrogate U+{ord(error.object[error.start]):04X} at character "
                f"{error.start}, which is no valid Unicode: give UTF-8 text"
            ) from None
        texts = [[cuts.cut(part, self._pairs) for part in t.split(_SPACE_MARK)] for t in texts]
        flat = [part.encode("utf-8") for parts in texts for cut in parts for part in cut]
        encoded = iter(
            self._processor.encode(flat, out_type=int, num_threads=threads or os.cpu_count())
        )
        result = []
        for parts in texts:
            ids = []
            for number, cut in enumerate(parts):
                if number:
                    ids += self._space_mark
                for own in itertools.islice(encoded, len(cut)):
                    ids += own
            result.append(ids)
        return result

    @property
    def marks(self) -> tuple[int, int]:
        """Ids of the marks that begin and end a document."""
        return self.bos_id, self.eos_id

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that stand before and behind a text of their own accord: none."""
        return [], []

    @property
    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """The same before, between and behind a pair of texts."""
        return [], [], []

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns `encode_all`: what reads like a mark in a text is text."""
        return self.encode_all(texts)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.model` into `folder`."""
        Path(folder, "tokenizer.model").write_bytes(self._model)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids`: marks are left out, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes[piece_id] for piece_id in ids).decode("utf-8", "replace")

    def token_bytes(self, piece_id: int) -> bytes:
        """Returns the UTF-8 bytes that one token stands for (none for the marks)."""
        return self._bytes[piece_id]

    def stream(self) -> "StreamDecoder":
        """Returns a decoder that takes one token at a time."""
        return StreamDecoder(self)

    def _read_piece(self, piece_id: int) -> bytes:
        piece = self._processor.id_to_piece(piece_id)
        if self._processor.is_byte(piece_id):
            return bytes([int(piece[1:-1], 16)])
        if self._processor.is_control(piece_id) or self._processor.is_unknown(piece_id):
            return b""
        return piece.replace(_SPACE_MARK, " ").encode("utf-8")


class StreamDecoder:
    """Text as tokens arrive: only whole UTF-8 characters come out.

    The pushed texts and the flush together equal `Tokenizer.decode` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece_id: int) -> str:
        """Takes one token id; returns the characters that it completes, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(piece_id))

    def flush(self) -> str:
        """Ends the text: returns U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: the file `tokenizer.model`, or the directory that holds it.

    Raises:
      ConfigError: the file is missing or is no sentencepiece model.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.model"
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): give the path of a tokenizer.model"
        ) from None
    try:
        return Tokenizer(model)
    except RuntimeError:
        raise ConfigError(
            f"{path} is no sentencepiece model, or a damaged one: restore it, or prepare the data "
            "again in another directory"
        ) from None


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    config: TokenizerConfig,
    every: int,
    symbols: tuple[str, ...] = (),
) -> bytes:
    """Trains a tokenizer of kind "bpe" or "unigram"; the same texts give the same bytes.

    Args:
      texts: documents or parts of them, in a fixed order.
      vocab_size: pieces wanted, marks and bytes included; short texts may give fewer.
      every: see `sample`.
      symbols: special pieces to make room for, e.g. "<mask>"; see `Tokenizer.symbols`.

    Returns:
      the serialized sentencepiece model.

    Raises:
      ConfigError: `vocab_size` has no room for a single piece beside the marks, symbols and
        bytes, or the text holds nothing to learn from.
    """
    import sentencepiece

    fixed_pieces = _FIXED_PIECES + len(symbols)
    if vocab_size <= fixed_pieces:
        raise ConfigError(
            f"model.vocab_size is {vocab_size}: give more than {fixed_pieces} (3 marks, "
            f"{len(symbols)} symbols and 256 bytes come before the first learned piece)"
        )
    chunks, room = list(sample(texts, every)), vocab_size - fixed_pieces
    characters = room if config.max_piece_length == 1 else (room + 1) // 2
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_within_alphabet(chunks, characters)),
            model_writer=model,
            model_type=config.kind,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            treat_whitespace_as_suffix=True,
            split_by_whitespace=not config.cross_spaces,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=config.max_piece_length,
            max_sentence_length=4 * _CHUNK_CHARACTERS + 1,
            unk_id=_UNK_ID,
            bos_id=_BOS_ID,
            eos_id=_EOS_ID,
            pad_id=-1,
            control_symbols=list(symbols),
            num_threads=1,
            minloglevel=2,
            # Even its default, where given, is stored: older models' bytes do not have it.
            **({"split_digits": True} if config.split_digits else {}),
        )
    except RuntimeError as error:
        raise ConfigError(
            f"sentencepiece finds nothing to learn in this text ({error}): give more text"
        ) from None
    return model.getvalue()


def sample(texts: Iterable[str], every: int) -> Iterator[str]:
    """Cuts `texts` into chunks of lines, 2,000 characters at most, and yields each `every`-th."""
    chunks = (part for text in texts for part in _chunks(text))
    return itertools.islice(chunks, 0, None, every)


def _chunks(text: str) -> list[str]:
    """Cuts `text` before line ends, so that a line end stays with the indentation after it."""
    chunks, start = [], 0
    while len(text) - start > _CHUNK_CHARACTERS:
        limit = start + _CHUNK_CHARACTERS
        cut = max(text.rfind("\n", start + 1, limit), start)
        cut = cut if cut > start else limit
        chunks.append(text[start:cut])
        start = cut
    return [*chunks, text[start:]]


def rare_characters(counts: Counter, max_characters: int) -> list[str]:
    """Returns the characters beyond 99.95% of the text or beyond the commonest `max_characters`."""
    needed = _CHARACTER_COVERAGE * counts.total()
    rare = []
    for rank, (character, count) in enumerate(counts.most_common()):
        if needed <= 0 or rank >= max_characters:
            rare.append(character)
        needed -= count
    return rare


def _within_alphabet(chunks: list[str], max_characters: int) -> list[str]:
    """Cuts `chunks` at their rare characters.

    sentencepiece refuses a vocabulary smaller than the alphabet; of a large alphabet (Chinese, say)
    only the commonest characters become pieces, and byte fallback writes the others.
    """
    counts = Counter()
    for chunk in chunks:
        counts.update(chunk)
    rare = rare_characters(counts, max_characters)
    if not rare:
        return chunks
    cut = re.compile(f"[{re.escape(''.join(rare))}]+")
    return [part for chunk in chunks for part in cut.split(chunk) if part]

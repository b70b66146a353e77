"""Trains a tokenizer of any kind on a stream of texts: sentencepiece's, byte-level BPE, WordPiece.

Whatever the kind, padding is id 0, the mark before a document 1 and the one behind it 2, so that a
model's configuration does not depend on it; the special tokens follow.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from llm_jax.configuration import ConfigError
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.tokenizers import bpe
from llm_jax.data.tokenizers.backends import byte_level, word_piece
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer

_BYTE_MARKS = {"pad": "<pad>", "bos": "<s>", "eos": "</s>"}
_WORD_MARKS = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
# What stands together only once is no piece.
_MIN_COUNT = 2
_DIGITS = "0123456789"
# Words are given to the trainer again and again, as often as they were seen.
_WORDS_AT_ONCE = 1000


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    config: TokenizerConfig,
    every: int = 1,
    symbols: tuple[str, ...] = (),
) -> bpe.Tokenizer | PretrainedTokenizer:
    """Trains a tokenizer; the same texts give the same pieces.

    The texts are read once; no more is held than the sample of a sentencepiece model, and of the
    other kinds the different words of it with their counts.

    Args:
      texts: documents or parts of them, in a fixed order.
      vocab_size: pieces wanted, special ones included; short texts may give fewer.
      config: the kind and its options; its `path` is not read.
      every: of the chunks of lines that the texts are cut into, each `every`-th is used.
      symbols: special tokens to make room for, e.g. "<mask>", before those of `config`.

    Raises:
      ConfigError: `vocab_size` has no room for a single piece beside the special ones (and the
        bytes), or the text holds nothing to learn from.
    """
    symbols = tuple(dict.fromkeys((*symbols, *config.special_tokens)))
    if config.kind in ("bpe", "unigram"):
        return bpe.Tokenizer(
            bpe.train(texts, vocab_size=vocab_size, config=config, every=every, symbols=symbols)
        )
    train = _train_bytes if config.kind == "byte_bpe" else _train_words
    return train(bpe.sample(texts, every), vocab_size, config, symbols)


def _train_bytes(
    chunks: Iterable[str], vocab_size: int, config: TokenizerConfig, symbols: tuple[str, ...]
) -> PretrainedTokenizer:
    """Byte-level BPE; runs of white space are words of their own. Radford et al. 2019."""
    marks = _BYTE_MARKS | ({"mask": "<mask>"} if "<mask>" in symbols else {})
    special = list(dict.fromkeys((*_BYTE_MARKS.values(), *symbols)))
    _check_room(vocab_size, len(special), 256)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        max_token_length=config.max_piece_length,
        min_frequency=_MIN_COUNT,
        show_progress=False,
    )
    backend = byte_level({}, [], single_digits=config.split_digits)
    backend.train_from_iterator(map(_valid, chunks), trainer)
    _check_learned(backend, len(special) + len(alphabet))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A",
        pair="<s> $A <s> $B:1",
        special_tokens=[("<s>", backend.token_to_id("<s>"))],
    )
    return PretrainedTokenizer(backend, marks)


def _train_words(
    chunks: Iterable[str], vocab_size: int, config: TokenizerConfig, symbols: tuple[str, ...]
) -> PretrainedTokenizer:
    """WordPiece, whose pieces are learned as BPE's are and found longest first. Devlin et al. 2018.

    A word with one of the rarest characters is unknown. The library numbers pieces in the order of
    a hash map, another one each time (huggingface/tokenizers issue 1794); characters that are
    special to its trainer come in the order in which they are given.
    """
    special = [*_WORD_MARKS.values(), *(name for name in symbols if name != "<mask>")]
    backend = word_piece(list(_WORD_MARKS.values()), lowercase=config.lowercase)
    words, behind_digits = Counter(), set()
    for chunk in chunks:
        text = backend.normalizer.normalize_str(_valid(chunk))
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            parts = re.findall("[0-9]|[^0-9]+", word) if config.split_digits else [word]
            words.update(parts)
            behind_digits.update(part[0] for part in parts[1:])
    counts = Counter()
    for word, count in words.items():
        counts.update(dict.fromkeys(word, count))
    # A character is one piece at a word's beginning and another one inside; half are for longer.
    pieces = len({word[0] for word in words}) + len({c for word in words for c in word[1:]})
    room = (vocab_size - len(special) + 1) // 2 * len(counts) // max(1, pieces)
    for character in bpe.rare_characters(counts, max(0, room)):
        del counts[character]
    kept = {word: count for word, count in words.items() if counts.keys() >= set(word)}
    firsts = {word[0] for word in kept}
    others = {c for word in kept for c in word[1:]} | (behind_digits & counts.keys())
    if config.split_digits:
        firsts |= set(_DIGITS)
        others |= set(_DIGITS)
    letters = [*sorted(firsts), *(f"##{character}" for character in sorted(others))]
    _check_room(vocab_size, len(special), len(letters) if kept else pieces)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *letters],
        min_frequency=_MIN_COUNT,
        show_progress=False,
    )
    learner = Backend(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(kept), trainer)
    _check_learned(learner, len(special) + len(letters))
    vocab = learner.get_vocab()
    backend = word_piece(sorted(vocab, key=vocab.get), lowercase=config.lowercase)
    backend.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PretrainedTokenizer(backend, _WORD_MARKS)


def _repeated(words: dict[str, int]) -> Iterator[str]:
    """Yields the words as often as they were counted, many to a line."""
    for word, count in words.items():
        for start in range(0, count, _WORDS_AT_ONCE):
            yield " ".join(itertools.repeat(word, min(_WORDS_AT_ONCE, count - start)))


def _valid(text: str) -> str:
    """Returns `text`, refused where it is no valid Unicode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"text has the lone surrogate U+{ord(text[error.start]):04X}, which is no valid "
            "Unicode: give UTF-8 text"
        ) from None
    return text


def _check_room(vocab_size: int, special: int, alphabet: int) -> None:
    if vocab_size <= special + alphabet:
        raise ConfigError(
            f"model.vocab_size is {vocab_size}: give more than {special + alphabet} ({special} "
            f"special tokens and {alphabet} single characters or bytes come before the first "
            "learned piece)"
        )


def _check_learned(backend: Backend, fixed: int) -> None:
    if backend.get_vocab_size() <= fixed:
        raise ConfigError("there is nothing to learn in this text: give more text")

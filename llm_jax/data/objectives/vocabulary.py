"""What the objectives need to know of a tokenizer: special ids, words and ends of sentences."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers import PretrainedTokenizer, Tokenizer

# A line with the indentation after it, or a sentence with the space after it: `x.y` ends none.
_SENTENCE_END = re.compile(r"(\n[ \t]*|[.!?]\s+|[。\uff01\uff1f])\Z")
# Where a space belongs to the piece behind it, a full stop ends a sentence, as in BART's own data.
_STOP = re.compile(r"(\n[ \t]*|[.!?]\s*|[。\uff01\uff1f])\Z")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's pieces as tables over their ids.

    A word is a run of letters, digits and underscores; any other character stands alone. Of
    WordPiece it is a piece with all "##" behind it. Two pieces belong to one word where the first
    does not end a word and the second does not begin one.

    Attributes:
      bos_id, eos_id: the marks before and after a document; one mark may do both.
      symbols: ids of special pieces by name, e.g. "<mask>".
      begins_word: bool [vocabulary]; the piece cannot continue the word before it.
      ends_word: bool [vocabulary]; the piece cannot be continued by the one after it.
      special: bool [vocabulary]; marks and symbols, no text: they are never corrupted.
      line_ends: bool [vocabulary]; a line or a sentence ends with the piece.
      before: ids that the tokenizer puts before a text, as BART's does.
    """

    bos_id: int
    eos_id: int
    symbols: Mapping[str, int]
    begins_word: np.ndarray
    ends_word: np.ndarray
    special: np.ndarray
    line_ends: np.ndarray
    before: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer | PretrainedTokenizer) -> "Vocabulary":
        """Returns the tables of `tokenizer`."""
        if pretrained := isinstance(tokenizer, PretrainedTokenizer):
            pieces, (bos_id, eos_id) = tokenizer.pieces(), tokenizer.marks
        else:
            pieces = [tokenizer.token_bytes(piece_id) for piece_id in range(tokenizer.vocab_size)]
            bos_id, eos_id = tokenizer.bos_id, tokenizer.eos_id
        # A byte of a longer character is text that no word ends at.
        texts = [piece.decode("utf-8", "replace").replace("\ufffd", "_") for piece in pieces]
        begins = np.array([not re.match(r"\w", text) for text in texts])
        ends = np.array([not re.search(r"\w\Z", text) for text in texts])
        if pretrained and tokenizer.word_pieces:
            begins = np.array([not text or text.startswith(" ") for text in texts])
            ends = np.zeros(len(texts), bool)
        line_end = _STOP if pretrained else _SENTENCE_END
        return cls(
            bos_id=bos_id,
            eos_id=eos_id,
            symbols=dict(tokenizer.symbols),
            begins_word=begins,
            ends_word=ends,
            special=np.array([not piece for piece in pieces]),
            line_ends=np.array([bool(line_end.search(text)) for text in texts]),
            before=tuple(tokenizer.frame[0]) if pretrained else (),
        )

    def symbol_ids(self, names: tuple[str, ...]) -> np.ndarray:
        """Returns the ids of `names` ([len(names)] int32).

        Raises:
          ConfigError: the tokenizer has not all of them.
        """
        missing = [name for name in names if name not in self.symbols]
        if missing:
            raise ConfigError(
                f"the tokenizer has no special piece {missing[0]!r}: prepare the data again with "
                "this objective"
            )
        return np.array([self.symbols[name] for name in names], np.int32)

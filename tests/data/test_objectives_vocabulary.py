import re

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.objectives import Vocabulary
from llm_jax.data.tokenizers import Tokenizer, train

CODE = "class Alpha:\n    def foo_bar(self, x1):\n        return self.g(x1, None)\n\n\n" * 40
PROSE = "A mask is here. <mask> <mask> <mask> stands in it, and <extra_id_0>! Is it? Yes.\n" * 40
SYMBOLS = ("<mask>", "<extra_id_0>", "<fim_prefix>")


@pytest.fixture(scope="module")
def tokenizer():
    model = train([CODE, PROSE], vocab_size=400, config=TokenizerConfig(), every=1, symbols=SYMBOLS)
    return Tokenizer(model)


def test_symbols_have_ids_that_text_never_encodes_to(tokenizer):
    ids = [tokenizer.symbols[name] for name in SYMBOLS]
    assert tuple(tokenizer.symbols) == SYMBOLS
    assert len({0, tokenizer.bos_id, tokenizer.eos_id, *ids}) == 6
    text = PROSE + "".join(SYMBOLS) + "<unk><s></s>"
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded) == text
    assert not set(encoded) & {0, tokenizer.bos_id, tokenizer.eos_id, *ids}
    assert tokenizer.decode([ids[0], *encoded[:5], *ids]) == tokenizer.decode(encoded[:5])


def test_an_unknown_symbol_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="no special piece '<extra_id_9>'"):
        Vocabulary.of(tokenizer).symbol_ids(("<mask>", "<extra_id_9>"))


def test_symbols_count_in_a_vocabulary_without_room():
    with pytest.raises(ConfigError, match="give more than 262 .*3 symbols"):
        train([CODE], vocab_size=262, config=TokenizerConfig(), every=1, symbols=SYMBOLS)


def test_special_are_the_marks_and_symbols(tokenizer):
    vocabulary = Vocabulary.of(tokenizer)
    want = {0, tokenizer.bos_id, tokenizer.eos_id, *tokenizer.symbols.values()}
    assert set(np.flatnonzero(vocabulary.special)) == want
    assert tokenizer.vocab_size == len(vocabulary.begins_word) == len(vocabulary.special)


def test_words_are_those_of_a_regular_expression(tokenizer):
    vocabulary = Vocabulary.of(tokenizer)
    text = CODE[:300] + PROSE[:200] + "snake_case9 == naïve(日本)"
    ids = np.array(tokenizer.encode(text))
    ends = np.cumsum([len(tokenizer.token_bytes(i)) for i in ids])[:-1]
    inside = np.zeros(len(text.encode()) + 1, bool)
    for word in re.finditer(r"\w+", text):
        first, last = (len(text[:place].encode()) for place in word.span())
        inside[first + 1 : last] = True
    joined = ~vocabulary.ends_word[ids[:-1]] & ~vocabulary.begins_word[ids[1:]]
    np.testing.assert_array_equal(joined, inside[ends])
    assert 0 < joined.sum() < len(joined)


@pytest.mark.parametrize(
    ("text", "ends"),
    [("a line\n", True), ("a line\n    ", True), ("self.x", False), ("no end ", False),
     ("An end. ", True), ("Yes? ", True), ("x.", False), ("終。", True), ("end\nbegun", False)],
)  # fmt: skip
def test_line_ends(text, ends):
    class OnePiece:
        vocab_size, bos_id, eos_id, symbols = 1, 1, 2, {}

        def token_bytes(self, piece_id):
            return text.encode()

    assert Vocabulary.of(OnePiece()).line_ends.tolist() == [ends]

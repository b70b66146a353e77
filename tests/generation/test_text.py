import random

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.config import TokenizerConfig
from llm_jax.data.tokenizers import Tokenizer, train
from llm_jax.generation.text import TextStream, check_stop

TEXT = "def add(first, second):\n    return first + second\n" * 40


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train([TEXT], vocab_size=300, config=TokenizerConfig(), every=1))


def pieces_of(stream, tokens):
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("text", [TEXT, "naïve 🦜🦜 → 日本語\n", "", "▁ ▁▁x"])
def test_pieces_together_are_the_text(tokenizer, text):
    tokens = tokenizer.encode(text)
    stream = TextStream(tokenizer.stream(), ("never in there",))
    assert "".join(pieces_of(stream, tokens)) == stream.text == text == tokenizer.decode(tokens)


def test_no_piece_has_half_a_character(tokenizer):
    tokens = tokenizer.encode("é🦜é")
    assert len(tokens) > 3  # byte fallback: a character takes several tokens
    pieces = pieces_of(TextStream(tokenizer.stream()), tokens)
    assert [piece for piece in pieces if piece] == ["é", "🦜", "é"]


def test_broken_bytes_stream_like_they_decode(tokenizer):
    generator = random.Random(0)
    for _ in range(200):
        tokens = [generator.randrange(tokenizer.vocab_size) for _ in range(12)]
        stream = TextStream(tokenizer.stream())
        assert "".join(pieces_of(stream, tokens)) == stream.text == tokenizer.decode(tokens)


def first_completed(text, stop):
    """The definition, letter by letter: cut where the word begins that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(word) for word in stop if text[:end].endswith(word)]
        if starts:
            return text[: min(starts)]
    return None


def test_stop_strings_cut_exactly_whatever_the_tokens(tokenizer):
    generator = random.Random(1)
    found = 0
    for _ in range(400):
        text = "".join(generator.choice("ab\né") for _ in range(14))
        stop = tuple(
            "".join(generator.choice("ab\né") for _ in range(generator.randint(1, 4)))
            for _ in range(2)
        )
        # Any split into tokens: characters as bytes, or several at once.
        tokens, rest = [], text
        while rest:
            size = generator.randint(1, 5)
            tokens += tokenizer.encode(rest[:size])
            rest = rest[size:]
        stream = TextStream(tokenizer.stream(), stop)
        pieces = pieces_of(stream, tokens)
        expected = first_completed(text, stop)
        found += expected is not None
        assert stream.stopped == (expected is not None)
        assert "".join(pieces) == stream.text == (text if expected is None else expected)
    assert 100 < found < 400


def test_text_that_cannot_stop_is_not_held_back(tokenizer):
    stream = TextStream(tokenizer.stream(), ("END",))
    by_character = [[stream.push(token) for token in tokenizer.encode(c)] for c in "xxENyE"]
    assert ["".join(pieces) for pieces in by_character] == ["x", "x", "", "", "ENy", ""]
    assert stream.finish() == "E"
    assert stream.text == "xxENyE"


def test_empty_stop_strings_are_refused():
    with pytest.raises(ConfigError, match="at least one character"):
        check_stop(("a", ""))

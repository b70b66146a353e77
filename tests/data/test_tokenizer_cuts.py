import itertools
import random
from pathlib import Path

import pytest
import sentencepiece

import llm_jax
from llm_jax.configuration import ConfigError
from llm_jax.data import TokenizerConfig
from llm_jax.data.tokenizers import Tokenizer, cuts, train

SOURCES = [path.read_text() for path in sorted(Path(llm_jax.__file__).parent.glob("data/*.py"))]
CHINESE = ["天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳\n" * 30]
# Pieces of the vocabularies and what is beside them: spaces of all kinds, controls, combining
# characters, joined emoji, Chinese.
ODD = "  \n\t\r\x00\x1b\x7f\x85\u00a0\u2028\u3000\ufeff\u0301é€天地玄黄😀👩\u200d🚀\U0010ffff<0>"


def _model(texts=SOURCES, **config):
    return train(iter(texts), vocab_size=700, config=TokenizerConfig(**config), every=1)


def _random_texts(words):
    draw = random.Random(3)
    for _ in range(25):
        parts = [
            draw.choice(words) if draw.random() < 0.7 else draw.choice(ODD) for _ in range(1200)
        ]
        yield "".join(parts)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: _model(), id="bpe"),
        pytest.param(lambda: _model(cross_spaces=False), id="words"),
        pytest.param(lambda: _model(max_piece_length=3, split_digits=True), id="short"),
        pytest.param(lambda: _model(CHINESE + SOURCES[:3]), id="chinese"),
        pytest.param(lambda: _model(kind="unigram", cross_spaces=False), id="unigram"),
    ],
)
def test_ids_are_those_of_the_whole_text(model):
    model = model()
    tokenizer = Tokenizer(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    words = [processor.id_to_piece(i).replace("▁", " ") for i in range(259, len(processor))]
    joined = "".join(SOURCES).replace("▁", "")
    texts = [
        *_random_texts(words),
        joined,
        CHINESE[0],
        "a" * 3000,
        " " * 3000,
        "x" * 512,
        "\n" * 999,
    ]
    assert tokenizer.encode_all(texts) == processor.encode(texts)


def test_parts_are_short_and_make_up_the_text():
    pairs = cuts.inner_pairs(_model())
    text = "".join(SOURCES)
    parts = cuts.cut(text, pairs)
    assert "".join(parts) == text
    assert max(map(len, parts)) < 4000
    assert len(parts) > len(text) / 700
    assert not pairs & {a[-1] + b[0] for a, b in itertools.pairwise(parts)}


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(proto.trainer_spec, "byte_fallback", False),
        lambda proto: setattr(proto.trainer_spec, "model_type", proto.trainer_spec.UNIGRAM),
        lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", True),
        lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True),
        lambda proto: setattr(proto.normalizer_spec, "escape_whitespaces", False),
        lambda proto: setattr(proto.normalizer_spec, "precompiled_charsmap", b"x"),
        lambda proto: setattr(proto.pieces[-1], "type", proto.pieces[-1].USER_DEFINED),
    ],
)
def test_a_model_whose_ids_may_depend_on_more_is_not_cut(change):
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(_model())
    assert cuts.inner_pairs(proto.SerializeToString())
    change(proto)
    pairs = cuts.inner_pairs(proto.SerializeToString())
    assert pairs is None
    assert cuts.cut("long " * 999, pairs) == ["long " * 999]


def test_a_lone_surrogate_is_told_by_its_place_in_the_text():
    with pytest.raises(ConfigError, match="U\\+D800 at character 1501"):
        Tokenizer(_model()).encode("a ▁" * 500 + "b\ud800")

"""Tokenizers side by side: the numbers by hand, and the text that they are trained on."""

import dataclasses

import pytest

from llm_jax.configuration import ConfigError, parse
from llm_jax.data import DataConfig, TokenizerConfig, load_manifest
from llm_jax.data.tokenizers import comparison, train_tokenizer
from llm_jax.data.tokenizers.study import StudyConfig, open_texts, refuse_used

ENGLISH = "The children were reading about the weather in the old newspaper, page 12.\n"
CHINESE = "今天北京的天气很好我们一起去公园看书\n"
GERMAN = "Die Kinder lasen in der alten Zeitung \u00fcber das sch\u00f6ne Wetter von gestern.\n"


@pytest.fixture(scope="module")
def held_out():
    return comparison.HeldOut([ENGLISH * 30, CHINESE * 20, GERMAN, "12 34"])


def test_words_by_language(held_out):
    assert held_out.words == [13 * 30, 18 * 20, 13, 2]
    assert held_out.words_by_language() == {"en": 390, "zh": 360, "de": 13, "other": 2}
    few = comparison.HeldOut([ENGLISH * 100, GERMAN])
    assert few.words_by_language() == {"en": 1300, "other": 13}


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_the_numbers_are_those_counted_by_hand(held_out, kind):
    config = TokenizerConfig(kind=kind, cross_spaces=False)
    sample = [ENGLISH * 40, GERMAN * 40, "unrelated words stand here " * 9]
    tokenizer = train_tokenizer(sample, vocab_size=380, config=config)
    found = comparison.measure(tokenizer, sample[:2], held_out)
    ids = [tokenizer.encode_documents([text])[0] for text in held_out.texts]
    tokens = sum(map(len, ids))
    assert found["pieces"] == tokenizer.vocab_size
    assert found["bytes_per_token"] == sum(len(t.encode()) for t in held_out.texts) / tokens
    want = {"en": len(ids[0]) / 390, "zh": len(ids[1]) / 360, "de": len(ids[2]) / 13}
    assert found["fertility"] == want | {"other": len(ids[3]) / 2}
    assert found["megabytes_per_second"] > 0

    unknown = tokenizer.symbols.get("[UNK]")
    assert found["unknown"] == sum(one.count(unknown) for one in ids) / tokens
    assert (found["unknown"] > 0.1) == (kind == "wordpiece")  # no Chinese was learned
    seen = {i for text in sample[:2] for i in tokenizer.encode_documents([text])[0]}
    special = {0, 1, 2, *tokenizer.symbols.values()}
    if kind == "unigram":
        pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    else:
        pieces = tokenizer.pieces()
    unused = [
        i for i, piece in enumerate(pieces) if i not in seen and i not in special and len(piece) > 1
    ]
    assert found["unused"] == len(unused) > 0


def test_the_page_has_every_tokenizer_and_language(held_out):
    names = {kind: TokenizerConfig(kind=kind, cross_spaces=False) for kind in ("bpe", "byte_bpe")}
    tokenizers = {
        name: train_tokenizer([ENGLISH * 40, CHINESE * 9], vocab_size=380, config=config)
        for name, config in names.items()
    }
    results = [
        {"name": name, "training_seconds": 1.0} | comparison.measure(each, [ENGLISH], held_out)
        for name, each in tokenizers.items()
    ]
    page = comparison.report(results, tokenizers, held_out)
    assert (
        "tokens a word, en | tokens a word, zh | tokens a word, de | tokens a word, other" in page
    )
    row = next(line for line in page.splitlines() if line.startswith("| byte_bpe |"))
    assert f"| {results[1]['bytes_per_token']:.3f} |" in row
    cut = next(line for line in page.splitlines() if line.startswith("bpe: "))
    assert cut.removeprefix("bpe: ").replace("|", "").startswith(ENGLISH.replace("\n", "\\n")[:60])


def test_the_sample_is_the_one_that_prepare_trains_on(config, texts, tmp_path):
    from llm_jax.data import prepare

    options = dataclasses.replace(config.tokenizer, sample_bytes=3000)
    config = dataclasses.replace(config, tokenizer=options)
    prepare(config, vocab_size=400, directory=tmp_path / "data")
    sample = open_texts(config, "train", 3000)
    assert 1000 < sum(len(text.encode()) for text in sample) < 5000
    tokenizer = train_tokenizer(sample, vocab_size=400, config=options)
    tokenizer.save(tmp_path)
    stored = (tmp_path / "data" / "tokenizer.model").read_bytes()
    assert (tmp_path / "tokenizer.model").read_bytes() == stored
    whole = open_texts(config, "validation", 10**9)
    assert (
        sum(len(text.encode()) for text in whole)
        == load_manifest(tmp_path / "data").bytes["validation"]
    )


def test_pairs_and_mixtures_are_text_too(texts, tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(f"source {i}\ttarget {i}\n" for i in range(60)))
    pairs = DataConfig(source="pairs", path=str(tmp_path / "pairs.tsv"))
    found = "".join(open_texts(pairs, "train", 10**6))
    assert found.count("source ") == found.count("target ") > 40
    one = DataConfig(source="text", path=str(texts))
    parts = {"first": {"source": "text", "path": str(texts), "weight": 1.0}}
    mixture = DataConfig(source="mixture", mixture=parts)
    assert open_texts(mixture, "train", 10**6) == open_texts(one, "train", 10**6)


def test_every_kind_with_every_size_is_a_candidate():
    study = parse(
        StudyConfig,
        {"kinds": ("bpe", "wordpiece"), "vocab_sizes": (500, 600),
         "data": {"tokenizer": {"kind": "wordpiece", "lowercase": True}}},
    )  # fmt: skip
    found = [(name, size, each.lowercase) for name, size, each in study.candidates()]
    assert found == [
        ("bpe-500", 500, False),
        ("bpe-600", 600, False),
        ("wordpiece-500", 500, True),
        ("wordpiece-600", 600, True),
    ]
    assert study.several
    assert StudyConfig(kinds=("bpe", "wordpiece")).several
    assert StudyConfig(vocab_sizes=(500, 600)).several
    assert not StudyConfig(kinds=("wordpiece",)).several
    assert [name for name, _, _ in StudyConfig().candidates()] == ["bpe-4096"]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"kinds": ("bpe", "bp")}, "kinds has 'bp'"),
        ({"kinds": ("bpe", "bpe")}, "give each once"),
        ({"vocab_sizes": ()}, "vocab_sizes is empty"),
        ({"vocab_sizes": (0,)}, "vocab_sizes has 0"),
        ({"vocab_sizes": (1.5,)}, "vocab_sizes has 1.5"),
        ({"measured_bytes": 0}, "measured_bytes is 0"),
        ({"data": {"source": "images", "path": "x"}}, "has no text"),
        ({"data": {"tokenizer": {"path": "x"}}}, "leave it empty"),
    ],
)
def test_impossible_studies_are_refused(given, part):
    with pytest.raises(ConfigError, match=part):
        parse(StudyConfig, given)


def test_a_work_directory_in_use_is_refused(tmp_path):
    refuse_used(tmp_path)
    refuse_used(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="is in use"):
            refuse_used(path)

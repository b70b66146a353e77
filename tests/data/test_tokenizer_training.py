"""Every kind of tokenizer: trained, stored, read again, and the same for other libraries."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, load_manifest, load_tokenizer, open_split
from llm_jax.data import prepare as prepare_data
from llm_jax.data.objectives import FillInTheMiddle, MaskedLM, SpanCorruption, Vocabulary
from llm_jax.data.tokenizers import train_tokenizer
from llm_jax.data.tokenizers.exported import for_transformers

CODE = [line for line in Path(argparse.__file__).read_text().splitlines() if line.strip()][:160]
CHINESE = [
    f"{subject}在{year}年{verb}。价格是{price}元。"
    for subject, year, verb, price in zip(
        ("我们", "大型语言模型", "这本书", "北京的天气", "他") * 6,
        range(1990, 2020),
        ("开始学习", "变得很有用", "出版了", "很好", "走了") * 6,
        range(7, 3007, 100),
    )
]
OTHERS = [
    "",
    "  two in front, two behind  ",
    "Hello, world! It's 12,345.67 - isn't it?",
    "Füße naïve Ærøskøbing résumé",
    "emoji 😀 👩‍👩‍👧‍👦 🏳️‍🌈 and flags 🇩🇪",
    "大型语言模型 は 面白い 한국어 текст العربية हिन्दी",
    "tab\tnull\x00bell\x07nbsp\u00a0zero\u200bwidth",
    "what reads like a mark: <s> </s> [MASK] <pad> <mask> <extra_id_0> <|user|>",
    "                deep",
    "a\n\n\n    b\r\n\tc",
]
LINES = [*CODE, *CHINESE, *OTHERS]
DOCUMENTS = ["\n".join(LINES)] * 2
SYMBOLS = ("<mask>", "<extra_id_0>")
MARKS = {"byte_bpe": ("<pad>", "<s>", "</s>"), "wordpiece": ("[PAD]", "[CLS]", "[SEP]")}
KINDS = ("bpe", "unigram", "byte_bpe", "wordpiece")


def trained(kind, *, vocab_size=900, documents=DOCUMENTS, **options):
    config = TokenizerConfig(kind=kind, cross_spaces=False, **options)
    return train_tokenizer(documents, vocab_size=vocab_size, config=config, symbols=SYMBOLS)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: trained(kind, special_tokens=("<|user|>",)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_the_marks_do_not_depend_on_the_kind(tokenizers, kind):
    tokenizer = tokenizers[kind]
    assert (tokenizer.pad_id, *tokenizer.marks) == (0, 1, 2)
    assert tokenizer.vocab_size <= 900
    assert {*SYMBOLS, "<|user|>"} <= tokenizer.symbols.keys()
    special = {0, 1, 2, *tokenizer.symbols.values()} - {tokenizer.symbols.get("[UNK]")}
    assert not special & {i for ids in tokenizer.encode_documents(LINES) for i in ids}
    assert set(np.flatnonzero(Vocabulary.of(tokenizer).special)) == special


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte_bpe"])
def test_any_text_comes_back(tokenizers, kind):
    tokenizer = tokenizers[kind]
    for text, ids in zip(LINES, tokenizer.encode_documents(LINES)):
        assert tokenizer.decode(ids) == text


def test_word_pieces_lose_nothing_but_white_space(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    for text in (*CODE, *CHINESE):
        ids = tokenizer.encode_documents([text])[0]
        assert tokenizer.symbols["[UNK]"] not in ids
        assert "".join(tokenizer.decode(ids).split()) == "".join(text.split())


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_the_files_are_those_of_transformers(tokenizers, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers[kind].save(tmp_path)
    ours = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(LINES) >= 200
    assert ours.encode_all(LINES) == theirs(LINES)["input_ids"]
    for ids in ours.encode_all(LINES):
        for skip in (True, False):
            want = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == want
    found = [theirs.pad_token, *theirs.convert_ids_to_tokens([1, 2])]
    assert tuple(found) == MARKS[kind]
    assert ours.encode("a b")[0] == ours.encode_prompt("a b")[0] == 1
    assert (ours.encode("a b")[-1] == 2) == (kind == "wordpiece")
    assert theirs.mask_token_id == ours.symbols["<mask>"]
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == ours.symbols["<extra_id_0>"]


@pytest.mark.parametrize("lowercase", [False, True])
def test_a_vocab_file_alone_is_enough_for_bert(lowercase, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = trained("wordpiece", lowercase=lowercase)
    tokenizer.save(tmp_path)
    want = tokenizer.encode_all(LINES)
    (tmp_path / "tokenizer.json").unlink()
    lines = [line for line in LINES if "<extra_id_0>" not in line]
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=lowercase)
    assert theirs(lines)["input_ids"] == tokenizer.encode_all(lines)
    assert load_tokenizer(tmp_path).encode_all(lines) == tokenizer.encode_all(lines)
    assert len(want[2]) > 2
    pieces = b"".join(tokenizer.pieces()).decode()
    assert (pieces == pieces.lower()) == lowercase


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_model_file_is_that_of_sentencepiece(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = load_tokenizer(tmp_path)
    ids = ours.encode_all(LINES)
    assert ids == processor.encode(LINES)
    assert [ours.decode(one) for one in ids] == processor.decode(ids)
    proto = sentencepiece_model_pb2.ModelProto.FromString(
        (tmp_path / "tokenizer.model").read_bytes()
    )
    names = {"bpe": proto.trainer_spec.BPE, "unigram": proto.trainer_spec.UNIGRAM}
    assert proto.trainer_spec.model_type == names[kind]
    # A field more, and data that were prepared before would have another hash.
    assert not proto.trainer_spec.HasField("split_digits")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_transformers_reads_what_is_exported_of_a_model_file(tokenizers, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = tokenizers[kind]
    ours.save(tmp_path)
    for_transformers(tmp_path / "tokenizer.model").save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    lines = [line for line in LINES if "<s>" not in line] + ["byte <0x41> fallback 鬱"]
    assert len(lines) >= 200
    for text, mine, other in zip(lines, ours.encode_all(lines), theirs(lines)["input_ids"]):
        assert other[0] == ours.bos_id
        if kind == "bpe" or _score(tmp_path, mine) != pytest.approx(_score(tmp_path, other[1:])):
            assert mine == other[1:], text
        decoded = theirs.decode(other[1:], clean_up_tokenization_spaces=False)
        assert decoded == text
    found = theirs.convert_tokens_to_ids(["<s>", "</s>", "<mask>", "<extra_id_0>"])
    assert found == [1, 2, ours.symbols["<mask>"], ours.symbols["<extra_id_0>"]]
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    assert theirs.mask_token_id == ours.symbols["<mask>"]


def _score(folder, ids):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return sum(processor.get_score(i) for i in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_digits_one_by_one(kind):
    text = "in 2024 x86 and 1st cost 31415.9265, 12 34 56 7\u03c9 2024 2024 2024\n"
    whole, single = (
        trained(kind, split_digits=split, documents=[*DOCUMENTS, text * 50])
        for split in (False, True)
    )
    seen = text * 3 + "x9 8st 5\u03c9 1999"
    ids = single.encode_documents([seen])[0]
    assert single.symbols.get("[UNK]") not in ids
    pieces = [single.decode([i]) for i in ids]
    assert sum(map(str.isdigit, "".join(pieces))) == sum(map(str.isdigit, seen))
    assert all(sum(map(str.isdigit, piece)) < 2 for piece in pieces)
    pieces = [whole.decode([i]) for i in whole.encode_documents([text])[0]]
    assert any(sum(map(str.isdigit, piece)) > 1 for piece in pieces)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte_bpe"])
def test_indentation_is_one_piece(tokenizers, kind):
    tokenizer = tokenizers[kind]
    text = "    if x:\n            return\n"
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode_documents([text])[0]]
    assert any(len(piece) >= 8 and piece.isspace() for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_training_repeats_to_the_byte(tokenizers, kind, tmp_path):
    files = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        trained(kind, special_tokens=("<|user|>",)).save(folder)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1] == files[2]
    names = {"byte_bpe": set(), "wordpiece": {"vocab.txt"}}
    if kind in names:
        assert files[0].keys() == names[kind] | {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_as_a_stream_and_sampled(kind):
    """Only every third chunk is learned from; the texts are an iterator that is read once."""
    words = ["alpha beta gamma " * 110, "delta epsilon " * 130, "zeta theta " * 160] * 3
    config = TokenizerConfig(kind=kind)
    tokenizer = train_tokenizer(iter(words), vocab_size=600, config=config, every=3)
    one = train_tokenizer(iter(words[::3]), vocab_size=600, config=config)
    assert tokenizer.encode_documents(words) == one.encode_documents(words)
    assert len(tokenizer.encode_documents(["epsilon"])[0]) > 1 or kind == "wordpiece"


def test_rare_characters_leave_room_for_pieces():
    text = "".join(chr(0x4E00 + i % 3000) for i in range(9000)) + "def value return " * 900
    for kind in KINDS:
        tokenizer = trained(kind, vocab_size=500, documents=[text])
        assert tokenizer.vocab_size <= 500
        assert len(tokenizer.encode_documents(["value"])[0]) < 5, kind


def test_a_word_counts_as_often_as_it_stands():
    rare = [f"qa{first}qa{second}" for first in "bcdefg" for second in "bcdefg"]
    for kind in ("byte_bpe", "wordpiece"):
        documents = ["zebra " * 2500, " ".join(rare)]
        config = TokenizerConfig(kind=kind)
        size = 265 if kind == "byte_bpe" else 30
        tokenizer = train_tokenizer(documents, vocab_size=size, config=config)
        assert len(tokenizer.encode_documents([" zebra"])[0]) == 1, kind


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"kind": "bep"}, ["data.tokenizer.kind is 'bep'", "'bpe'"]),
        ({"lowercase": True}, ["lowercase", "'bpe'", "wordpiece"]),
        ({"special_tokens": ("",)}, ["special_tokens has ''"]),
        ({"special_tokens": ("a ",)}, ["special_tokens has 'a '"]),
        ({"special_tokens": ("a", "a")}, ["special_tokens has one twice"]),
    ],
)
def test_impossible_options_are_refused(options, parts):
    with pytest.raises(ConfigError) as error:
        TokenizerConfig(**options)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_cannot_be_learned_from_are_refused(kind):
    with pytest.raises(ConfigError, match="model.vocab_size is 9: give more than"):
        trained(kind, vocab_size=9)
    if kind in ("byte_bpe", "wordpiece"):
        with pytest.raises(ConfigError, match="nothing to learn"):
            trained(kind, documents=["a"])
        with pytest.raises(ConfigError, match=r"U\+DCE9"):
            trained(kind, documents=["ab\udce9 ab"])


CASES = {
    "wordpiece": MaskedLM(),
    "unigram": SpanCorruption(num_sentinels=8),
    "byte_bpe": FillInTheMiddle(),
    "bpe": MaskedLM(unit="word"),
}


@pytest.mark.parametrize("kind", CASES)
def test_objectives_find_their_pieces_in_every_kind(kind, texts, tmp_path):
    objective = CASES[kind]
    options = TokenizerConfig(kind=kind, cross_spaces=False)
    config = DataConfig(
        source="text", path=str(texts), sequence_length=32, tokenizer=options, read_threads=0
    )
    given = {"vocab_size": 420, "directory": tmp_path / "data", "objective": objective}
    manifest = prepare_data(config, **given)
    assert (manifest.pad_id, manifest.bos_id, manifest.eos_id) == (0, 1, 2)
    assert manifest.inputs["tokenizer"].get("kind", "bpe") == kind
    tokenizer = load_tokenizer(tmp_path / "data")
    symbols = {tokenizer.symbols[name] for name in objective.symbols}
    assert len(symbols) == len(objective.symbols)
    randoms = [np.random.default_rng(index) for index in range(8)]
    batch = open_split(tmp_path / "data", "train", objective).take(range(8), randoms)
    seen = set(np.unique(batch["source" if kind == "unigram" else "tokens"]))
    assert symbols & seen
    if kind == "wordpiece":
        row = batch["tokens"][0].copy()
        row[batch["picked"][0]] = batch["targets"][0]
        assert any(word in tokenizer.decode(row.tolist()) for word in ("return", "lambda", "alpha"))
    assert load_manifest(tmp_path / "data") == prepare_data(config, **given)
    other = dataclasses.replace(config, tokenizer=dataclasses.replace(options, split_digits=True))
    with pytest.raises(ConfigError, match="tokenizer"):
        prepare_data(other, **given)


def test_a_manifest_tells_of_new_keys_only_where_they_are_set():
    told = TokenizerConfig().inputs()
    assert told == {
        "path": "", "sample_bytes": 6_000_000, "cross_spaces": True, "max_piece_length": 32,
    }  # fmt: skip
    assert TokenizerConfig(kind="unigram", special_tokens=("<a>",)).inputs() == told | {
        "kind": "unigram", "special_tokens": ["<a>"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_what_stands_there_once_is_no_piece(kind):
    config = TokenizerConfig(kind=kind)
    documents = ["zebra zebra", "unique"]
    tokenizer = train_tokenizer(documents, vocab_size=400, config=config)
    sizes = [len(ids) for ids in tokenizer.encode_documents(["zebra", "unique"])]
    assert sizes[0] == 1
    assert sizes[1] > 4

"""Sentences with tags from files to batches: units and pieces, splits, what is refused."""

import json

import numpy as np
import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, batches, prepare
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.data.tagged import UNIT, encoded_units, read_tagged
from tests.data.test_pretrained_tokenizer_rows import bert_folder

TAGS = ["O", "B-nr", "I-nr", "B-ns"]


def sentences(count=120, seed=0):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        size = draw.integers(1, 20)
        units = [chr(0x4E00 + code) for code in draw.integers(0, 60, size)]
        yield units, [TAGS[min(ord(unit) % 12, 3) * (ord(unit) % 12 < 4)] for unit in units]


def write(path, given):
    path.write_text(
        "".join(json.dumps({"tokens": units, "tags": tags}) + "\n" for units, tags in given),
        encoding="utf-8",
    )
    return path


def prepared(tmp_path, given, name="data", units="characters", **changes):
    config = DataConfig(
        source="tagged", path=str(write(tmp_path / f"{name}.jsonl", given)), text="tokens",
        label="tags", sequence_length=16,
        tokenizer=TokenizerConfig(kind="bpe", max_piece_length=1), **changes,
    )  # fmt: skip
    objective = OBJECTIVES["token_classification"](units=units)
    manifest = prepare(config, vocab_size=400, directory=tmp_path / name, objective=objective)
    parts = ("train", "validation", "test")
    return manifest, [data.open_split(tmp_path / name, part, objective) for part in parts]


def test_the_first_token_of_each_unit_has_its_tag(tmp_path):
    given = list(sentences())
    manifest, parts = prepared(tmp_path, given)
    names = manifest.labels["names"]
    known = {"".join(units): tags for units, tags in given}
    tokenizer = data.load_tokenizer(tmp_path / "data")
    assert sum(manifest.labels["cut"].values()) > 0
    for rows in parts:
        texts = rows.texts()
        for begin in range(0, len(rows), 8):
            indices = np.arange(begin, min(begin + 8, len(rows)))
            batch = rows.take(indices)
            for row, index in enumerate(indices):
                places = np.flatnonzero(batch["weights"][row])
                units = texts[index].split(UNIT)[: len(places)]
                said = [names[tag] for tag in batch["labels"][row, places]]
                assert said == known[texts[index].replace(UNIT, "")][: len(places)]
                assert said == [names[tag] for tag in rows.labels[rows.own(index)]]
                for unit, place in zip(units, places):
                    ids = tokenizer.encode(unit)
                    there = batch["tokens"][row, place : place + len(ids)].tolist()
                    assert there == ids[: len(there)]
    assert parts[0].take([-1])["weights"].sum() == 0


def test_batches_have_weights_by_token(tmp_path):
    _, (train, *_) = prepared(tmp_path, list(sentences()))
    batch = next(batches(train, seed=0, batch_size=8, threads=0))
    assert batch["weights"].shape == batch["labels"].shape == batch["tokens"].shape
    assert (batch["weights"] <= batch["mask"]).all()


def test_pieces_are_those_of_transformers(tmp_path):
    folder, kind = bert_folder(tmp_path / "bert")
    theirs = kind.from_pretrained(folder)
    given = [["A", "good", "filmmaker", "(", "1998", ")"], ["unbelievable", "plots", "\u200b", "x"]]
    ids, sizes, places = encoded_units(
        [UNIT.join(units) for units in given], data.load_tokenizer(folder), 12, units="words"
    )
    for units, own, size, where in zip(given, ids, sizes, places):
        shown = [unit if unit != "\u200b" else "[UNK]" for unit in units]
        right = theirs(shown, is_split_into_words=True, truncation=True, max_length=12)
        assert own == right["input_ids"]
        words = right.word_ids()
        assert where.tolist() == [words.index(n) for n in range(len(units)) if n in words]
        assert size == len(theirs(shown, is_split_into_words=True)["input_ids"])


def test_words_of_a_byte_level_vocabulary_stand_as_in_text(tmp_path):
    texts = ["the plot of the film", "music and light"] * 30
    tokenizer = data.tokenizers.train_tokenizer(
        texts, vocab_size=300, config=TokenizerConfig(kind="byte_bpe"), every=1, symbols=()
    )
    ids, _, places = encoded_units([texts[0].replace(" ", UNIT)], tokenizer, 64, units="words")
    plain = tokenizer.encode_documents([texts[0]])[0]
    assert [one for one in ids[0] if one in plain][: len(plain)] == plain
    assert len(places[0]) == 5


def test_columns_are_read_as_conll_writes_them(tmp_path):
    path = tmp_path / "eng.train"
    path.write_text(
        "\ufeff-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n"
        "Peter NNP B-PER\nBlackburn NNP I-PER\n"
    )
    found, bad = read_tagged(str(path), text="", label="")
    assert found == [(f"EU{UNIT}rejects", "B-ORG O"), (f"Peter{UNIT}Blackburn", "B-PER I-PER")]
    assert not bad


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 units and 1 tags"),
        ({"tokens": ["a"], "tags": ["NAME"]}, "'NAME' is no tag: give O, B-type or I-type"),
        ({"tokens": [" "], "tags": ["O"]}, "' ' is no unit"),
        ({"tokens": "ab", "tags": ["O"]}, "no two lists of texts under data.text and data.label"),
        ({"words": ["a"], "tags": ["O"]}, "no two lists of texts under data.text and data.label"),
    ],
)
def test_a_bad_sentence_is_named(tmp_path, line, said):
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match=f"given.jsonl line 1: {said}; 1 of 1 are bad"):
        read_tagged(str(path), text="tokens", label="tags")


def test_a_tag_that_training_lacks_is_refused(tmp_path):
    test = write(tmp_path / "test.jsonl", [(["x"], ["B-nt"])])
    with pytest.raises(ConfigError, match="label 'B-nt' of the test split is not in training"):
        prepared(tmp_path, list(sentences()), test_path=str(test))


@pytest.mark.parametrize("folds", [0, 4])
def test_a_tag_that_is_held_out_alone_has_its_number(tmp_path, folds):
    given = [(list(f"{n:03}"), ["O", f"B-{n}", "O"]) for n in range(40)]
    more = {"folds": folds, "test_path": str(write(tmp_path / "t.jsonl", [(["x"], ["O"])]))}
    manifest, parts = prepared(tmp_path, given, **(more if folds else {}))
    assert sorted(manifest.labels["names"]) == sorted({"O", *(f"B-{n}" for n in range(40))})
    names = manifest.labels["names"]
    for rows in parts:
        for row, text in enumerate(rows.texts()):
            own = [names[tag] for tag in rows.labels[rows.own(row)]]
            assert own == ["O", f"B-{int(text.replace(UNIT, ''))}", "O"]


def test_tagged_sentences_have_no_second_text(tmp_path):
    with pytest.raises(ConfigError, match="data.second is 'title' and data.source 'tagged'"):
        prepared(tmp_path, list(sentences(40)), second="title")


@pytest.mark.parametrize("content", [None, b"a\xff O\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "train.conll"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="train.conll cannot be read .*: give files of UTF-8"):
        read_tagged(str(path), text="", label="")


def test_sentences_with_other_tags_elsewhere_are_left_out(tmp_path):
    given = list(sentences(40))
    manifest, _ = prepared(
        tmp_path, [*given, (["乀", "乁"], ["O", "O"]), (["乀", "乁"], ["B-ns", "O"])]
    )
    assert manifest.labels["of_several_labels"] >= 2

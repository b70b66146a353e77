"""Labelled texts from a table to batches: splits, what is dropped, lengths."""

import csv
import itertools
import json
import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, batches, eval_batches, prepare
from llm_jax.data.labelled import read_examples
from llm_jax.data.labelled_rows import bucket
from llm_jax.data.objectives import OBJECTIVES
from tests.data.test_pretrained_tokenizer_rows import bert_folder

WORDS = ["good", "bad", "film", "plot", "actor", "music", "scene", "story", "light", "colour"]


def rows_of(count=200, classes=("neg", "pos"), seed=0):
    draw = random.Random(seed)
    return [
        (f"{index} " + " ".join(draw.choices(WORDS, k=draw.randrange(1, 40))), draw.choice(classes))
        for index in range(count)
    ]


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review", "stars"), *rows])
    return path


def prepared(tmp_path, rows, name="data", target="class", **changes):
    table = rows if not isinstance(rows, list) else write(tmp_path / f"{name}.csv", rows)
    config = DataConfig(
        source="csv", path=str(table), text="review", label="stars", sequence_length=32,
        tokenizer=TokenizerConfig(kind="bpe"), **changes,
    )  # fmt: skip
    objective = OBJECTIVES["text_classification"](target=target)
    directory = tmp_path / name
    manifest = prepare(config, vocab_size=300, directory=directory, objective=objective)
    parts = {
        part: data.open_split(directory, part, objective)
        for part in ("train", "validation", "test")
    }
    return manifest, parts


def test_few_of_each_class_are_trained_on_and_nothing_else_changes(tmp_path):
    given = rows_of(classes=("a", "b", "b", "c"))
    _, whole = prepared(tmp_path, given, "whole")
    _, few = prepared(tmp_path, given, "few", per_class=7)
    assert np.bincount(few["train"].labels).tolist() == [7, 7, 7]
    assert set(few["train"].texts()) < set(whole["train"].texts())
    for part in ("validation", "test"):
        assert few[part].texts() == whole[part].texts()
    _, again = prepared(tmp_path, given[::-1], "again", per_class=7)
    kept = set(few["train"].texts()) & set(again["train"].texts())
    assert len(kept) >= 12  # of those that both splits train on, the same are drawn
    with pytest.raises(ConfigError, match=r"data.per_class is 100 and class '.' has \d+ examples"):
        prepared(tmp_path, given, "many", per_class=100)


def test_each_text_stands_in_one_split_with_its_label(tmp_path):
    given = rows_of()
    manifest, parts = prepared(tmp_path, given)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 160, "validation": 20, "test": 20,
    }  # fmt: skip
    names = manifest.labels["names"]
    found = {
        text: names[label]
        for part in parts.values()
        for text, label in zip(part.texts(), part.labels)
    }
    assert found == dict(given)
    shares = [np.mean(part.labels) for part in parts.values()]
    assert max(shares) - min(shares) < 0.05
    tokenizer = data.load_tokenizer(tmp_path / "data")
    batch = parts["test"].take([0, 3, -1])
    for row, index in enumerate((0, 3)):
        ids = batch["tokens"][row][batch["mask"][row] > 0].tolist()
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        text = parts["test"].texts()[index]
        assert text.startswith(tokenizer.decode(ids[1:-1]))
    assert batch["weights"].tolist() == [1, 1, 0]


def test_equal_texts_are_one_and_conflicts_none(tmp_path):
    given = rows_of(100)
    same = [(f"  {text} ", label) for text, label in given[:10]]
    other = [(text, "pos" if label == "neg" else "neg") for text, label in given[10:13]]
    manifest, parts = prepared(tmp_path, [*given, *same, *other])
    assert manifest.labels["duplicates"] == 10
    assert manifest.labels["of_several_labels"] == 6
    assert sum(len(part) for part in parts.values()) == 97
    texts = [text for part in parts.values() for text in part.texts()]
    assert not {text for text, _ in other} & set(texts)


def test_a_test_set_of_its_own_leaves_training(tmp_path):
    given, tested = rows_of(100), rows_of(30, seed=1)
    manifest, parts = prepared(
        tmp_path, [*given, *tested[:5]], test_path=str(write(tmp_path / "t.csv", tested))
    )
    assert sorted(parts["test"].texts()) == sorted(text for text, _ in tested)
    assert manifest.labels["in_test_too"] == 5
    assert len(parts["train"]) + len(parts["validation"]) == 100


def test_truncation_is_told(tmp_path):
    manifest, parts = prepared(tmp_path, rows_of())
    assert parts["train"].sizes.max() == 32
    tokenizer = data.load_tokenizer(tmp_path / "data")
    whole = [len(ids) + 2 for ids in tokenizer.encode_documents(parts["train"].texts())]
    assert 0 < manifest.labels["cut"]["train"] == sum(size > 32 for size in whole) < 160
    lost = 1 - parts["train"].sizes.sum() / sum(whole)
    assert manifest.labels["cut_tokens"]["train"] == pytest.approx(lost)


def test_numbers_and_several_classes(tmp_path):
    draw = random.Random(1)
    numbers = [(text, f"{draw.gauss(0, 1):.3f}") for text, _ in rows_of(60)]
    manifest, parts = prepared(tmp_path, numbers, target="number")
    assert manifest.labels["names"] == []
    assert parts["test"].labels.dtype == np.float32
    given = dict(numbers)
    for text, label in zip(parts["test"].texts(), parts["test"].labels):
        assert label == np.float32(given[text])
    several = [
        (text, ";".join(draw.sample("abc", draw.randrange(4)) or ["a"])) for text, _ in numbers
    ]
    manifest, parts = prepared(tmp_path, several, name="several", target="classes")
    assert manifest.labels["names"] == ["a", "b", "c"]
    given = dict(several)
    for text, label in zip(parts["train"].texts(), parts["train"].labels):
        assert "".join(name for name, has in zip("abc", label) if has) == "".join(
            sorted(given[text].replace(";", ""))
        )


def test_batches_are_of_like_length_and_each_text_comes_once_an_epoch(tmp_path):
    _, parts = prepared(tmp_path, rows_of(600))
    rows, steps = parts["train"], len(parts["train"]) // 8
    stream = batches(rows, seed=3, batch_size=8, threads=0)
    epochs = [[next(stream) for _ in range(steps)] for _ in range(2)]
    real = sum(batch["mask"].sum() for batch in epochs[0])
    assert 1 - real / sum(batch["mask"].size for batch in epochs[0]) < 0.15
    ordered = [tuple(row[row > 0]) for batch in epochs[0] for row in batch["tokens"]]
    assert len(set(ordered)) == steps * 8
    lengths = [batch["mask"].sum() for batch in epochs[0][:40]]
    assert sum(a > b for a, b in itertools.pairwise(lengths)) > 4  # they do not come by length
    assert [b["tokens"].shape for b in epochs[0]] != [b["tokens"].shape for b in epochs[1]]
    # A batch is a function of (seed, step), on any number of processes.
    again = next(batches(rows, seed=3, batch_size=8, start_step=steps + 2, threads=0))
    np.testing.assert_array_equal(again["tokens"], epochs[1][2]["tokens"])
    given = {"seed": 3, "batch_size": 8, "threads": 0, "process_count": 2}
    parted = [batches(rows, process_index=process, **given) for process in range(2)]
    for expected in epochs[0]:
        halves = [next(part) for part in parted]
        for name in ("tokens", "mask", "labels"):
            whole = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(whole, expected[name])


def test_evaluation_sees_each_row_once_in_order(tmp_path):
    _, parts = prepared(tmp_path, rows_of(203))
    found = list(eval_batches(parts["train"], batch_size=16))
    labels = np.concatenate([batch["labels"][batch["weights"] > 0] for batch in found])
    np.testing.assert_array_equal(labels, parts["train"].labels)


def test_few_lengths_that_waste_little():
    lengths = {bucket(size, 512) for size in range(1, 513)}
    assert len(lengths) == 20
    assert all(bucket(size, 512) >= size for size in range(1, 513))
    assert max(bucket(size, 512) / size for size in range(40, 513)) < 1.25
    assert bucket(100, 100) == 100


@pytest.mark.parametrize(
    ("rows", "target", "said"),
    [
        ([(text, "x") for text, _ in rows_of(30)], "class", "has one class"),
        ([*rows_of(30), ("new", "rare")], "class", "class 'rare' has 1 members"),
        ([*rows_of(30), ("new", "")], "class", "has no label"),
        ([*rows_of(30), ("new", "many")], "number", "is no number"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, rows, target, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        prepared(tmp_path, rows, target=target)


def test_a_label_that_training_has_not_is_refused(tmp_path):
    tested = write(tmp_path / "t.csv", [("only here", "fair")])
    with pytest.raises(ConfigError, match="label 'fair' of the test split is not in training"):
        prepared(tmp_path, rows_of(60), test_path=str(tested))


def test_lines_of_a_file_for_each_class(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    given = rows_of(60)
    for name in ("neg", "pos"):
        lines = [text for text, label in given if label == name]
        (folder / f"{name}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    _, parts = prepared(tmp_path, folder)
    found = {line["text"]: line["label"] for line in read(tmp_path / "data", parts)}
    assert found == dict(given)


def read(directory, parts):
    for part in parts:
        for line in (directory / f"labelled-{part}.jsonl").read_text("utf-8").splitlines():
            yield json.loads(line)


def test_pairs_have_their_second_text_marked_and_the_longer_is_cut_first(tmp_path):
    rows = [{"a": f"{a} x", "b": b, "stars": index % 2} for index, ((a, _), (b, _)) in enumerate(
        zip(rows_of(120), rows_of(120, seed=5))
    )]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder, _ = bert_folder(tmp_path / "bert")
    config = DataConfig(
        source="labelled", path=str(path), text="a", second="b", label="stars", sequence_length=24,
        tokenizer=TokenizerConfig(path=str(folder)),
    )  # fmt: skip
    objective = OBJECTIVES["text_classification"]()
    prepare(config, vocab_size=0, directory=tmp_path / "data", objective=objective)
    train = data.open_split(tmp_path / "data", "train", objective)
    backend = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    backend.enable_truncation(24, strategy="longest_first")
    batch = train.take(range(len(train)))
    for row, text in enumerate(train.texts()):
        first, second = text.split("\x1c")
        want = backend.encode(first, second)
        size = batch["mask"][row].sum()
        assert batch["tokens"][row][:size].tolist() == want.ids
        assert batch["token_types"][row][:size].tolist() == want.type_ids
        assert not batch["token_types"][row][size:].any()


def test_labels_are_numbers_or_lists_in_json(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [{"t": text, "y": index / 8} for index, (text, _) in enumerate(rows_of(40))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, bad = read_examples(path, text="t", label="y")
    assert not bad
    assert [float(label) for _, label in found] == [line["y"] for line in lines]
    lines = [{"t": line["t"], "y": ["a", "b"][: index % 3]} for index, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["y"]))
    assert {label for _, label in read_examples(path, text="t", label="y")[0]} == {"a", "a;b"}
    path.write_text(json.dumps({"t": "x", "y": None}) + "\n")
    with pytest.raises(ConfigError, match="column 'y' is null"):
        read_examples(path, text="t", label="y")

import dataclasses

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, batches, eval_batches, load_tokenizer, open_split, prepare
from llm_jax.data.objectives import MaskedLM, NextSentence
from llm_jax.data.packing import HEADER, document_numbers, pack_sentences
from tests.data.conftest import write_texts

T = 48


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"), files=80, lines=40)
    return DataConfig(source="text", path=str(texts), sequence_length=T)


@pytest.fixture(scope="module")
def directory(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("work") / "data"
    prepare(config, vocab_size=400, directory=directory, objective=NextSentence())
    return directory


def test_records_are_whole_sentences_of_one_document():
    ends = np.arange(100) % 10 == 0
    documents = [[5, 10, 6, 20, 7, 8, 30], [1], list(range(1, 9)) * 3, [2, 40]]
    parts = [(0, documents[0][:3]), (1, documents[0][3:])] + [(0, d) for d in documents[1:]]
    records = list(pack_sentences(parts, HEADER + 5, ends))
    found = [(int(document_numbers(r[None])[0]), r[HEADER:].tolist()) for r in records]
    assert found[:2] == [(0, [5, 10, 6, 20]), (0, [7, 8, 30])]
    # A document of one token gives none, a sentence longer than a record is cut.
    long = [tokens for number, tokens in found if number == 2]
    assert np.concatenate(long).tolist() == documents[2]
    assert [len(tokens) for tokens in long] == [5, 5, 5, 5, 4]
    assert found[-1] == (3, [2, 40])
    count = (1 << 16) + 3
    last = list(pack_sentences(((0, [1, 2]) for _ in range(count)), HEADER + 5, ends))[-1]
    assert last.max() < 1 << 16  # it is stored in two bytes
    assert document_numbers(last[None]).tolist() == [count - 1]


def test_the_other_record_is_of_another_document(directory):
    rows = open_split(directory, "train", NextSentence())
    records, _ = rows._rows(np.arange(len(rows)))
    numbers = document_numbers(records)
    for seed in range(20):
        randoms = [np.random.default_rng([seed, place]) for place in range(len(rows))]
        others, lengths = rows._others(numbers, randoms)
        assert (document_numbers(others) != numbers).all()
        assert (lengths >= HEADER + 2).all()


def unhidden(batch):
    tokens = batch["tokens"].copy()
    row, slot = np.nonzero(batch["weights"])
    tokens[row, batch["picked"][row, slot]] = batch["targets"][row, slot]
    return tokens


def parts_of(batch, tokenizer):
    """The two texts of each row."""
    found = []
    for tokens, types, real in zip(unhidden(batch), batch["token_types"], batch["segment_ids"]):
        ids, types = tokens[real > 0].tolist(), types[real > 0]
        a = int(np.argmax(types))
        assert ids[0] == tokenizer.bos_id
        assert tokenizer.pad_id not in ids
        assert ids[a - 1] == ids[-1] == tokenizer.eos_id
        assert types.tolist() == [0] * a + [1] * (len(ids) - a)
        found.append((tokenizer.decode(ids[1 : a - 1]), tokenizer.decode(ids[a:-1])))
    return found


def taken(directory, objective, count=12, **given):
    rows = open_split(directory, "train", objective)
    iterator = batches(rows, seed=0, batch_size=32, **given)
    found = [next(iterator) for _ in range(count)]
    iterator.close()
    return found


def documents_with(texts, part):
    return {name for name, text in texts.items() if part in text}


@pytest.mark.parametrize("pair_task", ["next", "order"])
def test_a_label_says_whether_the_second_text_follows_the_first(config, directory, pair_task):
    from pathlib import Path

    texts = {str(path): path.read_text() for path in Path(config.path).rglob("*.txt")}
    tokenizer = load_tokenizer(directory)
    labels, followed, shares = [], [], []
    for batch in taken(directory, NextSentence(pair_task=pair_task)):
        assert batch["weights"].any(axis=1).all()
        for (a, b), label in zip(parts_of(batch, tokenizer), batch["labels"]):
            if min(len(a), len(b)) < 12:  # may stand anywhere
                continue
            labels.append(label)
            follows = bool(documents_with(texts, a + b))
            followed.append(follows)
            if label and pair_task == "order":
                assert documents_with(texts, b + a)
            if label and pair_task == "next":
                shares.append(bool(documents_with(texts, a) & documents_with(texts, b)))
    labels, followed = np.array(labels), np.array(followed)
    assert len(labels) > 150
    assert followed[labels == 0].all()
    assert not followed[labels == 1].any()
    if shares:
        assert np.mean(shares) < 0.05  # of another document
    assert abs(labels.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("pair_task", ["next", "order"])
def test_lengths_say_nothing_of_the_label(directory, pair_task):
    lengths, labels, shares = [], [], []
    for batch in taken(directory, NextSentence(pair_task=pair_task), count=60):
        lengths.append(batch["segment_ids"].sum(axis=1))
        shares.append(batch["token_types"].sum(axis=1) / lengths[-1])
        labels.append(batch["labels"])
    lengths, labels = np.concatenate(lengths), np.concatenate(labels)
    # The cut may be anywhere.
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert np.std(shares) > 0.15
    first, second = (lengths[labels == label] for label in (0, 1))
    assert abs(labels.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(labels))
    deviation = lengths.std() * np.sqrt(1 / len(first) + 1 / len(second))
    assert abs(first.mean() - second.mean()) < 4.5 * deviation


def test_masks_are_those_of_masked_lm(directory):
    batch = taken(directory, NextSentence(mask_rate=0.25), count=1)[0]
    real = batch["segment_ids"].sum(axis=1)
    assert batch["weights"].sum(axis=1).tolist() == np.rint(0.25 * real).tolist()


def test_the_other_text_is_chosen_anew_and_the_same_in_every_process(directory):
    objective = NextSentence()
    whole = taken(directory, objective, count=3)
    again = taken(directory, objective, count=1, start_step=2)
    halves = [
        taken(directory, objective, count=1, start_step=2, process_index=i, process_count=2)[0]
        for i in range(2)
    ]
    for name, values in whole[2].items():
        np.testing.assert_array_equal(again[0][name], values)
        np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), values)
    rows = open_split(directory, "validation", objective)
    first, second = (next(iter(eval_batches(rows, batch_size=8))) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)


@pytest.mark.parametrize("objective", [MaskedLM(static_copies=3), NextSentence(static_copies=3)])
def test_static_masks_come_in_turn(config, directory, tmp_path, objective):
    if isinstance(objective, NextSentence):
        rows = open_split(directory, "train", objective)
    else:
        prepare(config, vocab_size=400, directory=tmp_path / "data", objective=objective)
        rows = open_split(tmp_path / "data", "train", objective)
    seen: dict = {}
    steps = 7 * len(rows) // 16
    iterator = batches(rows, seed=0, batch_size=16)
    for _ in range(steps):
        batch = next(iterator)
        for tokens, picked, targets in zip(unhidden(batch), batch["picked"], batch["targets"]):
            key = tokens.tobytes() if isinstance(objective, MaskedLM) and not isinstance(
                objective, NextSentence
            ) else targets.tobytes()  # fmt: skip
            seen.setdefault(key, []).append(picked.tobytes())
    iterator.close()
    if isinstance(objective, NextSentence):
        # Every example comes three times at least in two of its three forms.
        assert np.mean([len(own) > 1 for own in seen.values()]) > 0.9
        return
    several = [own for own in seen.values() if len(own) >= 6]
    assert len(several) > len(seen) / 2
    for own in several:
        assert len(set(own)) == 3
        assert own[:3] == own[3:6]


def test_static_masks_of_a_mixture(config, tmp_path):
    part = {"source": "text", "path": config.path}
    mixture = dataclasses.replace(
        config, source="mixture", path="", mixture={"a": part, "b": part | {"weight": 2.0}}
    )
    objective = MaskedLM(static_copies=2)
    prepare(mixture, vocab_size=400, directory=tmp_path / "data", objective=objective)
    rows = open_split(tmp_path / "data", "train", objective)
    assert rows.static_copies == 2
    iterator = batches(rows, seed=0, batch_size=16, mixing=mixture.mixing)
    forms: dict = {}
    for _ in range(6 * len(rows) // 16):
        batch = next(iterator)
        for tokens, picked in zip(unhidden(batch), batch["picked"]):
            forms.setdefault(tokens.tobytes(), set()).add(picked.tobytes())
    iterator.close()
    # The parts are the same text: two rows of two forms each.
    assert max(map(len, forms.values())) <= 4


def test_what_cannot_be_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="objective.pair_task is 'follow'"):
        NextSentence(pair_task="follow")
    with pytest.raises(ConfigError, match="sequence_length is 4: sentence pairs want 5"):
        NextSentence().record_length(4)
    packed = dataclasses.replace(config, packing="best_fit")
    with pytest.raises(ConfigError, match="cuts each document by itself"):
        prepare(packed, vocab_size=400, directory=tmp_path / "data", objective=NextSentence())
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("".join(f"line {i} of it\n" for i in range(200)))
    alone = dataclasses.replace(config, path=str(tmp_path / "one"))
    prepare(alone, vocab_size=300, directory=tmp_path / "d", objective=NextSentence())
    with pytest.raises(ConfigError, match="train split has one document with sentences"):
        open_split(tmp_path / "d", "train", NextSentence())
    open_split(tmp_path / "d", "train", NextSentence(pair_task="order"))

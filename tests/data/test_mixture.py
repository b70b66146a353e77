import collections
import dataclasses
import itertools
import re
import types

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, batches, load_manifest, load_tokenizer, open_split, prepare
from llm_jax.data.joined import JoinedRows
from llm_jax.data.objectives import FillInTheMiddle, MaskedLM
from llm_jax.data.order import BLOCK, mixed, shuffled
from tests.data.conftest import write_texts


@pytest.fixture(scope="module")
def mixture(texts, tmp_path_factory):
    """Two parts, the second of digits alone, and three times the weight."""
    folder = tmp_path_factory.mktemp("digits")
    for index in range(40):
        line = " ".join(str(index * number) for number in range(8)) + "\n"
        (folder / f"{index}.txt").write_text(line * (1 + index % 3))
    return DataConfig(
        source="mixture",
        sequence_length=32,
        mixture={
            "words": {"source": "text", "path": str(texts)},
            "digits": {"source": "text", "path": str(folder), "weight": 3},
        },
    )


@pytest.fixture(scope="module")
def mixed_data(mixture, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mixed") / "data"
    prepare(mixture, vocab_size=400, directory=directory)
    return directory


def take(count, rows, config, **given):
    iterator = batches(rows, mixing=config.mixing, **given)
    result = list(itertools.islice(iterator, count))
    iterator.close()
    return result


def part_of(batch, tokenizer):
    """Which rows of a batch are of the digits."""
    texts = [tokenizer.decode(row.tolist()) for row in batch["tokens"]]
    return np.array([not re.search("[a-z日é]", text) for text in texts])


def test_each_part_is_what_it_would_be_alone(mixture, mixed_data, tmp_path):
    manifest = load_manifest(mixed_data)
    for name in mixture.mixture:
        alone = dataclasses.replace(
            mixture.of_part(name),
            tokenizer=dataclasses.replace(mixture.tokenizer, path=str(mixed_data)),
        )
        known = prepare(alone, vocab_size=400, directory=tmp_path / name)
        part = load_manifest(mixed_data / name)
        assert part.tokens_sha256 == known.tokens_sha256
        assert manifest.parts[name] == known.tokens["train"]
    assert manifest.tokens["train"] == sum(manifest.parts.values())
    rows = open_split(mixed_data, "validation")
    assert rows.tokens == sum(part.tokens for part in rows.parts.values()) > 0
    whole = rows.take(range(len(rows)))
    parts = [part.take(range(len(part))) for part in rows.parts.values()]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    assert not rows.take([-1, 0])["weights"][0].any()


def test_shares_are_the_weights(mixture, mixed_data):
    rows, tokenizer = open_split(mixed_data, "train"), load_tokenizer(mixed_data)
    found = take(BLOCK // 16, rows, mixture, seed=0, batch_size=16)
    of_digits = np.concatenate([part_of(batch, tokenizer) for batch in found])
    assert of_digits.sum() == BLOCK * 3 // 4
    # Mixed well: every sixteenth of the block is near its share.
    assert np.abs(of_digits.reshape(16, -1).mean(axis=1) - 0.75).max() < 0.1


@pytest.mark.parametrize("objective", [MaskedLM(), FillInTheMiddle()])
def test_a_batch_is_the_same_wherever_it_is_begun_and_shared(mixture, tmp_path, objective):
    prepare(mixture, vocab_size=500, directory=tmp_path / "data", objective=objective)
    rows = open_split(tmp_path / "data", "train", objective)
    straight = take(40, rows, mixture, seed=3, batch_size=8)
    for start, count in itertools.product((0, 17, 39), (1, 2, 4)):
        parts = [
            take(
                1, rows, mixture, seed=3, batch_size=8, start_step=start,
                process_index=index, process_count=count,
            )[0]
            for index in range(count)
        ]  # fmt: skip
        for name, values in straight[start].items():
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(values, joined)


def test_every_row_comes_once_an_epoch():
    sizes, weights = (4000, 1500, 9000), np.array([0.5, 0.2, 0.3])
    order = mixed(sizes, lambda place: weights, 0, "seed")
    seen = order(np.arange(5 * BLOCK))
    begins = np.cumsum([0, *sizes])
    for part, size in enumerate(sizes):
        own = seen[(seen >= begins[part]) & (seen < begins[part + 1])] - begins[part]
        assert abs(len(own) / len(seen) - weights[part]) < 1 / BLOCK
        np.testing.assert_array_equal(own, in_blocks(own, size, part, order))
        for epoch in range(len(own) // size):
            assert len(set(own[epoch * size : (epoch + 1) * size].tolist())) == size


def in_blocks(own, size, part, order):
    return shuffled(size, f"seed part {part}")(np.arange(len(own)))


def test_a_schedule_is_followed_and_places_are_found_directly():
    def shares(place):
        return np.array([1.0, np.interp(place, [0, 4 * BLOCK], [0, 1])])

    order = mixed((1000, 1000), shares, 4 * BLOCK, "seed")
    seen = order(np.arange(7 * BLOCK))
    of_second = (seen >= 1000).reshape(7, BLOCK).mean(axis=1)
    want = np.array([0, 0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose(of_second, want / (1 + want), atol=1 / BLOCK)
    counted = collections.Counter(seen[seen >= 1000].tolist())
    assert max(counted.values()) - min(counted.values()) <= 1
    again = mixed((1000, 1000), shares, 4 * BLOCK, "seed")
    for place in (6 * BLOCK + 5, 3, 2 * BLOCK, 5 * BLOCK - 1):
        assert again(np.array([place]))[0] == seen[place]
    assert (mixed((1000, 1000), shares, 4 * BLOCK, "other")(np.arange(BLOCK)) != seen[:BLOCK]).any()
    last = (seen >= 1000).reshape(7, BLOCK)[-2:]
    assert (last[0] != last[1]).mean() > 0.3  # the blocks' own orders


class Counted(list):
    """Rows of which only the number counts."""

    tokens = 1


def test_a_schedule_counts_in_steps(mixture):
    digits = {**mixture.mixture["digits"], "schedule": ((0, 0.0), (2048, 1.0))}
    config = dataclasses.replace(mixture, mixture={**mixture.mixture, "digits": digits})
    rows = types.SimpleNamespace(parts={name: Counted(range(5000)) for name in ("digits", "words")})
    seen = config.mixing.order(rows, seed=0, batch_size=4)(np.arange(4 * BLOCK))
    of_digits = (seen < 5000).reshape(4, BLOCK).mean(axis=1)
    np.testing.assert_allclose(of_digits, [0, 1 / 3, 1 / 2, 1 / 2], atol=1 / BLOCK)


def test_a_temperature_favours_what_is_small(mixture):
    tokens = {"words": 9000, "digits": 1000}
    weights = {**mixture.mixture, "digits": {**mixture.mixture["digits"], "weight": 1.0}}
    for temperature, want in ((0, 0.5), (1, 0.1), (2, 1000**0.5 / (9000**0.5 + 1000**0.5))):
        mixing = dataclasses.replace(mixture, mixture=weights, temperature=temperature).mixing
        assert mixing.shares(tokens, 0)[0] == pytest.approx(want)


def test_rows_that_do_not_follow_each_other_are_not_joined(mixed_data):
    with pytest.raises(ConfigError, match="do not follow each other"):
        JoinedRows(open_split(mixed_data, "validation"), 64)


def test_a_mixture_is_never_read_unmixed(mixture, mixed_data):
    rows = open_split(mixed_data, "train")
    for given, mixing in ((rows, None), (rows.parts["words"], mixture.mixing)):
        with pytest.raises(ConfigError, match="mixing is for the rows of a mixture"):
            batches(given, seed=0, batch_size=4, mixing=mixing)


def test_a_damaged_part_is_named(mixture, mixed_data, tmp_path):
    prepare(mixture, vocab_size=400, directory=tmp_path / "data")
    path = tmp_path / "data" / "words" / "manifest.json"
    path.write_text(path.read_text() + " ")  # still JSON, and no longer what was written
    with pytest.raises(ConfigError, match="words/manifest.json is damaged"):
        open_split(tmp_path / "data", "train")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixture": {}}, "data.mixture has 0 parts"),
        ({"source": "stdlib"}, "data.source is 'stdlib' and data.mixture has 2 parts"),
        ({"mixture": {"../a": {"source": "stdlib"}}}, "a part '../a'"),
        ({"mixture": {"a": {"source": "images", "path": "x"}}}, "a.source is 'images'"),
        ({"mixture": {"a": {"source": "mixture"}}}, "a.source is 'mixture'"),
        ({"mixture": {"a": {"source": "text"}}}, "data.mixture.a: data.path is empty"),
        ({"mixture": {"a": {"source": "stdlib", "weigth": 1}}}, "did you mean 'weight'"),
        ({"mixture": {"a": {"source": "stdlib", "weight": 0}}}, "a.weight is 0"),
        ({"mixture": {"a": {"source": "stdlib", "schedule": ((5, 1.0),)}}}, "a.schedule is"),
        ({"mixture": {"a": {"source": "stdlib", "schedule": ((0, 1), (9, -1))}}}, "a.schedule is"),
        ({"mixture": {"a": {"source": "stdlib", "schedule": (0, 1)}}}, "a.schedule is"),
        ({"temperature": -1.0}, "data.temperature is -1"),
        ({"packing": "bestfit"}, "did you mean 'best_fit'"),
    ],
)
def test_what_cannot_be_is_refused(mixture, given, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        dataclasses.replace(mixture, **given)


def test_shares_that_cannot_be_are_refused(mixture):
    def mixing(**digits):
        parts = {**mixture.mixture, "digits": {**mixture.mixture["digits"], **digits}}
        return dataclasses.replace(mixture, mixture=parts).mixing

    with pytest.raises(ConfigError, match="digits has a share of 1e-05"):
        mixing(weight=1e-5).shares({"words": 1, "digits": 1}, 0)
    assert mixing(schedule=((0, 0), (10, 1))).shares({"words": 1, "digits": 1}, 5)[0] == 1 / 3
    alone = dataclasses.replace(
        mixture, mixture={"a": {"source": "stdlib", "schedule": ((0, 1.0), (10, 0.0))}}
    ).mixing
    with pytest.raises(ConfigError, match="at step 10 all weights"):
        alone.shares({"a": 5}, 10)


def test_best_fit_rows_hold_whole_documents(tmp_path):
    texts = write_texts(tmp_path / "texts", files=60, lines=6)
    config = DataConfig(source="text", path=str(texts), sequence_length=128, packing="best_fit")
    prepare(config, vocab_size=400, directory=tmp_path / "data")
    rows, tokenizer = open_split(tmp_path / "data", "train"), load_tokenizer(tmp_path / "data")
    batch = rows.take(range(len(rows)))
    found = []
    for tokens, targets, segments in zip(batch["tokens"], batch["targets"], batch["segment_ids"]):
        for segment in range(1, segments.max() + 1):
            mine = segments == segment
            piece = [int(token) for token in (*tokens[mine], targets[mine][-1])]
            assert piece[0] == tokenizer.bos_id
            found.append(tokenizer.decode(piece[1 : piece.index(tokenizer.eos_id)]))
    want = sorted(path.read_text() for path in texts.rglob("*.txt"))
    assert len(found) == load_manifest(tmp_path / "data").documents["train"] > 40
    assert set(found) < set(want)
    assert batch["weights"].sum() == rows.tokens
    with pytest.raises(ConfigError, match="do not follow each other"):
        JoinedRows(rows, 256)

import itertools
import threading
import time

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, batches, eval_batches, open_split, prepare
from llm_jax.data import rows as rows_module


@pytest.fixture(scope="module")
def rows(prepared):
    return open_split(prepared, "train")


def take(count, rows, **kwargs):
    iterator = batches(rows, **kwargs)
    result = list(itertools.islice(iterator, count))
    iterator.close()
    return result


def assert_same(batch, other):
    assert set(batch) == set(other)
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_a_batch_has_the_declared_arrays(rows):
    (batch,) = take(1, rows, seed=0, batch_size=4)
    kinds = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert kinds == {
        "tokens": ((4, 32), "int32"),
        "targets": ((4, 32), "int32"),
        "weights": ((4, 32), "float32"),
        "segment_ids": ((4, 32), "int32"),
        "positions": ((4, 32), "int32"),
        "example_ids": ((4,), "int32"),
    }
    np.testing.assert_array_equal(batch["example_ids"], np.arange(4))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_batch_follows_from_seed_and_step(rows, threads):
    straight = take(60, rows, seed=5, batch_size=4)
    assert 2 * len(rows) < 60 * 4
    for start in (0, 1, 7, 59):
        (batch,) = take(1, rows, seed=5, batch_size=4, start_step=start, threads=threads)
        assert_same(batch, straight[start])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_the_global_batch(rows, count):
    whole = take(10, rows, seed=1, batch_size=8, start_step=3)
    parts = [
        take(
            10,
            rows,
            seed=1,
            batch_size=8,
            start_step=3,
            process_index=index,
            process_count=count,
        )
        for index in range(count)
    ]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        assert_same(joined, batch)
        assert parts[0][step]["tokens"].shape[0] == 8 // count


class Draws:
    """Ten rows that are their own number and a draw."""

    split, static_copies = "train", 0

    def __len__(self):
        return 10

    def take(self, indices, randoms):
        return {"row": np.array(indices), "draw": np.array([r.random() for r in randoms])}


def test_chance_is_an_examples_own_and_never_comes_again():
    def draws(seed, **more):
        found = take(5, Draws(), seed=seed, batch_size=4, threads=0, **more)
        return np.concatenate([batch["draw"] for batch in found]).tolist()

    # Two epochs, and two of another seed.
    assert len({*draws(0), *draws(1)}) == 40
    assert draws(0, start_step=2)[:12] == draws(0)[8:]
    halves = [draws(0, process_index=index, process_count=2) for index in range(2)]
    assert np.reshape(halves, (2, 5, 2)).swapaxes(0, 1).ravel().tolist() == draws(0)


def test_chance_in_an_evaluation_is_a_rows_own_whatever_the_batch():
    whole = next(eval_batches(Draws(), batch_size=10))["draw"].tolist()
    assert len(set(whole)) == 10
    for size in (3, 5):
        parts = [batch["draw"] for batch in eval_batches(Draws(), batch_size=size)]
        assert np.concatenate(parts).tolist()[:10] == whole


def row_numbers(rows, found):
    known = {
        rows[i]["tokens"].tobytes() + rows[i]["targets"].tobytes(): i for i in range(len(rows))
    }
    assert len(known) == len(rows)
    return [
        known[tokens.tobytes() + targets.tobytes()]
        for batch in found
        for tokens, targets in zip(batch["tokens"], batch["targets"])
    ]


def test_every_epoch_has_every_row_once_in_another_order(rows):
    size = len(rows)
    order = row_numbers(rows, take(3 * size, rows, seed=2, batch_size=1))
    epochs = [order[i * size : (i + 1) * size] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert epochs[0] != epochs[1] != epochs[2] != list(range(size))


def test_seeds_give_orders_of_their_own(rows):
    size = len(rows)
    orders = [row_numbers(rows, take(2 * size, rows, seed=s, batch_size=1)) for s in (0, 1)]
    assert orders[0][:size] != orders[1][:size]
    assert orders[0][size:] != orders[1][:size]


def test_a_far_step_is_reached_at_once(rows):
    (batch,) = take(1, rows, seed=0, batch_size=4, start_step=10**9)
    assert batch["tokens"].shape == (4, 32)


def test_rows_from_the_file_equal_those_in_memory(prepared, rows, monkeypatch):
    monkeypatch.setattr(rows_module, "IN_MEMORY_BYTES", 0)
    filed = open_split(prepared, "train")
    assert filed._held is None
    assert rows._held is not None
    for index in (0, 1, len(rows) - 1, -1):
        assert_same(filed[index], rows[index])
    indices = [3, -1, 0, len(rows) - 1]
    assert_same(filed.take(indices), rows.take(indices))
    assert_same(rows[-1], rows[len(rows) - 1])
    assert_same(take(1, filed, seed=0, batch_size=8)[0], take(1, rows, seed=0, batch_size=8)[0])
    with pytest.raises(IndexError):
        filed[len(rows)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("batch_size", [4, 6, 10_000])
def test_evaluation_sees_every_row_once(rows, batch_size, count):
    found = [
        list(eval_batches(rows, batch_size=batch_size, process_index=i, process_count=count))
        for i in range(count)
    ]
    assert {len(part) for part in found} == {-(-len(rows) // batch_size)}
    whole = [
        {name: np.concatenate([b[name] for b in parts]) for name in parts[0]}
        for parts in zip(*found)
    ]
    assert all(batch["tokens"].shape == (batch_size, 32) for batch in whole)
    assert sum(batch["weights"].sum() for batch in whole) == rows.tokens
    tokens = np.concatenate([batch["tokens"] for batch in whole])
    np.testing.assert_array_equal(
        tokens[: len(rows)], np.stack([rows[i]["tokens"] for i in range(len(rows))])
    )
    filler = np.concatenate([batch["weights"] for batch in whole])[len(rows) :]
    assert not filler.any()


def test_attention_across_documents_leaves_segments_and_positions_out(config, tmp_path, rows):
    across = DataConfig(
        source="text", path=config.path, sequence_length=32, cross_document_attention=True
    )
    prepare(across, vocab_size=400, directory=tmp_path / "data")
    joined = open_split(tmp_path / "data", "train")
    row, apart = joined[2], rows[2]
    assert set(apart) - set(row) == {"segment_ids", "positions"}
    np.testing.assert_array_equal(row["tokens"], apart["tokens"])


def test_closing_ends_the_threads(rows):
    before = threading.active_count()
    iterator = batches(rows, seed=0, batch_size=4, threads=3)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_fewer_rows_than_a_batch_are_refused(rows):
    size = len(rows)
    with pytest.raises(ConfigError, match=f"{rows.tokens} tokens, {size} rows.*{size + 1}"):
        batches(rows, seed=0, batch_size=size + 1)
    take(1, rows, seed=0, batch_size=size)


@pytest.mark.parametrize(("batch_size", "count"), [(6, 4), (0, 1), (-4, 2)])
def test_a_batch_that_processes_do_not_divide_is_refused(rows, batch_size, count):
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size}"):
        batches(rows, seed=0, batch_size=batch_size, process_count=count)
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size}"):
        eval_batches(rows, batch_size=batch_size, process_count=count)


def test_batches_that_are_left_out_were_never_there():
    stream = take(20, Draws(), seed=4, batch_size=4)
    kept = [batch for number, batch in enumerate(stream) if number not in (3, 4, 8, 9, 10)]
    for start in (0, 2, 3, 6, 9):
        found = take(
            3, Draws(), seed=4, batch_size=4, start_step=start, skipped=[(3, 5), (8, 11)],
            process_index=1, process_count=2,
        )  # fmt: skip
        for batch, whole in zip(found, kept[start:]):
            assert_same(batch, {name: value[2:] for name, value in whole.items()})

"""Whose the seconds of a run are: every kind of them, and all of them."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from llm_jax.training import goodput
from llm_jax.training.goodput import KINDS, Ledger
from llm_jax.training.loop import Hook, fit


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [50.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def train(ledger, sleep, steps, first=0, hooks=()):
    """Runs the loop with a slow reader (2 s), a first step of 30 s and others of 1 s."""

    def batches():
        for number in range(first, 100):
            sleep(2.0)
            yield number

    def step(state, batch):
        sleep(30.0 if batch == first else 1.0)
        return state, {"loss": jnp.float32(batch)}

    return fit(
        step, None, batches(), first=first, steps=steps,
        on_metrics=lambda step, _: ledger.write(step), hooks=hooks, ledger=ledger,
    )  # fmt: skip


def of(ledger):
    return {kind: seconds for kind, seconds in ledger.seconds().items() if seconds}


def test_every_second_is_of_one_kind(clock):
    ledger = Ledger(age=3.0)
    clock(4.0)

    def save(step, state):
        with ledger.during("saving"):
            clock(5.0)
        clock(0.5)

    train(ledger, clock, 6, hooks=[Hook(3, save)])
    assert of(ledger) == {
        "start-up": 7.0, "compilation": 30.0, "productive": 5.0, "data wait": 14.0, "saving": 10.0,
        "evaluation": 1.0,
    }  # fmt: skip
    assert set(ledger.seconds()) == set(KINDS)


def test_an_exception_ends_what_it_was_raised_in(clock):
    ledger = Ledger()
    with pytest.raises(OSError), ledger.during("saving"):
        clock(1.0)
        raise OSError
    clock(2.0)
    assert of(ledger) == {"saving": 1.0, "start-up": 2.0}


def test_reading_while_the_device_works_is_no_wait(clock):
    ledger, busy = Ledger(), iter([True, False, True, False])

    def batches():
        for number in range(3):
            clock(2.0)
            yield number

    ledger.step(0)
    assert list(ledger.reading(batches(), lambda: next(busy))) == [0, 1, 2]
    assert of(ledger) == {"productive": 4.0, "data wait": 2.0}


def test_a_killed_run_counts_the_steps_that_are_taken_again(clock, tmp_path):
    first = Ledger(str(tmp_path))
    train(first, clock, 8)  # and is killed: its newest checkpoint is that of step 5
    before = of(Ledger(str(tmp_path)))
    assert before == {"compilation": 30.0, "productive": 7.0, "data wait": 18.0}
    second = Ledger(str(tmp_path), age=1.5)
    train(second, clock, 12, first=5)
    after = of(second)
    assert after["recovery"] == 2.0  # steps 7 and 8; step 6 was compiled
    assert after["productive"] == 7.0 + 4.0
    assert after["compilation"] == 60.0
    assert sum(after.values()) == sum(before.values()) + 1.5 + 30.0 + 6.0 + 8 * 2.0
    third = Ledger(str(tmp_path))  # killed again, and it goes back behind both
    train(third, clock, 13, first=2)
    assert of(third)["recovery"] == 2.0 + 9.0
    lines = (tmp_path / "goodput.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [8, 12, 13]


def test_the_loops_own_waits_are_seen_with_a_real_device():
    train_step = jax.jit(lambda state, batch: (state, {"loss": (batch @ batch).sum()}))
    before = time.perf_counter()
    ledger = Ledger()
    began = time.perf_counter()

    def batches():
        for _ in range(6):
            time.sleep(0.05)
            yield jnp.ones((8, 8))

    fit(
        train_step, None, batches(), first=0, steps=6, on_metrics=lambda *_: None, ledger=ledger,
        hooks=[Hook(2, lambda *_: time.sleep(0.02))],
    )  # fmt: skip
    ended = time.perf_counter()
    seconds = ledger.seconds()
    assert ended - began <= sum(seconds.values()) <= time.perf_counter() - before
    # A busy machine may not have finished a step after 50 ms: then that was no wait.
    assert seconds["data wait"] >= 0.05
    assert seconds["data wait"] + seconds["productive"] >= 0.3
    assert seconds["evaluation"] >= 0.06
    assert seconds["compilation"] > 0


def test_what_is_compiled_within_something_else_is_compilation(tmp_path):
    before = time.perf_counter()
    ledger = Ledger(str(tmp_path))
    began = time.perf_counter()
    with ledger.during("evaluation"):
        jax.jit(lambda x: jnp.sort(jnp.sin(x) @ x))(jnp.ones((9, 9))).block_until_ready()
    ended = time.perf_counter()
    seconds = ledger.seconds()
    assert seconds["compilation"] > 0
    assert ended - began <= sum(seconds.values()) <= time.perf_counter() - before

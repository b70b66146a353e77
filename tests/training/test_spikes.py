"""When a loss is a spike, which batches are left out, and which checkpoint stays."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llm_jax.configuration import ConfigError
from llm_jax.data.loader import position
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.spikes import FILE, Guard, Spike, SpikesConfig


def look(guard, losses, first=0, bad=0.0):
    for step, loss in enumerate(losses, first + 1):
        guard.look(step, {"loss": float(loss), "skipped_in_a_row": bad})


def test_a_loss_is_a_spike_from_so_many_robust_deviations_on():
    losses = np.random.default_rng(0).normal(3.0, 0.1, 20)
    median = torch.tensor(losses[-15:]).median()
    spread = 1.4826 * (torch.tensor(losses[-15:]) - median).abs().median()
    for deviations in (7.99, 8.01):
        guard = Guard(SpikesConfig(threshold=8.0, window=15, skip=4), 3)
        look(guard, losses)
        loss = float(median + deviations * spread)
        if deviations < 8:
            look(guard, [loss], 20)
            continue
        with pytest.raises(Spike, match=f"step 21: loss {loss:.4g} is 8.01 deviations") as found:
            look(guard, [loss], 20)
        assert (found.value.step, found.value.since) == (21, 16)


def test_nothing_is_judged_before_the_window_is_full_nor_when_it_is_off():
    look(Guard(SpikesConfig(threshold=5.0, window=9), 3), [1.0] * 8 + [1e9])
    look(Guard(SpikesConfig(window=2), 3), [1.0, 1.1, 0.9, 1e9])


def test_steps_that_are_not_finite_are_a_spike_when_they_are_too_many_in_a_row():
    guard = Guard(SpikesConfig(threshold=5.0, window=4, skip=2), 3)
    look(guard, [1.0, 1.1, 0.9, 1.0])
    for bad in (1, 2):
        look(guard, [np.nan], 3 + bad, bad)
    with pytest.raises(Spike, match="3 steps in a row were not finite") as found:
        look(guard, [np.nan], 6, 3)
    assert (found.value.step, found.value.since) == (7, 2)


def test_batches_left_out_are_those_around_the_spikes_each_once():
    chance = np.random.default_rng(3)
    for _ in range(50):
        guard, left_out = (
            Guard(SpikesConfig(threshold=5.0, skip=int(chance.integers(0, 5))), 3),
            set(),
        )
        for step in np.sort(chance.integers(5, 60, 4)):
            stream = [number for number in range(200) if number not in left_out]
            back_to = int(chance.integers(0, step))
            since = max(int(step) - 1 - guard._config.skip, 0)
            guard.leave_out(Spike(int(step), since, "jumped"), back_to)
            first, last = stream[max(since, back_to)], stream[step - 1] + guard._config.skip
            left_out |= set(range(first, last + 1))
        windows = guard.skipped
        assert [n for window in windows for n in range(*window)] == sorted(left_out)
        assert all(end < first for (_, end), (first, _) in itertools.pairwise(windows))
        stream = [number for number in range(300) if number not in left_out]
        assert [position(step, windows) for step in range(150)] == stream[:150]


def test_what_a_guard_knows_goes_on_and_rollbacks_are_never_forgotten():
    config = SpikesConfig(threshold=5.0, window=6)
    guard, losses = Guard(config, 3), [1 / 3, 0.1, 0.2, 0.3, 0.15, 0.25]
    assert guard.files() == {}
    look(guard, losses)
    before = guard.files()[FILE]
    rollback = guard.leave_out(Spike(9, 3, "jumped"), 2)
    after = guard.files()[FILE]
    guard.restore(before)  # back to a checkpoint from before the rollback
    assert guard.rollbacks == [rollback]
    other = Guard(config, 3)
    other.restore(after)
    assert other.files() == guard.files()
    with pytest.raises(Spike):
        look(other, [50.0], 6)
    assert json.loads(after)["rollbacks"][0]["back_to"] == 2


def test_a_run_stops_after_as_many_rollbacks_as_it_may_take():
    guard = Guard(SpikesConfig(threshold=5.0, window=2, max_rollbacks=1), 3)
    look(guard, [1.0, 1.1])
    guard.leave_out(Spike(9, 3, "jumped"), 2)
    with pytest.raises(ConfigError, match=r"stopped at step 3: loss 50 is .* after 1 rollbacks"):
        look(guard, [50.0], 2)


@pytest.mark.parametrize("key", ["threshold", "window", "skip", "max_rollbacks"])
def test_a_setting_that_makes_no_sense_is_refused(key):
    with pytest.raises(ConfigError, match=f"spikes.{key} is -1"):
        SpikesConfig(**{key: -1})


def test_going_back_drops_what_is_newer_and_its_mark(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    assert checkpoints.go_back(5) == 0
    for step in (10, 20, 30):
        checkpoints.save(step, {"x": jnp.arange(3)}, {"note": b"%d" % step})
    checkpoints.wait()
    checkpoints.mark_best(30, 1.0)
    assert checkpoints.read(20, "note") == b"20"
    assert checkpoints.read(20, "other") is None
    assert checkpoints.go_back(29) == 20
    assert checkpoints.steps() == [10, 20]
    assert checkpoints.best() is None
    checkpoints.mark_best(10, 2.0)
    assert checkpoints.go_back(3) == 10  # the oldest stays: there is nothing before it
    assert checkpoints.steps() == [10]
    assert checkpoints.best()["step"] == 10
    checkpoints.verify(10)
    checkpoints.close()

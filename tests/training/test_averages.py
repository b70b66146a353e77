"""Averaged parameters: the recurrence, what is skipped, resumed, sharded, and who sees them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError, to_dict
from llm_jax.optim import OptimConfig, newest_share
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import random_batch
from llm_jax.training import restore
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.trainer import make_trainer
from tests.training import test_trainer, test_tuning

STEPS = 8
SKIPPED = 4  # this batch is not finite
RATE = {"learning_rate": 1e-2, "name": "adamw", "warmup_steps": 0}
AVERAGES = {"ema": {"ema_decay": 0.3}, "swa": {"swa_start": 0.4}}


def pretraining(optim, **changes):
    run = test_trainer.run_of(steps=STEPS, optim=RATE | optim, **changes)
    return run, lambda step: random_batch(step)


def finetuning(optim):
    return test_tuning.run_of(steps=STEPS, optim=RATE | optim, method="lora"), test_tuning.batch


CASES = [
    (pretraining, "swa"),
    (finetuning, "ema"),
    pytest.param(pretraining, "ema", marks=pytest.mark.slow),
    pytest.param(finetuning, "swa", marks=pytest.mark.slow),
]


def steps(trainer, now, batches, first, last):
    """Yields the state after each step; the batch of step `SKIPPED` is not finite."""
    with jax.set_mesh(trainer.mesh):
        for step in range(first, last):
            batch = batches(step)
            if step == SKIPPED:
                batch["weights"] = np.full_like(batch["weights"], np.inf)
            now, _ = trainer.train_step(now, jax.device_put(batch, batch_sharding(trainer.mesh)))
            yield now


def copied(tree):
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def by_hand(kind, history):
    """The averages after each of the updates that gave `history`, the initial values first."""
    average, found = history[0], []
    for count, params in enumerate(history[1:], 1):
        if kind == "ema":
            keep = min(0.3, (1 + count) / (10 + count))
            average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)  # noqa: B023
        else:
            first = 3  # of 8 steps, behind 0.4 of them
            window = history[first : count + 1] if count > first else [params]
            average = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *window)
        found.append(average)
    return found


@pytest.mark.parametrize(("made", "kind"), CASES)
def test_the_average_follows_the_papers_formula_and_skips_with_the_step(made, kind):
    run, batches = made(AVERAGES[kind])
    trainer = make_trainer(run)
    first = trainer.new_state()
    history, averages, raw = [copied(first.params)], [], [copied(first.params)]
    for step, now in enumerate(steps(trainer, first, batches, 0, STEPS)):
        raw.append(copied(now.params))
        averages.append(copied(now.average))
        if step == SKIPPED:
            jax.tree.map(np.testing.assert_array_equal, raw[-1], raw[-2])
            jax.tree.map(np.testing.assert_array_equal, averages[-1], averages[-2])
        else:
            history.append(raw[-1])
    assert now.skipped == 1
    del averages[SKIPPED]
    for found, want in zip(averages, by_hand(kind, history), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), found, want)
    moved = test_tuning.by_path(jax.tree.map(lambda a, p: np.any(a != p), now.average, now.params))
    assert sum(map(bool, moved.values())) > len(moved) / 2
    # What is used is the average, and what does not train.
    whole = test_tuning.by_path(trainer.params(now))
    assert whole.keys() == test_tuning.by_path(trainer.model.abstract_params).keys()
    for path, leaf in (test_tuning.by_path(now.average) | test_tuning.by_path(now.frozen)).items():
        np.testing.assert_array_equal(whole[path], leaf)


def test_the_average_changes_no_update():
    run, batches = pretraining(AVERAGES["ema"])
    plain = make_trainer(pretraining({})[0])
    assert plain.target.average is None
    averaged = make_trainer(run)
    ends = [list(steps(t, t.new_state(), batches, 0, 3))[-1] for t in (plain, averaged)]
    jax.tree.map(np.testing.assert_array_equal, *(end.params for end in ends))


@pytest.mark.parametrize(("made", "kind"), CASES)
def test_a_run_goes_on_bit_by_bit(made, kind, tmp_path):
    run, batches = made(AVERAGES[kind])
    trainer = make_trainer(run)
    for step, now in enumerate(steps(trainer, trainer.new_state(), batches, 0, STEPS), 1):
        if step == 5:
            checkpoints = Checkpoints(tmp_path)
            checkpoints.save(step, now._replace(frozen=None))
            checkpoints.wait()
    kept = checkpoints.restore(5, trainer.target._replace(frozen=None))
    kept = kept._replace(frozen=jax.tree.map(jnp.copy, now.frozen))
    again = list(steps(trainer, kept, batches, 5, STEPS))[-1]
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, again, now)


@pytest.mark.parametrize("kind", ["ema", pytest.param("swa", marks=pytest.mark.slow)])
def test_a_mesh_averages_the_same(kind):
    found, sgd = [], {"name": "sgd", "learning_rate": 0.3}
    for mesh in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        run, batches = pretraining(AVERAGES[kind] | sgd, mesh=mesh)
        trainer = make_trainer(run)
        found.append(list(steps(trainer, trainer.new_state(), batches, 0, STEPS))[-1].average)
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_the_average_lies_as_the_optimizer_s_state_does():
    run, _ = pretraining(AVERAGES["ema"], mesh={"data": 2, "fsdp": 4}, parallel={"zero": 1})
    target = make_trainer(run).target
    place = lambda tree: [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]  # noqa: E731
    moments = jax.tree.leaves(target.opt_state, is_leaf=lambda x: hasattr(x, "mean"))
    (mean,) = [state.mean for state in moments if hasattr(state, "mean")]
    assert place(target.average) == place(mean) != place(target.params)


def test_weights_that_are_given_may_be_averaged():
    run, batches = pretraining(AVERAGES["ema"])
    trainer = make_trainer(run)
    base = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), trainer.base)
    base = jax.device_put(base, jax.tree.map(lambda x: x.sharding, trainer.base))
    now = trainer.new_state(base)
    jax.tree.map(np.testing.assert_array_equal, now.average, base)
    assert list(steps(trainer, now, batches, 0, 2))[-1].step == 2


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints of an averaging run: parameters of 1 and 2, averages of 11 and 12."""
    run, _ = pretraining(AVERAGES["ema"])
    trainer = make_trainer(run)
    checkpoints = Checkpoints(tmp_path, 2, {"config.json": json.dumps(to_dict(run)).encode()})
    now = trainer.new_state()
    for step, loss in ((1, 2.0), (2, 3.0)):
        params, average = (
            jax.tree.map(lambda x, n=n: jnp.full_like(x, n), now.params) for n in (step, 10 + step)
        )
        checkpoints.save(step, now._replace(params=params, average=average))
        checkpoints.wait()
        checkpoints.mark_best(step, loss)
    yield tmp_path, run, trainer, checkpoints
    checkpoints.close()


def values(params):
    return {float(x) for leaf in jax.tree.leaves(params) for x in np.unique(leaf)}


def test_what_is_used_later_is_the_average(workdir):
    directory, run, trainer, checkpoints = workdir
    assert values(restore.load_model(str(directory)).params) == {12}
    assert values(restore.load_model(str(directory), "best").params) == {11}
    assert values(restore.load_params(str(directory), run.model, trainer.base)) == {12}

    class Stopped:
        state, step = trainer.new_state(), 2

    Stopped.checkpoints = checkpoints
    step, params = restore.best_params(Stopped, trainer)
    assert (step, values(params)) == (1, {11})
    # The raw ones are what a run goes on from.
    assert values(checkpoints.restore(2, trainer.target).params) == {2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema_decay": 1.0}, "optim.ema_decay is 1.0: give a value between 0 and 1"),
        ({"swa_start": -0.1}, "optim.swa_start is -0.1"),
        ({"ema_decay": 0.9, "swa_start": 0.5}, "one average is kept, set one of them to 0"),
    ],
)
def test_impossible_averages_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        OptimConfig(**changes)


def test_a_long_average_warms_up_and_then_keeps_its_decay():
    share = newest_share(OptimConfig(ema_decay=0.9999), 10)
    assert share(jnp.int32(1)) == pytest.approx(9 / 11, rel=1e-6)
    assert share(jnp.int32(10**7)) == pytest.approx(1e-4, rel=1e-6)
    assert newest_share(OptimConfig(), 10) is None

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import models
from llm_jax.losses.language_model import next_token_loss
from llm_jax.testing import random_batch, relative_error, tiny_config, tiny_model
from llm_jax.training.precision import GROWTH_INTERVAL, INITIAL_SCALE, MAX_SCALE, next_scale, policy
from llm_jax.training.state import new_state
from llm_jax.training.step import make_train_step

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def language_model_loss(model, params, batch, key):
    return next_token_loss(model, params, batch, dropout_key=key)


def make(loss, init, *, precision="fp32", accumulation=1, optimizer=OPTIMIZER):
    numbers = policy(precision)
    train_step = make_train_step(
        loss,
        optimizer,
        lambda step: 1e-3,
        seed=3,
        policy=numbers,
        accumulation=accumulation,
    )
    return jax.jit(train_step), new_state(init(jax.random.key(0)), optimizer, numbers)


def test_accumulation_equals_the_full_batch_with_unequal_weights_and_dropout():
    model = tiny_model(dropout_rate=0.2)
    loss = functools.partial(language_model_loss, model)
    batch = random_batch(batch=8)
    results = {}
    for parts in (1, 2, 4):
        step, state = make(loss, model.init, accumulation=parts, optimizer=optax.sgd(1.0))
        after, metrics = step(state, batch)
        update = jax.tree.map(lambda a, b: a - b, after.params, state.params)
        results[parts] = update, metrics["loss"]
    for parts in (2, 4):
        assert relative_error(results[parts][0], results[1][0]) < 1e-6
        assert abs(results[parts][1] - results[1][1]) < 1e-6 * results[1][1]


def test_the_loss_is_the_weighted_mean_and_the_gradient_its_derivative():
    model = tiny_model()
    batch = random_batch(1)
    step, state = make(
        functools.partial(language_model_loss, model), model.init, optimizer=optax.sgd(1.0)
    )
    after, metrics = step(state, batch)

    def mean_loss(params):
        hidden, _ = model.hidden(
            params,
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
        )
        nll = -jnp.take_along_axis(
            jax.nn.log_softmax(model.logits(params, hidden)), batch["targets"][..., None], axis=-1
        )[..., 0]
        return jnp.sum(nll * batch["weights"]) / jnp.sum(batch["weights"])

    value, gradient = jax.value_and_grad(mean_loss)(state.params)
    update = jax.tree.map(lambda a, b: a - b, state.params, after.params)
    assert abs(value - metrics["loss"]) < 1e-5
    assert relative_error(update, gradient) < 1e-5
    assert abs(metrics["gradient_norm"] - optax.global_norm(gradient)) < 1e-5


def quadratic(params, batch, key):
    """sum(weights * (w - x)^2), not finite where x is not."""
    loss = jnp.sum(batch["weights"] * (params["w"] - batch["x"]) ** 2)
    return (loss, jnp.sum(batch["weights"])), {}


def quadratic_batch(x):
    return {"x": jnp.full((4,), x), "weights": jnp.ones((4,))}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad):
    step, state = make(quadratic, lambda _: {"w": jnp.float32(1.0)})
    state, metrics = step(state, quadratic_batch(3.0))
    before = jax.device_get(state)
    state, metrics = step(state, quadratic_batch(bad))
    assert metrics["skipped"] == 1
    assert metrics["skipped_in_a_row"] == 1
    for kept, old in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((before.params, before.opt_state)),
    ):
        np.testing.assert_array_equal(kept, old)
    assert state.step == 2
    state, metrics = step(state, quadratic_batch(3.0))
    assert metrics["skipped"] == 1
    assert metrics["skipped_in_a_row"] == 0
    assert state.params["w"] != before.params["w"]


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_step_is_skipped_for_its_loss_or_for_its_gradient_alone(part):
    def loss(params, batch, key):
        (value, weight), sums = quadratic(params, batch, key)
        # The root of 0 is 0 and has no derivative.
        bad = {"loss": batch["bad"][0], "gradient": jnp.sqrt(params["w"] * batch["bad"][0])}
        return (value + bad[part], weight), sums

    step, state = make(loss, lambda _: {"w": jnp.float32(1.0)})
    bad = np.nan if part == "loss" else 0.0
    after, metrics = step(state, quadratic_batch(3.0) | {"bad": jnp.full((4,), bad)})
    assert jnp.isfinite(metrics["loss"]) == (part == "gradient")
    assert jnp.isfinite(metrics["gradient_norm"]) == (part == "loss")
    assert metrics["skipped"] == 1
    assert after.params["w"] == state.params["w"]


def test_the_rate_that_is_reported_is_the_one_that_the_optimizer_used():
    schedule = optax.linear_schedule(0.01, 0.05, 4)
    train_step = make_train_step(
        quadratic, optax.sgd(schedule), schedule, seed=0, policy=policy("fp32")
    )
    train_step = jax.jit(train_step)
    state = new_state({"w": jnp.float32(1.0)}, optax.sgd(schedule), policy("fp32"))
    rates = []
    for x in (3.0, np.nan, 3.0, 3.0):
        w = float(state.params["w"])
        state, metrics = train_step(state, quadratic_batch(x))
        rates.append(float(metrics["learning_rate"]))
        if x == 3.0:
            used = (float(state.params["w"]) - w) / (2 * (3.0 - w))
            assert rates[-1] == pytest.approx(used, rel=1e-4)
    assert rates == pytest.approx([0.01, 0.02, 0.02, 0.03])


def test_a_batch_without_weight_costs_nothing_and_changes_nothing():
    step, state = make(quadratic, lambda _: {"w": jnp.float32(1.0)}, optimizer=optax.sgd(0.1))
    after, metrics = step(state, {"x": jnp.ones((4,)) * 3.0, "weights": jnp.zeros((4,))})
    assert (metrics["loss"], metrics["weight"], metrics["skipped"]) == (0, 0, 0)
    assert after.params["w"] == 1.0


def test_further_sums_are_divided_by_the_weight_as_the_loss_is():
    def loss(params, batch, key):
        (value, weight), _ = quadratic(params, batch, key)
        return (value, weight), {"twice": 2 * value}

    for parts in (1, 2):
        step, state = make(loss, lambda _: {"w": jnp.float32(1.0)}, accumulation=parts)
        _, metrics = step(state, {"x": jnp.full((4,), 3.0), "weights": jnp.arange(4.0)})
        assert (metrics["loss"], metrics["twice"], metrics["weight"]) == (4, 8, 6)


def test_fp16_halves_its_scale_on_overflow_and_the_update_does_not_depend_on_it():
    step, state = make(
        quadratic, lambda _: {"w": jnp.float32(1.0)}, precision="fp16", optimizer=optax.sgd(0.1)
    )
    assert state.loss_scale == INITIAL_SCALE
    after, _ = step(state, quadratic_batch(3.0))
    np.testing.assert_allclose(after.params["w"], 1.0 - 0.1 * 2 * (1.0 - 3.0), rtol=1e-6)
    after, metrics = step(after, quadratic_batch(3e20))
    assert metrics["skipped"] == 1
    assert after.loss_scale == INITIAL_SCALE / 2


def test_the_loss_scale_doubles_after_an_interval_of_finite_steps():
    scale, good = jnp.float32(8.0), jnp.int32(GROWTH_INTERVAL - 2)
    scale, good = next_scale(scale, good, jnp.bool_(True))
    assert (scale, good) == (8.0, GROWTH_INTERVAL - 1)
    scale, good = next_scale(scale, good, jnp.bool_(True))
    assert (scale, good) == (16.0, 0)
    assert next_scale(jnp.float32(1.0), good, jnp.bool_(False))[0] == 1.0
    full = jnp.int32(GROWTH_INTERVAL - 1)
    assert next_scale(jnp.float32(MAX_SCALE), full, jnp.bool_(True))[0] == MAX_SCALE


def test_a_step_compiles_once():
    model = tiny_model(dropout_rate=0.1)
    step, state = make(functools.partial(language_model_loss, model), model.init)
    for number in range(3):
        state, _ = step(state, random_batch(number))
    assert step._cache_size() == 1


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_low_precision_trains_like_fp32(precision):
    losses = {}
    for name in ("fp32", precision):
        model = models.build(models.parse_config(tiny_config()), dtype=policy(name).dtype)
        step, state = make(
            functools.partial(language_model_loss, model), model.init, precision=name
        )
        for number in range(10):
            state, metrics = step(state, random_batch(number % 2))
        losses[name] = metrics["loss"]
        assert jax.tree.leaves(state.params)[0].dtype == jnp.float32
        assert metrics["skipped"] == 0
    assert abs(losses[precision] - losses["fp32"]) < 0.01 * losses["fp32"]

"""Schedules against formulas written here in float64, and against torch's schedulers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.optim import SCHEDULES, OptimConfig, schedule

PEAK, FLOOR, WARMUP, STEPS = 3e-3, 0.1, 10, 110


def config(name, **keys):
    return OptimConfig(**{"schedule": name, "learning_rate": PEAK, "warmup_steps": WARMUP, **keys})


def rates(config, steps=STEPS, until=None):
    return np.asarray(schedule(config, steps)(np.arange(steps + 1 if until is None else until)))


def progress(step):
    return (step - WARMUP) / (STEPS - WARMUP)


def floored(share):
    return FLOOR + (1 - FLOOR) * share


def piecewise(step):
    return 1.0 if step < 33 else 0.5 if step < 88 else 0.2


def wsd(fall):
    return lambda step: 1.0 if step <= 88 else floored(fall((step - 88) / 22))


FORMULAS = {
    "constant": ({}, lambda s: 1.0),
    "linear": ({}, lambda s: floored(1 - progress(s))),
    "cosine": ({}, lambda s: floored((1 + math.cos(math.pi * progress(s))) / 2)),
    "polynomial": ({"power": 1.7}, lambda s: floored((1 - progress(s)) ** 1.7)),
    "inverse_sqrt": ({}, lambda s: math.sqrt(WARMUP / s)),
    "inverse_sqrt timescale": ({"timescale": 40}, lambda s: math.sqrt(40 / (40 + s - WARMUP))),
    "piecewise": ({"piecewise": ((0.3, 0.5), (0.8, 0.2))}, piecewise),
    "wsd": ({}, wsd(lambda x: 1 - x)),
    "wsd sqrt": ({"decay_shape": "sqrt"}, wsd(lambda x: 1 - math.sqrt(x))),
    "wsd cosine": (
        {"decay_shape": "cosine"},
        wsd(lambda x: (1 + math.cos(math.pi * x)) / 2),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_after_a_linear_warmup(name):
    keys, formula = FORMULAS[name]
    expected = [
        PEAK * ((s + 1) / (WARMUP + 1) if s < WARMUP else formula(s)) for s in range(STEPS + 1)
    ]
    given = rates(config(name.split()[0], **keys))
    np.testing.assert_allclose(given, expected, rtol=2e-6, atol=2e-7 * PEAK)


def torch_rates(make, lr, steps):
    torch = pytest.importorskip("torch", reason="the `reference` extra is not installed")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_one_cycle_equals_torch():
    # Ours ends at the step `STEPS`, torch's at its last one.
    expected = torch_rates(
        lambda torch, o: torch.OneCycleLR(
            o,
            PEAK,
            total_steps=STEPS + 1,
            pct_start=(33 + 1) / (STEPS + 1),
            div_factor=25,
            final_div_factor=40,
            cycle_momentum=False,
        ),
        PEAK,
        STEPS + 1,
    )
    given = rates(
        config("one_cycle", warmup_steps=33, start_fraction=1 / 25, final_fraction=1 / 1000)
    )
    np.testing.assert_allclose(given, expected, rtol=2e-6, atol=2e-7 * PEAK)


@pytest.mark.parametrize(("growth", "cycles", "first"), [(1, 5, 22), (2, 3, 20)])
def test_cosine_restarts_equal_torch(growth, cycles, first):
    steps = sum(first * growth**i for i in range(cycles))
    expected = torch_rates(
        lambda torch, o: torch.CosineAnnealingWarmRestarts(
            o, T_0=first, T_mult=growth, eta_min=FLOOR * PEAK
        ),
        PEAK,
        steps,
    )
    given = rates(
        config("cosine_restarts", warmup_steps=0, cycles=cycles, cycle_growth=float(growth)),
        steps,
        steps,
    )
    np.testing.assert_allclose(given, expected, rtol=2e-6, atol=2e-7 * PEAK)


@pytest.mark.parametrize(("mode", "kept"), [("triangular", 1.0), ("triangular2", 0.5)])
def test_triangular_equals_torch(mode, kept):
    expected = torch_rates(
        lambda torch, o: torch.CyclicLR(
            o, FLOOR * PEAK, PEAK, step_size_up=11, mode=mode, cycle_momentum=False
        ),
        FLOOR * PEAK,
        STEPS,
    )
    given = rates(config("triangular", warmup_steps=0, cycles=5, cycle_decay=kept), STEPS, STEPS)
    np.testing.assert_allclose(given, expected, rtol=2e-6, atol=2e-7 * PEAK)


def test_restart_falls_on_its_step_where_a_third_is_no_number():
    given = rates(config("cosine_restarts", warmup_steps=0, cycles=3), 100) / PEAK
    assert given[0] == given[33] == given[67] == 1
    assert given[32] < 0.11
    assert given[66] < 0.11


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_is_continuous_and_the_first_update_is_not_lost(name):
    given = rates(config(name, final_fraction=0.2)) / PEAK
    assert given[0] > 0
    assert np.all(np.diff(given[: WARMUP + 1]) > 0)
    assert given[WARMUP] == pytest.approx(0.2 if name == "triangular" else 1.0)
    assert np.all(np.diff(given)[:WARMUP] < 0.15)


FALLING = ("linear", "cosine", "polynomial", "wsd", "one_cycle", "triangular", "cosine_restarts")


@pytest.mark.parametrize("name", FALLING)
def test_decay_ends_at_its_fraction_at_exactly_the_last_step(name):
    given = rates(config(name, final_fraction=0.25), until=STEPS + 50) / PEAK
    assert np.all(given[STEPS:] == np.float32(0.25))
    assert given[STEPS - 1] > 0.25


@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_stays_after_the_last_step(name):
    given = rates(config(name), until=STEPS + 50)
    assert np.all(given[STEPS:] == given[STEPS])


@pytest.mark.parametrize("name", SCHEDULES)
def test_int_traced_and_vectors_of_steps_agree_in_float32(name):
    rate = schedule(config(name), STEPS)
    steps = [0, 3, WARMUP, 57, STEPS - 1]
    vector = rate(np.array(steps))
    assert vector.dtype == jnp.float32
    traced = jax.jit(rate)
    for step, expected in zip(steps, vector, strict=True):
        assert rate(step).shape == ()
        assert rate(step).dtype == jnp.float32
        np.testing.assert_allclose(rate(step), expected, rtol=1e-6)
        np.testing.assert_allclose(traced(jnp.int32(step)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n != "one_cycle"])
def test_no_warmup_starts_at_the_schedule_itself(name):
    given = rates(config(name, warmup_steps=0)) / PEAK
    assert given[0] == pytest.approx(FLOOR if name == "triangular" else 1.0)


def test_warmup_as_long_as_the_run_never_falls():
    given = rates(config("cosine", warmup_steps=20), 20)
    np.testing.assert_allclose(given[:20], PEAK * np.arange(1, 21) / 21, rtol=1e-6)


def test_steps_beyond_float32_stay_apart():
    rate = schedule(config("linear", warmup_steps=2**25, final_fraction=0.0), 2**25 + 4)
    np.testing.assert_allclose(
        rate(2**25 + np.arange(5)) / PEAK, [1, 0.75, 0.5, 0.25, 0], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "keys", "steps", "message"),
    [
        ("cosine", {"warmup_steps": 21}, 20, "warmup_steps is 21 in a run of 20"),
        ("cosine", {"warmup_steps": 0}, 0, "steps is 0"),
        ("wsd", {"warmup_steps": 17}, 20, "overlap"),
        ("one_cycle", {"warmup_steps": 0}, 20, "give for instance 6"),
        ("one_cycle", {"warmup_steps": 20}, 20, "warmup_steps is 20"),
        ("triangular", {"cycles": 30}, 50, "give fewer cycles"),
        ("cosine_restarts", {"cycles": 8, "cycle_growth": 4.0}, 500, "cycle_growth"),
        ("piecewise", {"piecewise": ()}, 50, "piecewise is empty"),
    ],
)
def test_refuses_what_does_not_fit_the_run(name, keys, steps, message):
    with pytest.raises(ConfigError, match=message) as error:
        schedule(config(name, **keys), steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "adamx"}, "optim.name is 'adamx': did you mean 'adamw'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"schedule": "zzz"}, "known are"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"beta1": 1.0}, "beta1 is 1.0"),
        ({"final_fraction": 1.5}, "between 0 and 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"cycles": 0}, "cycles is 0"),
        ({"piecewise": ((0.5, 0.1), (0.2, 0.1))}, "shares rising"),
        ({"piecewise": ((100, 0.1),)}, "shares rising"),
        ({"piecewise": (0.5, 0.1)}, "give pairs"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "give a momentum"),
    ],
)
def test_config_refuses_impossible_values(keys, message):
    with pytest.raises(ConfigError, match=message) as error:
        OptimConfig(**keys)
    assert "\n" not in str(error.value)

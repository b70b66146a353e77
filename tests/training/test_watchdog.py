import re
import time

import jax.numpy as jnp
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.training.loop import Hook, fit
from llm_jax.training.run import LogConfig


def steps(sleeps, hang_seconds, hooks=()):
    """Takes four steps, of which `sleeps[n]` seconds pass in step n."""

    def hanging_step(state, batch):
        time.sleep(sleeps.get(batch, 0.0))
        return state + 1, {"loss": jnp.float32(batch)}

    fit(
        hanging_step, jnp.int32(0), iter(range(4)), first=0, steps=4, hooks=hooks,
        on_metrics=lambda *_: None, hang_seconds=hang_seconds,
    )  # fmt: skip


def test_a_step_that_hangs_is_reported_once_with_the_stacks(capfd):
    steps({3: 1.4}, 0.5)
    told = capfd.readouterr().err
    assert len(re.findall(r"watchdog: no step has ended for [01] s, since step 2 ", told)) == 1
    assert "(log.hang_seconds is 0.5); what every thread does:" in told
    assert "in hanging_step" in told
    assert "watchdog: step 3 came after 1 s" in told


@pytest.mark.parametrize(
    "quiet",
    [
        {"sleeps": {0: 1.2}},  # compiles
        {"sleeps": {}, "hooks": [Hook(2, lambda *_: time.sleep(1.0))]},  # evaluates
    ],
)
def test_compiling_and_hooks_take_what_they_take(quiet, capfd):
    steps(**quiet, hang_seconds=0.5)
    assert "watchdog" not in capfd.readouterr().err


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="log.hang_seconds is 0: give 1 or more"):
        LogConfig(hang_seconds=0)

import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.training import monitor
from llm_jax.training.goodput import Ledger
from llm_jax.training.metrics import read_metrics
from tests.training.test_trainer import run_of
from tests.training.test_tuning import run_of as robust_run

NUMBERS = {"loss": 2.0, "learning_rate": 0.1, "gradient_norm": 1.0, "skipped": 0.0}


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A monitor of a run of 7 steps that logs every second one, and its clock."""
    clock = [100.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: clock[0])
    run = run_of(steps=7, log={"every": 2}, max_skipped_steps=3)
    model = models.build(run.model)
    ledger = Ledger()
    ledger.step(0)
    return monitor.Monitor(str(tmp_path), run, model, 1e9, 0, {}, ledger), clock, model, ledger


def test_speed_is_that_of_the_steps_between_without_what_is_done_aside(watch, tmp_path):
    watch, clock, model, ledger = watch
    for step in range(1, 8):
        clock[0] += 4.0
        if step == 4:
            with ledger.during("saving"):
                clock[0] += 50.0
        watch.stepped(step, NUMBERS | {"skipped_in_a_row": 2.0})
    rows = read_metrics(str(tmp_path))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 7]  # the last one in any case
    for row in rows:
        rate = float(row["tokens_per_second"])
        assert rate == pytest.approx(8 * 16 / 4)
        assert float(row["mfu"]) == pytest.approx(rate * model.flops_per_token(16).total / 1e9)
    assert [float(row["elapsed"]) for row in rows] == [8, 66, 74, 78]


def test_the_parts_of_a_robust_loss_have_columns_after_a_rollback_too(tmp_path, watch):
    assert "clean" not in read_header(tmp_path)
    _, _, model, ledger = watch
    run = robust_run(steps=4, log={"every": 1}, robust={"adversarial": "fgm", "r_drop": 0.5})
    robust = monitor.Monitor(str(tmp_path), run, model, 1e9, 0, {}, ledger)
    parts = {"clean": 0.5, "adversarial": 1.5, "r_drop": 0.25}
    robust.stepped(1, NUMBERS | parts | {"skipped_in_a_row": 0.0})
    robust.rolled_back({"back_to": 1, "left_out": (2, 2), "step": 2, "reason": "a spike"})
    robust.stepped(2, NUMBERS | parts | {"clean": 0.75, "skipped_in_a_row": 0.0})
    rows = read_metrics(str(tmp_path))
    assert [[float(row[name]) for name in parts] for row in rows] == [
        [0.5, 1.5, 0.25], [0.75, 1.5, 0.25],
    ]  # fmt: skip


def read_header(workdir):
    return (workdir / "metrics.csv").read_text().splitlines()[0].split(",")


def test_a_run_stops_after_as_many_bad_steps_as_it_may_skip(watch):
    watch, *_ = watch
    with pytest.raises(ConfigError, match="stopped at step 9: 3 steps in a row"):
        watch.stepped(9, NUMBERS | {"skipped_in_a_row": 3.0})

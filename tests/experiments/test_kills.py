"""Kills, signals and changes of devices and processes: the run goes on as if nothing had been."""

import json
import signal

import pytest

from tests.experiments.conftest import TINY
from tests.experiments.kills import LIVES, QUIET, commands, kill_run, train_losses
from tests.processes import Processes


@pytest.mark.slow
def test_a_run_killed_on_changing_meshes_takes_every_batch_once(text, tmp_path):
    flags = (*TINY, *QUIET, f"--config.data.path={text}", "--config.steps=60")
    found = kill_run(tmp_path, 3, flags)
    assert found["every_step_once"]
    assert found["restarts_on_another_mesh"] == 2
    assert found["worst_there"] < 1e-6
    assert found["restarts_on_the_same"] == 1
    assert found["worst_on_the_same"] == 0.0
    assert found["worst_step_against_alone"] < 1e-5
    assert abs(found["held_out"] / found["held_out_alone"] - 1) < 5e-3


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(text, tmp_path):
    flags = (*TINY, *QUIET, f"--config.data.path={text}", "--config.steps=2000")
    workdir, two = tmp_path / "run", LIVES[0]
    with Processes(commands(workdir, two, flags), tmp_path / "logs") as both:
        both.wait_for(lambda: len(train_losses(workdir)) >= 3)
        both.running[1].send_signal(signal.SIGTERM)
        assert both.codes(60) == [0, 0], both.errors(0)[-2000:]
    results = [json.loads(both.out(number).strip().splitlines()[-1]) for number in range(2)]
    assert results[0] == results[1]
    assert results[0]["finished"] is False
    step = results[0]["step"]
    assert sorted(train_losses(workdir)) == list(range(1, step + 1))
    assert f"signal to another process: saved step {step}; go on with" in both.errors(0)
    assert (workdir / "checkpoints" / f"{step:08d}").is_dir()

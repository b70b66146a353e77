"""A run past poisoned batches ends as one whose data never had them, killed or not."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from llm_jax.training.metrics import read_metrics
from tests import processes
from tests.experiments.conftest import ROOT, TINY
from tests.experiments.test_pretrain import assert_same_bytes, parameters

SPIKES = ("--config.spikes.threshold=6", "--config.spikes.window=10", "--config.spikes.skip=3")


def start(text, workdir, *flags, **environment):
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.experiments.poisoned_pretrain", *TINY,
            f"--config.data.path={text}", f"--workdir={workdir}", "--config.steps=48",
            "--config.checkpoint.every=8", "--config.evaluation.every=0",
            "--config.sampling.prompts=()", *flags,
        ],
        cwd=ROOT, env=processes.environment() | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return json.loads(output.strip().splitlines()[-1])


def losses(workdir):
    return [float(row["loss"]) for row in read_metrics(workdir) if row["split"] == "train"]


@pytest.mark.slow
def test_a_run_past_poisoned_batches_ends_as_if_they_had_never_been(text, tmp_path):
    clean, poisoned, saved, killed = (tmp_path / name for name in ("a", "b", "c", "d"))
    expected = finish(start(text, clean, POISON="absent"))
    finish(start(text, poisoned, POISON="given"))
    assert max(losses(poisoned)[33:36]) > losses(poisoned)[32] + 2.0

    # The spike comes at step 34, so that the checkpoint of step 32 goes as well.
    process = start(text, saved, *SPIKES, POISON="given")
    result = finish(process)
    assert result["loss"] == expected["loss"]
    assert losses(saved) == losses(clean)
    assert_same_bytes(parameters(saved), parameters(clean))
    report = (saved / "report.md").read_text()
    assert "| 34 | loss 6." in report
    assert "| 24 | 30 to 36 |" in report
    counts = [row["rollbacks"] for row in read_metrics(saved) if row["split"] == "train"]
    assert counts == ["0"] * 24 + ["1"] * 24
    lines = [json.loads(line) for line in (saved / "goodput.jsonl").read_text().splitlines()]
    assert lines[0]["seconds"]["recovery"] > 0

    # Killed in the middle of the rollback, where the same spike comes again, and right behind it.
    process = start(text, killed, *SPIKES, POISON="given", KILL="1")
    assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL
    process = start(text, killed, *SPIKES, POISON="given")
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("step 35/"):
            process.kill()
            break
    process.communicate()
    assert any("back to step 24, without the batches 30 to 36" in line for line in seen)
    assert finish(start(text, killed, *SPIKES, POISON="given"))["loss"] == expected["loss"]
    np.testing.assert_array_equal(losses(killed), losses(clean))
    assert_same_bytes(parameters(killed), parameters(clean))

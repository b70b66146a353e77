"""The command that draws schedules, as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm_jax.optim import SCHEDULES

ROOT = Path(__file__).parents[2]


def plot(*flags):
    command = [sys.executable, "-m", "experiments.plot_schedule"]
    command += ["--config=configs/gpt_quickstart.py", "--config.optim.warmup_steps=100", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_draws_every_schedule_and_reports_in_json(tmp_path):
    picture = tmp_path / "all.png"
    done = plot("--schedule=all", f"--output={picture}", "--config.optim.learning_rate=5e-4")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["schedules"]) == list(SCHEDULES)
    cosine = result["schedules"]["cosine"]
    assert cosine["largest"] == 5e-4
    assert cosine["largest_at"] == 100
    assert cosine["first"] == pytest.approx(5e-4 / 101, rel=1e-6)
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_bad_input_is_one_line_and_exit_code_2():
    done = plot("--schedule=cosine,wsdd")
    assert done.returncode == 2
    assert "did you mean 'wsd'" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr

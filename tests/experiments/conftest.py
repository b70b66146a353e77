"""Experiments run as their users run them: in a process of their own."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import environment

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=configs/gpt_quickstart.py:tiny",
    "--config.data.source=text",
    "--config.data.sequence_length=32",
    "--config.model.vocab_size=320",
    "--config.sampling.prompts=('def ',)",
    "--config.log.every=1",
    "--config.model.dropout_rate=0.1",
    "--config.execution.unroll=1",
    "--config.optim.name=adamw",
    "--config.optim.learning_rate=2e-3",
    "--config.optim.weight_decay=0.1",
    '--config.optim.learning_rate_table=((".*", 1.0),)',
)


def command(name, *flags):
    return [sys.executable, "-m", f"experiments.{name}", *map(str, flags)]


def run(name, *flags, check=True):
    """Returns the finished process; with `check` it must have ended well."""
    done = subprocess.run(
        command(name, *flags), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def result(done) -> dict:
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_and_kill(name, *flags, after: float):
    """Runs the experiment and kills it, `after` seconds from when it began to train."""
    process = subprocess.Popen(
        command(name, *flags), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("step "):
            break
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def write_text(directory: Path) -> None:
    """Writes text to `directory`: words with some structure, 60 kB in four files."""
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 7))) for _ in range(150)]
    for number in range(4):
        picks = [chance.choices(words, k=3) for _ in range(400)]
        lines = [f"def {a}({b}):\n    return {c}\n" for a, b, c in picks]
        (directory / f"part{number}.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A directory of `write_text`."""
    directory = tmp_path_factory.mktemp("text")
    write_text(directory)
    return directory


@pytest.fixture(scope="session")
def trained(text, tmp_path_factory):
    """A finished run: its work directory, result and stderr."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    done = run(
        "pretrain", *TINY, f"--config.data.path={text}", f"--workdir={workdir}",
        "--config.checkpoint.every=10", "--config.evaluation.every=15",
    )  # fmt: skip
    return workdir, result(done), done.stderr

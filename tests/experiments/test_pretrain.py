import csv
import json
import os
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from llm_jax.training.metrics import read_metrics
from llm_jax.training.restore import load_model
from tests.experiments.conftest import ROOT, TINY, command, environment, result, run, run_and_kill


def parameters(workdir):
    return jax.device_get(load_model(workdir).params)


def assert_same_bytes(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_run_leaves_what_the_readme_promises(trained):
    workdir, outcome, errors = trained
    assert outcome["finished"]
    assert outcome["step"] == 30
    assert {"loss", "perplexity", "bits_per_byte", "tokens", "bytes", "parsed_share"} <= set(
        outcome
    )
    for name in ("config.json", "metrics.csv", "report.md", "loss.png", "tensorboard", "data"):
        assert (workdir / name).exists(), name
    for word in ("devices:", "mesh:", "FLOPs a token:", "kernels:", "data:", "elapsed", "left"):
        assert word in errors
    report = (workdir / "report.md").read_text()
    assert "bits_per_byte" in report
    assert "parsed_share" in report
    assert "def " in report


def test_metrics_have_a_row_per_step_and_17_digits(trained):
    workdir, outcome, _ = trained
    rows = read_metrics(workdir)
    train = [row for row in rows if row["split"] == "train"]
    assert [int(row["step"]) for row in train] == list(range(1, 31))
    assert list(rows[0])[:3] == ["step", "split", "loss"]
    assert float(train[-1]["loss"]) < float(train[0]["loss"]) - 0.5
    held_out = [row for row in rows if row["split"] == "validation"]
    assert [int(row["step"]) for row in held_out] == [15, 30]
    assert float(held_out[-1]["loss"]) == outcome["loss"]


def test_a_finished_run_run_again_trains_no_further(trained, text):
    workdir, outcome, _ = trained
    before = parameters(workdir)
    again = run(
        "pretrain", *TINY, f"--config.data.path={text}", f"--workdir={workdir}",
        "--config.checkpoint.every=10", "--config.evaluation.every=15",
    )  # fmt: skip
    assert result(again)["loss"] == outcome["loss"]
    assert_same_bytes(parameters(workdir), before)


def test_interrupted_and_continued_equals_a_run_left_alone(trained, text, tmp_path):
    workdir, outcome, _ = trained
    flags = (
        *TINY, f"--config.data.path={text}", f"--workdir={tmp_path}/run",
        "--config.checkpoint.every=10", "--config.evaluation.every=15",
    )  # fmt: skip
    process = subprocess.Popen(
        command("pretrain", *flags),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGINT)
            break
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0
    stopped = json.loads(stdout.strip().splitlines()[-1])
    assert stopped["finished"] is False
    assert 3 <= stopped["step"] < 30
    assert f"SIGINT: saved step {stopped['step']}; go on with: python -m" in stderr
    done = run("pretrain", *flags)
    assert f"resuming {tmp_path}/run at step {stopped['step']}" in done.stderr
    assert result(done)["loss"] == outcome["loss"]
    assert_same_bytes(parameters(tmp_path / "run"), parameters(workdir))
    losses = [
        [row["loss"] for row in read_metrics(path) if row["split"] == "train"]
        for path in (workdir, tmp_path / "run")
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_another_mesh_goes_on_with_the_same_losses(text, tmp_path):
    flags = (*TINY, f"--config.data.path={text}", f"--workdir={tmp_path}/run")
    run("pretrain", *flags, "--config.steps=10")
    os.system(f"cp -r {tmp_path}/run {tmp_path}/other")
    done = run("pretrain", *flags, "--config.steps=20")
    other = run(
        "pretrain", *flags, "--config.steps=20", f"--workdir={tmp_path}/other",
        "--emulated_devices=8", "--config.mesh.data=2", "--config.mesh.fsdp=2",
        "--config.mesh.tensor=2",
    )  # fmt: skip
    assert "data=2 fsdp=2 tensor=2 (8 of 8 devices)" in other.stderr
    losses = [
        np.array([float(row["loss"]) for row in read_metrics(path) if row["split"] == "train"])
        for path in (tmp_path / "run", tmp_path / "other")
    ]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert abs(result(other)["loss"] - result(done)["loss"]) < 1e-5


@pytest.mark.slow
def test_init_from_begins_with_the_other_runs_parameters(trained, text, tmp_path):
    workdir, _, _ = trained
    flags = (*TINY, f"--config.data.path={text}", f"--workdir={tmp_path}/run",
             f"--config.init_from={workdir}", "--config.steps=6")  # fmt: skip
    run("pretrain", *flags)
    first = float(read_metrics(tmp_path / "run")[0]["loss"])
    assert first < float(read_metrics(workdir)[5]["loss"])
    done = run(
        "pretrain",
        *flags,
        "--config.model.num_layers=3",
        "--workdir=" + str(tmp_path / "n"),
        check=False,
    )
    assert done.returncode == 2
    assert "holds another model: num_layers (2 there, 3 here)" in done.stderr


def refused(*flags, workdir):
    done = run("pretrain", *TINY, f"--workdir={workdir}", *flags, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    message = lines[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in done.stderr
    return message


def test_a_work_directory_of_another_run_is_refused_with_the_keys(trained, text):
    workdir, _, _ = trained
    message = refused(
        f"--config.data.path={text}", "--config.seed=7", "--config.optim.weight_decay=0.5",
        "--config.steps=20",
        "--config.checkpoint.every=10", "--config.evaluation.every=15", workdir=workdir,
    )  # fmt: skip
    assert (
        "optim.weight_decay (0.1 there, 0.5 now); seed (0 there, 7 now); steps (30 there, 20"
        in message
    )
    assert "another --workdir" in message


@pytest.mark.slow
def test_bad_text_is_refused_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes("caf\xe9 au lait".encode("latin1") * 50)
    (tmp_path / "short.txt").write_text("one line\nof text\n" * 40)
    for name, words in (
        ("empty", "empty.txt"),
        ("latin1", "latin1.txt"),
        ("short", "batch_size"),
        ("missing", "missing.txt"),
    ):
        message = refused(f"--config.data.path={tmp_path}/{name}.txt", workdir=tmp_path / name)
        assert words in message
        assert not (tmp_path / name / "config.json").exists()


def test_a_work_directory_that_cannot_be_written_is_refused(text):
    assert "cannot be written" in refused(f"--config.data.path={text}", workdir="/proc/nowhere")


def test_wrong_flags_are_refused_in_one_line(tmp_path):
    for flag, words in (
        ("--config.optim.lerning_rate=1", "did you mean 'learning_rate'"),
        ("--config.optim.name=adamz", "did you mean 'adamw'"),
        ("--config.steps=many", "steps"),
        ("--config=configs/gpt2_124m.py", "--config is given twice"),
    ):
        assert words in refused("--config.data.path=x", flag, workdir=tmp_path)


@pytest.mark.slow
def test_five_sigkills_change_no_byte(text, tmp_path):
    flags = (*TINY, f"--config.data.path={text}", "--config.steps=400",
             "--config.checkpoint.every=7", "--config.evaluation.every=50")  # fmt: skip
    run("pretrain", *flags, f"--workdir={tmp_path}/alone")
    chance = np.random.default_rng(int(time.time()))
    for _ in range(5):
        run_and_kill(
            "pretrain", *flags, f"--workdir={tmp_path}/killed", after=chance.uniform(0.0, 0.8)
        )
    run("pretrain", *flags, f"--workdir={tmp_path}/killed")
    assert_same_bytes(parameters(tmp_path / "killed"), parameters(tmp_path / "alone"))
    with open(tmp_path / "killed" / "metrics.csv") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["split"] == "train"]
    assert steps == [str(step) for step in range(1, 401)]

"""Cross-validation as its users run it: interrupted, gone on with, summed up, and refused."""

import json
import signal
import statistics
import subprocess

import jax
import numpy as np
import pytest

from llm_jax import data
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.evaluation.labels import judged, outputs
from llm_jax.training.restore import load_model
from tests.experiments.conftest import ROOT, command, result, run
from tests.experiments.test_finetune import flags, given  # noqa: F401
from tests.processes import environment

MORE = (
    "--config.method=lora",
    "--config.optim.ema_decay=0.9",
    "--config.loss.class_weights=balanced",
    "--config.loss.focal_gamma=1.0",
)


@pytest.mark.slow
def test_folds_go_on_where_they_stopped_and_are_those_of_finetune(given, tmp_path):  # noqa: F811
    workdir = tmp_path / "folds"
    asked = command("cross_validate", *flags(given, workdir, *MORE, "--folds=2"))
    process = subprocess.Popen(
        asked, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    second = False
    for line in process.stderr:
        second = second or line.startswith("fold 1 of 2")
        if second and line.startswith("step 12"):
            process.send_signal(signal.SIGTERM)
    stopped = json.loads(process.stdout.read().splitlines()[-1])
    assert (stopped["finished"], stopped["fold"]) == (False, 1)
    assert not (workdir / "result.json").exists()
    kept = (workdir / "fold_0" / "metrics.csv").read_bytes()

    done = run("cross_validate", *flags(given, workdir, *MORE, "--folds=2"))
    outcome = result(done)
    assert "resuming" in done.stderr
    assert "fold 0 of 2" not in done.stderr
    assert (workdir / "fold_0" / "metrics.csv").read_bytes() == kept
    assert outcome["scores"][0]["steps"] == 30
    assert outcome == json.loads((workdir / "result.json").read_text())
    for fold, scores in enumerate(outcome["scores"]):
        assert scores == json.loads((workdir / f"fold_{fold}" / "result.json").read_text())
    for name in ("accuracy", "loss", "validation_loss"):
        values = [scores[name] for scores in outcome["scores"]]
        assert outcome["mean"][name] == pytest.approx(sum(values) / 2)
        assert outcome["deviation"][name] == pytest.approx(statistics.stdev(values))

    # A fold is the run that finetune makes of the same keys.
    alone = tmp_path / "alone"
    keys = ("--config.data.folds=2", "--config.data.fold=1")
    once = result(run("finetune", *flags(given, alone, *MORE, *keys)))
    for name in ("accuracy", "loss", "log_loss", "validation_loss", "best_step"):
        assert once[name] == outcome["scores"][1][name]
    one, two = (load_model(str(path)) for path in (alone, workdir / "fold_1"))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(a, b)
    # What was tested is the average of the best step, by the plain loss.
    best = load_model(str(alone), "best")
    rows = data.open_split(alone / "data", "test", OBJECTIVES["text_classification"]())
    said = outputs(best.model, best.params, rows, batch_size=8)
    assert judged(said, rows)["log_loss"] == pytest.approx(once["loss"], rel=1e-5)

    again = run("cross_validate", *flags(given, workdir, *MORE, "--folds=3"), check=False)
    assert again.returncode == 2
    assert "data.folds (2 there, 3 now)" in again.stderr


@pytest.mark.slow
def test_folds_of_folds_are_refused(given, tmp_path):  # noqa: F811
    more = ("--config.data.folds=2", "--folds=2")
    done = run("cross_validate", *flags(given, tmp_path / "run", *more), check=False)
    assert done.returncode == 2
    assert "data.folds is 2: leave it out, and give --folds" in done.stderr

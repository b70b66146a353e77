"""What `inspect_data` shows is what the run was trained on."""

import hashlib
import json
import os

import numpy as np
import pytest

from llm_jax import data
from tests.experiments.conftest import TINY, result, run


@pytest.mark.slow
def test_it_shows_the_batch_of_a_step(trained, text, tmp_path):
    workdir, _, _ = trained
    flags = (
        *TINY, f"--config.data.path={text}", f"--workdir={workdir}", "--config.checkpoint.every=10",
        "--config.evaluation.every=15", f"--output={tmp_path / 'batch.png'}", "--rows=2",
    )  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    done = run("inspect_data", *flags, "--step=7")
    shown = result(done)
    config = json.loads((workdir / "config.json").read_text())
    rows = data.open_split(workdir / "data", "train")
    batch = next(
        data.batches(
            rows, seed=config["seed"], batch_size=config["batch_size"], start_step=6, threads=0
        )
    )
    digest = hashlib.sha256()
    for name in sorted(batch):
        digest.update(f"{name} {batch[name].dtype} {batch[name].shape}".encode())
        digest.update(np.ascontiguousarray(batch[name]).tobytes())
    assert shown["sha256"] == digest.hexdigest()
    assert shown["asked"] == batch["weights"].sum()
    tokenizer = data.load_tokenizer(workdir / "data")
    assert tokenizer.decode(batch["tokens"][0]).splitlines()[1] in done.stdout
    assert done.stdout.count("row ") == 2
    assert os.path.getsize(shown["output"]) > 1000
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert after == before
    refused = run("inspect_data", *flags, "--step=31", check=False)
    assert refused.returncode == 2
    assert "--step=31: give one of 1 to" in refused.stderr

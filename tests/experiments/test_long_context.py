"""Rows longer than in training, with and without interpolated positions."""

import re

import numpy as np
import pytest

from llm_jax.layers.rope import RopeScaling
from llm_jax.training.restore import load_model
from tests.experiments.conftest import result, run

LLAMA = (
    "--config=configs/llama_quickstart.py:tiny", "--config.data.source=text",
    "--config.model.vocab_size=320", "--config.sampling.prompts=()",
)  # fmt: skip


@pytest.fixture(scope="module")
def llama(text, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("long") / "llama"
    run("pretrain", *LLAMA, f"--config.data.path={text}", f"--workdir={workdir}")
    return workdir


def test_longer_rows_have_the_same_tokens(trained):
    workdir, outcome, _ = trained
    scores = result(
        run("evaluate", f"--workdir={workdir}", "--sequence_length=64", "--position_range=32")
    )
    assert scores["tokens"] == outcome["tokens"]
    first, second = scores["loss_by_position"].values()
    assert min(first, second) < scores["loss"] < max(first, second)
    assert scores["loss"] != outcome["loss"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sequence_length=33",), "sequence_length is 33.*rows of 32"),
        (("--sequence_length=2048",), "2048 is more than the model's 1024 positions"),
        (("--rope_scaling=yarn",), "a gpt2, whose max_positions and rotary_scaling"),
        (("--rope_factor=2",), "needs --rope_scaling"),
    ],
)
def test_what_cannot_be_is_one_line(trained, flags, words):
    done = run("evaluate", f"--workdir={trained[0]}", *flags, check=False)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(words, line), line


@pytest.mark.slow
def test_a_model_is_extended_and_trained_on(llama, text, tmp_path):
    """As docs/long_context.md has it, at the configurations' tiny sizes: 64 tokens to 256."""
    plain, other = (
        result(run("evaluate", f"--workdir={llama}", "--sequence_length=256", *flags))
        for flags in ((), ("--rope_scaling=yarn",))
    )
    assert plain["tokens"] == other["tokens"]
    assert plain["loss"] != other["loss"]
    done = run(
        "pretrain", "--config=configs/llama_long_context.py:tiny", *LLAMA[1:],
        f"--config.data.path={text}", f"--config.init_from={llama}",
        f"--workdir={tmp_path / 'long'}",
    )  # fmt: skip
    assert result(done)["loss"] < other["loss"]
    longer = load_model(tmp_path / "long")
    assert longer.model.config.rotary_scaling == RopeScaling("yarn", 4.0, 64)
    again = result(run("evaluate", f"--workdir={tmp_path / 'long'}"))
    np.testing.assert_allclose(again["loss"], result(done)["loss"], rtol=1e-6)
    # A difference that the parameters depend on stays refused.
    refused = run(
        "pretrain", "--config=configs/llama_long_context.py:tiny", *LLAMA[1:],
        f"--config.data.path={text}", f"--config.init_from={llama}", "--config.model.mlp_size=128",
        f"--workdir={tmp_path / 'other'}", check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "holds another model: mlp_size" in refused.stderr
    assert "rotary" not in refused.stderr.strip().splitlines()[-1]

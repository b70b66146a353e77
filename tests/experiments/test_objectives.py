"""Every objective by the commands of its user, at tiny sizes."""

import json

import numpy as np
import pytest

from llm_jax.training.metrics import read_metrics
from tests.experiments.conftest import result, run

SMALL = (
    "--config.data.sequence_length=32",
    "--config.model.vocab_size=512",
    "--config.steps=12",
    "--config.batch_size=8",
    "--config.evaluation.every=6",
    "--config.evaluation.batch_size=8",
    "--config.log.every=1",
)
TEXT = (
    ("bert_mlm", ("--config.objective.unit=word",)),
    ("bert_mlm", ("--config.objective.static_copies=4",)),
    (
        "bert_mlm",
        (
            "--config.objective.name=next_sentence",
            "--config.model.head=pretraining",
            "--config.model.pooler=True",
            "--config.model.token_types=2",
        ),
    ),
    ("t5_span", ()),
    ("gpt_quickstart", ("--config.objective.name=fill_in_the_middle",)),
)
MESH = (
    "--emulated_devices=8", "--config.mesh.data=2", "--config.mesh.fsdp=2",
    "--config.mesh.tensor=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    lines = [f"{n} and {n % 7}\t{(n + n % 7) % 10}" for n in range(600)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 150)
    pixels = draw.integers(0, 60, (150, 28, 28))
    for image, label in zip(pixels, labels):
        image[:, 2 * label : 2 * label + 4] += 150  # a stripe tells the class
    np.savez(path, images=pixels.astype(np.uint8), labels=labels)
    return path


def losses(workdir, split="train"):
    return [float(row["loss"]) for row in read_metrics(str(workdir)) if row["split"] == split]


def trained(workdir, *flags):
    outcome = result(run("pretrain", f"--workdir={workdir}", *flags))
    assert outcome["finished"]
    found = losses(workdir)
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.05
    return outcome


def check_use(workdir, outcome, *keys):
    """`evaluate` gives the run's own figures again, and the same command goes on."""
    again = result(run("evaluate", f"--workdir={workdir}", "--batch_size=8"))
    for key in ("loss", *keys):
        assert again[key] == pytest.approx(outcome[key], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), TEXT, ids=["word", "static", "pairs", "t5", "fim"])
def test_text(name, flags, text, tmp_path):
    flags = (
        f"--config=configs/{name}.py:tiny", "--config.data.source=text",
        f"--config.data.path={text}", *SMALL, *flags, "--config.model.dropout_rate=0.1",
    )  # fmt: skip
    outcome = trained(tmp_path / "whole", *flags)
    assert outcome["perplexity"] > 1
    assert ("bits_per_byte" in outcome) == False  # noqa: E712  (not every token is asked for)
    check_use(tmp_path / "whole", outcome, "perplexity")
    if name == "bert_mlm":
        # In two parts: masks and dropout go on as if nothing had happened.
        first = [flag for flag in flags if "steps" not in flag]
        run("pretrain", f"--workdir={tmp_path / 'parts'}", *first, "--config.steps=7",
            "--config.optim.schedule=constant", "--config.optim.warmup_steps=0")  # fmt: skip
        run("pretrain", f"--workdir={tmp_path / 'parts'}", *first, "--config.steps=12",
            "--config.optim.schedule=constant", "--config.optim.warmup_steps=0")  # fmt: skip
        run("pretrain", f"--workdir={tmp_path / 'one'}", *flags,
            "--config.optim.schedule=constant", "--config.optim.warmup_steps=0")  # fmt: skip
        assert losses(tmp_path / "parts") == losses(tmp_path / "one")


@pytest.mark.slow
def test_pairs(pairs, tmp_path):
    outcome = trained(
        tmp_path / "run", "--config=configs/seq2seq_pairs.py:tiny", "--config.data.source=pairs",
        f"--config.data.path={pairs}", *SMALL, "--config.objective.target_length=8",
    )  # fmt: skip
    assert 0 <= outcome["exact_match"] <= outcome["word_f1"] <= 1
    assert " and " in (tmp_path / "run" / "report.md").read_text()
    check_use(tmp_path / "run", outcome)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tiny", "masked"])
def test_images(variant, images, tmp_path):
    outcome = trained(
        tmp_path / "run", f"--config=configs/vit_mnist.py:{variant}",
        f"--config.data.path={images}", *SMALL[3:], "--config.steps=40",
        "--config.model.hidden_size=24", "--config.model.num_layers=2",
        "--config.optim.warmup_steps=4", "--config.optim.learning_rate=4e-3",
    )  # fmt: skip
    assert ("accuracy" in outcome) == (variant == "tiny")
    check_use(tmp_path / "run", outcome, *(["accuracy"] if variant == "tiny" else []))


@pytest.mark.slow
def test_what_does_not_fit_together_is_refused(text, tmp_path):
    done = run(
        "pretrain", "--config=configs/bert_mlm.py:tiny", f"--workdir={tmp_path / 'run'}",
        "--config.data.source=functions", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "learns from text and data.source 'functions' gives pairs" in done.stderr
    done = run(
        "pretrain", "--config=configs/vit_mnist.py:tiny", f"--workdir={tmp_path / 'run'}",
        "--config.data.path=nowhere.csv", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "'nowhere.csv', which is not there" in done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["bert_mlm", "t5_span", "seq2seq_pairs", "vit_mnist"])
def test_eight_devices_lose_what_one_does(config, text, pairs, images, tmp_path):
    source = {"seq2seq_pairs": ("pairs", pairs), "vit_mnist": ("images", images)}
    kind, path = source.get(config, ("text", text))
    flags = [
        f"--config=configs/{config}.py:tiny", f"--config.data.source={kind}",
        f"--config.data.path={path}", *(SMALL[2:] if kind == "images" else SMALL),
        "--config.model.dropout_rate=0.1", "--config.model.num_heads=2",
    ]  # fmt: skip
    found = {}
    for name, mesh in {"one": (), "eight": MESH}.items():
        run("pretrain", f"--workdir={tmp_path / name}", *flags, *mesh)
        found[name] = losses(tmp_path / name), losses(tmp_path / name, "validation")
    assert json.loads((tmp_path / "eight" / "config.json").read_text())["mesh"]["tensor"] == 2
    for one, eight in zip(found["one"], found["eight"]):
        np.testing.assert_allclose(eight, one, rtol=1e-5)

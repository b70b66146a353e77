"""Fine-tuning as its users run it: by a method, interrupted, predicted from, and refused."""

import csv
import json
import signal
import subprocess

import jax
import numpy as np
import pytest

from llm_jax import data
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.evaluation.labels import judged, outputs
from llm_jax.training.restore import load_model
from tests.data.augmentation.thesauri import write_wordnet
from tests.data.test_labelled_rows import rows_of, write
from tests.data.test_pretrained_tokenizer_rows import bert_folder
from tests.experiments.conftest import ROOT, command, result, run
from tests.processes import environment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A tiny BERT as transformers writes it, and a table that it can learn."""
    folder = tmp_path_factory.mktemp("finetune")
    base, _ = bert_folder(folder / "bert")
    torch.manual_seed(0)
    size = len((base / "vocab.txt").read_text("utf-8").splitlines())
    transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=80,
    )).save_pretrained(base)  # fmt: skip
    table = [(text, "pos" if " good" in text else "neg") for text, _ in rows_of(300)]
    return base, write(folder / "table.csv", table)


def flags(given, workdir, *more):
    base, table = given
    return (
        f"--config=configs/finetune.py:{base}", f"--config.data.path={table}",
        "--config.data.text=review", "--config.data.label=stars", f"--workdir={workdir}",
        "--config.data.sequence_length=48", "--config.steps=30", "--config.optim.warmup_steps=2",
        "--config.evaluation.every=10", "--config.log.every=1", *more,
    )  # fmt: skip


def test_a_table_of_one_s_own_is_learned_and_predicted(given, tmp_path):
    workdir = tmp_path / "run"
    outcome = result(run("finetune", *flags(given, workdir, "--config.method=lora,bitfit")))
    assert outcome == json.loads((workdir / "result.json").read_text())
    assert outcome["finished"]
    assert outcome["trained_parameters"] < outcome["total_parameters"] / 4
    assert {"accuracy", "f1", "loss", "seconds", "validation_loss"} <= outcome.keys()
    # What is saved is what trains, and the model comes back from it and `init_from`.
    restored = load_model(str(workdir), "best")
    rows = data.open_split(workdir / "data", "test", OBJECTIVES["text_classification"]())
    said = outputs(restored.model, restored.params, rows, batch_size=7)
    assert judged(said, rows)["log_loss"] == pytest.approx(outcome["loss"], rel=1e-5)
    state = sum(p.stat().st_size for p in (workdir / "checkpoints").rglob("*") if p.is_file())
    assert state < 6 * 4 * outcome["total_parameters"]

    done = run("predict", f"--workdir={workdir}", "--text=a good film", "--input=-", check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (lines[0]["text"], lines[-1]["texts"]) == ("a good film", 1)
    assert lines[0]["label"] == max(lines[0]["probabilities"], key=lines[0]["probabilities"].get)
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_classifier_is_trained_against_adversaries_and_attacked(given, tmp_path):
    workdir, robust = tmp_path / "run", ("--config.robust.adversarial=pgd", "--config.steps=10")
    outcome = result(run("finetune", *flags(given, workdir, *robust)))
    with (workdir / "metrics.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert len(steps) == 10
    for row in steps:
        clean, moved = float(row["clean"]), float(row["adversarial"])
        assert clean < moved
        assert float(row["loss"]) == pytest.approx(clean + moved, rel=1e-5)

    how = (f"--workdir={workdir}", "--epsilon=0.5", "--steps=4", "--restarts=2", "--batch_size=8")
    found = result(run("attack", *how, f"--wordnet={write_wordnet(tmp_path)}"))
    assert found["accuracy"] == pytest.approx(outcome["accuracy"])
    assert len(found["by_step"]) == 5
    assert found["by_step"][0] == found["accuracy"] > found["by_step"][-1]
    assert found["accuracy_under_attack"] <= found["by_step"][-1]
    assert found["synonyms"]["accuracy"] == pytest.approx(found["accuracy"])
    assert found["synonyms"]["accuracy_under_attack"] <= found["accuracy"]
    few = result(run("attack", *how, "--rows=13", "--split=validation"))
    assert (few["rows"], few["synonyms"]) == (13, "skipped: no --wordnet")
    refused = run("attack", *how, "--epsilon=0", check=False)
    assert refused.returncode == 2
    assert "epsilon is 0.0: give more than 0" in refused.stderr.splitlines()[-1]


def test_tags_are_learned_and_entities_predicted(given, tmp_path):
    pytest.importorskip("seqeval")
    base, _ = given
    lines = []
    for text, _ in rows_of(300):
        for word in text.split():
            lines.append(f"{word} {'B-art' if word in ('music', 'film') else 'O'}\n")
        lines.append("\n")
    (tmp_path / "tags.conll").write_text("".join(lines))
    table = ("--config.data.path=" + str(tmp_path / "tags.conll"), "--config.optim.warmup_steps=2")
    outcome = result(
        run(
            "finetune", f"--config=configs/finetune_tags.py:{base}", *table,
            f"--workdir={tmp_path / 'run'}", "--config.data.sequence_length=48",
            "--config.steps=80", "--config.optim.learning_rate=1e-2", "--config.method=prompt,lora",
        )
    )  # fmt: skip
    assert outcome["f1"] > 0.9
    report = (tmp_path / "run/report.md").read_text()
    assert f"| F1 of entities | **{outcome['f1']:.4f} [" in report
    assert "| art |" in report
    text = "a good  film with music"
    done = run("predict", f"--workdir={tmp_path / 'run'}", f"--text={text}", "--text= ")
    one, told = map(json.loads, done.stdout.splitlines())
    assert told["texts"] == 1
    found = [(e["type"], e["begin"], e["end"]) for e in one["entities"]]
    assert found == [("art", 8, 12), ("art", 18, 23)]
    assert [text[e["begin"] : e["end"]] for e in one["entities"]] == ["film", "music"]
    assert all(0.3 < e["probability"] <= 1 for e in one["entities"])


@pytest.mark.slow
def test_a_run_ends_early_and_its_test_is_of_the_best_checkpoint(given, tmp_path):
    workdir = tmp_path / "run"
    more = ("--config.method=lora", "--config.optim.learning_rate=0.5")
    more += ("--config.evaluation.every=1", "--config.evaluation.patience=2")
    outcome = result(run("finetune", *flags(given, workdir, *more)))
    assert outcome["best_step"] + 2 == outcome["step"] < 30
    rows = data.open_split(workdir / "data", "test", OBJECTIVES["text_classification"]())
    losses = {}
    for step in ("best", "last"):
        restored = load_model(str(workdir), step)
        said = outputs(restored.model, restored.params, rows, batch_size=8)
        losses[step] = judged(said, rows)["log_loss"]
    assert losses["best"] == pytest.approx(outcome["loss"], rel=1e-5)
    assert losses["last"] != pytest.approx(outcome["loss"], rel=1e-2)


@pytest.mark.slow
def test_it_goes_on_bit_by_bit_and_knows_its_base(given, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    method = "--config.method=prefix,lora"
    run("finetune", *flags(given, whole, method))
    process = subprocess.Popen(
        command("finetune", *flags(given, parted, method)), cwd=ROOT, env=environment(),
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("step 12"):
            process.send_signal(signal.SIGTERM)
    assert json.loads(process.stdout.read().splitlines()[-1])["finished"] is False
    done = run("finetune", *flags(given, parted, method))
    assert "resuming" in done.stderr
    one, two = (load_model(str(path)) for path in (whole, parted))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(a, b)

    weights = given[0] / "model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\1\2\3\4")
        refused = run("predict", f"--workdir={whole}", "--text=x", check=False)
        assert refused.returncode != 0
        assert "is not what was tuned: its sha256 begins with" in refused.stderr
    finally:
        weights.write_bytes(kept)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--config.method=lra", "config.method has 'lra': did you mean 'lora'"),
        ("--config.data.label=star", "has no column 'star'"),
        ("--config.data.path=nowhere.csv", "nowhere.csv"),
        ("--config.tuning.head.outputs=7", "tuning.head.outputs is 7 and the data have 2 classes"),
        ("--config.tuning.lora.rank=0", "Lora.rank is 0"),
    ],
)
def test_what_cannot_be_is_one_line(given, tmp_path, more, said):
    done = run("finetune", *flags(given, tmp_path / "run", more), check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_model_without_a_head_predicts_nothing(tmp_path):
    done = run("predict", f"--workdir={tmp_path}", check=False)
    assert "there is no text" in done.stderr

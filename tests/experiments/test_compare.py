import json
import statistics

import pytest
from absl.testing import flagsaver

from experiments import compare, entry
from tests.experiments.conftest import run


@pytest.fixture
def called(monkeypatch, capsys):
    """Calls the experiment as its command line does: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
        with flagsaver.flagsaver():
            code = entry._run(compare.main, positional=True)
        return code, *capsys.readouterr()

    return call


def write(directory, result, config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "result.json").write_text(json.dumps({"finished": True} | result))
    return directory


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Full fine-tuning, and LoRA of three seeds."""
    monkeypatch.chdir(tmp_path)
    config = {"seed": 0, "steps": 9, "peft": {"method": "none"}, "optim": {"learning_rate": 1e-5}}
    result = {"accuracy": 0.9, "loss": 0.31, "trained_parameters": 22000000,
              "peak_bytes": 3 * 2**20, "seconds": 10}  # fmt: skip
    write(tmp_path / "full", result, config)
    for seed, accuracy in enumerate((0.92, 0.95, 0.95)):
        config |= {"seed": seed, "peft": {"method": "lora", "rank": 4}}
        result |= {"accuracy": accuracy, "loss": 0.4, "trained_parameters": 147456}
        write(tmp_path / f"lora-{seed}", result, config)
    return ["full", "lora-0", "lora-1", "lora-2"]


def test_runs_are_a_table_of_their_differences_sorted_by_the_metric(runs, called):
    code, out, err = called(*runs)
    assert (code, err) == (0, "")
    *table, last = out.splitlines()
    spread = statistics.stdev((0.92, 0.95, 0.95))
    assert table == [
        "| run | peft.method | peft.rank | seed | accuracy | loss | trained_parameters | seconds "
        "| peak_MiB |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
        f"| lora-0, lora-1, lora-2 | lora | 4 | 0, 1, 2 | 0.9400 ± {spread:.4f} | 0.4000 ± 0.0000 "
        "| 147,456 | 10.0 ± 0.0 | 3.0 ± 0.0 |",
        "| full | none | - | 0 | 0.9000 | 0.3100 | 22,000,000 | 10.0 | 3.0 |",
    ]
    result = json.loads(last)
    assert result["metric"] == "accuracy"
    assert result["differing"] == ["peft.method", "peft.rank", "seed"]
    best, other = result["rows"]
    assert best["runs"] == ["lora-0", "lora-1", "lora-2"]
    assert best["config"] == {"peft.method": "lora", "peft.rank": 4, "seed": [0, 1, 2]}
    assert best["figures"]["accuracy"] == {
        "mean": pytest.approx(0.94), "spread": pytest.approx(spread)
    }  # fmt: skip
    assert other["figures"]["seconds"] == {"mean": 10, "spread": None}


def test_a_key_without_value_is_no_difference(called, tmp_path):
    write(tmp_path / "old", {"accuracy": 0.5}, {"seed": 0, "data": {"path": "x"}, "peft": {}})
    write(tmp_path / "new", {"accuracy": 0.6}, {"seed": 0, "data": {"path": "x", "limit": None}})
    _, out, _ = called(tmp_path / "old", tmp_path / "new")
    assert json.loads(out.splitlines()[-1])["differing"] == []
    assert "0.5500 ± 0.0707 |" in out.splitlines()[2]


def test_less_loss_is_better(runs, called):
    _, out, _ = called(*runs, "--metric=loss")
    assert out.splitlines()[2].startswith("| full | none | - | 0 | 0.3100 | 0.9000 |")


def test_a_diverged_run_comes_last(runs, called, tmp_path):
    write(tmp_path / "aaa", {"accuracy": float("nan")}, {"seed": 0, "steps": 9})
    for metric in ("accuracy", "loss"):
        write(tmp_path / f"a {metric}", {"accuracy": 1, "loss": 0} | {metric: float("nan")}, {})
        _, out, _ = called(f"a {metric}", *runs, f"--metric={metric}")
        *_, row, last = out.splitlines()
        assert row.startswith(f"| a {metric} | - | - | - | - | - | not finite |")
        assert "NaN" not in last


def test_bad_input_is_one_line(runs, called, tmp_path):
    def refused(*arguments):
        code, out, err = called(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "no runs" in refused()
    assert "nowhere has no config.json" in refused(*runs, "nowhere")
    assert "full is given twice" in refused(*runs, "./full/")
    assert "--metric=acuracy is no number in full/result.json: did you mean 'accuracy'" in refused(
        *runs, "--metric=acuracy"
    )
    (tmp_path / "lora-1" / "result.json").write_text("{")
    assert "lora-1/result.json is no JSON" in refused(*runs)
    (tmp_path / "lora-1" / "result.json").write_text("[1]")
    assert "lora-1/result.json holds no JSON object" in refused(*runs)
    (tmp_path / "lora-1" / "result.json").unlink()
    assert "lora-1 has no result.json" in refused(*runs)
    write(tmp_path / "stopped", {"finished": False}, {"seed": 0})
    assert "stopped has not finished" in refused("stopped")
    write(tmp_path / "images", {"hits": 3}, {"seed": 0})
    assert "the runs share none of accuracy" in refused("full", "images")


def test_other_experiments_take_no_arguments(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare", "runs/a"])
    assert entry._run(dict) == 2
    assert "'runs/a' is no flag: write --name=value" in capsys.readouterr().err


def test_from_the_command_line(runs, tmp_path):
    done = run("compare", tmp_path / "full", "--metric=loss", tmp_path / "lora-2")
    assert json.loads(done.stdout.splitlines()[-1])["metric"] == "loss"
    assert done.stderr == ""

"""Raw files become rows, and a model trains on them."""

import json
import runpy

import pytest

from llm_jax.configuration import parse
from llm_jax.data.pipeline.config import PipelineConfig
from tests.experiments.conftest import ROOT, result, run

CONFIG = ROOT / "configs" / "data_text.py"


@pytest.mark.parametrize("variant", ["", "web"])
def test_the_configuration_is_accepted(variant):
    config = runpy.run_path(CONFIG)["get_config"](variant)
    config.data.path = "the user's own"
    rules = parse(PipelineConfig, config).filter.rule_names()
    assert bool(rules[0]) == bool(rules[1]) == (variant == "web")
    with pytest.raises(ValueError, match="'tinny' is unknown"):
        runpy.run_path(CONFIG)["get_config"]("tinny")


def test_a_wrong_key_ends_in_one_line(tmp_path):
    done = run(
        "prepare_data", "--config=configs/data_text.py", f"--workdir={tmp_path / 'run'}",
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: data.path is empty")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_trains_on_what_was_cleaned(tmp_path):
    """Python's own modules as JSON lines, every fifth of them twice."""
    library = sorted((ROOT / ".venv").glob("lib/python3*/site-packages/jax/_src/*.py"))[:40]
    texts = [path.read_text() for path in library]
    lines = [json.dumps({"text": text}) for text in (*texts, *texts[::5])]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("\n".join(lines))
    prepare = (
        "prepare_data", "--config=configs/data_text.py", f"--config.data.path={raw}",
        f"--workdir={tmp_path / 'run'}", "--config.rows.vocab_size=512",
        "--config.rows.sequence_length=64",
    )  # fmt: skip
    outcome = result(run(*prepare))
    assert (outcome["documents_in"], outcome["documents_out"]) == (48, 40)
    assert outcome["removed"]["exact_duplicate"] == 8
    assert outcome["tokens"] > 10_000
    again = result(run(*prepare))
    assert {**again, "seconds": 0} == {**outcome, "seconds": 0}

    prepared = (tmp_path / "run" / "data" / "manifest.json").read_bytes()
    trained = result(
        run(
            "pretrain", "--config=configs/gpt_quickstart.py:tiny",
            f"--workdir={tmp_path / 'run'}", "--config.data.source=cleaned",
            f"--config.data.path={tmp_path / 'run' / 'cleaned'}",
        )
    )  # fmt: skip
    assert trained["finished"]
    assert (tmp_path / "run" / "data" / "manifest.json").read_bytes() == prepared

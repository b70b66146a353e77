"""Tokenizers are trained side by side, and a model trains with one of them."""

import runpy
from pathlib import Path

import pytest

from llm_jax.configuration import parse
from llm_jax.data import load_tokenizer
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.data.tokenizers.study import StudyConfig
from tests.experiments.conftest import ROOT, TINY, result, run

CONFIG = ROOT / "configs" / "tokenizer_text.py"


@pytest.mark.parametrize(("variant", "candidates"), [("", 1), ("compare", 8), ("tiny", 4)])
def test_the_configuration_is_accepted(variant, candidates):
    study = parse(StudyConfig, runpy.run_path(CONFIG)["get_config"](variant))
    assert len(list(study.candidates())) == candidates
    special = set(study.data.tokenizer.special_tokens)
    for name in ("masked_lm", "span_corruption", "fill_in_the_middle", "denoising"):
        assert special >= set(OBJECTIVES[name]().symbols)
    with pytest.raises(ValueError, match="'tinny' is unknown"):
        runpy.run_path(CONFIG)["get_config"]("tinny")


def test_a_wrong_key_ends_in_one_line(tmp_path):
    done = run(
        "train_tokenizer", "--config=configs/tokenizer_text.py", f"--workdir={tmp_path / 'run'}",
        "--config.data.tokenizer.kind=bep", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: data.tokenizer.kind is 'bep': did you mean")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_trains_with_a_trained_tokenizer(text, tmp_path):
    trained = result(
        run(
            "train_tokenizer", "--config=configs/tokenizer_text.py:tiny",
            f"--workdir={tmp_path / 'tokenizers'}", "--config.data.source=text",
            f"--config.data.path={text}", "--config.vocab_sizes=(512,)",
        )
    )  # fmt: skip
    assert trained["finished"]
    names = [each["name"] for each in trained["tokenizers"]]
    assert names == ["bpe-512", "unigram-512", "byte_bpe-512", "wordpiece-512"]
    page = (tmp_path / "tokenizers" / "report.md").read_text()
    for each in trained["tokenizers"]:
        assert f"| {each['name']} |" in page
        assert 1.5 < each["bytes_per_token"] < 10
        tokenizer = load_tokenizer(each["path"])
        assert tokenizer.vocab_size == each["pieces"] <= 512
        assert {"<mask>", "<extra_id_99>", "<fim_prefix>"} <= tokenizer.symbols.keys()
        exported = Path(each["path"], "transformers")
        assert exported.is_dir() == (each["name"] in ("bpe-512", "unigram-512"))
        if exported.is_dir():
            assert load_tokenizer(exported).symbols.items() >= tokenizer.symbols.items()

    folder = tmp_path / "tokenizers" / "byte_bpe-512"
    done = run(
        "pretrain", *TINY, f"--config.data.path={text}", f"--workdir={tmp_path / 'run'}",
        f"--config.data.tokenizer.path={folder}", "--config.model.vocab_size=512",
        "--config.objective.name=fill_in_the_middle", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(done)["finished"]
    stored = (tmp_path / "run" / "data" / "tokenizer.json").read_bytes()
    assert stored == (folder / "tokenizer.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind", "more"),
    [
        ("bert_mlm", "wordpiece", ()),
        ("t5_span", "unigram", ()),
        ("gpt_quickstart", "byte_bpe", ("--config.objective.name=fill_in_the_middle",)),
    ],
)
def test_objectives_train_on_a_tokenizer_of_their_own_kind(config, kind, more, text, tmp_path):
    done = run(
        "pretrain", f"--config=configs/{config}.py:tiny", f"--workdir={tmp_path / 'run'}",
        "--config.data.source=text", f"--config.data.path={text}",
        f"--config.data.tokenizer.kind={kind}", *more,
    )  # fmt: skip
    outcome = result(done)
    assert outcome["finished"]
    assert outcome["loss"] < 6.0  # ln 512 is 6.24

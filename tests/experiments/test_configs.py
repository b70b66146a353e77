import runpy

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.training.run import default_config, parse_run
from llm_jax.training.trainer import make_trainer
from tests.experiments.conftest import ROOT, result, run

# What goes on with weights takes their path in place of a variant (test_continue, test_finetune);
# what prepares data or tokenizers trains nothing (test_prepare_data, test_train_tokenizer).
OTHERS = ("continue_from", "data_text", "finetune", "finetune_tags", "tokenizer_text")
CONFIGS = [path for path in sorted((ROOT / "configs").glob("[a-z]*.py")) if path.stem not in OTHERS]


MORE = {
    "bert_mlm": ("pairs", "base", "large"),
    "t5_span": ("bart", "base", "large", "xxl"),
    "vit_mnist": ("masked",),
    "vit_pretrain": ("large",),
    "mixtral_tiny": ("dense",),
    "llama_pretrain": ("8b", "70b"),
}
CASES = [(path, v) for path in CONFIGS for v in ("", "tiny", *MORE.get(path.stem, ()))]


@pytest.mark.parametrize(
    ("path", "variant"), CASES, ids=[f"{path.stem}-{variant}" for path, variant in CASES]
)
def test_every_configuration_is_accepted(path, variant):
    module = runpy.run_path(path)

    def parsed(variant):
        config = module["get_config"](variant)
        if config.data.source == "text":
            config.data.path = "the user's own"
        if config.data.source == "mixture":
            config.data.mixture.mine.path = "the user's own"
        return parse_run(config)

    tiny, real = parsed("tiny"), parsed(variant)
    assert tiny.steps * tiny.batch_size <= 300 < real.steps * real.batch_size or variant == "tiny"
    assert f"--config=configs/{path.name}" in module["__doc__"]


def test_an_unknown_variant_is_refused():
    for path in CONFIGS:
        with pytest.raises(ValueError, match="'tinny' is unknown"):
            runpy.run_path(path)["get_config"]("tinny")


@pytest.mark.slow
def test_gpt2_124m_tiny_trains_in_bf16(text, tmp_path):
    done = run(
        "pretrain", "--config=configs/gpt2_124m.py:tiny", f"--config.data.path={text}",
        f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert "bf16" in done.stderr
    outcome = result(done)
    assert outcome["finished"]
    assert outcome["loss"] < 5.9  # ln 384 is 5.95


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_family_that_is_no_decoder_is_refused_before_anything_is_made(family):
    config = runpy.run_path(ROOT / "configs" / "gpt_quickstart.py")["get_config"]("tiny")
    config.model = default_config(family).model
    with pytest.raises(ConfigError, match=f"'next_token' trains .*llama.*, not .*'{family}'"):
        make_trainer(parse_run(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("llama_pretrain", ("pipe", "seq", "data")),
        ("mixtral_pretrain", ("fsdp", "expert", "tensor")),
    ],
)
def test_the_large_decoders_train_at_tiny_sizes_on_a_mesh(name, axes, text, tmp_path):
    done = run(
        "pretrain", f"--config=configs/{name}.py:tiny", f"--config.data.path={text}",
        f"--workdir={tmp_path / 'run'}", "--emulated_devices=8", "--config.mesh.data=1",
        *(f"--config.mesh.{axis}=2" for axis in axes), "--config.optim.learning_rate=3e-3",
    )  # fmt: skip
    assert result(done)["loss"] < 5.9

import json

import jax
import numpy as np
import pytest

from experiments.convert import write_checkpoint
from llm_jax import interop, models
from llm_jax.testing import tiny_config
from llm_jax.training.restore import load_model
from tests.data.test_pretrained_tokenizer import byte_level_folder, settings
from tests.experiments.conftest import TINY, result, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder: a tiny GPT-2 with a tokenizer."""
    base = tmp_path_factory.mktemp("hf")
    words = byte_level_folder(base / "words", ["<|endoftext|>"])
    settings(words, tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>")
    config = models.parse_config(tiny_config(vocab_size=512, num_heads=2))
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    files = {path.name: path.read_bytes() for path in words.iterdir()}
    interop.save_pretrained(base / "model", config, params, files=files)
    return base / "model"


@pytest.mark.slow
def test_a_folder_becomes_a_checkpoint_and_a_folder_again(folder, tmp_path):
    there = run(
        "convert", f"--source={folder}", f"--target={tmp_path / 'run'}", "--format=checkpoint"
    )
    assert result(there)["family"] == "gpt2"
    again = tmp_path / "again"
    run("convert", f"--source={tmp_path / 'run'}", f"--target={again}")
    (config, params), (expected_config, expected) = (
        interop.load_pretrained(path) for path in (again, folder)
    )
    assert config == expected_config
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert interop.load_tokenizer(again).encode("Hello, 12") == interop.load_tokenizer(
        folder
    ).encode("Hello, 12")

    flags = ("--prompt=Hello", "--max_new_tokens=5", "--temperature=0")
    texts = [
        json.loads(run("generate", source, *flags).stdout.splitlines()[-1])["samples"]
        for source in (f"--workdir={tmp_path / 'run'}", f"--init_from={folder}")
    ]
    assert texts[0] == texts[1]
    assert texts[0][0]["tokens"] == 5


@pytest.mark.slow
def test_pretraining_begins_with_a_folder(folder, text, tmp_path):
    done = run(
        "pretrain", *TINY, f"--config.data.path={text}", f"--workdir={tmp_path / 'run'}",
        f"--config.init_from={folder}", "--config.steps=2", "--config.optim.warmup_steps=0",
        "--config.model.vocab_size=512",
        "--config.model.max_positions=32", "--config.model.positions=learned",
        "--config.model.norm=layer_norm", "--config.model.qk_norm=False",
        "--config.model.use_bias=True", "--config.model.activation=gelu_tanh",
        "--config.model.tied_embeddings=True", "--config.optim.learning_rate=0.0",
    )  # fmt: skip
    assert result(done)["finished"]
    target = tmp_path / "out"
    run("convert", f"--source={tmp_path / 'run'}", f"--target={target}")
    _, params = interop.load_pretrained(target)
    _, expected = interop.load_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_model_without_a_last_position_becomes_a_checkpoint(tmp_path):
    sizes = {"num_heads": 2, "head_dim": 8, "hidden_size": 16, "mlp_size": 32, "vocab_size": 128}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    config = models.parse_config({"family": "t5", **sizes, **layers})
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    write_checkpoint(str(tmp_path / "run"), config, params, {})
    restored = load_model(tmp_path / "run")
    assert restored.model.config == config
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)


def test_bad_input_is_one_line(folder, tmp_path):
    for flags, words in [
        ((f"--source={folder}", f"--target={folder}"), "is there already"),
        ((f"--source={tmp_path}", f"--target={tmp_path / 'x'}"), "holds no checkpoint"),
        ((f"--source={tmp_path / 'no.gguf'}", f"--target={tmp_path / 'x'}"), "is no file"),
    ]:
        done = run("convert", *flags, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.strip().count("\n") == 0
        assert not (tmp_path / "x").exists()

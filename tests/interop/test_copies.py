"""Tensors that a file has twice, or under a bare model's names."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained, save_pretrained
from llm_jax.testing import relative_error

SMALL = {"vocab_size": 97, "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32}
ENCODER_DECODER = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 24,
}  # fmt: skip
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
# transformers' class and configuration, and the table that the output is tied to.
TIED = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 97, "n_layer": 1, "n_head": 4, "n_embd": 32, "n_positions": 24},
             "transformer.wte.weight"),
    "llama": ("LlamaForCausalLM", "LlamaConfig",
              SMALL | {"intermediate_size": 48, "tie_word_embeddings": True},
              "model.embed_tokens.weight"),
    "bart": ("BartForConditionalGeneration", "BartConfig", ENCODER_DECODER, "model.shared.weight"),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, "shared.weight"),
}  # fmt: skip


def made(reference, model, config, sizes):
    transformers = pytest.importorskip("transformers")
    return reference(getattr(transformers, model), getattr(transformers, config)(**sizes))


def logits_of(network, ids):
    torch = pytest.importorskip("torch")
    inputs = {"input_ids": torch.tensor(ids)}
    if network.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return network(**inputs).logits.numpy()


def our_logits(folder, ids):
    config, params = load_pretrained(folder)
    inputs = {"input_ids": ids}
    if config.family in ("bart", "t5"):
        inputs["decoder_input_ids"] = ids
    return config, np.asarray(models.forward(config, params, **inputs)["logits"])


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


IDS = np.random.default_rng(0).integers(3, 97, (2, 9))


@pytest.mark.parametrize("kind", TIED)
def test_an_equal_copy_of_the_tied_table_is_no_error(reference, kind):
    *what, table = TIED[kind]
    network, folder = made(reference, *what)
    rewritten(folder, lambda t: t.update({"lm_head.weight": t[table].copy()}))
    config, got = our_logits(folder, IDS)
    assert getattr(config, "tied_embeddings", True)
    assert relative_error(got, logits_of(network, IDS)) < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bart"])
def test_another_output_in_a_tied_file_is_refused_by_name(reference, kind):
    *what, table = TIED[kind]
    _, folder = made(reference, *what)
    rewritten(folder, lambda t: t.update({"lm_head.weight": t[table] + 1e-3}))
    with pytest.raises(ConfigError, match=f"lm_head.weight is not {table}") as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_t5_that_transformers_5_wrote_again_keeps_its_own_output(reference, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    network, folder = made(reference, "T5ForConditionalGeneration", "T5Config", sizes)
    head = torch.nn.Parameter(torch.randn(97, 32))
    network.lm_head.weight = head
    network.save_pretrained(folder)
    # As the published file of T5 1.1 says; what is read and written again says true.
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"tie_word_embeddings": False}))
    again = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    again.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["tie_word_embeddings"] is True
    third = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "again").eval()
    config, got = our_logits(tmp_path / "again", IDS)
    assert not config.tied_embeddings
    assert relative_error(got, logits_of(third, IDS)) < 1e-5
    assert relative_error(got, logits_of(network, IDS)) < 1e-5


@pytest.mark.parametrize(
    ("bare", "kind"), [("BartModel", "bart"), ("GPT2Model", "gpt2"), ("LlamaModel", "llama")]
)
def test_a_bare_models_names_are_completed(reference, tmp_path, bare, kind):
    transformers = pytest.importorskip("transformers")
    full, config, sizes, table = TIED[kind]
    _, folder = made(reference, bare, config, sizes)
    assert table not in load_file(folder / "model.safetensors")
    # What the reference makes of the same folder: the output is the table, a bias zero.
    network = getattr(transformers, full).from_pretrained(folder).eval()
    config, got = our_logits(folder, IDS)
    assert relative_error(got, logits_of(network, IDS)) < 1e-5
    save_pretrained(tmp_path / "again", *load_pretrained(folder))
    assert table in load_file(tmp_path / "again" / "model.safetensors")

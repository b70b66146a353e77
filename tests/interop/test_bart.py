import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import read_config
from llm_jax.models import bart, encoder_decoder
from tests.interop.encoder_decoders import check_all, text_inputs

SIZES = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 24,
}  # fmt: skip
CONFIGS = {
    "plain": {},
    "scaled": {"scale_embedding": True, "activation_function": "relu", "decoder_layers": 3},
    "wide": {
        "d_model": 40, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
        "activation_function": "gelu_new", "encoder_layers": 1, "pad_token_id": 5,
        "activation_dropout": 0.1, "vocab_size": 130,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_the_reference(reference, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    hf = transformers.BartConfig(**SIZES | CONFIGS[name])
    network, folder = reference(transformers.BartForConditionalGeneration, hf)
    network.final_logits_bias.normal_()
    network.save_pretrained(folder)
    inputs = text_inputs(hf.vocab_size, first=6)
    # The padding's vector is not trained where a target begins with it.
    inputs["decoder_input_ids"][0, 0] = hf.pad_token_id
    check_all(network, folder, inputs, tmp_path, frozen=("final_logits_bias",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_positions": 0}, "model.max_positions is 0"),
        ({"attention_dropout_rate": -0.5}, "model.attention_dropout_rate is -0.5"),
        ({"activation": "tanh"}, "model.activation is 'tanh'"),
        ({"num_heads": 5}, "model.hidden_size 768 does not divide"),
    ],
)
def test_impossible_sizes_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        models.parse_config({"family": "bart"} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_embedding": False},
        {"encoder_layerdrop": 0.1},
        {"tie_word_embeddings": False},
        {"decoder_ffn_dim": 64},
        {"extra_pos_embeddings": 0},
    ],
)
def test_options_that_are_not_computed_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_config({"model_type": "bart"} | SIZES | change)


def test_what_cannot_run_is_refused():
    sizes = {"hidden_size": 32, "num_heads": 4, "mlp_size": 48, "vocab_size": 97}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 1, "max_positions": 8}
    changes = {"family": "bart", "activation_dropout_rate": 0.1, "dropout_rate": 0.1}
    model = models.build(models.parse_config(sizes | changes))
    short, long = np.zeros((1, 8), np.int32), np.zeros((1, 9), np.int32)

    def trace(function, *args, **inputs):
        return jax.eval_shape(lambda p: function(model, p, *args, **inputs), model.abstract_params)

    for source, target in ((long, short), (short, long)):
        with pytest.raises(ConfigError, match="9 tokens is longer than the model's 8"):
            trace(bart.forward, input_ids=source, decoder_input_ids=target)
    inputs = {"input_ids": short, "decoder_input_ids": short}
    with pytest.raises(ConfigError, match="activation_dropout_rate is 0.1"):
        trace(encoder_decoder.run, dropout_key=jax.random.key(0), **inputs)
    memory = {"hidden": np.zeros((1, 8, 32), np.float32), "mask": None}
    with pytest.raises(ConfigError, match="a cache needs positions"):
        trace(bart.decode, short, memory, cache=model.init_cache(1, 8))


def test_presets_have_their_published_sizes():
    # Without the rows that pad the vocabulary and the output's bias, 139 and 406 millions.
    for name, count in {"bart-base": 139_420_416, "bart-large": 406_291_456}.items():
        config = models.parse_config({"family": "bart"} | bart.PRESETS[name])
        padding = (config.padded_vocab - config.vocab_size) * config.hidden_size
        assert models.build(config).num_params - padding - config.vocab_size == count

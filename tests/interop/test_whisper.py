import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import read_config
from llm_jax.models import whisper
from tests.interop.encoder_decoders import check_all, text_inputs

SIZES = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "num_mel_bins": 10, "max_source_positions": 12,
    "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "begin_suppress_tokens": None,
}  # fmt: skip
CONFIGS = {
    "plain": {},
    "wide": {"d_model": 40, "encoder_attention_heads": 5, "decoder_attention_heads": 5},
    "deep": {
        "decoder_layers": 3, "encoder_layers": 1, "activation_function": "gelu_new",
        "num_mel_bins": 7, "max_source_positions": 9, "vocab_size": 130, "pad_token_id": 2,
        "dropout": 0.1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_the_reference(reference, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    hf = transformers.WhisperConfig(**SIZES | CONFIGS[name])
    network, folder = reference(transformers.WhisperForConditionalGeneration, hf)
    inputs = text_inputs(hf.vocab_size)
    del inputs["input_ids"], inputs["attention_mask"]
    shape = (2, hf.num_mel_bins, 2 * hf.max_source_positions)
    inputs["input_features"] = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    inputs["decoder_input_ids"][0, 0] = hf.pad_token_id
    frozen = ("model.encoder.embed_positions.weight",)
    check_all(network, folder, inputs, tmp_path, frozen=frozen)


def test_fresh_positions_are_the_reference():
    modeling = pytest.importorskip("transformers.models.whisper.modeling_whisper")
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "num_heads": 4, "hidden_size": 32}
    sizes |= {"mlp_size": 48, "vocab_size": 97, "source_positions": 20}
    model = models.build(models.parse_config({"family": "whisper"} | sizes))
    got = jax.jit(model.init)(jax.random.key(0))["encoder_positions"]
    np.testing.assert_allclose(got, modeling.sinusoids(20, 32).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source_positions": 0}, "model.source_positions is 0"),
        ({"num_heads": 5}, "model.hidden_size 384 does not divide"),
        ({"hidden_size": 33, "num_heads": 3}, "model.hidden_size is 33"),
        ({"activation": "tanh"}, "model.activation is 'tanh'"),
    ],
)
def test_impossible_sizes_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        models.parse_config({"family": "whisper"} | change)


@pytest.mark.parametrize(
    "change", [{"scale_embedding": True}, {"apply_spec_augment": True}, {"decoder_layerdrop": 0.1}]
)
def test_options_that_are_not_computed_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_config({"model_type": "whisper"} | SIZES | change)


def test_what_cannot_run_is_refused():
    model = models.build(models.parse_config({"family": "whisper"}))
    right, wrong = (np.zeros((1, 80, n), np.float32) for n in (3000, 2999))
    for features, length, named in ((wrong, 8, "80, 3000"), (right, 449, "model's 448")):
        inputs = {"input_features": features, "decoder_input_ids": np.zeros((1, length), int)}
        with pytest.raises(ConfigError, match=named):
            jax.eval_shape(
                lambda p, i=inputs: whisper.forward(model, p, **i), model.abstract_params
            )


def test_presets_have_their_published_sizes():
    counts = {"tiny": 37_760_640, "base": 72_593_920, "small": 241_734_912}
    for name, count in counts.items():
        config = models.parse_config({"family": "whisper"} | whisper.PRESETS[f"whisper-{name}"])
        model = models.build(config)
        padding = (config.padded_vocab - config.vocab_size) * config.hidden_size
        assert model.num_params - padding == count, name
        assert model.flops_per_token(448).total > 0

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.interop import read_config
from tests.interop.encoder_decoders import check_all, text_inputs

SIZES = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 24, "pad_token_id": 96,
    "decoder_start_token_id": 96, "activation_function": "swish",
}  # fmt: skip
CONFIGS = {
    "scaled": {"scale_embedding": True},
    "relu": {"activation_function": "relu", "decoder_layers": 3, "attention_dropout": 0.1},
    "wide": {
        "d_model": 40, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
        "encoder_layers": 1, "scale_embedding": True, "activation_function": "gelu",
        "max_position_embeddings": 60,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_is_the_reference(reference, tmp_path, name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hf = transformers.MarianConfig(**SIZES | CONFIGS[name])
    network, folder = reference(transformers.MarianMTModel, hf)
    network.final_logits_bias.normal_()
    for side in (network.model.encoder, network.model.decoder):
        # The fixture moved the sines too, which no file holds.
        with torch.no_grad():
            side.embed_positions.weight.copy_(side.embed_positions.create_weight())
    network.save_pretrained(folder)
    inputs = text_inputs(90)
    inputs["decoder_input_ids"][:, 0] = hf.pad_token_id
    check_all(network, folder, inputs, tmp_path, frozen=("final_logits_bias",))


@pytest.mark.parametrize(
    "change",
    [
        {"share_encoder_decoder_embeddings": False},
        {"decoder_vocab_size": 98},
        {"static_position_embeddings": False},
        {"normalize_embedding": True},
        {"decoder_attention_heads": 2},
        {"normalize_before": True},
    ],
)
def test_options_that_are_not_computed_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_config({"model_type": "marian"} | SIZES | change)


def test_an_older_file_without_a_second_vocabulary_is_read():
    config = read_config({"model_type": "marian"} | SIZES | {"decoder_vocab_size": None})
    assert config.vocab_size == 97

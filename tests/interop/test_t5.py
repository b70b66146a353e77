import json

import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import read_config
from llm_jax.interop.t5 import write_config
from llm_jax.models import t5
from tests.interop.encoder_decoders import check_all, text_inputs

SIZES = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
CONFIGS = {
    "v1_0": {},
    "v1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_heads": 3},
    "tied_unscaled": {
        "feed_forward_proj": "gated-silu", "scale_decoder_outputs": False,
        "num_decoder_layers": 3, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 9, "layer_norm_epsilon": 1e-3,
    },
}  # fmt: skip


@pytest.fixture
def made(reference, request):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    changes = CONFIGS[request.param]
    hf = transformers.T5Config(**SIZES | changes)
    network, folder = reference(transformers.T5ForConditionalGeneration, hf)
    if not changes.get("tie_word_embeddings", True):
        # transformers 5 makes new models tied; a file of T5 1.1 has an output of its own.
        network.lm_head.weight = torch.nn.Parameter(torch.randn(hf.vocab_size, hf.d_model))
        network.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(written | {"tie_word_embeddings": False}))
    return network, folder


@pytest.mark.parametrize("made", CONFIGS, indirect=True)
def test_everything_is_the_reference(made, tmp_path):
    check_all(*made, text_inputs(97), tmp_path)


@pytest.mark.parametrize(("count", "longest"), [(32, 128), (16, 128), (8, 20), (4, 9), (16, 40)])
def test_buckets_are_those_of_the_reference(count, longest):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = np.arange(longest + 50)
    expected = modeling.T5Attention._relative_position_bucket(
        -torch.tensor(distance), bidirectional=False, num_buckets=count, max_distance=longest
    )
    got = t5.buckets_of_distances(count, longest)[np.minimum(distance, longest)]
    np.testing.assert_array_equal(got, expected.numpy())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_heads": 0}, "model.num_heads is 0"),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0"),
        ({"activation": "tanh"}, "model.activation is 'tanh'"),
        ({"num_buckets": 6}, "model.num_buckets is 6"),
        ({"max_distance": 16}, "model.max_distance is 16"),
    ],
)
def test_impossible_sizes_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        models.parse_config({"family": "t5"} | change)


def test_files_that_cannot_be_are_refused():
    hf = {"model_type": "t5", **SIZES}
    with pytest.raises(ConfigError, match="is_encoder_decoder is False"):
        read_config(hf | {"is_encoder_decoder": False})
    with pytest.raises(ConfigError, match="activation 'tanh' is unknown"):
        read_config(hf | {"feed_forward_proj": "gated-tanh"})
    for change, named in (
        ({"dropout_rate": 0.1}, "one dropout rate"),
        ({"gated": True, "activation": "gelu"}, "tanh formula"),
    ):
        config = models.parse_config({"family": "t5", "num_encoder_layers": 1} | change)
        with pytest.raises(ConfigError, match=named):
            write_config(config)


def test_presets_have_their_published_sizes():
    counts = {"t5-small": 60_506_624, "t5-base": 222_903_552, "t5-large": 737_668_096,
              "t5-v1_1-base": 247_577_856, "flan-t5-base": 247_577_856}  # fmt: skip
    for name, count in counts.items():
        model = models.build(models.parse_config({"family": "t5"} | t5.PRESETS[name]))
        assert model.num_params == count, name
        assert model.flops_per_token(512).total > 0

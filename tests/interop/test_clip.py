import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained, read_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.interop.agreement import check, outputs_of  # noqa: E402

TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = TOWER | {"vocab_size": 97, "max_position_embeddings": 20, "eos_token_id": 60}
IMAGE = TOWER | {"image_size": 16, "patch_size": 4}
WIDE = {"hidden_size": 48, "num_attention_heads": 6, "layer_norm_eps": 1e-3}
END = {"clip": 60, "clip-highest": 96, "clip-larger": 60}
CASES = {
    "clip": ("CLIPModel", TEXT, IMAGE, {"projection_dim": 24}),
    "clip-highest": ("CLIPModel", TEXT | WIDE | {"eos_token_id": 2}, IMAGE, {}),
    "clip-larger": (
        "CLIPModel",
        TEXT | {"hidden_act": "gelu", "num_hidden_layers": 3},
        IMAGE | WIDE | {"hidden_act": "gelu_new", "num_channels": 1},
        {"projection_dim": 40},
    ),
    "siglip": ("SiglipModel", TEXT, IMAGE, {}),
    "siglip-masked": (
        "SiglipModel",
        TEXT | {"vocab_size": 130, "projection_size": 48},
        IMAGE | WIDE | {"intermediate_size": 80, "hidden_act": "relu"},
        {},
    ),
    "siglip-larger": ("SiglipModel", TEXT | WIDE | {"projection_size": 32}, IMAGE, {}),
}
OUTPUTS = ("text_embeds", "image_embeds", "logits_per_text", "logits_per_image")


def made(reference, name):
    kind, text, image, more = CASES[name]
    network = getattr(transformers, kind)
    return reference(network, network.config_class(text_config=text, vision_config=image, **more))


def batch(name):
    """Three texts, of 12, 8 and 5 tokens, the last one padded on the left, and two images."""
    kind, _, image, _ = CASES[name]
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 60, (3, 12))
    mask = np.ones_like(ids)
    mask[1, 8:] = 0
    mask[2, :7] = 0
    if kind == "CLIPModel":
        ids[[0, 0, 1, 2], [9, 11, 7, 11]] = END[name]
    shape = (20, 28) if name.endswith("larger") else (16, 16)
    pixels = rng.standard_normal((2, image.get("num_channels", 3), *shape)).astype(np.float32)
    inputs = {"input_ids": np.where(mask, ids, 1), "pixel_values": pixels}
    if shape != (16, 16):
        inputs["interpolate_pos_encoding"] = True
    if name != "siglip":
        inputs["attention_mask"] = mask
    return inputs


@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_files_are_those_of_the_reference(reference, tmp_path, name):
    network, folder = made(reference, name)
    seen = dict.fromkeys(OUTPUTS)
    check(network, folder, tmp_path, inputs=batch(name), seen=seen)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_tower_runs_alone(reference, name):
    network, folder = made(reference, name)
    config, params = load_pretrained(folder)
    inputs = batch(name)
    expected = outputs_of(network, inputs)
    pixels = inputs.pop("pixel_values")
    for outputs in (
        models.forward(config, params, **inputs),
        models.forward(config, params, pixel_values=pixels),
    ):
        ((key, got),) = outputs.items()
        np.testing.assert_allclose(got, expected[key], rtol=0, atol=1e-5)


def test_wrong_inputs_are_refused(reference):
    config, params = load_pretrained(made(reference, "siglip")[1])
    for inputs, message in (
        ({}, "neither input_ids nor pixel_values"),
        ({"input_ids": np.ones((1, 21), int)}, "21 tokens is longer than the model's 20"),
        ({"pixel_values": np.ones((1, 3, 8, 16))}, "2 x 4 patches are not the model's 4 x 4"),
        ({"pixel_values": np.ones((1, 3, 18, 16))}, "do not divide into patches of 4"),
        ({"pixel_values": np.ones((1, 1, 16, 16))}, "images have 1 channels, the model 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.forward(config, params, **inputs)


@pytest.mark.parametrize("name", sorted(models.clip.PRESETS))
def test_presets_have_the_published_sizes(name):
    published = {
        "clip-vit-base-patch32": 151_277_313,
        "clip-vit-large-patch14": 427_616_513,
        "siglip-base-patch16-224": 203_155_970,
    }
    config = models.parse_config({"family": "clip"} | models.clip.PRESETS[name])
    assert models.build(config).num_params == published[name]


CLIP = {"model_type": "clip", "architectures": ["CLIPModel"]}
CLIP |= {"text_config": TEXT, "vision_config": IMAGE}
SIGLIP = CLIP | {"model_type": "siglip", "architectures": ["SiglipModel"]}


def test_sparse_configs_have_the_defaults_of_transformers():
    """The published SigLIP's file names almost nothing; older CLIPs have their towers twice."""
    config = read_config(SIGLIP | {"text_config": {}, "vision_config": {"patch_size": 16}})
    assert config == models.parse_config(
        {"family": "clip"} | models.clip.PRESETS["siglip-base-patch16-224"]
    )
    older = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    config = read_config(CLIP | {"text_config_dict": older, "vision_config_dict": None})
    # A copy: transformers writes into it.
    hf = transformers.CLIPConfig(text_config=dict(TEXT), text_config_dict=older).text_config
    assert config.text.hidden_size == hf.hidden_size
    assert config.text.vocab_size == hf.vocab_size
    assert config.end_id == hf.eos_token_id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CLIP | {"architectures": ["CLIPForImageClassification"]}, "known is CLIPModel"),
        (CLIP | {"text_config": TEXT | {"eos_token_id": [1, 2]}}, r"eos_token_id is \[1, 2\]"),
        (CLIP | {"vision_config": IMAGE | {"image_size": [16, 8]}}, r"image_size is \[16, 8\]"),
        (CLIP | {"text_config": TEXT | {"hidden_act": "mish"}}, "activation 'mish' is unknown"),
        (SIGLIP | {"vision_config": IMAGE | {"vision_use_head": False}}, "vision_use_head is"),
        (SIGLIP | {"text_config": TEXT | {"projection_size": 24}}, "projection_size is 24"),
    ],
)
def test_options_that_are_not_computed_are_refused(settings, message):
    read_config(CLIP)
    read_config(SIGLIP)
    with pytest.raises(ConfigError, match=message):
        read_config(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "align"}, "model.kind is 'align': choose one of clip, siglip"),
        ({"projection_size": 0}, "model.projection_size is 0"),
        ({"kind": "siglip", "projection_size": 512}, "SigLIP's is that of the image, 768"),
        ({"text": {"num_heads": 7}}, "model.text.hidden_size 512 does not divide"),
        ({"text": {"vocab_size": 0}}, "model.text.vocab_size is 0: give at least 1"),
        ({"image": {"patch_size": 30}}, "model.image.image_size 224 does not divide"),
        ({"image": {"activation": "mish"}}, "model.image.activation is 'mish'"),
        ({"image": {"attention_dropout_rate": 1.0}}, "attention_dropout_rate is 1.0"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        models.parse_config({"family": "clip"} | change)

import json

import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained, read_config, save_pretrained, vit
from llm_jax.layers.patches import resample
from llm_jax.testing import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.interop.agreement import check, outputs_of  # noqa: E402

IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
WIDE = IMAGE | {"hidden_size": 48, "num_attention_heads": 6, "layer_norm_eps": 1e-3}
MLP = {"intermediate_size": 80}
CASES = {
    "vit": ("ViTModel", IMAGE | MLP | {"num_channels": 1, "hidden_act": "gelu_new"}),
    "vit-classes": ("ViTForImageClassification", WIDE | MLP | {"num_labels": 7}),
    "vit-larger": ("ViTModel", IMAGE | MLP | {"qkv_bias": False}),
    "deit": ("DeiTModel", WIDE | MLP),
    "deit-classes": ("DeiTForImageClassification", IMAGE | MLP | {"num_labels": 3}),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", IMAGE | MLP | {"qkv_bias": False}),
    "dinov2-larger": ("Dinov2Model", IMAGE | {"layerscale_value": 0.5}),
    "dinov2-gated": ("Dinov2Model", WIDE | {"use_swiglu_ffn": True, "use_mask_token": False}),
    "dinov2-classes": ("Dinov2ForImageClassification", IMAGE | {"mlp_ratio": 2, "num_labels": 5}),
    "registers-smaller": ("Dinov2WithRegistersModel", IMAGE | {"num_register_tokens": 3}),
    "registers-classes": (
        "Dinov2WithRegistersForImageClassification",
        WIDE | {"use_swiglu_ffn": True},
    ),
}
SIZES = {"larger": (20, 28), "smaller": (8, 12)}


def pixels(sizes, shape, seed=0):
    channels = sizes.get("num_channels", 3)
    values = np.random.default_rng(seed).standard_normal((2, channels, *shape))
    return values.astype(np.float32)


def made(reference, kind, sizes):
    network = getattr(transformers, kind)
    return reference(network, network.config_class(**sizes))


@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_files_are_those_of_the_reference(reference, tmp_path, name):
    kind, sizes = CASES[name]
    network, folder = made(reference, kind, sizes)
    shape = SIZES.get(name.split("-")[-1], (16, 16))
    inputs = {"pixel_values": pixels(sizes, shape)}
    if shape != (16, 16) and "Dino" not in kind:
        inputs["interpolate_pos_encoding"] = True
    if "Dino" in kind and "Model" in kind and sizes.get("use_mask_token", True):
        patches = (shape[0] // 4) * (shape[1] // 4)
        inputs["bool_masked_pos"] = np.random.default_rng(1).random((2, patches)) < 0.3
    seen = {"logits": None} if "Classification" in kind else {"last_hidden_state": None}
    if "Model" in kind:
        seen["pooler_output"] = None
    if "Teacher" in kind:
        seen |= {"cls_logits": None, "distillation_logits": None}
    check(network, folder, tmp_path, inputs=inputs, seen=seen)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("shape", [(5, 5), (3, 9), (14, 2), (16, 16), (37, 4)])
def test_resampling_is_that_of_torch(shape, antialias):
    grid = np.random.default_rng(0).standard_normal((7, 7, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid).permute(2, 0, 1)[None],
        size=shape,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    got = resample(jax.numpy.asarray(grid), shape, antialias=antialias)
    assert relative_error(got, expected[0].permute(1, 2, 0).numpy()) < 1e-5


def test_wrong_images_are_refused(reference):
    kind, sizes = CASES["dinov2-gated"]
    config, params = load_pretrained(made(reference, kind, sizes)[1])

    def run(shape, channels=3, config=config, **more):
        image = np.zeros((1, channels, *shape), np.float32)
        return models.forward(config, params, pixel_values=image, **more)

    run((8, 8))
    with pytest.raises(ConfigError, match="18 x 16 pixels do not divide into patches of 4"):
        run((18, 16))
    with pytest.raises(ConfigError, match="images have 1 channels, the model 3"):
        run((16, 16), channels=1)
    with pytest.raises(ConfigError, match="2 x 2 patches are not the model's 4 x 4"):
        run((8, 8), interpolate_pos_encoding=False)
    with pytest.raises(ConfigError, match=r"model\.mask_token is False"):
        run((16, 16), bool_masked_pos=np.zeros((1, 16), bool))


def test_a_vit_takes_other_sizes_only_when_asked(reference):
    kind, sizes = CASES["vit-larger"]
    network, folder = made(reference, kind, sizes)
    config, params = load_pretrained(folder)
    inputs = {"pixel_values": pixels(sizes, (12, 12))}
    with pytest.raises(ConfigError, match="give interpolate_pos_encoding=True"):
        models.forward(config, params, **inputs)
    inputs["interpolate_pos_encoding"] = True
    got = models.forward(config, params, **inputs)["last_hidden_state"]
    assert relative_error(got, outputs_of(network, inputs)["last_hidden_state"]) < 1e-5


@pytest.mark.parametrize("name", sorted(models.vit.PRESETS))
def test_presets_have_the_published_sizes(name):
    published = {
        "vit-base-patch16-224": 86_567_656,
        "vit-large-patch16-224": 304_326_632,
        "deit-base-distilled-patch16-224": 87_338_192,
        "dinov2-small": 22_056_576,
        "dinov2-base": 86_580_480,
    }
    config = models.parse_config({"family": "vit"} | models.vit.PRESETS[name])
    assert models.build(config).num_params == published[name]


HF = {"model_type": "vit", "architectures": ["ViTModel"], **IMAGE, **MLP}
DINO = {"model_type": "dinov2", "architectures": ["Dinov2Model"], **IMAGE}
REGISTERS = {
    "model_type": "dinov2_with_registers",
    "architectures": ["Dinov2WithRegistersModel"],
    **IMAGE,
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (HF | {"architectures": ["ViTForMaskedImageModeling"]}, "known is ViTModel or"),
        (HF | {"architectures": None}, r"architectures is \[\]"),
        (HF | {"image_size": [16, 32]}, r"image_size is \[16, 32\]: only squares"),
        (HF | {"pooler_act": "gelu"}, "pooler_act is 'gelu'"),
        (HF | {"pooler_output_size": 64}, "pooler_output_size is 64"),
        (DINO | {"drop_path_rate": 0.1}, "drop_path_rate is 0.1"),
        (DINO | {"hidden_dropout_prob": 0.1}, "hidden_dropout_prob is 0.1"),
        (REGISTERS | {"num_register_tokens": 0}, "num_register_tokens is 0"),
    ],
)
def test_options_that_are_not_computed_are_refused(settings, message):
    for right in (HF, DINO, REGISTERS):
        read_config(right)
    with pytest.raises(ConfigError, match=message):
        read_config(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 0}, "model.patch_size is 0: give at least 1"),
        ({"num_registers": -1}, "model.num_registers is -1"),
        ({"num_heads": 5}, "does not divide into model.num_heads"),
        ({"image_size": 225}, "does not divide into model.patch_size"),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0"),
        ({"pooler": "mean"}, "model.pooler is 'mean': choose one of none, tanh, class_token"),
        ({"head": "distilled"}, "needs model.distillation_token=True"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        models.parse_config({"family": "vit"} | change)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (HF, {"mask_token": True}, "a vit has model.mask_token=False only"),
        (HF, {"pooler": "none"}, "a vit has model.pooler='tanh' only"),
        (DINO, {"head_input": "class_token"}, "a dinov2 has model.head_input="),
        (DINO, {"mlp_size": 100}, "model.mlp_size 100 comes from no whole mlp_ratio"),
        (DINO, {"gated": True}, "a dinov2 has model.activation='silu' only"),
        (REGISTERS, {"layer_scale": None}, "a dinov2_with_registers has model.layer_scale"),
    ],
)
def test_models_without_a_counterpart_are_not_written(tmp_path, settings, change, message):
    config = models.configuration.to_dict(vit.read_config(settings))
    config = models.parse_config(config | change)
    with pytest.raises(ConfigError, match=message):
        save_pretrained(tmp_path / "new", config, models.build(config).abstract_params)
    assert not (tmp_path / "new").exists()


def test_labels_of_the_file_give_the_number_of_classes(reference):
    kind, sizes = CASES["vit-classes"]
    folder = made(reference, kind, sizes)[1]
    assert load_pretrained(folder)[0].num_classes == 7
    assert len(json.loads((folder / "config.json").read_text())["id2label"]) == 7

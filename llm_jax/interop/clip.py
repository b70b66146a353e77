"""Names of CLIP and SigLIP in `transformers`: `CLIPModel` and `SiglipModel`."""

from llm_jax.configuration import ConfigError
from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import FLAT, Entry, Layout, linear
from llm_jax.models import clip

MODEL_TYPES = ("clip", "siglip")
CONFIG = clip.Config
# Buffers of older files.
IGNORED = (r"(text_model|vision_model)\.embeddings\.position_ids",)

ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
# Of the activation and the norm's epsilon, where a file leaves them out.
_DEFAULTS = {"clip": ("quick_gelu", 1e-5), "siglip": ("gelu_pytorch_tanh", 1e-6)}
# In the first published files: the end token is the one of the highest id.
HIGHEST = 2


def read_config(hf: dict) -> clip.Config:
    """Returns the Config of a config.json."""
    kind = hf["model_type"]
    if hf.get("architectures") != [ARCHITECTURES[kind]]:
        raise ConfigError(
            f"config.json: architectures is {hf.get('architectures')}: known is "
            f"{ARCHITECTURES[kind]}"
        )
    text, image = _tower(hf, "text_config"), _tower(hf, "vision_config")
    for name in ("image_size", "patch_size"):
        if name in image and not isinstance(image[name], int):
            raise ConfigError(f"config.json: {name} is {image[name]}: only squares, one number")
    width = image.get("hidden_size", 768)
    small = (8, 512, 2048, 49408, 77) if kind == "clip" else (12, 768, 3072, 32000, 64)
    heads, size, mlp_size, vocab_size, length = small
    choices = {}
    if kind == "clip":
        end = text.get("eos_token_id", 49407)
        if not isinstance(end, int):
            raise ConfigError(f"config.json: eos_token_id is {end!r}: give one number")
        choices["end_id"] = None if end == HIGHEST else end
        choices["projection_size"] = hf.get("projection_dim", 512)
        choices["init_std"] = text.get("initializer_range", 0.02)
    else:
        demand(image, {"vision_use_head": True})
        features = text.get("projection_size") or text.get("hidden_size", size)
        demand({"projection_size": features}, {"projection_size": width})
        choices["projection_size"] = None
    return clip.Config(
        kind=kind,
        text=clip.Text(
            num_heads=text.get("num_attention_heads", heads),
            hidden_size=text.get("hidden_size", size),
            mlp_size=text.get("intermediate_size", mlp_size),
            vocab_size=text.get("vocab_size", vocab_size),
            max_positions=text.get("max_position_embeddings", length),
            **_shared(kind, text),
        ),
        image=clip.Image(
            num_heads=image.get("num_attention_heads", 12),
            hidden_size=width,
            mlp_size=image.get("intermediate_size", 3072),
            image_size=image.get("image_size", 224),
            patch_size=image.get("patch_size", 32 if kind == "clip" else 16),
            num_channels=image.get("num_channels", 3),
            **_shared(kind, image),
        ),
        **choices,
    )


def _tower(hf: dict, name: str) -> dict:
    """Returns a tower's options; `transformers` lets `NAME_dict`, of older files, stand for it."""
    older = hf.get(f"{name}_dict")
    return older if older is not None else hf.get(name) or {}


def _shared(kind: str, tower: dict) -> dict:
    act, epsilon = _DEFAULTS[kind]
    return {
        "num_layers": tower.get("num_hidden_layers", 12),
        "activation": activation(tower.get("hidden_act", act)),
        "layer_norm_epsilon": tower.get("layer_norm_eps", epsilon),
        "attention_dropout_rate": tower.get("attention_dropout", 0.0),
    }


def _activation(kind: str, ours: str) -> str:
    # SigLIP's files have PyTorch's name of the same function.
    return "gelu_pytorch_tanh" if (kind, ours) == ("siglip", "gelu_tanh") else ACTIVATIONS[ours][0]


def write_config(config: clip.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` where CLIP has no such choice."""
    kind, features = config.kind, config.projection_size or config.image.hidden_size

    def tower(part):
        choices = ("window", "attention_pattern")
        demand_defaults(part, type(part)(), choices, kind, part.path)
        return {
            "num_hidden_layers": part.num_layers,
            "num_attention_heads": part.num_heads,
            "hidden_size": part.hidden_size,
            "intermediate_size": part.mlp_size,
            "hidden_act": _activation(kind, part.activation),
            "layer_norm_eps": part.layer_norm_epsilon,
            "attention_dropout": part.attention_dropout_rate,
        }

    text = tower(config.text) | {
        "model_type": f"{kind}_text_model",
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.max_positions,
    }
    image = tower(config.image) | {
        "model_type": f"{kind}_vision_model",
        "image_size": config.image.image_size,
        "patch_size": config.image.patch_size,
        "num_channels": config.image.num_channels,
    }
    written = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    if kind == "clip":
        std = {"initializer_range": config.init_std, "projection_dim": features}
        text |= {"eos_token_id": HIGHEST if config.end_id is None else config.end_id} | std
        image |= std
        written["projection_dim"] = features
    else:
        text["projection_size"] = features
    return written | {"text_config": text, "vision_config": image}


_BLOCK = (
    ("self_attn.out_proj", "attention/output", linear(2)),
    ("mlp.fc1", "mlp/up", linear()),
    ("mlp.fc2", "mlp/down", linear()),
)


def table(config: clip.Config) -> list[Entry]:
    """Returns the entries; CLIP's projections have no bias, SigLIP's pooling joins q, k and v."""
    is_clip = config.kind == "clip"
    text, image = "text_model.", "vision_model."
    rows = Layout(rows=config.text.vocab_size)
    scalar = Layout(shape=() if is_clip else (1,))
    entries = [
        Entry("logit_scale", "logit_scale", scalar),
        Entry(text + "embeddings.token_embedding.weight", "text/embedding/table", rows),
        Entry(text + "embeddings.position_embedding.weight", "text/positions/table"),
        Entry(image + "embeddings.patch_embedding.weight", "image/patches/projection/kernel",
              Layout(axes=(3, 0, 1, 2))),
        Entry(image + "embeddings.position_embedding.weight", "image/positions"),
    ]  # fmt: skip
    dense, norms = [], [(text + "final_layer_norm", "text/final_norm")]
    norms.append((image + "post_layernorm", "image/final_norm"))
    for root, ours in ((text, "text/layers/"), (image, "image/layers/")):
        block = root + "encoder.layers.{layer}."
        for name in ("query", "key", "value"):
            theirs, mine = f"{block}self_attn.{name[0]}_proj", f"{ours}attention/{name}"
            entries.append(Entry(f"{theirs}.weight", f"{mine}/kernel", linear()))
            entries.append(Entry(f"{theirs}.bias", f"{mine}/bias", FLAT))
        dense += [(block + theirs, ours + mine, layout) for theirs, mine, layout in _BLOCK]
        norms.append((block + "layer_norm1", ours + "attention_norm"))
        norms.append((block + "layer_norm2", ours + "mlp_norm"))
    if is_clip:
        layout = Layout(shape=(-1,))
        entries += [
            Entry(image + "embeddings.class_embedding", "image/class_token", layout),
            Entry("text_projection.weight", "text/projection/kernel", linear()),
            Entry("visual_projection.weight", "image/projection/kernel", linear()),
        ]
        # So misspelt in every file.
        norms.append((image + "pre_layrnorm", "image/first_norm"))
    else:
        head = image + "head."
        three = [f"image/pool_attention/{name}" for name in ("query", "key", "value")]
        probe = Layout(shape=(1, 1, config.image.hidden_size))
        entries += [
            Entry("logit_bias", "logit_bias", scalar),
            Entry(image + "embeddings.patch_embedding.bias", "image/patches/projection/bias"),
            Entry(head + "probe", "image/probe", probe),
            Entry(head + "attention.in_proj_weight", tuple(f"{n}/kernel" for n in three), linear()),
            Entry(head + "attention.in_proj_bias", tuple(f"{n}/bias" for n in three), FLAT),
        ]
        dense += [
            (text + "head", "text/projection", linear()),
            (head + "attention.out_proj", "image/pool_attention/output", linear(2)),
            (head + "mlp.fc1", "image/pool_mlp/up", linear()),
            (head + "mlp.fc2", "image/pool_mlp/down", linear()),
        ]
        norms.append((head + "layernorm", "image/pool_norm"))
    for theirs, ours, layout in dense:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/kernel", layout))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    for theirs, ours in norms:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/scale"))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    return entries

"""Names of ViT, DeiT, DINOv2 and DINOv2 with registers in `transformers`."""

import dataclasses

from llm_jax.configuration import ConfigError
from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import FLAT, Entry, Layout, linear
from llm_jax.models import vit

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
CONFIG = vit.Config
IGNORED = ()

# By model_type: the architecture of each head, and what every model of the kind has.
ARCHITECTURES = {
    "vit": {"ViTModel": "none", "ViTForImageClassification": "classification"},
    "deit": {
        "DeiTModel": "none",
        "DeiTForImageClassification": "classification",
        "DeiTForImageClassificationWithTeacher": "distilled",
    },
    "dinov2": {"Dinov2Model": "none", "Dinov2ForImageClassification": "classification"},
    "dinov2_with_registers": {
        "Dinov2WithRegistersModel": "none",
        "Dinov2WithRegistersForImageClassification": "classification",
    },
}
_VIT = {
    "distillation_token": False, "num_registers": 0, "mask_token": False, "layer_scale": None,
    "gated": False, "any_image_size": False, "antialias": False, "head_input": "class_token",
}  # fmt: skip
_DINO = {
    "distillation_token": False, "any_image_size": True, "antialias": False, "dropout_rate": 0.0,
    "head_input": "class_token_and_patches",
}  # fmt: skip
OWN = {
    "vit": _VIT,
    "deit": _VIT | {"distillation_token": True},
    "dinov2": _DINO | {"num_registers": 0},
    "dinov2_with_registers": _DINO | {"antialias": True, "mask_token": True},
}
POOLERS = {"vit": "tanh", "deit": "tanh"}


def read_config(hf: dict) -> vit.Config:
    """Returns the Config of a config.json; `architectures` says which head there is."""
    kind = hf["model_type"]
    known, architectures = ARCHITECTURES[kind], hf.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in known:
        raise ConfigError(
            f"config.json: architectures is {architectures}: known is {' or '.join(known)}"
        )
    head = known[architectures[0]]
    for name in ("image_size", "patch_size"):
        if name in hf and not isinstance(hf[name], int):
            raise ConfigError(f"config.json: {name} is {hf[name]}: only squares, one number")
    dino = kind.startswith("dinov2")
    own = dict(OWN[kind])
    if dino:
        demand(hf, {"hidden_dropout_prob": 0.0, "drop_path_rate": 0.0})
        gated = hf.get("use_swiglu_ffn", False)
        mlp_size = _dino_mlp(hf["hidden_size"], hf.get("mlp_ratio", 4), gated)
        own |= {
            "gated": gated,
            "layer_scale": float(hf.get("layerscale_value", 1.0)),
            "layer_norm_epsilon": hf.get("layer_norm_eps", 1e-6),
        }
        if kind == "dinov2":
            own["mask_token"] = hf.get("use_mask_token", True)
        else:
            own["num_registers"] = hf.get("num_register_tokens", 4)
            if own["num_registers"] < 1:
                raise ConfigError("config.json: num_register_tokens is 0: give at least 1")
    else:
        demand(hf, {"pooler_act": "tanh", "pooler_output_size": hf["hidden_size"]})
        mlp_size = hf["intermediate_size"]
        own |= {
            "dropout_rate": hf.get("hidden_dropout_prob", 0.0),
            "layer_norm_epsilon": hf.get("layer_norm_eps", 1e-12),
        }
    act = activation(hf.get("hidden_act", "gelu"))
    return vit.Config(
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        hidden_size=hf["hidden_size"],
        mlp_size=mlp_size,
        qkv_bias=hf.get("qkv_bias", True),
        image_size=hf.get("image_size", 224),
        patch_size=hf.get("patch_size", 14 if kind == "dinov2" else 16),
        num_channels=hf.get("num_channels", 3),
        pooler=_pooler(kind, head),
        head=head,
        num_classes=_classes(hf) if head != "none" else 1000,
        attention_dropout_rate=hf.get("attention_probs_dropout_prob", 0.0),
        # The gated MLP of DINOv2 has this one whatever hidden_act says.
        activation="silu" if own["gated"] else act,
        init_std=hf.get("initializer_range", 0.02),
        **own,
    )


def _classes(hf: dict) -> int:
    return len(hf["id2label"]) if hf.get("id2label") else hf.get("num_labels", 2)


def _pooler(kind: str, head: str) -> str:
    return "none" if head != "none" else POOLERS.get(kind, "class_token")


def _dino_mlp(size: int, ratio: float, gated: bool) -> int:
    """Returns the MLP's hidden units: `ratio` times the width, of a gated one about two thirds."""
    units = int(size * ratio)
    return (int(units * 2 / 3) + 7) // 8 * 8 if gated else units


def kind_of(config: vit.Config) -> str:
    """Returns the `model_type` that a Config is written as.

    Raises:
      ConfigError: none of them has these choices.
    """
    if config.distillation_token:
        kind = "deit"
    elif config.num_registers:
        kind = "dinov2_with_registers"
    else:
        kind = "vit" if config.layer_scale is None else "dinov2"
    demand_defaults(config, vit.Config(), ("window", "attention_pattern"), kind)
    own = OWN[kind] | {"pooler": _pooler(kind, config.head)}
    if config.gated:
        own = own | {"activation": "silu"}
    demand_defaults(config, dataclasses.replace(config, **own), tuple(own), kind)
    if kind.startswith("dinov2"):
        if config.layer_scale is None:
            raise ConfigError(f"a {kind} has model.layer_scale, this one not: set it")
        _ratio(config)
    return kind


def _ratio(config: vit.Config) -> int:
    for ratio in range(1, 65):
        if _dino_mlp(config.hidden_size, ratio, config.gated) == config.size_of_mlp:
            return ratio
    raise ConfigError(
        f"model.mlp_size {config.size_of_mlp} comes from no whole mlp_ratio of width "
        f"{config.hidden_size}: DINOv2 cannot be written with it"
    )


def _architecture(kind: str, head: str) -> str:
    for name, has in ARCHITECTURES[kind].items():
        if has == head:
            return name
    raise ConfigError(f"{kind} has no model with model.head={head!r}")


def write_config(config: vit.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` as `kind_of`."""
    kind = kind_of(config)
    written = {
        "architectures": [_architecture(kind, config.head)],
        "model_type": kind,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_size": config.hidden_size,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "layer_norm_eps": config.layer_norm_epsilon,
        "hidden_act": ACTIVATIONS[config.activation][0],
        "initializer_range": config.init_std,
    }
    if config.head != "none":
        labels = [f"LABEL_{number}" for number in range(config.num_classes)]
        written["id2label"] = {str(number): label for number, label in enumerate(labels)}
        written["label2id"] = {label: number for number, label in enumerate(labels)}
    if not kind.startswith("dinov2"):
        return written | {"intermediate_size": config.size_of_mlp}
    written |= {
        "mlp_ratio": _ratio(config),
        "use_swiglu_ffn": config.gated,
        "layerscale_value": config.layer_scale,
    }
    if kind == "dinov2":
        return written | {"use_mask_token": config.mask_token}
    return written | {"num_register_tokens": config.num_registers}


# Of a block: up, down, and the norms before attention and MLP.
_BLOCK = ("intermediate.dense", "output.dense", "layernorm_before", "layernorm_after")
_DINO_BLOCK = ("mlp.fc1", "mlp.fc2", "norm1", "norm2")


def table(config: vit.Config) -> list[Entry]:
    """Returns the entries; a bare model's names have no prefix."""
    kind = kind_of(config)
    root = f"{kind}." if config.head != "none" else ""
    inner = root + "embeddings."
    size = config.hidden_size
    entries = [
        Entry(inner + "cls_token", "class_token", Layout(shape=(1, 1, size))),
        Entry(inner + "position_embeddings", "positions", Layout(shape=(1, -1, size))),
        Entry(inner + "patch_embeddings.projection.weight", "patches/projection/kernel",
              Layout(axes=(3, 0, 1, 2))),
        Entry(inner + "patch_embeddings.projection.bias", "patches/projection/bias"),
    ]  # fmt: skip
    if config.distillation_token:
        layout = Layout(shape=(1, 1, size))
        entries.append(Entry(inner + "distillation_token", "distillation_token", layout))
    if config.mask_token:
        entries.append(Entry(inner + "mask_token", "mask_token", Layout(shape=(1, size))))
    if config.num_registers:
        layout = Layout(shape=(1, -1, size))
        entries.append(Entry(inner + "register_tokens", "registers", layout))

    block = root + "encoder.layer.{layer}."
    for name in ("query", "key", "value"):
        theirs, ours = f"{block}attention.attention.{name}", f"layers/attention/{name}"
        entries.append(Entry(f"{theirs}.weight", f"{ours}/kernel", linear()))
        if config.qkv_bias:
            entries.append(Entry(f"{theirs}.bias", f"{ours}/bias", FLAT))
    up, down, *names = _DINO_BLOCK if kind.startswith("dinov2") else _BLOCK
    dense = [(f"{block}attention.output.dense", "layers/attention/output", linear(2))]
    if config.gated:
        both = ("layers/mlp/gate", "layers/mlp/up")
        joined = block + "mlp.weights_in"
        entries.append(Entry(f"{joined}.weight", tuple(f"{n}/kernel" for n in both), linear()))
        entries.append(Entry(f"{joined}.bias", tuple(f"{n}/bias" for n in both)))
        dense.append((block + "mlp.weights_out", "layers/mlp/down", linear()))
    else:
        dense.append((block + up, "layers/mlp/up", linear()))
        dense.append((block + down, "layers/mlp/down", linear()))
    if config.layer_scale is not None:
        entries.append(Entry(block + "layer_scale1.lambda1", "layers/attention_scale"))
        entries.append(Entry(block + "layer_scale2.lambda1", "layers/mlp_scale"))
    if config.pooler == "tanh":
        dense.append(("pooler.dense", "pooler", linear()))
    if config.head == "classification":
        dense.append(("classifier", "head", linear()))
    elif config.head == "distilled":
        dense.append(("cls_classifier", "head", linear()))
        dense.append(("distillation_classifier", "distillation_head", linear()))
    for theirs, ours, layout in dense:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/kernel", layout))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    norms = (
        (block + names[0], "layers/attention_norm"),
        (block + names[1], "layers/mlp_norm"),
        (root + "layernorm", "final_norm"),
    )
    for theirs, ours in norms:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/scale"))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    return entries

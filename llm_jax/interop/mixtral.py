"""Mixtral's names in `transformers`, and those of the mixtures of Qwen."""

import dataclasses
from collections.abc import Mapping

from llm_jax.interop import llama as dense
from llm_jax.interop.options import demand
from llm_jax.interop.table import Entry, linear
from llm_jax.models import mixtral

CONFIG = mixtral.Config
IGNORED, COPIES, PREFIX = dense.IGNORED, dense.COPIES, dense.PREFIX
ARCHITECTURES = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
MODEL_TYPES = tuple(ARCHITECTURES)
# What each is without its experts.
PARENTS = {"mixtral": "mistral", "qwen2_moe": "qwen2", "qwen3_moe": "qwen3"}
_QWEN_DEFAULTS = {"norm_topk_prob": False, "head_dim": None}
DEFAULTS = {
    "mixtral": {
        "sliding_window": None, "rms_norm_eps": 1e-5, "num_experts_per_tok": 2,
    },
    "qwen2_moe": _QWEN_DEFAULTS | {
        "num_key_value_heads": 16, "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": _QWEN_DEFAULTS | {
        "num_key_value_heads": 4, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}  # fmt: skip
# Experts where a file names none, by either of the two names that the key has.
COUNTS = {"mixtral": 8, "qwen2_moe": 60, "qwen3_moe": 128}


def read_config(hf: Mapping) -> mixtral.Config:
    """Returns the Config of a config.json, with every size given."""
    kind = hf["model_type"]
    hf = dict(hf)
    if not hf.keys() & {"num_local_experts", "num_experts"}:
        hf["num_experts"] = COUNTS[kind]
    hf = DEFAULTS[kind] | hf
    demand(hf, {"router_jitter_noise": 0.0, "decoder_sparse_step": 1, "qkv_bias": True})
    demand({"mlp_only_layers": hf.get("mlp_only_layers") or []}, {"mlp_only_layers": []})
    if kind != "mixtral":
        demand(hf, {"use_sliding_window": False})
    size = "intermediate_size" if kind == "mixtral" else "moe_intermediate_size"
    base = dense.read_config(hf | {"model_type": PARENTS[kind], "intermediate_size": hf[size]})
    values = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return mixtral.Config(
        **values | {"family": "mixtral"},
        num_experts=next(hf[n] for n in ("num_local_experts", "num_experts") if n in hf),
        experts_per_token=hf["num_experts_per_tok"],
        normalize_weights=kind == "mixtral" or hf["norm_topk_prob"],
        shared_mlp_size=hf["shared_expert_intermediate_size"] if kind == "qwen2_moe" else None,
        balance_coefficient=hf.get("router_aux_loss_coef", 0.001),
    )


def write_config(config: mixtral.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` where no model type has its choices."""
    # Of training alone, and not in the file.
    for name in ("balance_group", "router_z_coefficient"):
        config = dataclasses.replace(config, **{name: getattr(mixtral.Config, name)})
    return dense.first_that_fits(config, MODEL_TYPES, describe, read_config)


def describe(kind: str, config: mixtral.Config) -> dict:
    """Returns what a model type's config.json can say of a Config."""
    written = dense.describe(PARENTS[kind], config) | {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": config.balance_coefficient,
    }
    if kind == "mixtral":
        return written | {"num_local_experts": config.num_experts}
    written |= {
        "use_sliding_window": False,
        "num_experts": config.num_experts,
        "norm_topk_prob": config.normalize_weights,
        "moe_intermediate_size": config.mlp_size,
    }
    if kind == "qwen2_moe":
        written["shared_expert_intermediate_size"] = config.shared_mlp_size or config.mlp_size
    return written


def table(config: mixtral.Config) -> list[Entry]:
    """Returns the entries: Llama's, with one matrix per expert in place of the MLP's."""
    entries = [e for e in dense.table(config) if not e.paths[0].startswith("layers/mlp/")]
    qwen = write_config(config)["model_type"] != "mixtral"
    prefix = "model.layers.{layer}." + ("mlp." if qwen else "block_sparse_moe.")
    names = (
        {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
        if qwen
        else {"gate": "w1", "up": "w3", "down": "w2"}
    )
    entries.append(Entry(f"{prefix}gate.weight", "layers/mlp/router/kernel", linear()))
    for ours, theirs in names.items():
        name = f"{prefix}experts.{{expert}}.{theirs}.weight"
        entries.append(Entry(name, f"layers/mlp/{ours}", linear()))
    if config.shared_mlp_size is not None:
        for ours, theirs in names.items():
            name = f"{prefix}shared_expert.{theirs}.weight"
            entries.append(Entry(name, f"layers/mlp/shared/{ours}/kernel", linear()))
        name = f"{prefix}shared_expert_gate.weight"
        entries.append(Entry(name, "layers/mlp/shared_gate/kernel", linear()))
    return entries

"""Llama's names in `transformers`, and those of the decoders that grew from it."""

import dataclasses
from collections.abc import Mapping

from llm_jax.configuration import ConfigError
from llm_jax.interop.options import ACTIVATIONS, activation, demand
from llm_jax.interop.rope import read_rope, write_rope
from llm_jax.interop.table import FLAT, SAME, Entry, Layout, linear
from llm_jax.layers.block import ALL_BIASES
from llm_jax.models import llama
from llm_jax.models.llama import FULL, SLIDING

CONFIG = llama.Config
# Constants that older files carry.
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
COPIES = {"lm_head.weight": "model.embed_tokens.weight"}
PREFIX = "model."
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
MODEL_TYPES = tuple(ARCHITECTURES)
_GEMMA_DEFAULTS = {
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
# What a key that is not in a config.json means.
DEFAULTS = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "sliding_window": 4096, "num_key_value_heads": 8, "bos_token_id": 1, "eos_token_id": 2
    },
    "qwen2": {"sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32},
    "qwen3": {
        "sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32, "head_dim": 128
    },
    "gemma2": _GEMMA_DEFAULTS | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA_DEFAULTS | {"sliding_window_pattern": 6},
}  # fmt: skip
REQUIRED = (
    "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip


def read_config(hf: Mapping) -> llama.Config:
    """Returns the Config of a config.json, with every size given."""
    kind = hf["model_type"]
    hf = DEFAULTS[kind] | dict(hf)
    if missing := [name for name in REQUIRED if name not in hf]:
        raise ConfigError(f"config.json lacks {', '.join(missing)}")
    demand(hf, {"quantization_config": None, "is_encoder_decoder": False})
    if kind not in ("llama", "qwen3", "gemma2", "gemma3_text"):
        demand(hf, {"attention_bias": False})
    if kind != "llama":
        demand(hf, {"mlp_bias": False})
    gemma = kind.startswith("gemma")
    if kind == "gemma3_text":
        # The reference has this option, and does not read it.
        demand(hf, {"attn_logit_softcapping": None})
    if gemma:
        demand({"use_bidirectional_attention": hf.get("use_bidirectional_attention") or False},
               {"use_bidirectional_attention": False})  # fmt: skip
    biases = ALL_BIASES if hf.get("attention_bias") else ()
    heads = hf["num_attention_heads"]
    ends = hf.get("eos_token_id")
    layer_types = _layer_types(kind, hf)
    base, scaling, local = read_rope(hf, by_layer_type=kind == "gemma3_text")
    return llama.Config(
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        hidden_size=hf["hidden_size"],
        mlp_size=hf["intermediate_size"],
        vocab_size=hf["vocab_size"],
        max_positions=hf["max_position_embeddings"],
        attention_dropout_rate=float(hf.get("attention_dropout") or 0.0),
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        norm_offset=1.0 if gemma else 0.0,
        placement="both" if gemma else "pre",
        activation=activation(hf["hidden_activation"] if gemma else hf.get("hidden_act", "silu")),
        rotary_base=base,
        rotary_scaling=scaling,
        local_rotary_base=local,
        window=hf["sliding_window"] if SLIDING in layer_types else None,
        layer_types=layer_types if SLIDING in layer_types else (),
        attention_biases=ALL_BIASES[:3] if kind == "qwen2" else biases,
        mlp_bias=bool(hf.get("mlp_bias")),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        query_scalar=float(hf["query_pre_attn_scalar"]) if gemma else None,
        attention_cap=hf.get("attn_logit_softcapping") if gemma else None,
        logit_cap=hf.get("final_logit_softcapping") if gemma else None,
        scaled_embedding=gemma,
        tied_embeddings=bool(hf.get("tie_word_embeddings")),
        init_std=hf.get("initializer_range", 0.02),
        bos_id=hf.get("bos_token_id"),
        end_ids=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        pad_id=hf.get("pad_token_id"),
    )


def _layer_types(kind: str, hf: Mapping) -> tuple[str, ...]:
    """Returns the type of every layer, by the rule of each model where the file names none."""
    count = hf["num_hidden_layers"]
    if kind == "llama":
        return (FULL,) * count
    if kind == "mistral":
        return (FULL if hf["sliding_window"] is None else SLIDING,) * count
    if hf.get("layer_types"):
        types = tuple(hf["layer_types"])
        if len(types) != count:
            raise ConfigError(f"config.json: {len(types)} layer_types for {count} layers")
        if SLIDING in types and kind in ("qwen2", "qwen3"):
            demand({"use_sliding_window": bool(hf.get("use_sliding_window"))},
                   {"use_sliding_window": True})  # fmt: skip
        return types
    if kind in ("qwen2", "qwen3"):
        slides = hf.get("use_sliding_window") and hf["sliding_window"] is not None
        first = hf["max_window_layers"] if slides else count
        return tuple(SLIDING if i >= first else FULL for i in range(count))
    every = 2 if kind == "gemma2" else hf["sliding_window_pattern"]
    return tuple(SLIDING if (i + 1) % every else FULL for i in range(count))


def write_config(config: llama.Config) -> dict:
    """Returns the config.json of a Config: of the first model type that has all its choices.

    Raises:
      ConfigError: none has; the message names what is nearest, and what that has not.
    """
    return first_that_fits(config, MODEL_TYPES, describe, read_config)


def first_that_fits(config, kinds, describe, read) -> dict:
    """Returns the first of `kinds` that, described and read again, is the Config."""
    explicit = dataclasses.replace(
        config,
        num_kv_heads=config.kv_heads,
        head_dim=config.size_of_head,
        window=config.window if any(config.sliding) else None,
        layer_types=tuple(SLIDING if slides else FULL for slides in config.sliding)
        if any(config.sliding)
        else (),
    )
    differences = {}
    for kind in kinds:
        written = describe(kind, explicit)
        again = read(written)
        differing = [
            field.name
            for field in dataclasses.fields(config)
            if getattr(again, field.name) != getattr(explicit, field.name)
        ]
        if not differing:
            return written
        differences[kind] = differing
    nearest = min(differences, key=lambda kind: len(differences[kind]))
    listed = ", ".join(f"model.{n}={getattr(config, n)!r}" for n in differences[nearest])
    raise ConfigError(f"no model type of transformers is like this: {nearest} has not {listed}")


def describe(kind: str, config: llama.Config) -> dict:
    """Returns what a model type's config.json can say of a Config."""
    written = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "attention_dropout": config.attention_dropout_rate,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": config.init_std,
        "bos_token_id": config.bos_id,
        "eos_token_id": (
            None if not config.end_ids
            else config.end_ids[0] if len(config.end_ids) == 1 else list(config.end_ids)
        ),
        "pad_token_id": config.pad_id,
    }  # fmt: skip
    gemma = kind.startswith("gemma")
    written["hidden_activation" if gemma else "hidden_act"] = ACTIVATIONS[config.activation][
        1 if config.activation == "gelu_tanh" else 0
    ]
    if kind != "llama":
        # Gemma's mask wants one even where no layer slides.
        written["sliding_window"] = config.window or (4096 if gemma else None)
    if kind not in ("llama", "mistral"):
        written["layer_types"] = [SLIDING if slides else FULL for slides in config.sliding]
    if kind in ("qwen2", "qwen3"):
        written["use_sliding_window"] = config.window is not None
    if kind not in ("mistral", "qwen2"):
        written["attention_bias"] = config.attention_biases == ALL_BIASES
    if kind == "llama":
        written["mlp_bias"] = config.mlp_bias
    if gemma:
        scalar = config.query_scalar or config.head_dim
        written["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar) else scalar
        written["final_logit_softcapping"] = config.logit_cap
    if kind == "gemma2":
        written["attn_logit_softcapping"] = config.attention_cap
    local = config.local_rotary_base if kind == "gemma3_text" else None
    return written | write_rope(
        config.rotary_base, config.rotary_scaling, local, by_layer_type=kind == "gemma3_text"
    )


def table(config: llama.Config) -> list[Entry]:
    """Returns the entries; the file's matrices are `torch.nn.Linear`'s, [out, in]."""
    block, attention, mlp = "model.layers.{layer}.", "self_attn", "mlp"
    entries = [
        Entry("model.embed_tokens.weight", "embedding/table", Layout(rows=config.vocab_size)),
        Entry("model.norm.weight", "final_norm/scale"),
    ]
    if not config.tied_embeddings:
        entries.append(Entry("lm_head.weight", "head/table", Layout(rows=config.vocab_size)))
    parts = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
    for theirs, ours in parts:
        weight = f"{block}{attention}.{theirs}_proj."
        kernel = linear(2 if ours == "output" else 1)
        entries.append(Entry(weight + "weight", f"layers/attention/{ours}/kernel", kernel))
        if ours in config.attention_biases:
            entries.append(Entry(weight + "bias", f"layers/attention/{ours}/bias", FLAT))
    if config.qk_norm:
        for theirs, ours in parts[:2]:
            name = f"{block}{attention}.{theirs}_norm.weight"
            entries.append(Entry(name, f"layers/attention/{ours}_norm/scale"))
    for part in ("gate", "up", "down"):
        weight = f"{block}{mlp}.{part}_proj."
        entries.append(Entry(weight + "weight", f"layers/mlp/{part}/kernel", linear()))
        if config.mlp_bias:
            entries.append(Entry(weight + "bias", f"layers/mlp/{part}/bias"))
    norms = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
    if config.placement == "both":
        norms = {
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "attention_post_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_post_norm",
        }
    for theirs, ours in norms.items():
        entries.append(Entry(f"{block}{theirs}.weight", f"layers/{ours}/scale", SAME))
    return entries

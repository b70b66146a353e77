"""BART's names in `transformers`: `BartForConditionalGeneration`; Marian and Whisper share them."""

from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import FLAT, SAME, Entry, Layout, linear
from llm_jax.models import bart

MODEL_TYPES = ("bart",)
CONFIG = bart.Config
IGNORED = ()
COPIES = dict.fromkeys(
    ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    "model.shared.weight",
)
PREFIX = "model."


def sizes(hf: dict) -> dict:
    """Returns the fields of a Config that BART, Marian and Whisper have alike.

    Raises:
      ConfigError: an option that is not computed here.
    """
    demand(hf, {
        "is_encoder_decoder": True, "is_decoder": False, "tie_word_embeddings": True,
        "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "normalize_before": False,
        "add_final_layer_norm": False, "add_bias_logits": False,
        "decoder_attention_heads": hf["encoder_attention_heads"],
        "decoder_ffn_dim": hf["encoder_ffn_dim"],
    })  # fmt: skip
    return {
        "num_encoder_layers": hf["encoder_layers"],
        "num_decoder_layers": hf["decoder_layers"],
        "num_heads": hf["encoder_attention_heads"],
        "hidden_size": hf["d_model"],
        "mlp_size": hf["encoder_ffn_dim"],
        "vocab_size": hf["vocab_size"],
        "attention_dropout_rate": hf.get("attention_dropout", 0.0),
        "activation_dropout_rate": hf.get("activation_dropout", 0.0),
        "activation": activation(hf.get("activation_function", "gelu")),
        "init_std": hf.get("init_std", 0.02),
    }


def written_sizes(config) -> dict:
    """Returns the keys of a config.json that `sizes` reads, and the tokens.

    Raises:
      ConfigError: a choice that `transformers` has not.
    """
    choices = ("window", "attention_pattern", "positions")
    choices = tuple(name for name in choices if hasattr(config, name))  # Whisper has one kind.
    demand_defaults(config, type(config)(), choices, config.family)
    return {
        "is_encoder_decoder": True,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.mlp_size,
        "decoder_ffn_dim": config.mlp_size,
        "d_model": config.hidden_size,
        "vocab_size": config.vocab_size,
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "activation_dropout": config.activation_dropout_rate,
        "activation_function": ACTIVATIONS[config.activation][0],
        "init_std": config.init_std,
        "tie_word_embeddings": True,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }


def read_config(hf: dict) -> bart.Config:
    """Returns the Config of a config.json."""
    demand(hf, {
        "normalize_embedding": True, "static_position_embeddings": False,
        "extra_pos_embeddings": bart.OFFSET,
    })  # fmt: skip
    return bart.Config(
        **sizes(hf),
        max_positions=hf["max_position_embeddings"],
        dropout_rate=hf.get("dropout", 0.1),
        scale_embedding=hf.get("scale_embedding", False),
        pad_token_id=hf.get("pad_token_id", 1),
        bos_token_id=hf.get("bos_token_id", 0),
        eos_token_id=hf.get("eos_token_id", 2),
        decoder_start_token_id=hf.get("decoder_start_token_id", 2),
    )


def write_config(config: bart.Config) -> dict:
    """Returns the config.json of a Config."""
    return written_sizes(config) | {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "max_position_embeddings": config.max_positions,
        "scale_embedding": config.scale_embedding,
        "forced_eos_token_id": config.eos_token_id,
    }


def table(config: bart.Config) -> list[Entry]:
    """Returns the entries."""
    entries = [
        Entry("model.shared.weight", "embedding/table", Layout(rows=config.vocab_size)),
        Entry("final_logits_bias", "logits_bias", Layout(shape=(1, -1)), optional=True),
    ]
    for side in ("encoder", "decoder"):
        entries.append(Entry(f"model.{side}.embed_positions.weight", f"{side}_positions/table"))
        entries += norm_entries(f"model.{side}.layernorm_embedding", f"{side}_embedding_norm")
    return entries + layer_entries()


def layer_entries(biases: tuple[str, ...] = ("query", "key", "value", "output")) -> list[Entry]:
    """Returns the entries of both stacks' layers, whose projections have `biases`."""
    entries = []
    letters = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    for side in ("encoder", "decoder"):
        block, ours = f"model.{side}.layers.{{layer}}.", f"{side}/layers/"
        parts = {"self_attn": "attention"}
        if side == "decoder":
            parts["encoder_attn"] = "cross"
        for theirs, part in parts.items():
            for name, letter in letters.items():
                layout = linear(2 if name == "output" else 1)
                path = f"{ours}{part}/{name}"
                entries.append(Entry(f"{block}{theirs}.{letter}.weight", f"{path}/kernel", layout))
                if name in biases:
                    entries.append(Entry(f"{block}{theirs}.{letter}.bias", f"{path}/bias", FLAT))
            entries += norm_entries(f"{block}{theirs}_layer_norm", f"{ours}{part}_norm")
        for theirs, name in (("fc1", "up"), ("fc2", "down")):
            path = f"{ours}mlp/{name}"
            entries.append(Entry(f"{block}{theirs}.weight", f"{path}/kernel", linear()))
            entries.append(Entry(f"{block}{theirs}.bias", f"{path}/bias"))
        entries += norm_entries(f"{block}final_layer_norm", f"{ours}mlp_norm")
    return entries


def norm_entries(theirs: str, ours: str) -> list[Entry]:
    """Returns the entries of a layer norm."""
    return [
        Entry(f"{theirs}.weight", f"{ours}/scale", SAME),
        Entry(f"{theirs}.bias", f"{ours}/bias", SAME),
    ]

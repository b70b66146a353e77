"""T5's names in `transformers`: `T5ForConditionalGeneration`, 1.0, 1.1 and Flan."""

import dataclasses

from llm_jax.configuration import ConfigError
from llm_jax.interop.folder import equal
from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import SAME, Entry, Layout, linear
from llm_jax.models import t5

MODEL_TYPES = ("t5",)
CONFIG = t5.Config
# A table that old files carry and nothing reads.
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
COPIES = dict.fromkeys(
    ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    "shared.weight",
)


def read_config(hf: dict) -> t5.Config:
    """Returns the Config of a config.json; see `from_tensors`."""
    demand(hf, {"is_encoder_decoder": True, "is_decoder": False})
    tied = hf.get("tie_word_embeddings", True)
    kind = hf.get("feed_forward_proj", "relu")
    gated = kind.startswith("gated-")
    # "gated-gelu" has meant the tanh formula since T5 1.1 came.
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    return t5.Config(
        num_encoder_layers=hf["num_layers"],
        num_decoder_layers=hf.get("num_decoder_layers") or hf["num_layers"],
        num_heads=hf["num_heads"],
        head_dim=hf["d_kv"],
        hidden_size=hf["d_model"],
        mlp_size=hf["d_ff"],
        vocab_size=hf["vocab_size"],
        num_buckets=hf.get("relative_attention_num_buckets", 32),
        max_distance=hf.get("relative_attention_max_distance", 128),
        dropout_rate=hf.get("dropout_rate", 0.1),
        attention_dropout_rate=hf.get("dropout_rate", 0.1),
        layer_norm_epsilon=hf.get("layer_norm_epsilon", 1e-6),
        activation=activation(name),
        gated=gated,
        tied_embeddings=tied,
        scaled_output=hf.get("scale_decoder_outputs", tied),
        init_factor=hf.get("initializer_factor", 1.0),
        pad_token_id=hf.get("pad_token_id", 0),
        eos_token_id=hf.get("eos_token_id", 1),
        decoder_start_token_id=hf.get("decoder_start_token_id", hf.get("pad_token_id", 0)),
    )


def from_tensors(config: t5.Config, folder) -> t5.Config:
    """Returns the Config with an output of its own where the file has one.

    T5 1.1 says `tie_word_embeddings: false`, but `transformers` 5 writes true in any case. It does
    not tie what a file has twice and differently either.
    """
    head, shared = "lm_head.weight", "shared.weight"
    if {head, shared} <= folder.names() and not equal(folder, head, shared):
        return dataclasses.replace(config, tied_embeddings=False)
    return config


def write_config(config: t5.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` where T5 has no such choice."""
    demand_defaults(config, t5.Config(), ("window", "attention_pattern"), "t5")
    if config.attention_dropout_rate != config.dropout_rate:
        raise ConfigError(
            f"a T5 has one dropout rate, this one model.dropout_rate={config.dropout_rate} and "
            f"model.attention_dropout_rate={config.attention_dropout_rate}: make them equal"
        )
    if config.gated and config.activation == "gelu":
        raise ConfigError(
            "a gated T5 has the GELU of the tanh formula: set model.activation='gelu_tanh'"
        )
    name = ACTIVATIONS[config.activation][0]
    if config.gated:
        name = "gated-" + ("gelu" if config.activation == "gelu_tanh" else name)
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_model": config.hidden_size,
        "d_ff": config.mlp_size,
        "vocab_size": config.vocab_size,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "feed_forward_proj": name,
        "tie_word_embeddings": config.tied_embeddings,
        "scale_decoder_outputs": config.scaled_output,
        "initializer_factor": config.init_factor,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }


def table(config: t5.Config) -> list[Entry]:
    """Returns the entries."""
    rows = Layout(rows=config.vocab_size)
    entries = [Entry("shared.weight", "embedding/table", rows)]
    if not config.tied_embeddings:
        entries.append(Entry("lm_head.weight", "head/table", rows))
    for side, cross in (("encoder", False), ("decoder", True)):
        block = side + ".block.{layer}.layer."
        parts = [("0.SelfAttention", "0.layer_norm", "attention")]
        if cross:
            parts.append(("1.EncDecAttention", "1.layer_norm", "cross"))
        for theirs, norm, ours in parts:
            for letter, name in zip("qkv", ("query", "key", "value")):
                kernel = f"{side}/layers/{ours}/{name}/kernel"
                entries.append(Entry(f"{block}{theirs}.{letter}.weight", kernel, linear()))
            kernel = f"{side}/layers/{ours}/output/kernel"
            entries.append(Entry(f"{block}{theirs}.o.weight", kernel, linear(2)))
            entries.append(Entry(f"{block}{norm}.weight", f"{side}/layers/{ours}_norm/scale", SAME))
        number = len(parts)
        inward = (("wi_0", "gate"), ("wi_1", "up")) if config.gated else (("wi", "up"),)
        for theirs, ours in (*inward, ("wo", "down")):
            kernel = f"{side}/layers/mlp/{ours}/kernel"
            name = f"{block}{number}.DenseReluDense.{theirs}.weight"
            entries.append(Entry(name, kernel, linear()))
        norm = f"{block}{number}.layer_norm.weight"
        entries += [
            Entry(norm, f"{side}/layers/mlp_norm/scale"),
            Entry(f"{side}.final_layer_norm.weight", f"{side}/final_norm/scale"),
            Entry(
                f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                f"{side}_bias/table",
            ),
        ]
    return entries

"""Names of BERT, RoBERTa and DistilBERT in `transformers`: bare, masked-LM and pretraining ones."""

from llm_jax.configuration import ConfigError
from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import FLAT, Entry, Layout, linear
from llm_jax.models import bert

MODEL_TYPES = ("bert", "roberta", "distilbert")
CONFIG = bert.Config
# Buffers, tied copies, and what stands beside a masked-LM head in files of pretraining: the pooler
# and the next-sentence head, which `transformers`' masked-LM models leave out as well. Those of
# BertForPreTraining are parameters.
IGNORED = (
    r"(.+\.)?embeddings\.(position_ids|token_type_ids)",
    r"cls\.predictions\.decoder\.(weight|bias)",
    r"lm_head\.decoder\.(weight|bias)",
    r"vocab_projector\.weight",
    r"cls\.seq_relationship\.(weight|bias)",
    r"(bert|roberta)\.pooler\.dense\.(weight|bias)",
)

# By `head`, in its order.
ARCHITECTURES = {
    "bert": ("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    "roberta": ("RobertaModel", "RobertaForMaskedLM"),
    "distilbert": ("DistilBertModel", "DistilBertForMaskedLM"),
}


def read_config(hf: dict) -> bert.Config:
    """Returns the Config of a config.json; `architectures` says whether there is a head."""
    kind = hf["model_type"]
    architectures = tuple(hf.get("architectures") or ())
    if len(architectures) != 1 or architectures[0] not in ARCHITECTURES[kind]:
        known = " or ".join(ARCHITECTURES[kind])
        raise ConfigError(f"config.json: architectures is {list(architectures)}: known is {known}")
    head = bert.HEADS[ARCHITECTURES[kind].index(architectures[0])]
    masked = head != "none"
    demand(hf, {
        "is_decoder": False, "add_cross_attention": False,
        "position_embedding_type": "absolute", "sinusoidal_pos_embds": False,
    })  # fmt: skip
    if masked:
        demand(hf, {"tie_word_embeddings": True})
    shared = {
        "head": head,
        "init_std": hf.get("initializer_range", 0.02),
        "max_positions": hf.get("max_position_embeddings", 512),
        "vocab_size": hf["vocab_size"],
    }
    if kind == "distilbert":
        return bert.Config(
            num_layers=hf["n_layers"],
            num_heads=hf["n_heads"],
            hidden_size=hf["dim"],
            mlp_size=hf["hidden_dim"],
            token_types=0,
            pooler=False,
            dropout_rate=hf.get("dropout", 0.1),
            attention_dropout_rate=hf.get("attention_dropout", 0.1),
            activation=activation(hf.get("activation", "gelu")),
            **shared,
        )
    if kind == "roberta" and masked:
        # Its head has this activation whatever the blocks have.
        demand(hf, {"hidden_act": "gelu"})
    return bert.Config(
        num_layers=hf["num_hidden_layers"],
        num_heads=hf["num_attention_heads"],
        hidden_size=hf["hidden_size"],
        mlp_size=hf["intermediate_size"],
        token_types=hf.get("type_vocab_size", 2),
        padding_id=hf.get("pad_token_id", 1) if kind == "roberta" else None,
        pooler=head != "masked_lm",
        dropout_rate=hf.get("hidden_dropout_prob", 0.1),
        attention_dropout_rate=hf.get("attention_probs_dropout_prob", 0.1),
        layer_norm_epsilon=hf.get("layer_norm_eps", 1e-12),
        activation=activation(hf.get("hidden_act", "gelu")),
        **shared,
    )


def kind_of(config: bert.Config) -> str:
    """Returns the `model_type` that a Config is written as.

    Raises:
      ConfigError: none of them has these choices.
    """
    choices = ("positions", "window", "attention_pattern")
    demand_defaults(config, bert.Config(), choices, "BERT")
    masked = config.head != "none"
    kind = "roberta" if config.padding_id is not None else "bert"
    if not config.token_types and config.padding_id is None:
        kind = "distilbert"
        if config.layer_norm_epsilon != 1e-12:
            raise ConfigError(
                f"a DistilBERT has model.layer_norm_epsilon=1e-12 only, this one "
                f"{config.layer_norm_epsilon}: it cannot be written as one"
            )
    if not config.token_types and kind == "roberta":
        raise ConfigError("a RoBERTa has token types, this one none: it cannot be written as one")
    if kind == "roberta" and masked and config.activation != "gelu":
        raise ConfigError(
            f"a masked-LM RoBERTa has model.activation='gelu' only, this one "
            f"{config.activation!r}: it cannot be written as one"
        )
    if config.head == "pretraining" and kind != "bert":
        raise ConfigError(
            f"a BERT alone has model.head='pretraining', this one would be a {kind}: it cannot be "
            "written as one"
        )
    if config.pooler != (kind != "distilbert" and config.head != "masked_lm"):
        raise ConfigError(
            f"{_architecture(kind, config)} has model.pooler={not config.pooler} only: this model "
            "cannot be written as one"
        )
    return kind


def _architecture(kind: str, config: bert.Config) -> str:
    return ARCHITECTURES[kind][bert.HEADS.index(config.head)]


def write_config(config: bert.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` as `kind_of`."""
    kind = kind_of(config)
    shared = {
        "architectures": [_architecture(kind, config)],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.init_std,
    }
    if kind == "distilbert":
        return shared | {
            "n_layers": config.num_layers,
            "n_heads": config.num_heads,
            "dim": config.hidden_size,
            "hidden_dim": config.size_of_mlp,
            "dropout": config.dropout_rate,
            "attention_dropout": config.attention_dropout_rate,
            "activation": ACTIVATIONS[config.activation][0],
        }
    padding = {} if config.padding_id is None else {"pad_token_id": config.padding_id}
    return shared | padding | {
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.size_of_mlp,
        "type_vocab_size": config.token_types,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "layer_norm_eps": config.layer_norm_epsilon,
        "hidden_act": ACTIVATIONS[config.activation][0],
    }  # fmt: skip


# Of a block: query, key, value, output, up, down, and the norms behind attention and MLP.
_BLOCK = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm",
)  # fmt: skip
_DISTILLED_BLOCK = (
    "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "ffn.lin1", "ffn.lin2", "sa_layer_norm", "output_layer_norm",
)  # fmt: skip
# Of the head: the transform, its norm, the bias.
_HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
             "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}  # fmt: skip


def table(config: bert.Config) -> list[Entry]:
    """Returns the entries; a bare model's names have no prefix."""
    kind = kind_of(config)
    masked = config.head != "none"
    root = f"{kind}." if masked else ""
    rows = Layout(rows=config.vocab_size)
    entries = [
        Entry(root + "embeddings.word_embeddings.weight", "embedding/table", rows),
        Entry(root + "embeddings.position_embeddings.weight", "positions/table"),
    ]
    if config.token_types:
        entries.append(Entry(root + "embeddings.token_type_embeddings.weight", "token_types/table"))
    block = root + "encoder.layer.{layer}."
    names = _BLOCK
    if kind == "distilbert":
        block, names = root + "transformer.layer.{layer}.", _DISTILLED_BLOCK
    query, key, value, output, up, down, *block_norms = (block + name for name in names)
    for theirs, ours in zip((query, key, value), ("query", "key", "value")):
        entries.append(Entry(f"{theirs}.weight", f"layers/attention/{ours}/kernel", linear()))
        entries.append(Entry(f"{theirs}.bias", f"layers/attention/{ours}/bias", FLAT))
    dense = [
        (output, "layers/attention/output", linear(2)),
        (up, "layers/mlp/up", linear()),
        (down, "layers/mlp/down", linear()),
    ]
    norms = [
        (root + "embeddings.LayerNorm", "embedding_norm"),
        (block_norms[0], "layers/attention_norm"),
        (block_norms[1], "layers/mlp_norm"),
    ]
    if config.pooler:
        dense.append((root + "pooler.dense", "pooler", linear()))
    if config.head == "pretraining":
        dense.append(("cls.seq_relationship", "head_pair", linear()))
    if masked:
        transform, norm, bias = _HEADS[kind]
        dense.append((transform, "head_transform", linear()))
        norms.append((norm, "head_norm"))
        entries.append(Entry(bias, "head_bias", rows))
    for theirs, ours, layout in dense:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/kernel", layout))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    for theirs, ours in norms:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/scale"))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    return entries

"""Marian's names in `transformers`: `MarianMTModel`, which is our `llm_jax.models.seq2seq`."""

from llm_jax.interop.bart import COPIES, PREFIX, layer_entries, sizes, written_sizes  # noqa: F401
from llm_jax.interop.options import demand
from llm_jax.interop.table import Entry, Layout
from llm_jax.models import seq2seq

MODEL_TYPES = ("marian",)
CONFIG = seq2seq.Config
# The sines that older files carry.
IGNORED = (r"model\.(en|de)coder\.embed_positions\.weight",)


def read_config(hf: dict) -> seq2seq.Config:
    """Returns the Config of a config.json."""
    if hf.get("decoder_vocab_size") is None:
        hf = hf | {"decoder_vocab_size": hf["vocab_size"]}
    demand(hf, {
        "share_encoder_decoder_embeddings": True, "decoder_vocab_size": hf["vocab_size"],
        "static_position_embeddings": True, "normalize_embedding": False,
    })  # fmt: skip
    return seq2seq.Config(
        **sizes(hf),
        max_positions=hf["max_position_embeddings"],
        dropout_rate=hf.get("dropout", 0.1),
        scale_embedding=hf.get("scale_embedding", False),
        pad_token_id=hf.get("pad_token_id", 58100),
        bos_token_id=hf.get("bos_token_id"),
        eos_token_id=hf.get("eos_token_id", 0),
        decoder_start_token_id=hf.get("decoder_start_token_id", 58100),
    )


def write_config(config: seq2seq.Config) -> dict:
    """Returns the config.json of a Config."""
    return written_sizes(config) | {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": True,
        "max_position_embeddings": config.max_positions,
        "scale_embedding": config.scale_embedding,
        "forced_eos_token_id": config.eos_token_id,
    }


def table(config: seq2seq.Config) -> list[Entry]:
    """Returns the entries."""
    return [
        Entry("model.shared.weight", "embedding/table", Layout(rows=config.vocab_size)),
        Entry("final_logits_bias", "logits_bias", Layout(shape=(1, -1)), optional=True),
        *layer_entries(),
    ]

"""Whisper's names in `transformers`: `WhisperForConditionalGeneration`."""

from llm_jax.interop.bart import layer_entries, norm_entries, sizes, written_sizes
from llm_jax.interop.options import demand
from llm_jax.interop.table import Entry, Layout
from llm_jax.models import whisper

MODEL_TYPES = ("whisper",)
CONFIG = whisper.Config
IGNORED = ()
COPIES = {"proj_out.weight": "model.decoder.embed_tokens.weight"}
PREFIX = "model."


def read_config(hf: dict) -> whisper.Config:
    """Returns the Config of a config.json."""
    demand(hf, {"scale_embedding": False, "apply_spec_augment": False})
    return whisper.Config(
        **sizes(hf),
        num_mel_bins=hf["num_mel_bins"],
        source_positions=hf["max_source_positions"],
        max_positions=hf["max_target_positions"],
        dropout_rate=hf.get("dropout", 0.0),
        pad_token_id=hf.get("pad_token_id", 50256),
        bos_token_id=hf.get("bos_token_id", 50256),
        eos_token_id=hf.get("eos_token_id", 50256),
        decoder_start_token_id=hf.get("decoder_start_token_id", 50257),
    )


def write_config(config: whisper.Config) -> dict:
    """Returns the config.json of a Config."""
    return written_sizes(config) | {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "num_mel_bins": config.num_mel_bins,
        "max_source_positions": config.source_positions,
        "max_target_positions": config.max_positions,
        # transformers' own default names tokens that a small vocabulary has not.
        "begin_suppress_tokens": None,
    }


def table(config: whisper.Config) -> list[Entry]:
    """Returns the entries."""
    tokens = Layout(rows=config.vocab_size)
    entries = [
        Entry("model.encoder.embed_positions.weight", "encoder_positions"),
        Entry("model.decoder.embed_positions.weight", "decoder_positions/table"),
        Entry("model.decoder.embed_tokens.weight", "embedding/table", tokens),
    ]
    for number in (1, 2):
        theirs, ours = f"model.encoder.conv{number}", f"convolution_{number}"
        entries.append(Entry(f"{theirs}.weight", f"{ours}/kernel", Layout(axes=(2, 1, 0))))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias"))
    for side in ("encoder", "decoder"):
        entries += norm_entries(f"model.{side}.layer_norm", f"{side}/final_norm")
    return entries + layer_entries(whisper.BIASES)

"""A small T5 that writes what was cut out of Python's own standard library.

Command:   python -m experiments.pretrain --config=configs/t5_span.py --workdir=runs/t5
Hardware:  two CPU cores
Time:      218 s of training on two noisy Xeon cores
Result:    4.418 nats per target token on the held-out modules, perplexity 82.9 (2026-11-22)

Spans of three tokens on average, 15% of a text, become one sentinel each; the decoder writes them
behind their sentinels (Raffel et al. 2020). --config=configs/t5_span.py:bart learns by BART's
denoising instead, with BART's model.

Variants: `tiny` trains in seconds; `base`, `large` and `xxl` are T5 1.1's published sizes, for
accelerators, on the user's own text (--config.data.path=DIR): no result is claimed for them.
"""

from configs import gpt_quickstart
from llm_jax.training.run import default_config

# google/t5-v1_1-base, -large, -xxl; Raffel et al. 2020, section 2.1, and the T5 1.1 release notes.
SIZES = {
    "base": (12, 12, 768, 2048),
    "large": (24, 16, 1024, 2816),
    "xxl": (24, 64, 4096, 10_240),
}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "tiny", "bart", "base", "large" or "xxl"."""
    if variant not in ("", "tiny", "bart", *SIZES):
        known = "'tiny', 'bart', 'base', 'large' or 'xxl'"
        raise ValueError(f"variant {variant!r} is unknown: give none, {known}")
    if variant == "bart":
        config = default_config("bart", "denoising")
        config.model.bos_token_id, config.model.decoder_start_token_id = 1, 2
    else:
        config = default_config("t5", "span_corruption")
        config.model.gated, config.model.activation = True, "gelu_tanh"
        config.model.head_dim = 64
    config.model.pad_token_id, config.model.eos_token_id = 0, 2
    if variant in SIZES:
        layers, heads, width, mlp = SIZES[variant]
        config.model.num_encoder_layers = config.model.num_decoder_layers = layers
        config.model.num_heads, config.model.hidden_size, config.model.mlp_size = heads, width, mlp
        config.model.vocab_size = 32_128
        config.model.tied_embeddings, config.model.scaled_output = False, False
        config.steps, config.batch_size, config.precision = 1_000_000, 2048, "bf16"
        config.data.source, config.data.sequence_length = "text", 512
        config.optim.name, config.optim.learning_rate = "adafactor", 1e-2
        config.optim.schedule, config.optim.warmup_steps = "inverse_sqrt", 10_000
        config.optim.clip_norm = 1.0
        config.checkpoint.every = config.evaluation.every = 5_000
        config.evaluation.batch_size = 256
        return config

    parent = gpt_quickstart.get_config()
    config.optim, config.execution = parent.optim, parent.execution
    config.optim.warmup_steps = 20
    if variant != "bart":
        # T5's token vectors begin with a deviation of 1: they need larger steps than others.
        config.optim.learning_rate_table = (("embedding/.*", 30.0), (".*", 1.0))
    config.data.tokenizer.cross_spaces = False
    config.steps, config.batch_size = 500, 8
    config.model.num_encoder_layers = config.model.num_decoder_layers = 2
    config.model.num_heads, config.model.hidden_size = 3, 192
    config.model.vocab_size, config.model.mlp_size = 1024, 512
    config.data.sequence_length = 256
    config.evaluation.every = 125
    if variant == "tiny":
        config.steps, config.optim.warmup_steps = 20, 2
        config.model.num_heads, config.model.hidden_size, config.model.vocab_size = 2, 32, 512
        config.model.head_dim, config.model.mlp_size = 16, 64
        config.data.sequence_length = 32
        config.evaluation.every, config.evaluation.rows = 10, 16
    return config

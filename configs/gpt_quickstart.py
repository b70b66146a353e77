"""A small GPT on Python's own standard library: the project's quickstart.

Command:   python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/a
Hardware:  two CPU cores
Time:      155 s of training, 7,185 tokens/s on two noisy Xeon cores
Result:    1.7733 bits per byte on the held-out modules (2026-11-22)

Variant `tiny` trains in seconds: --config=configs/gpt_quickstart.py:tiny
"""

from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = default_config("gpt2")
    config.steps = 500
    config.batch_size = 8

    config.model.num_layers = 2
    config.model.num_heads = 3
    config.model.hidden_size = 192
    config.model.vocab_size = 4096
    config.model.max_positions = 1024
    config.model.positions = "rotary"
    config.model.norm = "rms_norm"
    config.model.qk_norm = True
    config.model.use_bias = False
    config.model.activation = "relu_squared"
    config.model.tied_embeddings = False
    config.execution.unroll = 0
    config.execution.loss_chunk = 2048

    config.data.source = "stdlib"
    config.data.sequence_length = 256
    config.data.cross_document_attention = True

    # A few million bytes are read once: throughput decides, so two layers beat four, and three
    # rounds of orthogonalization five. So few steps leave the token table near its start unless it
    # learns faster than the rest.
    config.optim.name = "muon"
    config.optim.learning_rate = 1e-2
    config.optim.learning_rate_table = (("embedding/.*", 10.0), (".*", 1.0))
    config.optim.schedule = "linear"
    config.optim.final_fraction = 0.0
    config.optim.warmup_steps = 5
    config.optim.weight_decay = 0.0
    config.optim.newton_schulz_steps = 3

    config.evaluation.every = 125
    config.evaluation.rows = 0
    config.sampling.prompts = ("def main():\n    ",)
    config.sampling.num_samples = 20
    config.sampling.python = True

    if variant == "tiny":
        config.steps = 30
        config.batch_size = 8
        config.model.num_layers = 2
        config.model.num_heads = 2
        config.model.hidden_size = 32
        config.model.vocab_size = 512
        config.data.sequence_length = 64
        config.optim.warmup_steps = 5
        config.evaluation.rows = 16
        config.sampling.num_samples = 2
        config.sampling.max_new_tokens = 16
    elif variant:
        raise ValueError(f"variant {variant!r} is unknown: give none or 'tiny'")
    return config

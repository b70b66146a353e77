"""A small Llama on Python's own standard library, beside the GPT of gpt_quickstart.py.

Command:   python -m experiments.pretrain --config=configs/llama_quickstart.py --workdir=runs/llama
Hardware:  two CPU cores
Time:      153 s of training, 7,364 tokens/s on two noisy Xeon cores
Result:    1.7508 bits per byte on the held-out modules (2026-11-22); the GPT has 1.7733 after 155 s

It differs from configs/gpt_quickstart.py in the model alone: Llama's block with a gated MLP and
normalized queries and keys.

Variant `tiny` trains in seconds: --config=configs/llama_quickstart.py:tiny
"""

from configs import gpt_quickstart
from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = gpt_quickstart.get_config(variant)
    if not variant:
        config.steps = 450  # about the time of the GPT's 500
    parent = config.model
    config.model = default_config("llama").model
    for name in ("num_layers", "num_heads", "hidden_size", "vocab_size", "max_positions"):
        config.model[name] = parent[name]
    config.model.mlp_size = 512  # three matrices of it do the work of two of 768
    config.model.qk_norm = True
    return config

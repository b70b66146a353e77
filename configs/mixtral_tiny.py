"""A small mixture of experts on Python's own standard library, and its dense twin.

Command:   python -m experiments.pretrain --config=configs/mixtral_tiny.py --workdir=runs/mixture
           python -m experiments.pretrain --config=configs/mixtral_tiny.py:dense \\
               --workdir=runs/dense
Hardware:  two CPU cores
Time:      120 to 180 s of training each on two noisy Xeon cores
Result:    1.8849 bits per byte on the held-out modules, the twin 1.9050 (2026-11-22)

A token passes through two of eight experts, each half as wide as the MLP of the twin: both spend
the same on a token.

Variants: `dense` is the twin, configs/llama_quickstart.py with these steps; `tiny` trains in
seconds.
"""

from configs import llama_quickstart
from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "dense" or "tiny"."""
    if variant not in ("", "dense", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'dense' or 'tiny'")
    config = llama_quickstart.get_config("tiny" if variant == "tiny" else "")
    if variant != "tiny":
        config.steps = 250
    if variant != "dense":
        parent = config.model
        config.model = default_config("mixtral").model
        names = ("num_layers", "num_heads", "hidden_size", "vocab_size", "max_positions", "qk_norm")
        for name in names:
            config.model[name] = parent[name]
        config.model.num_experts, config.model.experts_per_token = 8, 2
        config.model.mlp_size = parent.mlp_size // 2
    return config

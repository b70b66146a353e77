"""Mixtral 8x7B from scratch: configs/llama_pretrain.py with experts in place of each MLP.

Command:   python -m experiments.pretrain --config=configs/mixtral_pretrain.py --workdir=runs/mix \\
               --config.data.path=DIR_OF_UTF8_TEXT --config.mesh.fsdp=-1 --config.mesh.data=1
Hardware:  accelerators that hold 750 GB between them, and activations.
Result:    none is claimed: no such machine was at hand.

Variant `tiny` keeps everything but the size: --config=configs/mixtral_pretrain.py:tiny.
"""

from configs import llama_pretrain
from llm_jax.models.mixtral import PRESETS
from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none or 'tiny'")
    config = llama_pretrain.get_config(variant)
    parent = config.model
    config.model = default_config("mixtral").model
    config.model.update(PRESETS["mixtral-8x7b-v0.1"] | {"bos_id": None, "end_ids": ()})
    if variant == "tiny":
        names = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "mlp_size")
        for name in (*names, "vocab_size"):
            config.model[name] = parent[name]
        config.model.num_experts = 4
    config.model.max_positions = parent.max_positions
    return config

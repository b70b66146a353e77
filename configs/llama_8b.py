"""Llama 3's 8B on 64 TPU v6e: configs/llama_pretrain.py:8b, its state in shards over all of them.

Command:   python -m experiments.pretrain --config=configs/llama_8b.py --workdir=runs/8b \\
               --config.data.path=DIR_OF_UTF8_TEXT
Plan:      python -m experiments.plan --config=configs/llama_8b.py --topology=v6e:8x8
Result:    none is claimed: no such machine was at hand; docs/scale.md has the plan.

Variant `tiny` keeps everything but the size.
"""

from configs import llama_pretrain


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = llama_pretrain.get_config(variant or "8b")
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.execution.remat = "full"
    return config

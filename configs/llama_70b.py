"""Llama 3's 70B on 256 TPU v6e: configs/llama_8b.py at the larger size.

Command:   python -m experiments.pretrain --config=configs/llama_70b.py --workdir=runs/70b \\
               --config.data.path=DIR_OF_UTF8_TEXT
Plan:      python -m experiments.plan --config=configs/llama_70b.py --topology=v6e:16x16
Result:    none is claimed: no such machine was at hand; docs/scale.md has the plan.

Variant `tiny` keeps everything but the size.
"""

from configs import llama_8b, llama_pretrain


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = llama_8b.get_config(variant)
    if not variant:
        config.model = llama_pretrain.get_config("70b").model
        config.batch_size = 256
    return config

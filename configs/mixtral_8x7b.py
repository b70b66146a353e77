"""Mixtral 8x7B on 128 or 256 TPU v5p: configs/mixtral_pretrain.py, its state in shards.

Command:   python -m experiments.pretrain --config=configs/mixtral_8x7b.py --workdir=runs/mix \\
               --config.data.path=DIR_OF_UTF8_TEXT
Plan:      python -m experiments.plan --config=configs/mixtral_8x7b.py --topology=v5p:4x4x8
Result:    none is claimed: no such machine was at hand; docs/scale.md has the plan.

Variant `tiny` keeps everything but the size.
"""

from configs import mixtral_pretrain


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = mixtral_pretrain.get_config(variant)
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.execution.remat = "full"
    if not variant:
        config.batch_size = 256
    return config

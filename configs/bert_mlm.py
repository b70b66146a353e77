"""A small BERT that fills in hidden words of Python's own standard library.

Command:   python -m experiments.pretrain --config=configs/bert_mlm.py --workdir=runs/bert
Hardware:  two CPU cores
Time:      196 s of training on two noisy Xeon cores
Result:    5.254 nats per hidden token on the held-out modules, perplexity 191; the pieces' own
           frequencies give 5.991 (2026-11-22)

Masks are drawn anew every time (RoBERTa); --config.objective.static_copies=10 keeps ten of each
row (BERT); --config.objective.unit=word hides whole words, =span runs of them (SpanBERT). The
encoder is BERT's, with learned positions and post-norm blocks.

Variants: `tiny` trains in seconds; `pairs` asks besides whether the second sentence of a pair
belongs behind the first (BERT's next-sentence prediction; --config.objective.pair_task=order is
ALBERT's); `base` and `large` are BERT's published sizes, for accelerators,
on the user's own text (--config.data.path=DIR): no result is claimed for them.
"""

from configs import gpt_quickstart
from llm_jax.models.bert import PRESETS
from llm_jax.training.run import default_config

SIZES = {"base": "bert-base-uncased", "large": "bert-large-uncased"}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "tiny", "pairs", "base" or "large"."""
    if variant not in ("", "tiny", "pairs", *SIZES):
        raise ValueError(
            f"variant {variant!r} is unknown: give none, 'tiny', 'pairs', 'base' or 'large'"
        )
    config = default_config("bert", "next_sentence" if variant == "pairs" else "masked_lm")
    config.model.head, config.model.pooler = "masked_lm", False
    config.model.token_types = 0
    if variant == "pairs":
        config.model.head, config.model.pooler = "pretraining", True
        config.model.token_types = 2
    if variant in SIZES:
        # Devlin et al. 2018, appendix A.2, with rows of 512 throughout.
        config.model.update(PRESETS[SIZES[variant]] | {"attention_dropout_rate": 0.0})
        config.steps, config.batch_size, config.precision = 1_000_000, 256, "bf16"
        config.data.source, config.data.sequence_length = "text", 512
        config.optim.name, config.optim.clip_norm = "adamw", 1.0
        config.optim.learning_rate, config.optim.schedule = 1e-4, "linear"
        config.optim.warmup_steps, config.optim.weight_decay = 10_000, 0.01
        config.checkpoint.every = config.evaluation.every = 5_000
        config.evaluation.batch_size = 256
        return config

    parent = gpt_quickstart.get_config()
    config.optim, config.execution = parent.optim, parent.execution
    config.optim.warmup_steps = 40
    # So short a run learns more from twice the masks (Wettig et al. 2022, arXiv:2202.08005), from
    # pieces that are parts of words, and from matrices that a width of 192 needs.
    config.objective.mask_rate = 0.3
    config.steps, config.batch_size = 800, 16
    config.model.num_layers = 2
    config.model.num_heads, config.model.hidden_size = 3, 192
    config.model.init_std = 0.07
    config.model.vocab_size = 1024
    config.model.max_positions = config.data.sequence_length = 128
    config.data.tokenizer.cross_spaces = False
    config.evaluation.every = 200
    if variant == "tiny":
        config.steps, config.batch_size, config.optim.warmup_steps = 20, 8, 2
        config.model.num_heads, config.model.hidden_size, config.model.vocab_size = 2, 32, 512
        config.data.sequence_length = 32
        config.evaluation.every, config.evaluation.rows = 10, 16
    return config

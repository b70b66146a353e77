r"""Adapts someone's weights to labelled texts of one's own.

Command:   python -m experiments.finetune --config=configs/finetune.py:path/to/model \
               --config.data.path=reviews.csv --config.data.text=review --config.data.label=stars \
               --workdir=runs/reviews
Hardware:  as the model asks for

What stands behind the colon is a Hugging Face folder, a llama-type *.gguf or a run's work
directory: `model.*` is read from it, `init_from` set to it, and its tokenizer taken.
`--config.method` says what trains: full, lora, ia3, adapter, bitfit, head, prompt, ..., several
with commas between; see docs/finetuning.md.
"""

import dataclasses

from llm_jax.configuration import ConfigError
from llm_jax.training.restore import base_config
from llm_jax.training.run import default_config


def get_config(variant: str = "", task: str = "text_classification"):
    """Returns the configuration; `variant` is the path of the model, `task` an objective."""
    if not variant:
        raise ConfigError("this configuration adapts a model: put its path behind :")
    return tuned(variant, base_config(variant), task)


def tuned(path: str, model, task: str = "text_classification"):
    """Returns a configuration that tunes the model at `path`, whose Config is `model`."""
    config = default_config(model.family, task)
    with config.ignore_type():
        for field in dataclasses.fields(model):
            config.model[field.name] = getattr(model, field.name)
    if model.family == "bert":  # what it was pretrained with stays behind
        config.model.head, config.model.pooler = "none", False
    config.init_from = path
    config.data.source = "labelled"
    longest = getattr(model, "longest", None) or getattr(model, "max_positions", 512)
    config.data.sequence_length = min(256, longest)
    config.steps, config.batch_size = 500, 32
    config.execution.unroll = 0
    config.tuning.head.pooling = "first" if model.family == "bert" else "mean"
    config.optim.name, config.optim.learning_rate = "adamw", 0.0  # the method's usual rate
    config.optim.schedule, config.optim.warmup_steps = "linear", 30
    config.optim.beta2, config.optim.weight_decay, config.optim.final_fraction = 0.999, 0.01, 0.0
    config.evaluation.every, config.evaluation.rows, config.evaluation.batch_size = 100, 0, 32
    config.checkpoint.every = 100
    return config

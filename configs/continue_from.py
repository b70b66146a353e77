r"""Goes on training someone's weights on text of one's own: their model, their tokenizer.

Command:   python -m experiments.pretrain --config=configs/continue_from.py:path/to/folder \
               --config.data.path=my_texts/ --workdir=runs/more
Hardware:  as the model asks for

What stands behind the colon is a Hugging Face folder or a llama-type *.gguf: `model.*` is read from
it, `init_from` set to it, and its tokenizer taken. The objective is the one that the family was
trained with: the next token, masked tokens (BERT), span corruption (T5) or denoising (BART).
"""

import dataclasses

from llm_jax import interop
from llm_jax.configuration import ConfigError
from llm_jax.losses.registry import TASKS
from llm_jax.training.run import default_config

OBJECTIVES = {"bert": "masked_lm", "t5": "span_corruption", "bart": "denoising"}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is the path of the folder or file."""
    if not variant:
        raise ConfigError("configs/continue_from.py goes on with weights: put their path behind :")
    model = interop.load_config(variant)
    objective = OBJECTIVES.get(model.family, "next_token")
    if model.family not in TASKS[objective].families:
        raise ConfigError(f"{variant} is a {model.family}, for which no objective of text is known")
    config = default_config(model.family, objective)
    with config.ignore_type():
        for field in dataclasses.fields(model):
            config.model[field.name] = getattr(model, field.name)
    config.init_from = variant
    config.steps, config.batch_size = 1000, 8
    config.data.source = "text"
    longest = getattr(model, "longest", None) or getattr(model, "max_positions", 512)
    config.data.sequence_length = min(512, longest)
    # A small rate: the weights are trained already.
    config.optim.name, config.optim.learning_rate = "adamw", 2e-5
    config.optim.schedule, config.optim.warmup_steps = "linear", 100
    config.optim.clip_norm, config.optim.weight_decay = 1.0, 0.01
    return config

"""The Llama of llama_quickstart.py, which read 256 tokens, taken on to 1,024 by YaRN.

Command:   python -m experiments.pretrain --config=configs/llama_long_context.py \\
               --config.init_from=runs/llama --workdir=runs/long
Hardware:  two CPU cores
Result:    see docs/long_context.md

Variant `tiny` goes on from llama_quickstart.py:tiny in seconds, from 64 tokens to 256.
"""

from configs import llama_quickstart
from llm_jax.layers.rope import RopeScaling

TIMES = 4


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = llama_quickstart.get_config(variant)
    trained = config.data.sequence_length
    config.data.sequence_length = TIMES * trained
    config.model.rotary_scaling = RopeScaling("yarn", float(TIMES), trained)
    config.batch_size = 2  # as many tokens a step
    config.steps = 30 if variant else 160
    # The weights are trained: a tenth of the rate that they began with.
    config.optim.learning_rate = 1e-3
    config.evaluation.every = 0
    config.sampling.prompts = ()
    return config

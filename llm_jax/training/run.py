"""What a run is: its configuration, checked before anything is loaded."""

import dataclasses
import math
import typing
from collections.abc import Mapping

import ml_collections

from llm_jax import models
from llm_jax.configuration import ConfigError, flatten, parse, to_dict
from llm_jax.data import DataConfig
from llm_jax.data.config import SOURCES
from llm_jax.data.objectives import OBJECTIVES, NextToken, parse_objective
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.robust import RobustConfig
from llm_jax.losses.robust import check as check_robust
from llm_jax.models import Execution
from llm_jax.optim import OptimConfig
from llm_jax.parallel.mesh import MeshConfig
from llm_jax.parallel.sharding import ParallelConfig
from llm_jax.training.precision import policy
from llm_jax.training.spikes import SpikesConfig
from llm_jax.training.tuning import TuningConfig, methods_of


def _at_least(minimum: int, **sections) -> None:
    for name, section in sections.items():
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if value < minimum:
                raise ConfigError(f"{name}.{field.name} is {value}: give {minimum} or more")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and what is kept.

    Attributes:
      every: steps between saves; the last step is always saved.
      keep_last: how many of the newest checkpoints stay; the best one stays besides.
    """

    every: int = 500
    keep_last: int = 2

    def __post_init__(self):
        _at_least(1, checkpoint=self)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run writes while it trains.

    Attributes:
      every: steps between lines in `metrics.csv`, TensorBoard and the log.
      hang_seconds: a step that takes longer is reported with every thread's stack; the first one
        may take ten times as long.
    """

    every: int = 10
    hang_seconds: int = 300

    def __post_init__(self):
        _at_least(1, log=self)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the held-out split during training.

    Attributes:
      every: steps between evaluations; 0 evaluates at the end only.
      rows: rows of the split used while training (0: all); the last evaluation takes all.
      batch_size: rows per evaluation batch.
      patience: the run is done after so many evaluations without a better loss; 0: never.
    """

    every: int = 500
    rows: int = 256
    batch_size: int = 16
    patience: int = 0

    def __post_init__(self):
        _at_least(0, evaluation=self)
        if self.batch_size < 1:
            raise ConfigError("evaluation.batch_size is 0: give 1 or more")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Samples drawn at the end of training, for the report.

    Attributes:
      prompts: texts to continue; none draws no samples.
      num_samples: continuations of each prompt.
      max_new_tokens: tokens of each continuation.
      temperature: of the softmax.
      top_p: nucleus mass.
      python: whether samples are Python functions, whose share that parses is reported.
    """

    prompts: tuple = ()
    num_samples: int = 2
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    python: bool = False


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole training run.

    Attributes:
      seed: of initialization, data order and dropout.
      steps: optimizer steps of the whole run.
      batch_size: rows per step, over all devices and microbatches.
      accumulation: microbatches a step is taken in; it divides `batch_size`.
      init_from: a work directory whose newest parameters to start from, a Hugging Face folder or
        a `*.gguf`; its tokenizer is taken too. Empty starts anew.
      precision: fp32, bf16, fp16, fp8 or int8, see `llm_jax.training.precision`.
      max_skipped_steps: the run stops after this many steps in a row without finite gradients.
      model: the family's own `Config`; `model.family` names it.
      objective: what is learned from an example; `objective.name` is one of
        `llm_jax.data.objectives.OBJECTIVES`.
      method: what trains, names of `llm_jax.training.tuning.METHODS` with commas between.
      tuning: the settings of these methods.
      robust: what makes a classifier hold where its inputs are moved; off.
    """

    model: typing.Any
    objective: typing.Any = NextToken()
    method: str = "full"
    tuning: TuningConfig = TuningConfig()
    seed: int = 0
    steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    init_from: str = ""
    precision: str = "fp32"
    max_skipped_steps: int = 20
    execution: Execution = Execution()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    robust: RobustConfig = RobustConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    spikes: SpikesConfig = SpikesConfig()
    log: LogConfig = LogConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulation", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.{name} is {getattr(self, name)}: give 1 or more")
        policy(self.precision)
        added = methods_of(self.method, self.tuning)
        check_robust(self)
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"batch_size {self.batch_size} is no multiple of accumulation "
                f"{self.accumulation}: choose one that is"
            )
        if self.objective.kind != self.data.kind:
            fitting = [name for name, kind in SOURCES.items() if kind == self.objective.kind]
            raise ConfigError(
                f"objective.name {self.objective.name!r} learns from {self.objective.kind} and "
                f"data.source {self.data.source!r} gives {self.data.kind}: set data.source to "
                f"{' or '.join(fitting)}, or another objective"
            )
        if self.data.kind == "images":
            return
        target = getattr(self.objective, "target", "")
        if self.data.per_class and target != "class":
            raise ConfigError(
                f"data.per_class is {self.data.per_class} and objective.target {target!r}: it is "
                "for one class each, leave it 0"
            )
        tags = target == "tags"
        if tags != (self.data.source == "tagged"):
            raise ConfigError(
                f"objective.name is {self.objective.name!r} and data.source "
                f"{self.data.source!r}: token_classification and tagged go together"
            )
        if self.objective.kind == "labelled" and not tags and self.tuning.head.pooling == "none":
            raise ConfigError(
                "tuning.head.pooling is 'none', which is for tags: choose first, last, mean or "
                "attention"
            )
        row = self.data.window or self.data.sequence_length
        length = max(row, *self.objective.lengths(row).values())
        virtual = sum(getattr(method, "tokens", 0) for method in added)
        # T5's positions have no end; RoBERTa's begin behind the padding's.
        positions = getattr(self.model, "longest", None) or getattr(
            self.model, "max_positions", math.inf
        )
        if length + virtual > positions:
            behind = f" behind {virtual} virtual tokens" if virtual else ""
            raise ConfigError(
                f"data.sequence_length {length}{behind} is longer than the model's {positions} "
                "positions: shorten it or raise model.max_positions"
            )


def parse_run(mapping: Mapping) -> RunConfig:
    """Returns the checked `RunConfig` of what the user wrote; `ConfigError` says what is wrong."""
    mapping = dict(mapping.items())
    if "model" not in mapping:
        raise ConfigError("config.model is missing: give at least config.model.family")
    parsed = {"model": models.parse_config(mapping["model"])}
    parsed["objective"] = parse_objective(mapping.get("objective", {}))
    return parse(RunConfig, mapping | parsed)


def default_config(family: str, objective: str = "next_token") -> ml_collections.ConfigDict:
    """Returns every key with its default, as a ConfigDict for a file in `configs/` to change."""

    def defaults(cls) -> dict:
        hints = typing.get_type_hints(cls)
        return {
            field.name: _default(field, hints[field.name])
            for field in dataclasses.fields(cls)
            if field.name not in ("model", "objective")
        }

    def _default(field, hint):
        if dataclasses.is_dataclass(hint):
            return defaults(hint)
        value = field.default
        if value is dataclasses.MISSING:
            value = field.default_factory()
        if value is None:
            kind = next(arg for arg in typing.get_args(hint) if arg is not type(None))
            return ml_collections.config_dict.placeholder(kind)
        return value

    model = defaults(models.FAMILIES[family].Config) | {"family": family}
    chosen = {"model": model, "objective": defaults(OBJECTIVES[objective]) | {"name": objective}}
    return ml_collections.ConfigDict(defaults(RunConfig) | chosen)


# A run may go on with these changed; anything else would make it another run.
_MAY_CHANGE = (
    "mesh.", "parallel.", "execution.microbatches", "execution.pipeline_rounds", "log.", "spikes.",
)  # fmt: skip


def refuse_other_run(stored: Mapping, config: RunConfig, workdir: str) -> None:
    """Raises `ConfigError` listing the keys in which `config` differs from the `stored` run's."""
    # Keys that are newer than the run have their defaults there.
    old, new = flatten(to_dict(parse_run(stored))), flatten(to_dict(config))
    differing = [
        f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not key.startswith(_MAY_CHANGE)
        and not (key == "steps" and new[key] > old[key])
    ]
    if differing:
        raise ConfigError(
            f"{workdir} holds a run with another configuration: {'; '.join(differing)}. Give the "
            "same values (mesh.*, parallel.*, execution.microbatches, execution.pipeline_rounds, "
            "log.*, spikes.* and larger steps may change) or another --workdir"
        )

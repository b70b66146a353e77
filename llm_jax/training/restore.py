"""From a work directory back to a model: `load_model` for use, `load_params` to start from."""

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import interop, models
from llm_jax.configuration import ConfigError, parse, to_dict
from llm_jax.data.manifest import sha256_of
from llm_jax.data.tokenizers import FILES as TOKENIZER_FILES
from llm_jax.optim import OptimConfig
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.training import spikes, tuning
from llm_jax.training.checkpoint import CheckpointError, Checkpoints
from llm_jax.training.precision import policy
from llm_jax.training.run import RunConfig, parse_run
from llm_jax.training.spikes import Guard
from llm_jax.training.state import TrainState, placed
from llm_jax.training.trainer import Trainer

# What a run's parameters that do not train came from.
BASE = "base.json"


def companions(run: RunConfig, data_directory: str) -> dict[str, bytes]:
    """Returns the files that go beside the weights: configuration, data manifest, tokenizer."""
    paths = [Path(data_directory, name) for name in ("manifest.json", *TOKENIZER_FILES)]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    if run.init_from and tuning.freezes(run):
        noted = {"path": run.init_from, "sha256": fingerprint(run.init_from)}
        files[BASE] = json.dumps(noted).encode()
    return files | {"config.json": json.dumps(to_dict(run), indent=2).encode()}


def newest_state(
    checkpoints: Checkpoints, run: RunConfig, trainer: Trainer, guard: Guard, *, fallback: bool
) -> tuple[int, TrainState]:
    """Returns a step and the state after it, and tells `guard` what lay beside that.

    It is the newest checkpoint; without one a new state, with the parameters of `run.init_from`.

    Raises:
      CheckpointError: what is there cannot be trusted, or `init_from` holds another model.
    """
    step = checkpoints.newest(fallback=fallback)
    guard.restore(None if step is None else checkpoints.read(step, spikes.FILE))
    kept = None
    if step is not None:
        kept = checkpoints.restore(step, trainer.target._replace(frozen=None))
        if trainer.target.frozen is None:
            return step, kept
        check_base(run, checkpoints.read(step, BASE))
    base = [load_params(run.init_from, run.model, trainer.base)] if run.init_from else []
    state = trainer.new_state(*base)
    # What does not train is nowhere but in `init_from`, or follows from the seed.
    return (0, state) if kept is None else (step, kept._replace(frozen=state.frozen))


def best_params(trained, trainer: Trainer) -> tuple[int, Any]:
    """Returns the step with the best validation loss of a `Trained` run, and all its parameters."""
    best = trained.checkpoints.best()
    if best is None or best["step"] == trained.step:
        return trained.step, trainer.params(trained.state)
    name = "params" if trainer.target.average is None else "average"
    found = trained.checkpoints.restore(best["step"], {name: getattr(trainer.target, name)})
    return best["step"], trainer.params(trained.state._replace(**found))


@dataclasses.dataclass(frozen=True)
class Restored:
    """A trained model out of a work directory.

    Attributes:
      run: the configuration it was trained with.
      model: its pure functions.
      params: fp32 parameters, averaged where the run kept an average.
      tokenizer_path: the folder with its tokenizer, see `llm_jax.data.load_tokenizer`.
      step: training steps taken.
    """

    run: RunConfig
    model: models.Model
    params: Any
    tokenizer_path: str
    step: int


def load_model(
    workdir: str,
    step: int | str | None = None,
    mesh: Mesh | None = None,
    model_changes: Mapping[str, Any] = types.MappingProxyType({}),
) -> Restored:
    """Returns the model of `workdir` at `step` (an int, "best", or None or "last": the newest).

    Args:
      workdir: of the run.
      step: of the checkpoint.
      mesh: each device reads its part of the parameters only; None: one holds them all.
      model_changes: keys of the model's configuration, of `POSITIONS`, to read it with.

    Raises:
      CheckpointError: there is no such checkpoint, or a file of it is missing or changed.
      ConfigError: a change of a key that the model has not or whose parameters it would change.
    """
    checkpoints, step = _find(workdir, step)
    path = checkpoints.directory / f"{step:08d}"
    stored = json.loads((path / "config.json").read_text())
    run = parse_run(stored)
    if others := sorted(model_changes.keys() - set(_free(run.model))):
        raise ConfigError(
            f"{workdir} holds a {run.model.family}, whose {' and '.join(others)} cannot be changed "
            "after training: this is for llama and mixtral"
        )
    run = parse_run(stored | {"model": stored["model"] | dict(model_changes)})
    numbers = policy(run.precision)
    numbers.activate()
    own = models.build(run.model, run.execution, numbers.dtype)
    model = tuning.applied(own, run)
    freezing = tuning.freezing(model, run)
    shapes, frozen = jax.eval_shape(freezing.split, model.abstract_params)
    if mesh is not None:
        axes, _ = freezing.split_axes(model.logical_axes, model.abstract_params)
        shapes = placed(shapes, tree_shardings(shapes, axes, mesh))
    params = _weights(checkpoints, step, run.optim, shapes)
    if frozen is not None:
        check_base(run, checkpoints.read(step, BASE))
        base = own.abstract_params
        if mesh is not None:
            base = placed(base, tree_shardings(base, own.logical_axes, mesh))
        base = [load_params(run.init_from, run.model, base)] if run.init_from else []
        frozen = jax.jit(lambda *base: freezing.split(tuning.beginning(
            model, jax.random.key(run.seed), *base, new_layers=run.tuning.new_layers
        ))[1])(*base)  # fmt: skip
        params = freezing.join(jax.device_put(params) if mesh is None else params, frozen)
    checkpoints.close()
    return Restored(run, model, params, str(path), step)


def check_base(run: RunConfig, noted: bytes | None) -> None:
    """Raises CheckpointError where `run.init_from` is not what it was when the run began."""
    if noted is None or not run.init_from:
        return
    was, now = json.loads(noted)["sha256"], fingerprint(run.init_from)
    if was != now:
        raise CheckpointError(
            f"init_from={run.init_from} is not what was tuned: its sha256 begins with {now[:12]} "
            f"and was {was[:12]}; bring the old weights back, or tune the new ones in another "
            "--workdir"
        )


def fingerprint(path: str) -> str:
    """Returns a sha256 of the weights at `path`, of `run.init_from`."""
    if interop.is_pretrained(path):
        root = Path(path)
        files = sorted(root.glob("*.safetensors")) if root.is_dir() else [root]
        sums = [f"{file.name} {sha256_of(file)}" for file in files]
    else:
        checkpoints, step = _find(path, None)
        sums = [checkpoints.read(step, "checksums.json").decode()]
        checkpoints.close()
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def load_params(workdir: str, config: Any, abstract: Any) -> Any:
    """Returns parameters to start from, in the shapes and shardings of `abstract`.

    Those of a run that kept an average are averaged.

    Args:
      workdir: a run's work directory, of which the newest are taken, or what
        `llm_jax.interop.load_pretrained` reads.
      config: the model's.
      abstract: `jax.ShapeDtypeStruct`s, with shardings or without.

    Raises:
      CheckpointError: there are none, or they are of a model other than `config`.
    """
    if interop.is_pretrained(workdir):
        sharding = jax.tree.leaves(abstract)[0].sharding
        mesh = None if sharding is None else sharding.mesh
        found, params = interop.load_pretrained(workdir, mesh)
        _refuse_other_model(to_dict(found), config, workdir)
        return _only(params, abstract)
    checkpoints, step = _find(workdir, None)
    path = checkpoints.directory / f"{step:08d}"
    stored = json.loads((path / "config.json").read_text())
    _refuse_other_model(stored["model"], config, workdir)
    params = _weights(checkpoints, step, parse(OptimConfig, stored["optim"]), abstract)
    checkpoints.close()
    return params


def _weights(checkpoints: Checkpoints, step: int, optim: OptimConfig, abstract: Any) -> Any:
    """Returns what trained, of a run with the optimizer `optim`, as it is to be used."""
    name = "average" if optim.averages else "params"
    return checkpoints.restore(step, {name: abstract})[name]


def _only(params: dict, wanted: dict) -> dict:
    """Returns the part of `params` that `wanted` has: without a head that is left behind."""
    return {
        key: _only(params[key], value) if isinstance(value, dict) else params[key]
        for key, value in wanted.items()
    }


# Keys of a model with rotary positions that no parameter depends on: it may be read with others.
POSITIONS = ("max_positions", "rotary_base", "rotary_scaling")


def _free(config: Any) -> tuple[str, ...]:
    return POSITIONS if hasattr(config, "rotary_scaling") else ()


def _refuse_other_model(stored: dict, config: Any, path: str) -> None:
    """Raises CheckpointError where `stored` differs in more than dropout and rotary positions.

    A head and a pooler may be left behind.
    """
    wanted, free = to_dict(config), _free(config)
    left = {"head": "none", "pooler": False}
    stored = stored | {key: none for key, none in left.items() if wanted.get(key) == none}
    differing = [
        f"{key} ({stored.get(key)!r} there, {wanted[key]!r} here)"
        for key in wanted
        if stored.get(key) != wanted[key] and "dropout" not in key and key not in free
    ]
    if differing:
        dropped = (
            "" if "head" not in str(differing) else ", or model.head='none' to leave it behind"
        )
        raise CheckpointError(
            f"init_from={path} holds another model: {', '.join(differing)}; set model.* alike"
            + dropped
        )


def _find(workdir: str, step: int | str | None) -> tuple[Checkpoints, int]:
    """Returns the checkpoints of `workdir` and the step that `step` means, its files checked."""
    checkpoints = Checkpoints(workdir)
    steps, best = checkpoints.steps(), checkpoints.best()
    if not steps:
        raise CheckpointError(
            f"{workdir} holds no checkpoint: train one with python -m experiments.pretrain "
            f"--config=configs/gpt_quickstart.py --workdir={workdir}"
        )
    if step == "best" and best:
        step = best["step"]
    elif step in (None, "last", "best"):
        step = steps[-1]
    if step not in steps:
        raise CheckpointError(f"{workdir} holds no checkpoint of step {step}: it has {steps}")
    checkpoints.verify(step)
    return checkpoints, step


def base_config(path: str) -> Any:
    """Returns the configuration of the model that `init_from=path` would begin with.

    Raises:
      ConfigError: neither weights of `llm_jax.interop.load_pretrained` nor a run's work directory.
    """
    if interop.is_pretrained(path):
        return interop.load_config(path)
    checkpoints, step = _find(path, None)
    stored = json.loads(checkpoints.read(step, "config.json"))
    checkpoints.close()
    return parse_run(stored).model

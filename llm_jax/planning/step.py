"""The real training step, compiled for a topology: what it needs and what it does."""

import dataclasses
import functools
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import Vocabulary
from llm_jax.parallel.sharding import batch_sharding, tree_shardings
from llm_jax.planning.flops import executed
from llm_jax.planning.hlo import Program
from llm_jax.training.run import RunConfig
from llm_jax.training.trainer import Trainer, make_trainer


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step that the compiler was asked for.

    Attributes:
      run: its configuration.
      trainer: what was compiled.
      fits: the compiler's word on memory.
      why_not: what it said where the step does not fit.
      bytes: of one device by kind; see `memory`. Without `temporaries` where it does not fit.
      executed_flops: of matrix products, over all devices, recomputed ones included.
      program: its text, taken apart; None where it does not fit.
      compile_seconds: that it took.
    """

    run: RunConfig
    trainer: Trainer
    fits: bool
    why_not: str
    bytes: dict[str, int]
    executed_flops: float
    program: Program | None
    compile_seconds: float


def compile_step(run: RunConfig, devices, options: Mapping[str, str] = {}) -> Step:
    """Returns the training step of `run` compiled for `devices`, which need not be there.

    Args:
      run: the configuration; its data is not read.
      devices: of a topology, or this process's own.
      options: of XLA, by name.

    Raises:
      ConfigError: what `make_trainer` refuses, or an option that the compiler does not know.
    """
    trainer = make_trainer(run, devices)
    mesh = trainer.mesh
    batch = abstract_batch(run, batch_sharding(mesh))
    # Under the mesh itself, constants would be put on devices that are not there.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = trainer.train_step.trace(trainer.target, batch)
        flops, lowered = executed(traced.jaxpr), traced.lower()
        sizes = memory(run, trainer, batch)
        began = time.perf_counter()
        compiled, text = compiled_or_not(lowered, options)
    seconds = time.perf_counter() - began
    return Step(
        run=run,
        trainer=trainer,
        fits=compiled is not None,
        why_not="" if compiled else text,
        bytes=sizes | (_temporaries(compiled) if compiled else {}),
        executed_flops=flops,
        program=Program(text) if compiled else None,
        compile_seconds=seconds,
    )


def compiled_or_not(lowered, options: Mapping[str, str]):
    """Returns `(compiled, its text)`, or `(None, why)` where the program does not fit the memory.

    The text is what the compiler writes to a folder: JAX's own `as_text` fails on the asynchronous
    fusions of a TPU's program (jaxlib 0.10).

    Raises:
      ConfigError: the compiler refuses its options.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            written = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            compiled = lowered.compile(compiler_options=dict(options) | written)
            files = list(Path(folder).glob("*after_codegen.txt"))  # a TPU's
            return compiled, files[0].read_text() if files else compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None, _line(error)
        if not options:
            raise
        raise ConfigError(
            f"the compiler refuses with --compiler_options {dict(options)}: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return re.sub(r"^[A-Z_]+: (E\d+: \w+: )?", "", str(error).splitlines()[0])


def without_data(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns what a user wrote, with a path for texts where none is given: a plan reads none."""
    if config.data.source == "text" and not config.data.path:
        config.data.path = "not read"
    return config


def abstract_batch(run: RunConfig, sharding=None) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of `run`: of one row that the data room makes, B times."""
    objective, length, random = run.objective, run.data.sequence_length, np.random.default_rng(0)
    if objective.kind == "images":
        model = run.model
        pixels = np.zeros((1, model.num_channels, model.image_size, model.image_size), np.float32)
        row = {"pixels": pixels, "labels": np.zeros(1, np.int32), "weights": np.ones(1, np.float32)}
        row |= objective.batch(pixels, [random])
        if objective.device_augmentation:
            row |= dict.fromkeys(("pixel_mean", "pixel_deviation"), np.ones(1, np.float32))
            row["pixels"] = pixels.astype(np.uint8)
    elif objective.name == "answers":
        tokens = np.zeros((1, objective.lengths(length)["tokens"]), np.int32)
        row = {"tokens": tokens, "targets": tokens, "weights": tokens.astype(np.float32)}
    elif objective.kind == "pairs":
        sizes = objective.lengths(length)
        source, target = (np.zeros((1, size), np.int32) for size in sizes.values())
        row = {"source": source, "source_mask": source, "targets": target}
        row["weights"] = target.astype(np.float32)
    elif objective.kind == "labelled":
        window = run.data.window or length
        shape = (1, length) if window == length else (1, length // window, window)
        tokens = np.zeros(shape, np.int32)
        labels = tokens if objective.target == "tags" else np.zeros(1, np.int32)
        row = {
            "tokens": tokens,
            "mask": tokens,
            "labels": labels,
            "weights": np.ones(labels.shape, np.float32),
        }
    else:
        pieces = np.zeros(run.model.vocab_size, bool)
        names = ("begins_word", "ends_word", "special", "line_ends")
        symbols = {name: number for number, name in enumerate(objective.symbols, 3)}
        words = Vocabulary(1, 2, symbols, **dict.fromkeys(names, pieces))
        width = objective.record_length(length)
        tokens = np.full((1, width), pieces.size - 1, np.int32)
        row = (tokens, np.array([width]))
        row = objective.batch(*row, [random], words, length, others=row)
    row["example_ids"] = np.zeros(1, np.int32)
    return {
        name: jax.ShapeDtypeStruct((run.batch_size, *x.shape[1:]), x.dtype, sharding=sharding)
        for name, x in row.items()
    }


def bytes_on_device(tree, shardings=None) -> int:
    """Returns the bytes that a device holds of `tree`, by the shardings of its leaves."""
    leaves = jax.tree.leaves(tree)
    places = [leaf.sharding for leaf in leaves] if shardings is None else jax.tree.leaves(shardings)
    return sum(
        math.prod(place.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf, place in zip(leaves, places)
    )


def memory(run: RunConfig, trainer: Trainer, batch) -> dict[str, int]:
    """Returns bytes of one device: parameters, optimizer, gradients, activations.

    Parameters and optimizer are arguments, exact. Gradients are those of one step in float32.
    Activations are what the forward pass of one microbatch leaves to its backward pass beside the
    parameters, shared out evenly.
    """
    target, mesh = trainer.target, trainer.mesh
    places = tree_shardings(target.params, trainer.axes, mesh, run.parallel.rules(2))
    return {
        "parameters": bytes_on_device((target.params, target.frozen)),
        "optimizer": bytes_on_device((target.opt_state, target.average)),
        "gradients": bytes_on_device(target.params, places),
        "activations": _activations(run, trainer, batch) // mesh.size,
    }


def _temporaries(compiled) -> dict[str, int]:
    """Returns what the compiler sets aside beside arguments, and the most in use at once."""
    sizes = compiled.memory_analysis()
    return {
        "temporaries": int(sizes.temp_size_in_bytes),
        "peak": int(sizes.peak_memory_in_bytes),
    }


def _activations(run: RunConfig, trainer: Trainer, batch) -> int:
    """Returns the bytes of one microbatch's residuals, of all devices, without the parameters."""
    target, key = trainer.target, jax.eval_shape(jax.random.key, 0)
    rows = run.batch_size // run.accumulation
    part = {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    given = {"scaling": target.scaling, "frozen": target.frozen}
    more = {name: value for name, value in given.items() if value is not None}

    def backward(params, batch, key, more):
        loss = functools.partial(trainer.loss, batch=batch, dropout_key=key, **more)
        return jax.vjp(lambda params: loss(params)[0][0], params)[1]

    left = Counter(
        (leaf.shape, leaf.dtype)
        for leaf in jax.tree.leaves(jax.eval_shape(backward, target.params, part, key, more))
    )
    parameters = jax.tree.leaves((target.params, target.frozen))
    left -= Counter((leaf.shape, leaf.dtype) for leaf in parameters)
    return sum(
        count * math.prod(shape) * jnp.dtype(dtype).itemsize
        for (shape, dtype), count in left.items()
        if not jnp.issubdtype(dtype, jax.dtypes.extended)
    )

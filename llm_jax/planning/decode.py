"""One token of every row, decoded on a topology: what it holds, sends and takes."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.parallel import mesh as meshes
from llm_jax.parallel.sharding import batch_sharding, tree_shardings
from llm_jax.planning import roofline
from llm_jax.planning.hlo import Program
from llm_jax.planning.step import bytes_on_device, compiled_or_not
from llm_jax.planning.topology import Topology
from llm_jax.training.precision import policy
from llm_jax.training.run import RunConfig
from llm_jax.training.state import placed

# Of the memory's rate, in reading weights and cache: an estimate, as is a hop's time in seconds.
MEMORY_SHARE = 0.8
HOP = 1e-6


def parse(text: str) -> tuple[int, int]:
    """Returns `(rows, length)` of what `--decode=ROWS:LENGTH` says.

    Raises:
      ConfigError: it says anything else.
    """
    rows, _, length = text.partition(":")
    if not (rows.isdigit() and length.isdigit() and int(rows) and int(length)):
        raise ConfigError(f"--decode={text}: give rows and tokens of context, such as 64:8192")
    return int(rows), int(length)


def plan(
    run: RunConfig, topology: Topology, rows: int, length: int, options: Mapping[str, str]
) -> dict:
    """Returns what decoding one token of `rows` rows with `length` tokens of context would be.

    Weights are in the run's precision and lie as in training; the cache's rows lie over the axes of
    the batch, its heads over `tensor` where they divide. The greedy token is chosen.

    Raises:
      ConfigError: a mesh that does not fit the devices, the rows or the parameters.
    """
    models.require_decoder(run.model)
    mesh = meshes.make_mesh(run.mesh, topology.devices)
    meshes.check_batch(mesh, rows)
    model = models.build(run.model, run.execution, policy(run.precision).dtype)
    shapes = model.abstract_params
    weights = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, model.dtype, sharding=place),
        shapes,
        tree_shardings(shapes, model.logical_axes, mesh, run.parallel.rules(3)),
    )
    by_row = batch_sharding(mesh)
    heads = "tensor" if run.model.kv_heads % mesh.shape["tensor"] == 0 else None
    lies = NamedSharding(mesh, PartitionSpec(None, meshes.BATCH_AXES, heads))
    cache = jax.eval_shape(lambda: model.init_cache(rows, length))
    cache = placed(cache, jax.tree.map(lambda _: lies, cache))
    tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=by_row)

    def step(params, tokens, positions, cache):
        hidden, cache = model.hidden(params, tokens, positions=positions, cache=cache)
        return jnp.argmax(model.logits(params, hidden[:, 0]), axis=-1), cache

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        jitted = jax.jit(step, donate_argnums=3, out_shardings=(by_row, lies))
        lowered = jitted.lower(weights, tokens, tokens, cache)
        compiled, text = compiled_or_not(lowered, options)
    held = {"parameters": bytes_on_device(weights), "cache": bytes_on_device(cache)}
    result = {
        "fits": compiled is not None,
        "bytes_per_device": held,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "tokens_per_second": None,
        "collective_bytes": {},
    }
    if compiled is None:
        return result | {"why_not": text}
    held["peak"] = int(compiled.memory_analysis().peak_memory_in_bytes)
    collectives = Program(text).collectives(mesh.axis_names, mesh.devices.shape)
    reading = sum(size for kind, size in held.items() if kind != "peak")
    reading /= topology.chip.hbm_rate * MEMORY_SHARE
    sending = sum(
        roofline.seconds(each, topology, mesh) + HOP * each.times * math.sqrt(each.group)
        for each in collectives
    )
    return result | {
        "collective_bytes": roofline.by_axis(collectives),
        "step_seconds": reading + sending,
        "memory_seconds": reading,
        "collective_seconds": sending,
        "tokens_per_second": rows / (reading + sending),
    }

"""Plans ranked: meshes, then remat, microbatches and compiler options, one dial after the other."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import AXES
from llm_jax.training.run import RunConfig

# What XLA for TPU is asked for by "overlap": weights gathered and gradients summed beside the
# compute. v5e's compiler (libtpu 0.0.52) puts gathers in fusions of several steps, which it refuses
# for the others; chips with SparseCores have those carry collectives, in the background.
_BESIDE = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
    "xla_tpu_decompose_all_gather_einsum": "true",
    "xla_tpu_decompose_einsum_reduce_scatter": "true",
}
_FUSED = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"
_STEPS = "xla_tpu_enable_async_collective_fusion_multiple_steps"
_SPARSE_CORES = {"xla_tpu_use_tc_device_shape_on_sc": "true"} | {
    f"xla_tpu_enable_sparse_core_collective_offload_{kind}": "true"
    for kind in (
        "all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "nd_reduce_scatter",
        "all_reduce",
    )
}  # fmt: skip
_HAVE_SPARSE_CORES = ("v5p", "v6e", "tpu7x")
OPTIONS = ("default", "overlap")
# Remat policies, what keeps least first.
LEAST_KEPT_FIRST = ("full", "attention", "attention_gate", "dots", "none")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration, and a name of `OPTIONS`."""

    run: RunConfig
    options: str = "overlap"

    def __str__(self) -> str:
        sizes = {axis: getattr(self.run.mesh, axis) for axis in AXES}.items()
        axes = " ".join(f"{axis}={size}" for axis, size in sizes if size != 1) or "one device"
        return (
            f"{axes}, remat {self.run.execution.remat}, {self.run.accumulation} microbatch(es), "
            f"options {self.options}"
        )


def options(text: str, generation: str) -> dict[str, str]:
    """Returns what `text` asks of the compiler for a key of `topology.CHIPS`.

    Args:
      text: a name of `OPTIONS`, or NAME=VALUE,NAME=VALUE.
      generation: of the chip.

    Raises:
      ConfigError: neither.
    """
    if text == "default":
        return {}
    if text == "overlap":
        fused = {_FUSED: "true", _STEPS: "true"} if generation == "v5e" else {_FUSED: "false"}
        return _BESIDE | fused | (_SPARSE_CORES if generation in _HAVE_SPARSE_CORES else {})
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and sign for name, sign, _ in pairs):
        raise ConfigError(
            f"--compiler_options={text}: give one of {', '.join(OPTIONS)}, or NAME=VALUE,NAME=VALUE"
        )
    return {name: value for name, _, value in pairs}


def search(
    run: RunConfig, devices: int, cost: Callable[[Candidate], tuple[float | None, Any]]
) -> list[tuple[float, Candidate, Any]]:
    """Returns the candidates that fit as `(seconds, candidate, plan)`, the fastest first.

    It begins with plain FSDP and full recomputation. One axis of the mesh after the other is
    doubled as long as that helps; then, for each count of microbatches, more is kept as long as
    that fits and helps; then the options are turned. What is refused or does not fit is dropped.

    Args:
      run: what is varied; stages and parts of rows, which change more than a mesh, are left out.
      devices: of the topology.
      cost: gives a candidate's seconds for a step, None where it does not fit, and its plan.
    """
    found: dict[str, tuple[float, Candidate, Any]] = {}

    def seconds(candidate: Candidate) -> float:
        if str(candidate) not in found:
            try:
                taken, plan = cost(candidate)
            except ConfigError:
                taken, plan = None, None
            found[str(candidate)] = (math.inf if taken is None else taken, candidate, plan)
        return found[str(candidate)][0]

    best = Candidate(_with_mesh(_with_remat(run, "full"), devices))
    for axis in ("expert", "tensor", "data"):
        if axis == "expert" and getattr(run.model, "num_experts", 1) == 1:
            continue
        least = run.mesh.slices if axis == "data" else 1
        for size in (2 * least, 4 * least, 8 * least):
            wider = Candidate(_with_mesh(best.run, devices, **{axis: size}))
            # A wider axis costs memory: less than a hundredth is not worth it.
            if seconds(wider) < 0.99 * seconds(best):
                best = wider
            elif seconds(best) < math.inf:
                break
    mesh = best.run
    for parts in (1, 2, 4, 8):
        slower = math.inf
        for remat in LEAST_KEPT_FIRST:
            try:
                changed = dataclasses.replace(_with_remat(mesh, remat), accumulation=parts)
            except ConfigError:  # rows that so many microbatches do not divide
                break
            candidate = Candidate(changed)
            if seconds(candidate) >= slower:
                break
            slower = seconds(candidate)
            best = min(best, candidate, key=seconds)
    for name in OPTIONS:
        seconds(dataclasses.replace(best, options=name))
    fit = [each for each in found.values() if each[0] < math.inf]
    return sorted(fit, key=lambda each: each[0])


def _with_remat(run: RunConfig, remat: str) -> RunConfig:
    return dataclasses.replace(run, execution=dataclasses.replace(run.execution, remat=remat))


def _with_mesh(run: RunConfig, devices: int, **changes: int) -> RunConfig:
    """Returns `run` with `changes` to its mesh and the rest of the devices on `fsdp`."""
    ours = {axis: getattr(run.mesh, axis) for axis in ("expert", "tensor")} if changes else {}
    sizes = {"data": run.mesh.slices, "expert": 1, "tensor": 1} | ours | changes
    sizes["fsdp"] = devices // math.prod(sizes.values())
    return dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, pipe=1, seq=1, **sizes))

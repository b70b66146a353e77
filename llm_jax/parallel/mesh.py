"""The device mesh: six named axes, of which each run chooses the sizes."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from llm_jax.configuration import ConfigError

AXES = ("pipe", "data", "fsdp", "expert", "seq", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, which takes the devices that are left.

    Attributes:
      pipe: stages of layers.
      data: replicas that share the batch.
      fsdp: shards of parameters and optimizer state, which share the batch as well (ZeRO-3).
      expert: shards of experts, which share the batch as well.
      seq: shards of the sequence.
      tensor: shards of heads, MLP and vocabulary within a layer.
    """

    pipe: int = 1
    data: int = -1
    fsdp: int = 1
    expert: int = 1
    seq: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = {axis: getattr(self, axis) for axis in AXES}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise ConfigError(
                    f"mesh.{axis} is {size}: give 1 or more, or -1 for the devices that are left"
                )
        if list(sizes.values()).count(-1) > 1:
            raise ConfigError(
                f"more than one mesh axis is -1 in {_text(sizes)}: only one may take the rest"
            )


def resolve(config: MeshConfig, num_devices: int) -> dict[str, int]:
    """Returns the size of every axis for `num_devices` devices, -1 replaced.

    Raises:
      ConfigError: the mesh needs more devices than there are, or -1 cannot be filled.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if fixed > num_devices:
        raise ConfigError(
            f"the mesh {_text(sizes)} needs {fixed} devices but there are {num_devices}: make its "
            "axes smaller (on a CPU, --emulated_devices=N makes N)"
        )
    for axis, size in sizes.items():
        if size == -1:
            if num_devices % fixed:
                raise ConfigError(
                    f"mesh.{axis} is -1, but {num_devices} devices are no multiple of the other "
                    f"axes' product {fixed}: choose axes that divide {num_devices}"
                )
            sizes[axis] = num_devices // fixed
    return sizes


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (default: all), in order of their locality.

    A mesh of fewer devices than there are takes the first ones; `describe` says so.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolve(config, len(devices))
    needed = math.prod(sizes.values())
    if needed < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"the mesh {_text(sizes)} uses {needed} of {len(devices)} devices: a run of several "
            "processes must use them all; set one axis to -1"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices[:needed],
    )


def describe(mesh: Mesh) -> str:
    """Returns one line for the run's header, such as `data=4 tensor=2 (8 of 8 devices)`."""
    used = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    return f"{used or 'one device'} ({mesh.size} of {jax.device_count()} devices)"


def check_batch(mesh: Mesh, batch_size: int, accumulation: int = 1) -> None:
    """Raises `ConfigError` unless every device gets whole rows of every microbatch."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % (shards * accumulation):
        parts = f"{shards} devices" + (
            f" times {accumulation} microbatches" if accumulation > 1 else ""
        )
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {parts}: make it a multiple of "
            f"{shards * accumulation}, or lower mesh.data, mesh.fsdp, mesh.expert or accumulation"
        )


def _text(sizes: dict[str, int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"

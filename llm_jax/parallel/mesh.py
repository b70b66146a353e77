"""The device mesh: six named axes, of which each run chooses the sizes."""

import collections
import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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
      slices: groups of devices with fast links within and a slow network between: slices of a TPU,
        elsewhere processes (hosts of GPUs).
      across_slices: the axis that crosses the slow network, "data" or "pipe"; the others stay
        within a slice.
    """

    pipe: int = 1
    data: int = -1
    fsdp: int = 1
    expert: int = 1
    seq: int = 1
    tensor: int = 1
    slices: int = 1
    across_slices: str = "data"

    def __post_init__(self):
        if self.slices < 1:
            raise ConfigError(f"mesh.slices is {self.slices}: give 1 or more")
        if self.across_slices not in ("data", "pipe"):
            raise ConfigError(
                f"mesh.across_slices is {self.across_slices!r}: give 'data' or 'pipe', the axes "
                "that send least"
            )
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
    devices = devices[:needed]
    types = (AxisType.Auto,) * len(AXES)
    if config.slices > 1:
        return Mesh(_over_slices(config, sizes, devices), AXES, axis_types=types)
    if (count := len(_slices(devices))) > 1:
        raise ConfigError(
            f"the devices lie in {count} slices with a slow network between: set "
            f"mesh.slices={count}, and mesh.data or mesh.pipe to a multiple of it"
        )
    # Where a slice's dimension is 8 and an axis 2, the axis takes a part of the dimension.
    placed = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=types)


def _slices(devices: Sequence[jax.Device]) -> set[int]:
    """Returns the slices that TPU `devices` lie in; elsewhere devices have none."""
    return {device.slice_index for device in devices if hasattr(device, "slice_index")}


def _over_slices(config: MeshConfig, sizes: dict[str, int], devices: Sequence[jax.Device]):
    """Returns the devices as an array of `sizes`, the slow axis outermost over the slices."""
    slow, by_process = config.across_slices, len(_slices(devices)) < 2
    found = len({device.process_index for device in devices} if by_process else _slices(devices))
    if found != config.slices:
        raise ConfigError(
            f"mesh.slices is {config.slices}, but the devices lie in {found} "
            f"{'process(es)' if by_process else 'slices'}: set mesh.slices={found}"
        )
    if sizes[slow] % config.slices:
        raise ConfigError(
            f"mesh.{slow} is {sizes[slow]} and crosses {config.slices} slices: make it a multiple "
            "of them, or choose the other of data and pipe as mesh.across_slices"
        )
    return mesh_utils.create_hybrid_device_mesh(
        [size // config.slices if axis == slow else size for axis, size in sizes.items()],
        [config.slices if axis == slow else 1 for axis in AXES],
        devices,
        process_is_granule=by_process,
        allow_split_physical_axes=True,
    )


def batch_block(mesh: Mesh) -> dict[str, int]:
    """Returns which rows of a batch this process feeds to its devices.

    Processes whose devices hold the same rows (they share `pipe`, `seq` or `tensor`) feed the same.

    Returns:
      `process_index` and `process_count` for `llm_jax.data.batches`: this process's block of rows,
      and how many blocks there are.

    Raises:
      ConfigError: the rows of two processes overlap without being the same.
    """
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    held = collections.defaultdict(set)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    for device, (rows,) in sharding.devices_indices_map((shards,)).items():
        held[device.process_index].add(rows.start or 0)
    blocks = sorted({tuple(sorted(rows)) for rows in held.values()})
    if sum(map(len, blocks)) != shards or len({len(rows) for rows in blocks}) > 1:
        raise ConfigError(
            f"the batch's {shards} shards over {describe(mesh)} do not fall into equal blocks of "
            f"{len(held)} processes: let mesh.data*mesh.fsdp*mesh.expert divide by them, or they "
            "by it"
        )
    own = blocks.index(tuple(sorted(held[jax.process_index()])))
    return {"process_index": own, "process_count": len(blocks)}


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

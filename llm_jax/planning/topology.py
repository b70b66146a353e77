"""Accelerators that are not there: what their chips can do, and the slices that are sold of them.

Figures are the vendor's, docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} as of November 2026.
A link's rate is the chip's "bidirectional ICI bandwidth" over two directions and its ports; 90% of
it is what arrives (the JAX team's "How to Scale Your Model" measured 4.5e10 of v5e's 5e10).
"""

import dataclasses
import importlib.util
import math
import os

import jax
import numpy as np

from llm_jax.configuration import ConfigError

LINK_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of JAX can do: a chip, or one of its cores where they are apart.

    Attributes:
      kind: what `jax.Device.device_kind` says.
      flops: bf16 FLOP/s at most.
      hbm: bytes of memory; the compiler keeps some of them for itself.
      hbm_rate: bytes/s that memory is read with.
      link: bytes/s of one link in one direction; links go to both neighbours in each dimension.
      network: bytes/s to other slices.
      dimensions: of the torus.
      per_chip: devices of JAX in a chip, which the figures above are divided by already.
      shapes: slices that are sold; of three dimensions also any multiples of four.
      wraps: a dimension of this size, or a multiple of it in three dimensions, is a ring.
    """

    kind: str
    flops: float
    hbm: float
    hbm_rate: float
    link: float
    network: float
    dimensions: int
    per_chip: int
    shapes: tuple[str, ...]
    wraps: int


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_GIB = 2.0**30

CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 * _GIB, 1228e9, 50e9, 3.125e9, 3, 1, _CUBES, 4),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * _GIB, 819e9, 50e9, 3.125e9, 2, 1, _FLAT, 16),
    "v5p": Chip("TPU v5", 459e12, 95 * _GIB, 2765e9, 100e9, 6.25e9, 3, 1, _CUBES, 4),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * _GIB, 1600e9, 100e9, 12.5e9, 2, 1, _FLAT, 16),
    "tpu7x": Chip("TPU7x", 1153.5e12, 96 * _GIB, 3690e9, 50e9, 6.25e9, 3, 2, _CUBES, 4),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of chips.

    Attributes:
      name: as given, such as "v5p:4x4x8".
      chip: of its devices.
      shape: chips along each dimension of a slice.
      slices: how many slices, joined by the data center's network.
      devices: of all slices; nothing can be put on them, but programs compiled for them.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int
    devices: tuple[jax.Device, ...]

    @property
    def generation(self) -> str:
        """The key of `CHIPS`."""
        return self.name.partition(":")[0]

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which dimensions of a slice are rings."""
        cube = self.chip.dimensions == 3 and all(n % self.chip.wraps == 0 for n in self.shape)
        return tuple(cube or size == self.chip.wraps for size in self.shape)


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns the chip and the shape that `name` stands for, such as "v6e:8x8".

    Raises:
      ConfigError: no such chip, or no such slice of it; the known ones are listed.
    """
    generation, _, text = name.partition(":")
    if generation not in CHIPS or not text:
        known = ", ".join(f"{each}:{chip.shapes[-1]}" for each, chip in CHIPS.items())
        raise ConfigError(
            f"--topology={name} is no chip and shape: give one of {', '.join(CHIPS)}, a colon and "
            f"a slice's shape, such as {known}"
        )
    chip = CHIPS[generation]
    sides = text.split("x")
    whole = len(sides) == chip.dimensions and all(side.isdigit() for side in sides)
    shape = tuple(int(side) for side in sides) if whole else ()
    cubes = whole and chip.dimensions == 3 and all(0 < n <= 32 and n % 4 == 0 for n in shape)
    if text not in chip.shapes and not cubes:
        more = " and multiples of 4 up to 32, such as 4x4x8" if chip.dimensions == 3 else ""
        raise ConfigError(
            f"--topology={name} does not exist: {generation} has {', '.join(chip.shapes)}{more}"
        )
    return chip, shape


def describe(name: str, slices: int = 1) -> Topology:
    """Returns the topology `name`, of `slices` of them, from libtpu; no TPU is needed.

    Raises:
      ConfigError: it does not exist, or libtpu is not installed.
    """
    chip, shape = parse(name)
    if slices < 1:
        raise ConfigError(f"--slices={slices}: give 1 or more")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "a plan needs the TPU's compiler: pip install -c constraints.txt -e '.[tpu-plan]'"
        )
    # Without them libtpu asks for a machine's metadata, or for the sole use of a chip.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    bare = Topology(name, chip, shape, slices, ())
    wrap = (*bare.wraps, *(False,) * (3 - len(shape)))
    more = {"num_slices": slices} if slices > 1 else {}
    if chip is CHIPS["v4"]:
        more["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them
    found = topologies.get_topology_desc(name, "tpu", wrap=wrap, **more)
    return dataclasses.replace(bare, devices=tuple(found.devices))


def rate(topology: Topology, devices: np.ndarray) -> tuple[float, float]:
    """Returns how fast a group of devices exchanges, and how long a ring between them is.

    Args:
      topology: that they are in.
      devices: [n] of one group.

    Returns:
      `(bytes/s, n)`: at which a device can take in what others have, over all of the links that
      lead along the group; the second is how many devices share a dimension of it.
    """
    chip = topology.chip
    if len({getattr(device, "slice_index", 0) for device in devices}) > 1:
        return chip.network, float(len(devices))
    places = np.array([device.coords[: len(topology.shape)] for device in devices])
    links, longest = 0, 1
    for along, size, ring in zip(places.T, topology.shape, topology.wraps):
        there = len(set(along))
        if there > 1:
            links += 2 if ring and there == size else 1
            longest = max(longest, there)
    if not links:  # cores of one chip, by its memory
        return chip.hbm_rate / 2, float(math.prod(devices.shape))
    return links * chip.link * LINK_SHARE, float(longest)

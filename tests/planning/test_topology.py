"""Topologies that exist and that do not; links; what a plan cannot be asked."""

import importlib.util
import math
import types

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.planning import search, topology


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:2x2", "give one of v4, v5e, v5p, v6e, tpu7x"),
        ("v6e", "a colon and a slice's shape"),
        ("v6e:64", "v6e has 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16$"),
        ("v6e:7x3", "does not exist: v6e has 1x1"),
        ("v5p:4x4", "2x4x4 and multiples of 4 up to 32, such as 4x4x8"),
        ("v5p:4x4x6", "does not exist"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused_with_those_that_do(name, said):
    with pytest.raises(ConfigError, match=f"--topology={name} .*{said}"):
        topology.parse(name)


def test_topologies_that_exist():
    assert topology.parse("v6e:8x8")[1] == (8, 8)
    assert topology.parse("v5p:8x16x16")[1] == (8, 16, 16)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="extra tpu-plan")
@pytest.mark.parametrize("generation", topology.CHIPS)
def test_every_chip_makes_a_mesh(generation):
    chip = topology.CHIPS[generation]
    found = topology.describe(f"{generation}:{chip.shapes[1]}")
    assert len(found.devices) == math.prod(found.shape) * chip.per_chip
    assert {device.device_kind for device in found.devices} == {chip.kind}
    assert make_mesh(MeshConfig(data=1, fsdp=-1), found.devices).shape["fsdp"] == len(found.devices)


def placed(name):
    """A topology of devices that only have places."""
    chip, shape = topology.parse(name)
    devices = tuple(
        types.SimpleNamespace(coords=place, slice_index=0) for place in np.ndindex(shape)
    )
    return topology.Topology(name, chip, shape, 1, devices)


def test_a_group_has_the_links_along_its_dimensions():
    """All of a ring of a v5p cube has two links in each of three dimensions, 100 GB/s each."""
    cube = placed("v5p:4x4x8")
    assert cube.wraps == (True, True, True)
    devices = np.array(cube.devices)
    assert topology.rate(cube, devices) == (6 * 100e9 * 0.9, 8)
    assert topology.rate(cube, devices[:8]) == (2 * 100e9 * 0.9, 8)  # a whole line
    assert topology.rate(cube, devices[:4]) == (1 * 100e9 * 0.9, 4)  # half of one: no ring
    flat = placed("v6e:8x16")
    assert flat.wraps == (False, True)
    assert topology.rate(flat, np.array(flat.devices)) == (3 * 100e9 * 0.9, 16)


def test_between_slices_is_the_network():
    pair = placed("v6e:2x2")
    for number, device in enumerate(pair.devices):
        device.slice_index = number // 2
    assert topology.rate(pair, np.array(pair.devices)) == (12.5e9, 4)


def test_compiler_options_are_names_or_pairs():
    assert search.options("default", "v6e") == {}
    assert search.options("xla_a=true,xla_b=3", "v6e") == {"xla_a": "true", "xla_b": "3"}
    fused = "xla_tpu_enable_async_collective_fusion_fuse_all_gather"
    assert [search.options("overlap", each)[fused] for each in ("v5e", "v6e")] == ["true", "false"]
    sparse = "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather"
    have = [sparse in search.options("overlap", each) for each in ("v4", "v5e", "v5p", "v6e")]
    assert have == [False, False, True, True]
    with pytest.raises(ConfigError, match="--compiler_options=fast: give one of default, overlap"):
        search.options("fast", "v6e")

"""Loading needs the model and its largest stacked parameter, not more."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax import interop, models
from tests.experiments.conftest import ROOT, environment

MIB = 2**20
PROGRAM = """
import resource, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from llm_jax import interop
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.training.hardware import resident_peak
mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2)) if int(sys.argv[2]) == 8 else None
jax.block_until_ready(jax.numpy.zeros(3) + 1)
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
config, params = interop.load_pretrained(sys.argv[1], mesh)
print(resident_peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_peak_memory_is_the_model_and_its_largest_stacked_parameter(tmp_path, devices):
    config = models.parse_config(
        {"num_layers": 24, "num_heads": 8, "hidden_size": 1024, "vocab_size": 16_384}
    )
    shapes = models.build(config).abstract_params
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    interop.save_pretrained(tmp_path / "model", config, params, shard_bytes=256 * MIB)
    del params
    sizes = [leaf.size * 4 / MIB for leaf in jax.tree.leaves(shapes)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "model", str(devices)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown = int(done.stdout) / MIB
    assert sum(sizes) * 0.9 < grown < sum(sizes) + max(sizes) + 512, (grown, sum(sizes))

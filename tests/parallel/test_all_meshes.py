"""Every axis of the mesh, alone and with others, trains as one device does.

The meshes of four axes need sixteen devices, and so a process of their own:
`python -m tests.parallel.test_all_meshes`.
"""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax.models import Execution
from llm_jax.parallel.mesh import MeshConfig
from llm_jax.parallel.sharding import ParallelConfig
from tests.models.test_family_meshes import ADAMW, parts
from tests.parallel import test_expert
from tests.training.test_meshes import fit, train

pytestmark = pytest.mark.slow

DENSE = {"num_layers": 4, "num_kv_heads": 2}
# By mesh: what else the run does.
DENSE_MESHES = {
    "data=8": {},
    "fsdp=8": {"parallel": ParallelConfig(zero=2), "accumulation": 2},
    "tensor=4,data=2": {"accumulation": 2},
    "tensor=2,fsdp=4": {"execution": Execution(remat="full")},
    "seq=8": {},
    "seq=2,tensor=2,fsdp=2": {"execution": Execution(attention="all_to_all")},
    "seq=2,fsdp=4": {"execution": Execution(attention="ring"), "accumulation": 4},
    "pipe=4,fsdp=2": {"execution": Execution(microbatches=8)},
    "pipe=2,fsdp=2,tensor=2": {"execution": Execution(pipeline_rounds=2)},
    "pipe=2,seq=2,tensor=2": {"execution": Execution(pipeline_rounds=2, remat="dots")},
    "pipe=2,seq=2,data=2": {"accumulation": 2},
    "data=2,seq=2,tensor=2": {},
    "data=2,fsdp=2,seq=2": {"parallel": ParallelConfig(zero=1)},
}
MIXTURE_MESHES = (
    "expert=4,tensor=2",
    "expert=2,fsdp=4",
    "expert=2,pipe=2,data=2",
    "seq=2,expert=4",
)
ENCODER_DECODER_MESHES = ("pipe=2,fsdp=2,data=2", "pipe=2,tensor=4", "seq=2,tensor=2,data=2")
FOUR_AXES = ("pipe=2,fsdp=2,seq=2,tensor=2", "pipe=2,data=2,fsdp=2,tensor=2")
FOUR_AXES_MIXTURE = ("data=2,fsdp=2,expert=2,tensor=2", "pipe=2,expert=2,seq=2,tensor=2")


def mesh_of(text: str) -> MeshConfig:
    """Returns the mesh of a text such as `pipe=2,data=4`."""
    sizes = {name: int(size) for name, size in (part.split("=") for part in text.split(","))}
    return MeshConfig(**{"data": 1} | sizes)


def compare(got, expected):
    """Asserts that 20 losses, and the first gradient's norm, are those of one device."""
    (losses, norm), (wanted, wanted_norm) = got[:2], expected[:2]
    assert len(losses) == 20
    worst = np.max(np.abs(np.divide(losses, wanted) - 1))
    print(f"worst relative difference {worst:.1e}")
    assert worst < 1e-5
    assert abs(norm - wanted_norm) < 1e-5 * wanted_norm


@functools.cache
def alone(kind: str):
    return on("data=1", kind)


def on(text: str, kind: str, **settings):
    mesh = mesh_of(text)
    if kind == "dense":
        return train(mesh, **DENSE, **settings)[:2]
    if kind == "mixture":
        return test_expert.trained("dropless", mesh)[:2]
    return fit(*parts("t5"), mesh, ADAMW)[:2]


@pytest.mark.parametrize("text", DENSE_MESHES)
def test_a_decoder(text):
    compare(on(text, "dense", **DENSE_MESHES[text]), alone("dense"))


@pytest.mark.parametrize("text", MIXTURE_MESHES)
def test_a_mixture_of_experts(text):
    compare(on(text, "mixture"), alone("mixture"))


@pytest.mark.parametrize("text", ENCODER_DECODER_MESHES)
def test_an_encoder_decoder(text):
    compare(on(text, "encoder_decoder"), alone("encoder_decoder"))


def test_four_axes_at_once_on_sixteen_devices():
    command = [sys.executable, "-m", "tests.parallel.test_all_meshes"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("worst") == len(FOUR_AXES + FOUR_AXES_MIXTURE)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 16)
    for text in FOUR_AXES:
        compare(on(text, "dense"), alone("dense"))
    for text in FOUR_AXES_MIXTURE:
        compare(on(text, "mixture"), alone("mixture"))

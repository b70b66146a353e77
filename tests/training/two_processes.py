"""One of two processes of four devices each: trains on meshes and writes the losses.

python -m tests.training.two_processes PORT PROCESS_ID OUTPUT.json [every]

With `every`, on all meshes of eight devices that `tests.parallel.test_all_meshes` has.
"""

import json
import sys
from pathlib import Path

import jax

from llm_jax.models import Execution
from llm_jax.parallel import distributed
from llm_jax.parallel.mesh import MeshConfig, batch_block, make_mesh
from tests.parallel import test_all_meshes
from tests.parallel.test_expert import trained
from tests.training.test_meshes import train

# Heads enough for eight devices: every one of these crosses from one process to the other.
HEADS = {"num_heads": 8}
CASES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "seq": {"data": 1, "seq": 4, "tensor": 2},
    "pipe": {"pipe": 2, "data": 1, "fsdp": 2, "tensor": 2},
    "slices": {"data": 2, "fsdp": 2, "tensor": 2, "slices": 2},
    "expert": {"data": 1, "expert": 4, "tensor": 2},
}


def losses(name: str, axes: dict) -> list[float]:
    """Returns the losses of 20 steps with dropout on the mesh `axes`, of one device for {}."""
    mesh = MeshConfig(**axes) if axes else MeshConfig(data=1)
    if name == "expert":
        return trained("dropless", mesh)[0]
    execution = Execution(attention="ring") if name == "seq" and axes else Execution()
    return train(mesh, execution=execution, **HEADS)[0]


def every() -> dict:
    """Returns the losses on every mesh by its name."""
    dense = {
        text: test_all_meshes.on(text, "dense", **settings)[0]
        for text, settings in test_all_meshes.DENSE_MESHES.items()
    }
    return dense | {
        text: test_all_meshes.on(text, "mixture")[0] for text in test_all_meshes.MIXTURE_MESHES
    }


def main(port: str, process_id: str, output: str, which: str = "") -> int:
    jax.config.update("jax_num_cpu_devices", 4)
    distributed.start(coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=int(process_id))
    if which == "every":
        Path(output).write_text(json.dumps(every()))
        return 0
    found = {}
    for name, axes in CASES.items():
        block = batch_block(make_mesh(MeshConfig(**axes)))
        found[name] = {"losses": losses(name, axes), **block}
        print(name, found[name], flush=True)
    Path(output).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(distributed.guarded(lambda: main(*sys.argv[1:])))

"""Every process of a run must compile the same program, whatever order its sets are in.

`python -m tests.parallel.test_same_program` prints a digest of each mesh's train step.
"""

import hashlib
import os
import subprocess
import sys

import jax
import pytest

from llm_jax.training import loop
from tests.processes import ROOT
from tests.training.two_processes import CASES, losses

MESHES = CASES | {"slices": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.mark.slow
def test_the_program_is_the_same_in_every_process():
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "tests.parallel.test_same_program"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(seed), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(1, 4)
    ]
    assert outputs[0].count("\n") == len(MESHES)
    assert len(set(outputs)) == 1, outputs


class Lowered(Exception):
    """Carries the text of a train step that was not run."""


def lower(train_step, state, batches, **_):
    raise Lowered(train_step.lower(state, next(batches)).as_text())


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    loop.fit = lower
    for name, axes in MESHES.items():
        try:
            losses(name, axes)
        except Lowered as program:
            print(name, hashlib.sha256(str(program).encode()).hexdigest())


if __name__ == "__main__":
    main()

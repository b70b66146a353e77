"""The wall time of a pipeline's step against its count of ticks.

`python -m tests.parallel.test_bubble` prints the table. The emulated devices share this machine's
cores and work in empty ticks too, so a step takes its ticks times one tick's work.
"""

import time

import jax
import numpy as np
import pytest

from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Execution
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.pipeline import empty_share
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.testing import random_batch, tiny_model

STAGES, LAYERS, ROWS, LENGTH = 4, 8, 2, 64  # rows of one microbatch
CASES = ((4, 1), (4, 2), (16, 1), (16, 2))  # (microbatches, rounds)
SIZES = {"num_layers": LAYERS, "hidden_size": 128, "num_heads": 4, "max_positions": LENGTH}


def seconds_of_a_step(repeats: int = 7) -> dict[tuple[int, int], float]:
    """Returns the least seconds of a forward and backward pass, the cases taking turns."""
    mesh = make_mesh(MeshConfig(pipe=STAGES, data=1), jax.devices()[:STAGES])
    steps, best = {}, {}
    with jax.set_mesh(mesh):
        for microbatches, rounds in CASES:
            model = tiny_model(
                Execution(microbatches=microbatches, pipeline_rounds=rounds), mlp_size=512, **SIZES
            )
            shardings = tree_shardings(model.abstract_params, model.logical_axes, mesh)
            params = jax.jit(model.init, out_shardings=shardings)(jax.random.key(0))
            batch = random_batch(0, batch=microbatches * ROWS, length=LENGTH)

            def gradient(params, batch, model=model):
                return jax.grad(lambda params: next_token_loss(model, params, batch)[0][0])(params)

            step = jax.jit(gradient, out_shardings=shardings).lower(params, batch).compile()
            steps[microbatches, rounds] = lambda step=step, given=(params, batch): step(*given)
        for _ in range(repeats):
            for case, step in steps.items():
                began = time.perf_counter()
                jax.block_until_ready(step())
                best[case] = min(best.get(case, np.inf), time.perf_counter() - began)
    return best


def expected(case: tuple[int, int]) -> float:
    """Returns the work of a step in microbatches through all layers, empty ticks and all."""
    microbatches, rounds = case
    return microbatches / (1 - empty_share(STAGES, microbatches, rounds))


@pytest.mark.slow
def test_wall_time_follows_the_empty_share():
    best: dict = {}
    for _ in range(4):  # the least of many: other tests run beside it
        for case, seconds in seconds_of_a_step(repeats=15).items():
            best[case] = min(best.get(case, np.inf), seconds)
        unit = best[16, 1] / expected((16, 1))
        off = {case: seconds / unit / expected(case) - 1 for case, seconds in best.items()}
        if max(map(abs, off.values())) < 0.25:
            return
    raise AssertionError(off)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", STAGES)
    found = seconds_of_a_step()
    unit = found[16, 1] / expected((16, 1))
    for case, seconds in found.items():
        print(
            f"microbatches {case[0]:2} rounds {case[1]}: empty {empty_share(STAGES, *case):5.1%}, "
            f"{seconds * 1e3:6.0f} ms, {seconds / unit / expected(case) - 1:+.1%} of expected"
        )

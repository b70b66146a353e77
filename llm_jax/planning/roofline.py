"""How long a step would take, by the chip's figures and what its program does: a roofline.

Matrix products run at a share of the chip's peak that was reached on it (`SHARES`); collectives
run at the links' rate, beside the compute where the program's schedule has them so. Everything else
is in the share. So the result has an error of about a quarter, which is stated with it.
"""

import dataclasses
import math
from collections import defaultdict

import numpy as np

from llm_jax.losses.registry import work
from llm_jax.models.flops import Flops
from llm_jax.planning.hlo import Collective
from llm_jax.planning.step import Step
from llm_jax.planning.topology import Topology, rate

# Executed FLOP/s over the peak in dense runs that others published. v5e and v5p: MaxText's README
# of 2025, 16B to 128B and 32B to 256B parameters (56 to 67% and 68 to 71% by a formula with whole
# attention and no recomputation, so that more was executed). v6e: its Llama 3.1 8B and 70B (45.5%,
# 50.3%) with the recomputation of its settings counted in, 51% and 58%. None was found for v4 and
# tpu7x: theirs are those of v5e and v6e.
SHARES = {"v4": 0.66, "v5e": 0.66, "v5p": 0.72, "v6e": 0.55, "tpu7x": 0.55}
ERROR = 0.25

FORMULA = "MFU = tokens/s x FLOPs a token (causal attention halved) / (devices x peak bf16 FLOP/s)"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a step would take.

    Attributes:
      compute_seconds: of the matrix products.
      collective_seconds: of all collectives; `exposed_seconds` of those that nothing runs beside.
      step_seconds: of a whole step.
      tokens_per_second: of all devices.
      mfu, mfu_low, mfu_high: by `FORMULA`, and within `ERROR`.
      mfu_whole_attention: with attention counted whole, as older reports do.
      flops: of one token, and their formula.
    """

    compute_seconds: float
    collective_seconds: float
    exposed_seconds: float
    step_seconds: float
    tokens_per_second: float
    mfu: float
    mfu_low: float
    mfu_high: float
    mfu_whole_attention: float
    flops: Flops


def predict(step: Step, topology: Topology, collectives: list[Collective]) -> Prediction:
    """Returns the roofline of `step`, whose program has `collectives`, on `topology`."""
    run, mesh, chip = step.run, step.trainer.mesh, topology.chip
    peak = mesh.size * chip.flops
    compute = step.executed_flops / peak / SHARES[topology.generation]
    spent = {each: seconds(each, topology, mesh) for each in set(collectives)}
    total = sum(spent[each] for each in collectives)
    exposed = sum(spent[each] for each in collectives if not each.overlapped)
    # What overlaps costs only where there is more of it than compute.
    whole = max(compute, total - exposed) + exposed
    example = work(run.objective, step.trainer.model, run.data.sequence_length)
    tokens = run.batch_size * example.tokens / whole
    mfu = tokens * example.flops.total / peak
    return Prediction(
        compute_seconds=compute,
        collective_seconds=total,
        exposed_seconds=exposed,
        step_seconds=whole,
        tokens_per_second=tokens,
        mfu=mfu,
        mfu_low=mfu * (1 - ERROR),
        mfu_high=min(1.0, mfu * (1 + ERROR)),
        mfu_whole_attention=tokens * example.flops.total_whole_attention / peak,
        flops=example.flops,
    )


def seconds(collective: Collective, topology: Topology, mesh) -> float:
    """Returns how long a collective takes in a step, all of its runs, over the links it has."""
    if not collective.axes:
        return 0.0
    group = mesh.devices
    for axis, name in reversed(list(enumerate(mesh.axis_names))):
        if name not in collective.axes:
            group = np.take(group, 0, axis=axis)
    bandwidth, ring = rate(topology, group.ravel())
    sent = collective.sent
    if collective.kind == "all-to-all":
        # Each part goes a quarter of the ring on average, through the devices between.
        sent *= max(1.0, ring / 4)
    return sent / bandwidth


def by_axis(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """Returns the bytes that a device sends in a step, by mesh axes (joined by *) and kind."""
    table: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for each in collectives:
        table["*".join(each.axes)][each.kind] += each.sent
    return {axes: dict(kinds) for axes, kinds in table.items()}


def cost_per_billion_tokens(price: float, chips: int, tokens_per_second: float) -> float:
    """Returns what 1e9 tokens cost at `price` for a chip's hour, in its unit."""
    return price * chips * 1e9 / tokens_per_second / 3600 if tokens_per_second else math.inf

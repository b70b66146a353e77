"""Profiles: a trace of some steps, and which operations the devices spent them on."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.profiler import ProfileData

from llm_jax.configuration import ConfigError
from llm_jax.training.loop import Hook

COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
# They last as long as the operations inside them, which are there themselves.
_CONTAINERS = ("while", "conditional", "call")


def profile_hooks(span: str, workdir: str, steps: int) -> list[Hook]:
    """Returns the hooks that trace the steps `FROM:TO` into `WORKDIR/profile`; none for "".

    Raises:
      ConfigError: `span` is not two ascending numbers, or ends behind the run's `steps`.
    """
    if not span:
        return []
    first, _, last = span.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) < int(last)):
        raise ConfigError(f"--profile={span}: give FROM:TO, two ascending steps such as 20:25")
    first, last = int(first), int(last)
    if last > steps:
        raise ConfigError(
            f"--profile={span}: the run ends after step {steps}; end it there at most"
        )
    tracing = False

    def start(step, state):
        nonlocal tracing
        if step == first and not tracing:
            tracing = True
            jax.block_until_ready(state)
            jax.profiler.start_trace(f"{workdir}/profile")

    def stop(step, state):
        nonlocal tracing
        if step == last and tracing:
            tracing = False
            jax.block_until_ready(state)
            jax.profiler.stop_trace()

    # A hook that is due makes the loop wait for the device: not at every step of what is measured.
    return [Hook(first, start), Hook(last, stop)]


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a trace says of one HLO operation.

    Attributes:
      name: of the instruction in the compiled program, such as `all-reduce.3`.
      share: of the time that the devices spent on operations, 0 to 1.
      count: how often one was run, on all devices together.
    """

    name: str
    share: float
    count: int


def operations(workdir: str) -> list[Operation]:
    """Returns the operations of the newest trace in `WORKDIR/profile`, the costliest first.

    Times are a TPU's, of whose transfers beside other operations only the start and the wait for
    the end are one, a GPU's over all its streams, or else those of the threads that are the
    devices of a CPU. Empty where there is no trace.
    """
    files = sorted(Path(workdir, "profile").rglob("*.xplane.pb"))
    nanoseconds, counts = collections.Counter(), collections.Counter()
    for file in files:
        if file.parent != files[-1].parent:  # one folder a trace, named by its time; a file a host
            continue
        planes = list(ProfileData.from_file(str(file)).planes)
        devices = [
            plane for plane in planes if plane.name.startswith(("/device:TPU", "/device:GPU"))
        ]
        for plane in devices or planes:
            for name, duration in _events(plane):
                nanoseconds[name] += duration
                counts[name] += 1
    total = max(sum(nanoseconds.values()), 1e-9)
    return [Operation(name, time / total, counts[name]) for name, time in nanoseconds.most_common()]


def collective_share(found: list[Operation]) -> float:
    """Returns the share of the time that devices sent and waited for each other, 0 to 1."""
    return sum(each.share for each in found if each.name.startswith(COLLECTIVES))


def _events(plane) -> Iterator[tuple[str, float]]:
    """Yields name and nanoseconds of the HLO operations of a plane.

    A TPU's plane has them on the line "XLA Ops", each named by its whole instruction; on a GPU
    (kernels, on a line for each stream) and a CPU (on a line for each thread) the event says which
    instruction it belongs to.
    """
    for line in plane.lines:
        if plane.name.startswith("/device:TPU") and line.name == "XLA Ops":
            named = ((event.name, event.duration_ns) for event in line.events)
        else:
            named = ((dict(event.stats).get("hlo_op"), event.duration_ns) for event in line.events)
        for name, duration in named:
            name = (name or "").removeprefix("%").partition(" ")[0]
            if name and name.partition(".")[0] not in _CONTAINERS:
                yield name, duration

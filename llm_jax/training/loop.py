"""The training loop: it keeps the device busy and looks at a step's numbers one step late."""

import collections
import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from llm_jax.configuration import ConfigError
from llm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Hook:
    """Something to do between steps.

    Attributes:
      every: steps between calls; 0 for none.
      call: takes the number of steps taken and the state, which it must not keep.
    """

    every: int
    call: Callable[[int, TrainState], None]


class Interruption:
    """Turns the first SIGINT or SIGTERM into a flag; a second one acts as usual.

    Use as a context manager around the loop; `signal` is the name of what came, or None.
    """

    def __init__(self):
        self.signal: str | None = None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        self._restore()

    def _receive(self, number, _frame):
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def place_ahead(
    batches: Iterable[dict[str, np.ndarray]], sharding: NamedSharding
) -> Iterator[dict[str, jax.Array]]:
    """Yields `batches` as global device arrays, each placed while the step before it runs.

    Args:
      batches: this process's rows of each batch.
      sharding: where the rows go, as `batch_sharding` says.
    """
    placed = collections.deque()
    for batch in batches:
        placed.append(
            {
                name: jax.make_array_from_process_local_data(sharding, value)
                for name, value in batch.items()
            }
        )
        if len(placed) > 1:
            yield placed.popleft()
    yield from placed


def fit(
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]],
    state: TrainState,
    batches: Iterable[dict[str, jax.Array]],
    *,
    first: int,
    steps: int,
    on_metrics: Callable[[int, dict[str, float]], None],
    hooks: Sequence[Hook] = (),
    interruption: Interruption | None = None,
) -> tuple[TrainState, int]:
    """Takes steps until `steps` are taken or a signal comes; returns the state and its step.

    The numbers of step n are fetched after step n+1 was handed to the device, so that it never
    waits for Python; before a hook they are fetched at once.

    Args:
      train_step: jitted, with the state donated.
      state: the state after `first` steps.
      batches: device batches, beginning with that of step `first`.
      first: steps taken before.
      steps: steps of the whole run.
      on_metrics: called for every step, in order, with the number of steps taken and floats.
      hooks: called in order after the steps at which they are due.
      interruption: asked after every step.
    """
    pending = None

    def report():
        nonlocal pending
        if pending is not None:
            step, metrics = pending
            pending = None
            on_metrics(step, {k: float(v) for k, v in jax.device_get(metrics).items()})

    step = first
    for batch in batches:
        if step >= steps or (interruption is not None and interruption.signal):
            break
        state, metrics = train_step(state, batch)
        report()
        step += 1
        pending = (step, metrics)
        due = [hook for hook in hooks if hook.every and step % hook.every == 0]
        if due:
            report()
        for hook in due:
            hook.call(step, state)
    report()
    return state, step


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

    def toggle(step, state):
        if step == first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(f"{workdir}/profile")
        elif step == last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()

    return [Hook(1, toggle)]

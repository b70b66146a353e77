"""The training loop: it keeps the device busy and looks at a step's numbers one step late."""

import collections
import dataclasses
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.parallel import distributed
from llm_jax.training.goodput import Ledger
from llm_jax.training.state import TrainState
from llm_jax.training.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Hook:
    """Something to do between steps.

    Attributes:
      every: steps between calls; 0 for none.
      call: takes the number of steps taken and the state, which it must not keep.
    """

    every: int
    call: Callable[[int, TrainState], None]


class Enough(Exception):
    """A hook raises it with the state and its step: the run is done before its last one."""


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
    ledger: Ledger | None = None,
    hang_seconds: float = math.inf,
) -> tuple[TrainState, int]:
    """Takes steps until `steps` are taken or a signal comes; returns the state and its step.

    The numbers of step n are fetched after step n+1 was handed to the device, so that it never
    waits for Python; before a hook they are fetched at once. Of several processes a signal to any
    one stops all, after the same step: whether it came travels with the numbers of a step.

    Args:
      train_step: jitted, with the state donated.
      state: the state after `first` steps.
      batches: device batches, beginning with that of step `first`.
      first: steps taken before.
      steps: steps of the whole run.
      on_metrics: called for every step, in order, with the number of steps taken and floats.
      hooks: called in order after the steps at which they are due.
      interruption: asked after every step.
      ledger: is told whose the time is.
      hang_seconds: a step that takes longer is reported, see `Watchdog`.
    """
    ledger = ledger or Ledger()
    pending = None
    stop = False
    several = jax.process_count() > 1
    signalled = None
    if interruption is not None and several:
        signalled = _SignalOfAny(state.step.sharding.mesh)

    def busy():
        return pending is not None and not all(x.is_ready() for x in pending[1].values())

    def report():
        nonlocal pending, stop
        if pending is not None:
            step, metrics, signals = pending
            pending = None
            stop = stop or (signals is not None and bool(jax.device_get(signals)))
            on_metrics(step, {k: float(v) for k, v in jax.device_get(metrics).items()})
            watchdog.stepped(step)

    step, compiled = first, {}
    with Watchdog(hang_seconds) as watchdog:
        for batch in ledger.reading(batches, busy):
            if interruption is not None and signalled is None:
                stop = bool(interruption.signal)
            if step >= steps or stop:
                break
            kind = ledger.step(step)
            if step == first:
                ledger.turn("compilation")
            taken = train_step
            if several:
                # Compiled apart, and met after: collectives do not wait for one that compiles long.
                shapes = tuple(value.shape for value in batch.values())
                if shapes not in compiled:
                    compiled[shapes] = train_step.lower(state, batch).compile()
                    distributed.meet()
                taken = compiled[shapes]
            state, metrics = taken(state, batch)
            ledger.turn(kind)
            report()
            step += 1
            pending = (step, metrics, signalled and signalled(interruption, metrics["loss"]))
            due = [hook for hook in hooks if hook.every and step % hook.every == 0]
            if due:
                report()
            for hook in due:
                # It is evaluation, but for what the hook says is something else.
                with watchdog.paused(), ledger.during("evaluation"):
                    hook.call(step, state)
        report()
    return state, step


class _SignalOfAny:
    """Whether any process has its signal: one number, added up over the devices of all."""

    def __init__(self, mesh: Mesh):
        flat = Mesh(mesh.devices.reshape(-1), ("devices",))
        self._split = NamedSharding(flat, PartitionSpec("devices"))
        self._any = jax.jit(
            lambda here, _: jnp.any(here),
            out_shardings=NamedSharding(flat, PartitionSpec()),
            keep_unused=True,
        )

    def __call__(self, interruption: Interruption, after: jax.Array) -> jax.Array:
        """Returns a bool scalar that is the same in every process; call it in all of them.

        It waits for `after`: collectives of two programs at once can wait for each other's threads.
        """
        here = np.full(1, interruption.signal is not None)
        shape = (self._split.mesh.size,)
        return self._any(jax.make_array_from_callback(shape, self._split, lambda _: here), after)

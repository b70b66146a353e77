"""Several processes as one program: how they meet, and how each learns that another is gone.

JAX starts the coordination service in process 0 and connects the others to it. When it cannot
connect, or a process is lost, it aborts in C++ with a stack trace that names nobody. So a thread
of each process speaks first: it gives a sign of life to the service's key-value store every few
seconds, process 0 sees whose stays away, and all of them stop with the sentence that names it.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # the key-value store has no public door

from llm_jax.configuration import ConfigError

LOST = 3  # exit code of a process that stops because another one did, or did not come

_AUTOMATIC = ("auto", "mpi4py")
_KEYS = "llm_jax/"
_GRACE = 3.0  # seconds in which a process may say its own error before another's is given
_DAY = 24 * 3600 * 1000  # in milliseconds: the watch ends it sooner where somebody is lost
# Where a launcher says how many processes it started, or their hosts.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def start(
    *,
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    connect_seconds: float = 300.0,
    lost_seconds: float = 30.0,
) -> None:
    """Joins this process to the others of its program; before any device is touched.

    Args:
      coordinator: HOST:PORT at which process 0 listens; "auto" finds it, and the two numbers, as
        JAX does on Cloud TPU, GKE, Slurm and Open MPI, "mpi4py" by that package. Empty: "auto"
        where the environment names several processes, or else this process is alone.
      num_processes: how many there are.
      process_id: which this is, from 0.
      connect_seconds: how long to wait until all are there.
      lost_seconds: a process without a sign of life for so long is lost; the others stop.

    Raises:
      ConfigError: the arguments do not fit, or no launcher is found. A process that cannot connect
        in time ends with one line and exit code 3: JAX's client allows no other way out.
    """
    global _watch
    given = {"--num_processes": num_processes, "--process_id": process_id}
    automatic = coordinator in _AUTOMATIC or (not coordinator and _launched())
    if automatic or not coordinator:
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{wrong[0]} needs --coordinator=HOST:PORT, of process 0: give it")
        if not automatic:
            return
        arguments = {"cluster_detection_method": None if coordinator != "mpi4py" else "mpi4py"}
        place = "the coordinator"
    else:
        _check(coordinator, num_processes, process_id)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
        place = coordinator
    # It would swallow SIGTERM where the training loop is not listening, and nobody asks it.
    jax.config.update("jax_enable_preemption_service", False)
    patience = threading.Timer(connect_seconds, _too_late, (place, given, connect_seconds))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=int(connect_seconds) + 60,  # `_too_late` speaks before
            heartbeat_timeout_seconds=int(2 * lost_seconds) + 10,  # and so does the watch
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the processes cannot start together ({reason}): give --coordinator=HOST:PORT with a "
            "free port of process 0, --num_processes and --process_id"
        ) from error
    finally:
        patience.cancel()
    if jax_distributed.global_state.num_processes > 1:
        _watch = _Watch(lost_seconds)


def from_first(make: Callable[[], Any]) -> Any:
    """Returns what `make()` gives in process 0, in all processes; the others wait for it.

    Call it in all processes and in the same order. `make` is called in process 0 alone; what it
    returns can be written as JSON.
    """
    if _watch is None:
        return make()
    client, key = _watch.client, _watch.next_key()
    if jax.process_index() == 0:
        value = make()
        client.key_value_set(key, json.dumps(value))
        return value
    while True:  # a lost process 0 ends this one from the watch's thread
        try:
            return json.loads(client.blocking_key_value_get(key, 10_000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def meet() -> None:
    """Returns once every process has come here; at once where there is one."""
    if _watch is not None:
        _watch.client.wait_at_barrier(_watch.next_key(), timeout_in_ms=_DAY)


def guarded(main: Callable[[], int]) -> int:
    """Returns the exit code of `main`, which may call `start`; whatever happens, the others know.

    A process that fails tells them, and all stop.
    """
    try:
        code = main()
    except Exception as error:
        if _watch is None:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            _watch.expect_sentence()  # most often another process went
        traceback.print_exc()
        code = 1
    if _watch is not None:
        _watch.leave(code)
    return code


class _Watch:
    """The thread of one process that gives its sign of life and hears of the others."""

    def __init__(self, lost_seconds: float):
        joined = jax_distributed.global_state
        self.client, self._address = joined.client, joined.coordinator_address
        self._me, self._count = joined.process_id, joined.num_processes
        self._lost_seconds = lost_seconds
        self._first_lost = f"process 0 of {self._count}, at {self._address}, is lost"
        self._seen, self._calls = {}, 0
        # JAX's client aborts the moment process 0 goes, in the thread that would bring the watch
        # its answers. Python's own handlers run too late for that: C calls this one.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.thread.start()

    def next_key(self) -> str:
        """Returns the key of the next thing that process 0 gives to all."""
        self._calls += 1
        return f"{_KEYS}first/{self._calls}"

    def expect_sentence(self) -> None:
        """Waits as long as a lost process may remain unnoticed; ends this one if there is one."""
        self.thread.join(1.5 * self._lost_seconds + 2 * _GRACE)

    def leave(self, code: int) -> None:
        """Returns when all processes are done; with a `code` other than 0 they all stop."""
        if code == 0:
            self._meet()
            return
        sentence = f"process {self._me} of {self._count} ended with exit code {code}: see its log"
        self._tell(sentence)
        sys.stdout.flush()
        sys.stderr.flush()
        if self._me == 0:
            time.sleep(_GRACE)  # the others hear it from this process's service
        os._exit(code)  # without JAX's own farewell, which waits for everyone

    def _meet(self) -> None:
        try:
            self.client.wait_at_barrier(f"{_KEYS}done", timeout_in_ms=_DAY)
            self._tell("")
        except jax.errors.JaxRuntimeError:
            self.expect_sentence()
        self.thread.join(_GRACE)

    def _tell(self, sentence: str) -> None:
        try:
            self.client.key_value_set(f"{_KEYS}end", sentence)
        except jax.errors.JaxRuntimeError:
            return  # another one was first, or process 0 is gone

    def _run(self) -> None:
        sentence, beats = None, 0
        while sentence is None:
            beats += 1
            try:
                self.client.key_value_set(
                    f"{_KEYS}beat/{self._me}", str(beats), allow_overwrite=True
                )
                if self._me == 0:
                    self._look_round()
                pause = int(200 * min(self._lost_seconds, 25.0))
                sentence = self.client.blocking_key_value_get(f"{_KEYS}end", pause)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    sentence = self._first_lost
        if sentence:
            self._stop(sentence)

    def _aborted(self, _) -> None:
        """Names process 0 if nobody listens at its address; returns, and it is this one's fault."""
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _GRACE).close()
        except OSError:
            self._stop(self._first_lost)

    def _stop(self, sentence: str) -> None:
        time.sleep(_GRACE)
        _stop(f"{sentence}; this one stops too: start all again with the same commands to go on")

    def _look_round(self) -> None:
        """Tells all of the first process whose sign of life has not changed for too long."""
        now = time.monotonic()
        signs = dict(self.client.key_value_dir_get(f"{_KEYS}beat/"))
        for process in range(self._count):
            sign = signs.get(f"{_KEYS}beat/{process}")
            if process not in self._seen or self._seen[process][0] != sign:
                self._seen[process] = sign, now
            elif now - self._seen[process][1] > self._lost_seconds:
                self._tell(
                    f"process {process} of {self._count} is lost: no sign of life for "
                    f"{self._lost_seconds:g} s"
                )


_watch: _Watch | None = None


def _launched() -> bool:
    """Says whether the environment tells of several processes."""
    several = any(int(os.environ.get(name) or 1) > 1 for name in _COUNTS)
    return several or any("," in os.environ.get(name, "") for name in _HOSTS)


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
        raise ConfigError(
            f"--coordinator={coordinator}: give HOST:PORT of process 0, such as 10.0.0.2:8476, or "
            "auto"
        )
    if num_processes is None or process_id is None:
        raise ConfigError(
            f"--coordinator={coordinator} needs --num_processes and --process_id: give both"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id} of --num_processes={num_processes}: give 0 to "
            f"{num_processes - 1}"
        )


def _too_late(place: str, given: dict, seconds: float) -> None:
    place = jax_distributed.global_state.coordinator_address or place
    which = given["--process_id"]
    who = "this process" if which is None else f"process {which} of {given['--num_processes']}"
    _stop(
        f"{who} waited {seconds:g} s for all processes to meet at {place}: see that every one was "
        "started, that they give the same --coordinator, and that its port can be reached"
    )


def _stop(sentence: str) -> None:
    """Ends this process from any thread, however it hangs."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(LOST)

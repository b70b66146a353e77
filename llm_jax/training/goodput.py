"""Goodput: which share of a run's time trained it, and where the rest went.

All the time of a process is somebody's: the ledger always knows whose, so that its kinds add up to
the wall time. It is kept in `WORKDIR/goodput.jsonl`, a line for each process that worked at the
run, and restarts add up. The name is from "Introducing ML Productivity Goodput" (Google Cloud,
2024); time between two processes is nobody's and not counted.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import jax

# What time may be spent on.
KINDS = (
    "productive",  # steps, and waiting for the device to take them
    "start-up",  # from the process's start to its first step
    "compilation",
    "data wait",
    "saving",
    "evaluation",  # and samples, profiles
    "recovery",  # going back, and steps taken again
)
TRAINING = ("productive", "data wait", "recovery")
_FILE = "goodput.jsonl"
_COMPILED = "/jax/core/compile/backend_compile_duration"

Batch = TypeVar("Batch")


class Ledger:
    """Whose the seconds of a run are.

    Args:
      workdir: where `goodput.jsonl` is; None keeps the account in memory.
      age: seconds that the process has lived, all of them start-up.
    """

    def __init__(self, workdir: str | None = None, age: float = 0.0):
        self._path = Path(workdir, _FILE) if workdir else None
        self._earlier = _lines(self._path) if self._path else []
        self._seconds = dict.fromkeys(KINDS, 0.0) | {"start-up": age}
        self._kind, self._mark = "start-up", time.perf_counter()
        self._reached = max((line["step"] for line in self._earlier), default=0)
        if self._path:
            jax.monitoring.register_event_duration_secs_listener(self._compiled)

    def turn(self, kind: str) -> str:
        """Makes the time from now on `kind`'s; returns whose it was."""
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._mark
        before, self._kind, self._mark = self._kind, kind, now
        return before

    @contextlib.contextmanager
    def during(self, kind: str):
        """Makes the time spent inside `kind`'s, but for what is something else's in there."""
        before = self.turn(kind)
        try:
            yield
        finally:
            self.turn(before)

    def step(self, taken: int) -> str:
        """Makes the time productive, or recovery where the step after `taken` was taken before.

        Returns which of the two.
        """
        self.turn("recovery" if taken < self._reached else "productive")
        self._reached = max(self._reached, taken)
        return self._kind

    def reading(self, batches: Iterable[Batch], busy: Callable[[], bool]) -> Iterator[Batch]:
        """Yields `batches`; the time they take is data wait.

        Where the device is `busy` to the end of it, it was not the data that it waited for.
        """
        batches = iter(batches)
        while True:
            kind = self.turn("data wait")
            batch = next(batches, None)
            if busy():
                self._kind = kind
            self.turn(kind)
            if batch is None:
                return
            yield batch

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every kind over all processes so far."""
        self.turn(self._kind)
        lines = [*self._earlier, self._line()]
        return {kind: sum(line["seconds"].get(kind, 0.0) for line in lines) for kind in KINDS}

    def write(self, taken: int) -> None:
        """Writes the account after `taken` steps, whole or not at all."""
        self.turn(self._kind)
        self._reached = max(self._reached, taken)
        if self._path is None or jax.process_index() != 0:
            return
        lines = [*self._earlier, self._line()]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.replace(temporary, self._path)

    def _line(self) -> dict:
        return {"step": self._reached, "seconds": self._seconds}

    def _compiled(self, event: str, seconds: float, **_) -> None:
        """Moves what XLA took to compile something within another kind to compilation."""
        if event == _COMPILED and self._kind != "compilation":
            kind = self.turn("compilation")
            seconds = min(seconds, self._seconds[kind])
            self._seconds[kind] -= seconds
            self._seconds["compilation"] += seconds
            self.turn(kind)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def goodput(seconds: dict[str, float]) -> float:
    """Returns the productive share of `seconds`, 0 of none."""
    return seconds["productive"] / max(sum(seconds.values()), 1e-9)

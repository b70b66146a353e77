"""A watchdog over the training loop: a step that hangs says where every thread stands."""

import contextlib
import faulthandler
import sys
import threading
import time

_FIRST = 10  # the first step compiles: its bound is so many times the others'


class Watchdog:
    """Reports on stderr when no step has come to its end for too long; use it as a context manager.

    A hang is reported once, with a sentence and every thread's Python stack; the run is left as it
    is, for whoever watches to look at or to end.

    Args:
      seconds: the bound; ten times that for the first step, which compiles.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last, self._what, self._bound = time.monotonic(), "since the start", _FIRST * seconds
        self._paused, self._reported = False, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def stepped(self, step: int) -> None:
        """Takes notice that `step` came to its end."""
        now = time.monotonic()
        if self._reported:
            print(f"watchdog: step {step} came after {now - self._last:.0f} s", file=sys.stderr)
        self._last, self._what, self._bound = now, f"since step {step}", self._seconds
        self._reported = False

    @contextlib.contextmanager
    def paused(self):
        """Looks away meanwhile: evaluation and saving take what they take."""
        self._paused = True
        yield
        self._last, self._paused = time.monotonic(), False

    def _watch(self) -> None:
        while not self._end.wait(min(1.0, self._seconds / 4)):
            waited = time.monotonic() - self._last
            if waited > self._bound and not self._paused and not self._reported:
                self._reported = True
                print(
                    f"watchdog: no step has ended for {waited:.0f} s, {self._what} "
                    f"(log.hang_seconds is {self._seconds:g}); what every thread does:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(file=sys.stderr.fileno(), all_threads=True)

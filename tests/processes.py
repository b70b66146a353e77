"""Runs of several processes on this machine, as tests need them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment():
    """Returns the variables of a test's process, which compiles as fast as it can."""
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return {"JAX_PLATFORMS": "cpu"} | os.environ | {"XLA_FLAGS": quick}


class Processes:
    """Some processes that share a coordinator; killed, all of them, when the block is left.

    Args:
      commands: one list of arguments for python each.
      logs: a directory for what they print, `out-0`, `err-0` and so on.
    """

    def __init__(self, commands, logs: Path):
        logs.mkdir(parents=True, exist_ok=True)
        self.logs, self.commands = logs, commands

    def __enter__(self):
        self.running = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env=environment(),
                stdout=(self.logs / f"out-{number}").open("w"),
                stderr=(self.logs / f"err-{number}").open("w"),
            )
            for number, command in enumerate(self.commands)
        ]
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()

    def out(self, number: int) -> str:
        return (self.logs / f"out-{number}").read_text()

    def errors(self, number: int) -> str:
        return (self.logs / f"err-{number}").read_text()

    def wait_for(self, condition, seconds: float = 900.0) -> None:
        """Returns once `condition()` holds; fails when time or a process ends before."""
        end = time.monotonic() + seconds
        while not condition():
            ended = [number for number, one in enumerate(self.running) if one.poll() is not None]
            assert not ended, f"{ended} ended early: {self.errors(ended[0])[-3000:]}"
            assert time.monotonic() < end, f"{seconds} s: {self.errors(0)[-3000:]}"
            time.sleep(0.05)

    def codes(self, seconds: float = 900.0) -> list[int]:
        """Returns the exit codes of all, once they have ended."""
        end = time.monotonic() + seconds
        return [one.wait(max(end - time.monotonic(), 0.1)) for one in self.running]


def joined(count: int, lost_seconds: float = 10.0) -> list[list[str]]:
    """Returns the flags of `count` processes that are to meet."""
    if count == 1:
        return [[]]
    port = free_port()
    return [
        [
            f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}",
            f"--process_id={number}", f"--lost_seconds={lost_seconds}",
        ]
        for number in range(count)
    ]  # fmt: skip

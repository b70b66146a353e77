"""Runs the pipeline once for each place in which it can be killed, and kills it there.

    python -m tests.data.pipeline.killed RAW FOLDER     # prints the places, one a line

A child process ends at once, without any clean-up, and leaves FOLDER/PLACE behind.
"""

import os
import sys
from pathlib import Path

from llm_jax.data.dedup import lsh
from llm_jax.data.pipeline import parts, report, run
from tests.data.pipeline.test_run import clean

# (module or class, name of its function, which call of it is the last).
PLACES = {
    "configuration": (run, "divide", 1),
    "read": (parts.Account, "add", 3),
    "hashes": (parts.np, "save", 4),
    "part": (run, "write_part", 5),
    "counts": (run, "_add_up", 1),
    "exact": (run, "first_occurrences", 1),
    "signatures": (lsh.minhash, "minima", 1),
    "pairs": (lsh.Search, "resolve", 2),
    "copy": (run, "version", 1),
    "bad": (run, "sha256_of", 1),
    "report": (report, "_html", 1),
    "end": (run.shutil, "rmtree", -1),
}


def die_at(owner, name: str, last: int) -> None:
    """Ends the process at call `last` of a function; -1: when it is given the parts' folder."""
    function, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == last or (last == -1 and arguments[0].name == "parts"):
            os._exit(9)
        return function(*arguments, **keywords)

    setattr(owner, name, counted)


def main():
    raw, folder = map(Path, sys.argv[1:])
    parts.PART_BYTES = 1500
    for place, (owner, name, last) in PLACES.items():
        child = os.fork()
        if not child:
            die_at(owner, name, last)
            clean(raw, folder / place)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 9:
            raise SystemExit(f"{place} ended with {status}")
        print(place)


if __name__ == "__main__":
    main()

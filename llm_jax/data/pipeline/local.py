"""Where the pipeline's work is done: `Runner` says what such a place can, `Local` is this machine.

`llm_jax.data.pipeline.cluster` is the other one.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

import numpy as np

from llm_jax.data.dedup.lsh import NearDuplicates, near_duplicates
from llm_jax.data.pipeline.parts import open_documents


class Runner(Protocol):
    """A place to work in."""

    def each(self, function: Callable, jobs: dict[int, tuple]) -> Iterator[int]:
        """Calls `function` with each job's arguments; yields the jobs' numbers as they end."""

    def near_duplicates(
        self, kept: np.ndarray, folders: list[Path], settings: NearDuplicates, directory: Path
    ) -> np.ndarray:
        """Returns for each of the documents `kept` the place in it of the one kept for it.

        Args:
          kept: int64 [n], ascending numbers of documents, counted through all parts.
          folders: the parts'.
          settings: what counts.
          directory: for files, removed at the end.
        """


class Local:
    """Processes of this machine."""

    def __init__(self, workers: int):
        """Takes how many."""
        self._workers = workers

    def each(self, function: Callable, jobs: dict[int, tuple]) -> Iterator[int]:
        """See `Runner`."""
        if self._workers == 1:
            for number, arguments in jobs.items():
                function(*arguments)
                yield number
            return
        # Not forked: a thread of this process may hold a lock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._workers, mp_context=context) as pool:
            begun = {pool.submit(function, *own): number for number, own in jobs.items()}
            try:
                for job in as_completed(begun):
                    job.result()
                    yield begun[job]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def near_duplicates(
        self, kept: np.ndarray, folders: list[Path], settings: NearDuplicates, directory: Path
    ) -> np.ndarray:
        """See `Runner`."""
        documents = open_documents(folders)

        def read(number: int) -> str:
            return documents.read(kept[number : number + 1])[0]["text"]

        return near_duplicates(len(kept), read, settings, directory)

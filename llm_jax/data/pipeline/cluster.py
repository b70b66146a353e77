"""The pipeline's work on a Ray cluster (Moritz et al., 2018, arXiv:1712.05889).

The functions are those that `llm_jax.data.pipeline.local` calls, a task each; the near-duplicate
join is the shuffle of `llm_jax.data.dedup.shuffle`, its records in Ray's object store. Raw files
and the work directory must be at the same path on every machine (NFS, Lustre, a mounted bucket).
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaned import DOCUMENTS, DocumentRecords
from llm_jax.data.dedup import shuffle
from llm_jax.data.dedup.lsh import NearDuplicates
from llm_jax.data.pipeline.parts import digests

# Tasks that are handed to Ray at a time, so that its queue does not grow with the input.
_IN_FLIGHT = 4096
# The shuffle makes blocks times partitions objects: at most so many blocks of parts, and partitions
# for about so many documents' keys each (about 460 bytes a document; few are made in any case).
_BLOCKS = 4096
_PARTITION_DOCUMENTS = 1 << 21
_PARTITIONS = 64


class Cluster:
    """The machines of the cluster that Ray finds (RAY_ADDRESS), or all cores of this one."""

    def __init__(self):
        """Connects.

        Raises:
          ConfigError: Ray is not installed, or the cluster is not there.
        """
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--runner=ray needs Ray: pip install -e '.[cluster]', or leave --runner=local"
            ) from None
        self._ray = ray
        if not ray.is_initialized():
            try:
                ray.init(log_to_driver=False)
            except ConnectionError as error:
                raise ConfigError(
                    f"--runner=ray reaches no cluster ({error}): start one, or set RAY_ADDRESS"
                ) from error

    def each(self, function: Callable, jobs: dict[int, tuple]) -> Iterator[int]:
        """See `llm_jax.data.pipeline.local.Runner`."""
        task = self._ray.remote(function)
        waiting, begun = iter(jobs.items()), {}
        while True:
            while len(begun) < _IN_FLIGHT and (job := next(waiting, None)):
                begun[task.remote(*job[1])] = job[0]
            if not begun:
                return
            (ended,), _ = self._ray.wait(list(begun), num_returns=1)
            self._result(ended)
            yield begun.pop(ended)

    def near_duplicates(
        self, kept: np.ndarray, folders: list[Path], settings: NearDuplicates, directory: Path
    ) -> np.ndarray:
        """See `llm_jax.data.pipeline.local.Runner`; a block of the shuffle is some parts."""
        counts = [len(digests(folder)) for folder in folders]
        group = -(-len(folders) // _BLOCKS)
        last = np.minimum(np.arange(group, len(folders) + group, group), len(folders))
        ends = np.searchsorted(kept, np.cumsum(counts)[last - 1])
        begins = np.concatenate(([0], ends[:-1]))
        blocks = [number for number in range(len(ends)) if begins[number] < ends[number]]
        partitions = max(1, -(-len(kept) // _PARTITION_DOCUMENTS), min(len(blocks), _PARTITIONS))
        directory.mkdir(parents=True, exist_ok=True)
        layout = self._ray.put(_Layout(kept, begins, ends, folders, counts, directory))
        sign = self._ray.remote(num_returns=partitions)(_sign)
        join = self._ray.remote(_join)
        try:
            dealt = [sign.remote(layout, block, settings, partitions) for block in blocks]
            dealt = [[own] if partitions == 1 else own for own in dealt]
            found = [
                join.remote(layout, settings, *[own[partition] for own in dealt])
                for partition in range(partitions)
            ]
            del dealt
            return shuffle.merge(len(kept), map(self._result, found))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _result(self, task):
        """Returns what a task did; raises what it raised, as it was there."""
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error


class _Layout:
    """Which documents there are and where: of block b those from begins[b] up to ends[b]."""

    def __init__(self, kept, begins, ends, folders: list[Path], counts, directory: Path):
        self.kept, self.begins, self.ends = kept, begins, ends
        self.folders, self.counts, self.directory = folders, counts, directory

    def documents(self) -> DocumentRecords:
        """Returns those of all parts."""
        return DocumentRecords((folder / DOCUMENTS for folder in self.folders), self.counts)

    def signature_file(self, block: int) -> Path:
        """Returns where a block's signatures are."""
        return self.directory / f"{block:05}.u32"

    def signatures_of(self, documents: np.ndarray, width: int) -> np.ndarray:
        """Reads uint32 [n, width] of ascending numbers."""
        owners = np.searchsorted(self.ends, documents, side="right")
        rows = [
            np.memmap(self.signature_file(block), np.uint32, "r").reshape(-1, width)[
                documents[owners == block] - self.begins[block]
            ]
            for block in np.unique(owners).tolist()
        ]
        return np.concatenate(rows)


def _reader(layout: _Layout) -> Callable[[int], str]:
    documents = layout.documents()
    return lambda number: documents.read(layout.kept[number : number + 1])[0]["text"]


def _sign(layout: _Layout, block: int, settings: NearDuplicates, partitions: int):
    own = range(layout.begins[block], layout.ends[block])
    file = layout.signature_file(block)
    dealt = shuffle.sign(own, _reader(layout), settings, partitions, file)
    return dealt[0] if partitions == 1 else dealt


def _join(layout: _Layout, settings: NearDuplicates, *dealt: np.ndarray) -> np.ndarray:
    return shuffle.join(
        dealt,
        _reader(layout),
        lambda documents: layout.signatures_of(documents, settings.num_permutations),
        settings,
    )

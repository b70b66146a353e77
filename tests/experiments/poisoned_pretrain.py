"""The pretraining experiment on data of which three batches are poisoned; see test_spikes.py.

POISON=given leaves them in, POISON=absent gives data that never had them nor their neighbours.
KILL=1 ends the process in the middle of its first rollback.
"""

import os
import signal

import numpy as np

from experiments import entry, pretrain
from llm_jax import data
from llm_jax.data.loader import position
from llm_jax.training.checkpoint import Checkpoints

POISONED = range(33, 36)
ABSENT = [(30, 37)]  # three before the first spike, and three behind it
NEVER_SEEN = 10  # a byte that no text has
_batches, _go_back = data.batches, Checkpoints.go_back


class Batches:
    """The batches, some of them with targets that no text has."""

    def __init__(self, rows, *, start_step, skipped, **more):
        self._absent = os.environ["POISON"] == "absent"
        assert not (self._absent and skipped)
        self._skipped, self._step = ABSENT if self._absent else skipped, start_step
        self._batches = _batches(rows, start_step=start_step, skipped=self._skipped, **more)
        self.close = self._batches.close

    def __iter__(self):
        return self

    def __next__(self):
        batch, number = next(self._batches), position(self._step, self._skipped)
        self._step += 1
        if number in POISONED:
            batch = batch | {"targets": np.full_like(batch["targets"], NEVER_SEEN)}
        return batch


def go_back_and_die(checkpoints, step):
    _go_back(checkpoints, step)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    data.batches = Batches
    if os.environ.get("KILL"):
        Checkpoints.go_back = go_back_and_die
    entry.launch(pretrain.main)

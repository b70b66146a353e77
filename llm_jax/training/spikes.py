"""Loss spikes: a step whose loss jumps, and the way around the batches that made it jump.

PaLM (Chowdhery et al. 2022, section 5.1) went back to a checkpoint from before each of its spikes
and left out the batches around it. Here a `Guard` watches the losses and raises `Spike`; the
program goes back and trains on without those batches. What the guard knows lies beside each
checkpoint, so that a run that was killed, even on its way back, meets the same spike and decides
the same again.
"""

import collections
import dataclasses
import json

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.loader import position

FILE = "spikes.json"


@dataclasses.dataclass(frozen=True)
class SpikesConfig:
    """When a loss is a spike, and what is done about it.

    Attributes:
      threshold: robust standard deviations (1.4826 times the median absolute deviation) above the
        median of the losses before it, from which on a loss is a spike; 0 looks for none. With
        10, a run without trouble goes back about never. A loss that stays not finite for
        `max_skipped_steps` is a spike as well.
      window: how many losses before it are compared; none is judged before there are as many.
      skip: batches left out before that of the spike, and behind it. The run goes back to a
        checkpoint from before all of them, where one is kept.
      max_rollbacks: the run stops at the spike after so many.
    """

    threshold: float = 0.0
    window: int = 100
    skip: int = 50
    max_rollbacks: int = 5

    def __post_init__(self):
        for name, minimum in {"threshold": 0, "window": 2, "skip": 0, "max_rollbacks": 1}.items():
            if not getattr(self, name) >= minimum:
                raise ConfigError(f"spikes.{name} is {getattr(self, name)}: give {minimum} or more")


class Spike(Exception):
    """A step whose loss jumped.

    Attributes:
      step: steps taken with it.
      since: steps that were taken before the first of the batches to leave out.
      reason: what the loss did, in words.
    """

    def __init__(self, step: int, since: int, reason: str):
        super().__init__(f"step {step}: {reason}")
        self.step, self.since, self.reason = step, since, reason


class Guard:
    """Looks at every loss of a run.

    Args:
      config: when a loss is a spike.
      max_skipped_steps: so many steps in a row that are not finite are one too.

    Attributes:
      rollbacks: what was done so far, a dict of `step`, `reason`, `back_to` (a step) and
        `left_out` (first and last batch, in the order of a run that leaves none out).
    """

    def __init__(self, config: SpikesConfig, max_skipped_steps: int):
        self._config, self._max_skipped_steps = config, max_skipped_steps
        self._losses = collections.deque(maxlen=config.window)
        self.rollbacks: list[dict] = []

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """The batches left out: ascending, disjoint `[from, to)` of the undisturbed order."""
        windows = []
        for first, last in sorted(rollback["left_out"] for rollback in self.rollbacks):
            if windows and first <= windows[-1][1]:
                before, end = windows.pop()
                first, last = before, max(last, end - 1)
            windows.append((first, last + 1))
        return windows

    def look(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the numbers of `step`, the same in every process.

        Raises:
          Spike: its loss jumped.
          ConfigError: it did once too often.
        """
        if not self._config.threshold:
            return
        loss, bad = metrics["loss"], int(metrics["skipped_in_a_row"])
        if bad >= self._max_skipped_steps:
            reason = f"{bad} steps in a row were not finite"
        elif bad:  # it changed nothing
            return
        else:
            reason = self._jump(loss)
        if not reason:
            self._losses.append(loss)
            return
        if len(self.rollbacks) >= self._config.max_rollbacks:
            raise ConfigError(
                f"stopped at step {step}: {reason}, after {len(self.rollbacks)} rollbacks; look at "
                "the batches that report.md and spikes.json name, lower optim.learning_rate or "
                "raise spikes.max_rollbacks"
            )
        raise Spike(step, max(step - max(bad, 1) - self._config.skip, 0), reason)

    def leave_out(self, spike: Spike, back_to: int) -> dict:
        """Leaves out the batches around `spike`; the run went back to step `back_to`.

        Returns the rollback.
        """
        first, last = (
            position(step, self.skipped) for step in (max(spike.since, back_to), spike.step - 1)
        )
        rollback = {
            "step": spike.step, "reason": spike.reason, "back_to": back_to,
            "left_out": [first, last + self._config.skip],
        }  # fmt: skip
        self.rollbacks.append(rollback)
        return rollback

    def files(self) -> dict[str, bytes]:
        """Returns what goes beside a checkpoint: nothing where there is nothing to know."""
        known = {"losses": list(self._losses), "rollbacks": self.rollbacks}
        return {FILE: json.dumps(known, indent=1).encode()} if any(known.values()) else {}

    def restore(self, content: bytes | None) -> None:
        """Takes what lay beside the checkpoint that the run goes on from.

        Rollbacks that were made since then stay: the batches must not come back.
        """
        known = json.loads(content) if content else {"losses": [], "rollbacks": []}
        self._losses.clear()
        if self._config.threshold:
            self._losses.extend(known["losses"])
        self.rollbacks = max(self.rollbacks, known["rollbacks"], key=len)

    def _jump(self, loss: float) -> str:
        """Returns what is wrong with a finite `loss`, "" where nothing is."""
        if len(self._losses) < self._config.window:
            return ""
        median = np.median(self._losses)
        # The floor: losses that hardly differ make no jump out of one that is 1% higher.
        spread = max(1.4826 * np.median(np.abs(np.array(self._losses) - median)), abs(median) / 1e3)
        deviations = (loss - median) / spread
        if deviations <= self._config.threshold:
            return ""
        return (
            f"loss {loss:.4g} is {deviations:.3g} deviations above {median:.4g}, the median of "
            f"{len(self._losses)}"
        )

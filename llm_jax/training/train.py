"""A whole training run: from the newest checkpoint, or the start, to the last step or a signal."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from llm_jax import data
from llm_jax.parallel.mesh import batch_block
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.training import hardware, loop, report, restore, spikes
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.goodput import Ledger
from llm_jax.training.monitor import Monitor
from llm_jax.training.progress import count
from llm_jax.training.run import RunConfig
from llm_jax.training.state import TrainState
from llm_jax.training.trainer import Trainer
from llm_jax.training.workdir import claim_workdir, data_directory


@dataclasses.dataclass(frozen=True)
class Trained:
    """Where a run stopped.

    Attributes:
      state: after the last step.
      step: steps taken.
      scores: of the last step on the whole validation split; None where a signal came before.
      seconds: of training, earlier parts of the run included.
      checkpoints: of the run, its last step saved or on its way.
    """

    state: TrainState
    step: int
    scores: dict | None
    seconds: float
    checkpoints: Checkpoints
    _watch: Monitor
    _guard: spikes.Guard
    _signal: str | None

    def interrupted(self) -> dict:
        """Says how to go on; returns the result of a run that stopped before its end."""
        self.checkpoints.close()
        return self._watch.interrupted(self.step, self._signal or "signal to another process")

    def finished(self, more: dict, samples: list[tuple[str, str]]) -> dict:
        """Writes the report; returns the run's result: its scores, speed, memory and `more`."""
        self.checkpoints.close()
        result = {"finished": True, "step": self.step, "training_seconds": self.seconds}
        result |= self.scores | more
        return self._watch.finished(result, samples, self._guard.rollbacks)


def train(
    run: RunConfig,
    workdir: str,
    trainer: Trainer,
    rows: data.Rows,
    score: Callable[[Any, int], dict],
    *,
    given: RunConfig | None = None,
    ledger: Ledger,
    hooks: Sequence[loop.Hook] = (),
    fallback: bool = False,
) -> Trained:
    """Trains until the last step, or a signal; the same call goes on from there.

    Args:
      run: the run's configuration.
      workdir: of the run, with its prepared data.
      trainer: of `make_trainer(run)`.
      rows: of the train split.
      score: `(params, limit) -> scores`, with a `loss`, of so many rows of validation; 0: of all.
      given: the configuration as the user gave it, where the data completed it.
      ledger: is told what the time is spent on.
      hooks: called between steps, before those of checkpoints and evaluation.
      fallback: a damaged checkpoint is set aside for the one before it.
    """
    checkpoints = Checkpoints(
        workdir, run.checkpoint.keep_last, restore.companions(run, data_directory(workdir))
    )
    guard = spikes.Guard(run.spikes, run.max_skipped_steps)
    mesh = trainer.mesh

    def begin():
        """Returns a step, the state after it and the batches that follow."""
        first, now = restore.newest_state(checkpoints, run, trainer, guard, fallback=fallback)
        batches = data.batches(
            rows,
            seed=run.seed,
            batch_size=run.batch_size,
            mixing=run.data.mixing,
            start_step=first,
            skipped=guard.skipped,
            **batch_block(mesh),
            threads=run.data.read_threads,
        )
        return first, now, batches

    first, now, batches = begin()
    claim_workdir(workdir, given or run)  # from here on nothing is wrong with what was given
    peak = hardware.matmul_peak(trainer.policy.dtype, mesh.size)
    header = report.header(run, trainer.model, mesh, rows.manifest, peak)
    if trainer.target.frozen is not None:
        header["trained"] = f"{run.method}: {count(trainer.trained)} parameters"
    if run.optim.averages:
        ema, swa = run.optim.ema_decay, run.optim.swa_start
        header["average"] = f"ema_decay {ema}" if ema else f"swa_start {swa}"
    length = report.usual_length(run, rows.manifest)
    watch = Monitor(workdir, run, trainer.model, peak, first, header, ledger, length)

    def stepped(step, metrics):
        guard.look(step, metrics)
        watch.stepped(step, metrics | {"rollbacks": len(guard.rollbacks)})

    def save(taken, now):
        with ledger.during("saving"):
            checkpoints.save(taken, now._replace(frozen=None), guard.files())

    def evaluate_some(taken, now):
        if taken == run.steps:  # the whole split is due after the last step
            return
        evaluate(taken, now, run.evaluation.rows)
        waited = taken - (checkpoints.best() or {"step": taken})["step"]
        if run.evaluation.patience and waited >= run.evaluation.patience * run.evaluation.every:
            raise loop.Enough(now, taken)

    def evaluate(taken, now, limit=0):
        save(taken, now)  # first: an evaluation that fails loses nothing
        with ledger.during("evaluation"):
            scores = score(trainer.params(now), limit)
            watch.evaluated(taken, scores)
        with ledger.during("saving"):
            checkpoints.wait()
            checkpoints.mark_best(taken, scores["loss"])
        return scores

    hooks = [
        *hooks,
        loop.Hook(run.checkpoint.every, save),
        loop.Hook(run.evaluation.every, evaluate_some),
    ]
    with jax.set_mesh(mesh), loop.Interruption() as interruption:
        while True:
            try:
                now, taken = loop.fit(
                    trainer.train_step,
                    now,
                    loop.place_ahead(batches, batch_sharding(mesh)),
                    first=first,
                    steps=run.steps,
                    on_metrics=stepped,
                    hooks=hooks,
                    interruption=interruption,
                    hang_seconds=run.log.hang_seconds,
                    ledger=ledger,
                )
                done = taken >= run.steps
                break
            except loop.Enough as enough:
                (now, taken), done = enough.args, True
                break
            except spikes.Spike as found:
                spike = found.with_traceback(None)  # which would keep the state of the spike
            with ledger.during("recovery"):
                batches.close()
                back_to = checkpoints.go_back(spike.since)
                watch.rolled_back(guard.leave_out(spike, back_to))
                first, now, batches = begin()
        seconds = watch.elapsed()
        save(taken, now)
        scores = evaluate(taken, now) if done else None
    return Trained(now, taken, scores, seconds, checkpoints, watch, guard, interruption.signal)

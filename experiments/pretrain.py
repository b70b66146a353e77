r"""Trains a model from scratch, or goes on where an earlier run of it stopped.

  python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/a

Any key of the configuration can be changed on the command line:

  python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/mine \
      --config.data.source=text --config.data.path=my_texts/ --config.optim.learning_rate=1e-3

Variants: --config=configs/gpt_quickstart.py:tiny trains in seconds. Meshes: --config.mesh.fsdp=4
--config.mesh.tensor=2; on a CPU add --emulated_devices=8 to try them.

Someone's weights, on text of one's own: --config=configs/continue_from.py:path/to/folder.

The work directory gets config.json, metrics.csv, TensorBoard events, report.md with the loss curve,
the tokenizer and the checkpoints. Ctrl-C or SIGTERM saves and leaves; the same command goes on from
there, and after a crash from the newest checkpoint, as if nothing had happened. The mesh, log.* and
a larger number of steps may then differ. Several hosts: docs/scale.md.

The last line of stdout is one JSON object with the result; progress goes to stderr.
"""

import jax
from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.evaluation.perplexity import evaluate, loss_by_part
from llm_jax.evaluation.samples import draw_samples
from llm_jax.parallel.mesh import batch_block
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.training import checkpoint, hardware, loop, monitor, profile, report, restore, spikes
from llm_jax.training.goodput import Ledger
from llm_jax.training.trainer import make_trainer
from llm_jax.training.workdir import (
    claim_workdir,
    data_directory,
    open_workdir,
    prepare_data,
)

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; made if it is not there.")
FALLBACK = flags.DEFINE_bool(
    "fallback", False, "Where the newest checkpoint is damaged, go on from the one before it."
)
PROFILE = flags.DEFINE_string(
    "profile", "", "FROM:TO writes a trace of these steps to WORKDIR/profile, for XProf."
)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    run, workdir = entry.run_config(CONFIG), entry.required(WORKDIR)
    hooks = profile.profile_hooks(PROFILE.value, workdir, run.steps)
    open_workdir(workdir, run)
    ledger = Ledger(workdir, age=hardware.process_age())
    trainer = make_trainer(run)
    model, mesh = trainer.model, trainer.mesh
    manifest = prepare_data(run, workdir)
    rows, held_out = (
        data.open_split(data_directory(workdir), split, run.objective)
        for split in ("train", "validation")
    )

    checkpoints = checkpoint.Checkpoints(
        workdir, run.checkpoint.keep_last, restore.companions(run, data_directory(workdir))
    )
    guard = spikes.Guard(run.spikes, run.max_skipped_steps)

    def begin():
        """Returns a step, the state after it and the batches that follow."""
        first, now = restore.newest_state(checkpoints, run, trainer, guard, fallback=FALLBACK.value)
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
    claim_workdir(workdir, run)  # from here on nothing is wrong with what was given
    peak = hardware.matmul_peak(trainer.policy.dtype, mesh.size)
    header = report.header(run, model, mesh, manifest, peak)
    watch = monitor.Monitor(workdir, run, model, peak, first, header, ledger)

    def stepped(step, metrics):
        guard.look(step, metrics)
        watch.stepped(step, metrics | {"rollbacks": len(guard.rollbacks)})

    def save(taken, now):
        with ledger.during("saving"):
            checkpoints.save(taken, now, guard.files())

    def score_some(taken, now):
        if taken < run.steps:  # the whole split is due after the last step
            score(taken, now, limit=run.evaluation.rows)

    def score(taken, now, limit=None):
        save(taken, now)  # first: an evaluation that fails loses nothing
        with ledger.during("evaluation"):
            scores = evaluate(
                model, now.params, held_out,
                batch_size=run.evaluation.batch_size, limit=limit, objective=run.objective,
            )  # fmt: skip
            watch.evaluated(taken, scores)
        with ledger.during("saving"):
            checkpoints.wait()
            checkpoints.mark_best(taken, scores["loss"])
        return scores

    hooks = [
        *hooks,
        loop.Hook(run.checkpoint.every, save),
        loop.Hook(run.evaluation.every, score_some),
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
                break
            except spikes.Spike as found:
                spike = found.with_traceback(None)  # which would keep the state of the spike
            with ledger.during("recovery"):
                batches.close()
                back_to = checkpoints.go_back(spike.since)
                watch.rolled_back(guard.leave_out(spike, back_to))
                first, now, batches = begin()
        seconds = watch.elapsed()
        if taken < run.steps:
            save(taken, now)
            checkpoints.close()
            signal = interruption.signal or "signal to another process"
            return watch.interrupted(taken, signal)
        scores = score(taken, now)
        with ledger.during("evaluation"):
            scores |= loss_by_part(
                model, now.params, held_out,
                batch_size=run.evaluation.batch_size, objective=run.objective,
            )  # fmt: skip
    with ledger.during("evaluation"):
        samples, drawn = draw_samples(model, now.params, run, data_directory(workdir), held_out)
    checkpoints.close()
    result = {"finished": True, "step": taken, "training_seconds": seconds} | scores | drawn
    return watch.finished(result, samples, guard.rollbacks)


if __name__ == "__main__":
    entry.launch(main)

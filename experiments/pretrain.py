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
a larger number of steps may then differ.

The last line of stdout is one JSON object with the result; progress goes to stderr.
"""

import jax
from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.evaluation.samples import draw_samples
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.training import checkpoint, hardware, loop, monitor, report, restore
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
    hooks = loop.profile_hooks(PROFILE.value, workdir, run.steps)
    open_workdir(workdir, run)
    trainer = make_trainer(run)
    model, mesh = trainer.model, trainer.mesh
    manifest = prepare_data(run, workdir)
    rows, held_out = (
        data.open_split(data_directory(workdir), split, run.objective)
        for split in ("train", "validation")
    )

    # The state: this run's newest checkpoint, or new, perhaps with another run's parameters.
    checkpoints = checkpoint.Checkpoints(
        workdir, run.checkpoint.keep_last, restore.companions(run, data_directory(workdir))
    )
    first = checkpoints.newest(fallback=FALLBACK.value)
    if first is not None:
        now = checkpoints.restore(first, trainer.target)
    else:
        now = trainer.new_state()
        if run.init_from:
            params = restore.load_params(run.init_from, run.model, trainer.target.params)
            now = now._replace(params=params)
    first = first or 0
    batches = data.batches(
        rows,
        seed=run.seed,
        batch_size=run.batch_size,
        start_step=first,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=run.data.read_threads,
    )
    claim_workdir(workdir, run)  # from here on nothing is wrong with what was given
    peak = hardware.matmul_peak(trainer.policy.dtype, mesh.size)
    header = report.header(run, model, mesh, manifest, peak)
    watch = monitor.Monitor(workdir, run, model, peak, first, header)

    def save(taken, now):
        with watch.aside():
            checkpoints.save(taken, now)

    def score_some(taken, now):
        if taken < run.steps:  # the whole split is due after the last step
            score(taken, now, limit=run.evaluation.rows)

    def score(taken, now, limit=None):
        with watch.aside():
            checkpoints.save(taken, now)  # first: an evaluation that fails loses nothing
            scores = evaluate(
                model, now.params, held_out,
                batch_size=run.evaluation.batch_size, limit=limit, objective=run.objective,
            )  # fmt: skip
            watch.evaluated(taken, scores)
            checkpoints.wait()
            checkpoints.mark_best(taken, scores["loss"])
        return scores

    hooks = [
        *hooks,
        loop.Hook(run.checkpoint.every, save),
        loop.Hook(run.evaluation.every, score_some),
    ]
    with jax.set_mesh(mesh), loop.Interruption() as interruption:
        now, taken = loop.fit(
            trainer.train_step,
            now,
            loop.place_ahead(batches, batch_sharding(mesh)),
            first=first,
            steps=run.steps,
            on_metrics=watch.stepped,
            hooks=hooks,
            interruption=interruption,
        )
        seconds = watch.elapsed()
        if taken < run.steps:
            checkpoints.save(taken, now)
            checkpoints.close()
            return watch.interrupted(taken, interruption.signal)
        scores = score(taken, now)
    samples, drawn = draw_samples(model, now.params, run, data_directory(workdir), held_out)
    checkpoints.close()
    result = {"finished": True, "step": taken, "training_seconds": seconds} | scores | drawn
    return watch.finished(result, samples)


if __name__ == "__main__":
    entry.launch(main)

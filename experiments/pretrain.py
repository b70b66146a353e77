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
from llm_jax.training import hardware, profile
from llm_jax.training.goodput import Ledger
from llm_jax.training.train import train
from llm_jax.training.trainer import make_trainer
from llm_jax.training.workdir import data_directory, open_workdir, prepare_data

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
    prepare_data(run, workdir)
    rows, held_out = (
        data.open_split(data_directory(workdir), split, run.objective)
        for split in ("train", "validation")
    )
    how = {"batch_size": run.evaluation.batch_size, "objective": run.objective}

    def score(params, limit):
        return evaluate(trainer.model, params, held_out, limit=limit, **how)

    trained = train(
        run, workdir, trainer, rows, score, ledger=ledger, hooks=hooks, fallback=FALLBACK.value
    )
    if trained.scores is None:
        return trained.interrupted()
    model, params = trainer.model, trainer.params(trained.state)
    with ledger.during("evaluation"):
        with jax.set_mesh(trainer.mesh):
            parts = loss_by_part(model, params, held_out, **how)
        samples, drawn = draw_samples(model, params, run, data_directory(workdir), held_out)
    return trained.finished(parts | drawn, samples)


if __name__ == "__main__":
    entry.launch(main)

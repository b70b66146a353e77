r"""Adapts a model to a task with labels, by any method, and says how well and at what cost.

  python -m experiments.finetune --config=configs/finetune_bbc.py --workdir=runs/bbc
  python -m experiments.finetune --config=configs/finetune_bbc.py --workdir=runs/bbc_lora \
      --config.method=lora

Texts of one's own: --config=configs/finetune.py:path/to/model --config.data.path=reviews.csv
--config.data.text=COLUMN --config.data.label=COLUMN, with --config.data.test_path=FILE for a test
set; where there is none, a tenth is held out for it. See docs/finetuning.md.

The work directory gets what `experiments.pretrain` writes, result.json and, where classes or tags
are predicted, the test's part of report.md with its pictures; the test is of the checkpoint with
the best validation loss. Ctrl-C or SIGTERM saves and leaves, and the same command goes on. The last
line of stdout is one JSON object.
"""

import json
from pathlib import Path

import jax
from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.evaluation.judge import judge_of
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.training import hardware, tuning
from llm_jax.training.goodput import Ledger
from llm_jax.training.restore import best_params
from llm_jax.training.train import train
from llm_jax.training.trainer import make_trainer
from llm_jax.training.workdir import data_directory, open_workdir, prepare_data

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; made if it is not there.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    given, workdir = entry.run_config(CONFIG), entry.required(WORKDIR)
    if given.objective.kind != "labelled":
        raise ConfigError(
            f"objective.name {given.objective.name!r} has no labels: choose text_classification or "
            "token_classification, or python -m experiments.pretrain, which takes config.method too"
        )
    judge = judge_of(given.objective.target)
    open_workdir(workdir, given)
    ledger = Ledger(workdir, age=hardware.process_age())
    run = tuning.completed(given, prepare_data(given, workdir))
    trainer = make_trainer(run)
    rows, held_out, tested = (
        data.open_split(data_directory(workdir), split, run.objective)
        for split in ("train", "validation", "test")
    )
    how = {"batch_size": run.evaluation.batch_size, "objective": run.objective}

    def score(params, limit):
        return evaluate(trainer.model, params, held_out, limit=limit, **how)

    trained = train(run, workdir, trainer, rows, score, given=given, ledger=ledger)
    if trained.scores is None:
        return trained.interrupted()
    with ledger.during("evaluation"), jax.set_mesh(trainer.mesh):
        step, params = best_params(trained, trainer)
        scores = evaluate(trainer.model, params, tested, **how)
        said = judge.outputs(trainer.model, params, tested, batch_size=how["batch_size"])
    validation = {f"validation_{name}": value for name, value in trained.scores.items()}
    result = validation | scores | judge.judged(said, tested)
    result |= {
        "best_step": step,
        "trained_parameters": trainer.trained,
        "total_parameters": trainer.model.num_params,
        "seconds": trained.seconds,
    }
    result = trained.finished(result, [])
    costs = ("trained_parameters", "total_parameters", "peak_bytes", "seconds")
    judge.report(workdir, said, tested, costs={name: result[name] for name in costs})
    if jax.process_index() == 0:
        Path(workdir, "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    entry.launch(main)

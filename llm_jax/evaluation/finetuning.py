"""A whole fine-tuning run: from labels to a judged test, resumed where it stopped."""

import json
import os
from pathlib import Path

import jax

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.evaluation.judge import judge_of
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.training import tuning
from llm_jax.training.goodput import Ledger
from llm_jax.training.restore import best_params
from llm_jax.training.run import RunConfig
from llm_jax.training.train import train
from llm_jax.training.trainer import make_trainer
from llm_jax.training.workdir import data_directory, open_workdir, prepare_data

RESULT = "result.json"


def finetune(given: RunConfig, workdir: str, *, age: float = 0.0) -> dict:
    """Tunes, tests the checkpoint with the best validation loss, and writes report and result.

    Args:
      given: the run as the user wrote it, with an objective over labels.
      workdir: of the run; where it holds a part of the same run, that goes on.
      age: seconds that went by before, for the ledger.

    Returns:
      the result, as it stands in WORKDIR/result.json: `validation_*` and test scores, costs; only
      `finished` False and where it stopped after a signal.

    Raises:
      ConfigError: the objective has no labels, or as `train` and what prepares it.
    """
    if given.objective.kind != "labelled":
        raise ConfigError(
            f"objective.name {given.objective.name!r} has no labels: choose text_classification or "
            "token_classification, or python -m experiments.pretrain, which takes config.method too"
        )
    judge = judge_of(given.objective.target)
    open_workdir(workdir, given)
    ledger = Ledger(workdir, age=age)
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
        "steps": run.steps,
        "trained_parameters": trainer.trained,
        "total_parameters": trainer.model.num_params,
        "seconds": trained.seconds,
    }
    result = trained.finished(result, [])
    costs = ("trained_parameters", "total_parameters", "peak_bytes", "seconds")
    judge.report(workdir, said, tested, costs={name: result[name] for name in costs})
    if jax.process_index() == 0:
        temporary = Path(workdir, f"{RESULT}.tmp")
        temporary.write_text(json.dumps(result, indent=2) + "\n")
        os.replace(temporary, Path(workdir, RESULT))
    return result


def finished(workdir: str, steps: int) -> dict | None:
    """Returns the result in `workdir` of a run of so many `steps`; None where it has none yet."""
    path = Path(workdir, RESULT)
    result = json.loads(path.read_text()) if path.exists() else {}
    return result if result.get("steps") == steps else None

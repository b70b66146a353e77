r"""Cross-validates a fine-tuning run: each fold of the training data is the test of one run.

  python -m experiments.cross_validate --config=configs/finetune_bbc.py --folds=5 \
      --workdir=runs/folds

Equal texts become one first, and those of a test set are left out; the rest is cut into folds that
have the classes' shares. Fold i is the test of the run in WORKDIR/fold_i, which learns from the
others, a tenth of which is its validation: everything of `experiments.finetune` is there. After
Ctrl-C or SIGTERM the same command goes on; finished folds are not run again.

WORKDIR/result.json and the last line of stdout are one JSON object: for each score its `mean` and
`deviation` (standard, of a sample: n - 1) over the folds, and each fold's `scores`.
"""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import jax
from absl import flags

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.evaluation.finetuning import RESULT, finetune, finished
from llm_jax.parallel import distributed
from llm_jax.training import hardware
from llm_jax.training.workdir import open_workdir

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs; made if it is not there.")
FOLDS = flags.DEFINE_integer("folds", 5, "How many.", lower_bound=2)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    given, workdir = entry.run_config(CONFIG), entry.required(WORKDIR)
    if given.data.folds:
        raise ConfigError(f"data.folds is {given.data.folds}: leave it out, and give --folds")
    scores = []
    for fold in range(FOLDS.value):
        split = dataclasses.replace(given.data, folds=FOLDS.value, fold=fold)
        run, own = dataclasses.replace(given, data=split), str(Path(workdir, f"fold_{fold}"))
        open_workdir(own, run)  # it refuses another run's
        result = distributed.from_first(functools.partial(finished, own, run.steps))
        if result is None:
            entry.say(f"fold {fold} of {FOLDS.value}")
            result = finetune(run, own, age=0.0 if scores else hardware.process_age())
        if not result["finished"]:
            return result | {"folds": FOLDS.value, "fold": fold}
        scores.append(result)
    numbers = [name for name, value in scores[0].items() if isinstance(value, float)]
    columns = {name: [score[name] for score in scores] for name in numbers}
    result = {
        "finished": True,
        "folds": FOLDS.value,
        "mean": {name: statistics.mean(values) for name, values in columns.items()},
        "deviation": {name: statistics.stdev(values) for name, values in columns.items()},
        "scores": scores,
    }
    if jax.process_index() == 0:
        Path(workdir, RESULT).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    entry.launch(main)

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

from absl import flags

from experiments import entry
from llm_jax.evaluation.finetuning import finetune
from llm_jax.training import hardware

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; made if it is not there.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    run, workdir = entry.run_config(CONFIG), entry.required(WORKDIR)
    return finetune(run, workdir, age=hardware.process_age())


if __name__ == "__main__":
    entry.launch(main)

r"""Shows the batch that a step trains on: decoded on stdout, drawn in a PNG.

  python -m experiments.inspect_data --config=configs/gpt_quickstart.py --step=1

--workdir=runs/a takes the data of that run, or prepares it there as pretrain would; batches that
the run left out after a loss spike are left out here as well. Without it the data is prepared anew
and thrown away. --rows limits how many rows are printed.

Marks stand as ⟨name⟩, hidden tokens as {seen→asked}, each document of a row behind its number.
The last line of stdout is one JSON object: step, rows, tokens, asked (the sum of the loss weights),
documents, output (the picture), and sha256 of all arrays, by which two machines can compare.
"""

import contextlib
import hashlib
import tempfile

import jax
import numpy as np
from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import shown
from llm_jax.models import DECODERS
from llm_jax.training import spikes
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.workdir import data_directory, open_workdir, prepare_data

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the run; none: a temporary one.")
STEP = flags.DEFINE_integer("step", 1, "Which step's batch, from 1.")
ROWS = flags.DEFINE_integer("rows", 4, "How many rows are printed.")
OUTPUT = flags.DEFINE_string("output", "batch.png", "The picture to write (.png).")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    jax.config.update("jax_platforms", "cpu")
    run = entry.run_config(CONFIG)
    if not 1 <= STEP.value <= run.steps:
        raise ConfigError(f"--step={STEP.value}: give one of 1 to {run.steps}, the run's steps")
    with contextlib.ExitStack() as stack:
        workdir = WORKDIR.value or stack.enter_context(tempfile.TemporaryDirectory())
        open_workdir(workdir, run)
        prepare_data(run, workdir)
        rows = data.open_split(data_directory(workdir), "train", run.objective)
        batch = next(
            data.batches(
                rows,
                seed=run.seed,
                batch_size=run.batch_size,
                mixing=run.data.mixing,
                start_step=STEP.value - 1,
                skipped=_skipped(run, workdir),
                threads=0,
            )
        )
        images = run.objective.kind == "images"
        tokenizer = None if images else data.load_tokenizer(data_directory(workdir))
    if images and run.objective.device_augmentation:
        batch = run.objective.device_augmentation.in_step(
            batch, run.seed, STEP.value - 1, run.model.num_classes
        )
        batch = {name: np.asarray(values) for name, values in batch.items()}
    first = {name: values[: ROWS.value] for name, values in batch.items()}
    print("\n".join(shown.lines(first, tokenizer)))
    title = f"step {STEP.value} of {run.steps}: {run.objective.name}"
    try:
        shown.draw(batch, OUTPUT.value, causal=run.model.family in DECODERS, title=title)
    except OSError as error:
        raise ConfigError(f"--output={OUTPUT.value}: {error.strerror}; give another") from None
    return {
        "step": STEP.value,
        "rows": len(batch["weights"]),
        **_counts(batch),
        "output": OUTPUT.value,
        "sha256": _digest(batch),
    }


def _skipped(run, workdir: str) -> list[tuple[int, int]]:
    """Returns the batches that the run of `workdir` left out."""
    guard = spikes.Guard(run.spikes, run.max_skipped_steps)
    checkpoints = Checkpoints(workdir)
    step = checkpoints.newest()
    guard.restore(None if step is None else checkpoints.read(step, spikes.FILE))
    return guard.skipped


def _counts(batch: dict[str, np.ndarray]) -> dict[str, float]:
    counts = {"asked": float(batch["weights"].sum())}
    if "segment_ids" in batch:
        counts["tokens"] = int(np.count_nonzero(batch["segment_ids"]))
        counts["documents"] = int(batch["segment_ids"].max(axis=1).sum())
    return counts


def _digest(batch: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(batch.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    entry.launch(main)

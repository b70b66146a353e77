"""Measures how well a trained model predicts a split of its data, every token once.

  python -m experiments.evaluate --workdir=runs/a --split=validation

--split=train measures the training text instead. --step takes the newest checkpoint ("last"), the
one with the lowest validation loss ("best"), or a number. --batch_size changes speed and memory,
not the result. With several devices each takes its part of every batch.

The last line of stdout is one JSON object: loss (nats per token), perplexity (its exponential),
bits_per_byte (total bits over the split's UTF-8 bytes: comparable between tokenizers), tokens,
bytes; and split, step and seconds.
"""

import sys
import time

import jax
from absl import flags

from experiments import entry
from llm_jax.data import open_split
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.training.restore import load_model
from llm_jax.training.workdir import data_directory

flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training run.")
SPLIT = flags.DEFINE_string("split", "validation", "validation or train.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best, or its step.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Rows per batch.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    workdir = entry.required(WORKDIR)
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    mesh = make_mesh(MeshConfig(data=-1))
    restored = load_model(workdir, step, mesh)
    rows = open_split(data_directory(workdir), SPLIT.value)
    print(
        f"step {restored.step} of {workdir} on {SPLIT.value}: {rows.tokens:,} tokens, "
        f"{rows.bytes:,} bytes, {rows.documents:,} documents",
        file=sys.stderr,
    )
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        scores = evaluate(restored.model, restored.params, rows, batch_size=BATCH_SIZE.value)
    seconds = time.perf_counter() - began
    print(
        f"loss {scores['loss']:.4f}  perplexity {scores['perplexity']:.2f}  "
        f"bits/byte {scores['bits_per_byte']:.4f}  in {seconds:.1f} s",
        file=sys.stderr,
    )
    return scores | {"split": SPLIT.value, "step": restored.step, "seconds": seconds}


if __name__ == "__main__":
    entry.launch(main)

"""Measures how well a trained model predicts a split of its data, every token once.

  python -m experiments.evaluate --workdir=runs/a --split=validation

--split=train measures the training text instead. --step takes the newest checkpoint ("last"), the
one with the lowest validation loss ("best"), or a number. --batch_size changes speed and memory,
not the result. With several devices each takes its part of every batch.

  python -m experiments.evaluate --workdir=runs/a --sequence_length=1024 --rope_scaling=yarn

measures the same text in longer rows than the model was trained at, here with its rotary positions
interpolated; --position_range=256 adds the loss by where in the row a token stands. See
docs/long_context.md.

The last line of stdout is one JSON object: loss, of next tokens in nats per token with perplexity
(its exponential), bits_per_byte (total bits over the split's UTF-8 bytes: comparable between
tokenizers), tokens, bytes; of images and other objectives what they count, of pairs exact_match
and word_f1; and split, step, seconds and, where asked for, loss_by_position.
"""

import sys
import time

import jax
from absl import flags

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.data import load_manifest, load_tokenizer, open_split
from llm_jax.data.joined import JoinedRows
from llm_jax.evaluation.by_position import loss_by_position
from llm_jax.evaluation.pairs import write_targets
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.layers.rope import SCALINGS
from llm_jax.models import require_decoder
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.training.restore import load_model
from llm_jax.training.workdir import data_directory

flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training run.")
SPLIT = flags.DEFINE_string("split", "validation", "validation or train.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best, or its step.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Rows per batch.")
LENGTH = flags.DEFINE_integer(
    "sequence_length", None, "Tokens in a row, a multiple of those in training; that by default."
)
ROPE = flags.DEFINE_enum("rope_scaling", None, SCALINGS, "How rotary positions are interpolated.")
FACTOR = flags.DEFINE_float(
    "rope_factor", None, "By how much; by default sequence_length over that of training."
)
RANGE = flags.DEFINE_integer(
    "position_range", None, "Gives the loss of every so many tokens along the rows too."
)
BEAMS = flags.DEFINE_integer("num_beams", 1, "Of the search that writes the targets of pairs.")


def rotary_changes(workdir: str) -> dict:
    """Returns what the flags change in the model's configuration."""
    if ROPE.value is None:
        if FACTOR.value is not None:
            raise ConfigError(f"--rope_factor={FACTOR.value} needs --rope_scaling: give it")
        return {}
    trained = load_manifest(data_directory(workdir)).sequence_length
    length = LENGTH.value or trained
    factor = length / trained if FACTOR.value is None else FACTOR.value
    print(f"rotary positions: {ROPE.value}, {trained} tokens by {factor:g}", file=sys.stderr)
    scaling = {"kind": ROPE.value, "factor": factor, "original_positions": trained}
    return {"rotary_scaling": scaling, "max_positions": length}


def longer(rows, objective, config) -> JoinedRows:
    """Returns the rows joined to --sequence_length."""
    if objective.name != "next_token":
        raise ConfigError(
            f"--sequence_length is of rows that predict next tokens, not {objective.name}: omit it"
        )
    if LENGTH.value > config.max_positions:
        raise ConfigError(
            f"--sequence_length={LENGTH.value} is more than the model's {config.max_positions} "
            "positions: give --rope_scaling, or less"
        )
    return JoinedRows(rows, LENGTH.value)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    workdir = entry.required(WORKDIR)
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    mesh = make_mesh(MeshConfig(data=-1))
    restored = load_model(workdir, step, mesh, rotary_changes(workdir))
    model, params, objective = restored.model, restored.params, restored.run.objective
    rows = open_split(data_directory(workdir), SPLIT.value, objective)
    if LENGTH.value is not None:
        rows = longer(rows, objective, model.config)
    print(f"step {restored.step} of {workdir} on {SPLIT.value}: {rows.amount()}", file=sys.stderr)
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        scores = evaluate(model, params, rows, batch_size=BATCH_SIZE.value, objective=objective)
        if RANGE.value is not None:
            require_decoder(model.config)
            scores["loss_by_position"] = loss_by_position(
                model, params, rows, batch_size=BATCH_SIZE.value, width=RANGE.value
            )
        if objective.name == "pairs":
            tokenizer = load_tokenizer(restored.tokenizer_path)
            scores |= write_targets(
                model, params, rows, tokenizer,
                batch_size=BATCH_SIZE.value, num_beams=BEAMS.value,
            )[1]  # fmt: skip
    seconds = time.perf_counter() - began
    shown = (f"{name} {x:.4f}" for name, x in scores.items() if isinstance(x, float))
    print(f"{'  '.join(shown)}  in {seconds:.1f} s", file=sys.stderr)
    return scores | {"split": SPLIT.value, "step": restored.step, "seconds": seconds}


if __name__ == "__main__":
    entry.launch(main)

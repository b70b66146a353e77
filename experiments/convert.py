"""Turns a model from one form into another.

  python -m experiments.convert --source=PATH --target=DIR

--source is a work directory of a run, a Hugging Face folder, or a llama-type *.gguf. --target is a
new folder: with --format=hf (the default) one that transformers and others read (config.json,
safetensors, the tokenizer where it has a Hugging Face form), with --format=checkpoint a work
directory of this project, for experiments.generate and --config.init_from. It is written whole or
not at all.

The last line of stdout is one JSON object: family, parameters, target, seconds.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
from absl import flags

from experiments import entry
from llm_jax import interop, models
from llm_jax.configuration import ConfigError, to_dict
from llm_jax.data import PretrainedTokenizer, load_tokenizer
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.restore import load_model
from llm_jax.training.run import default_config, parse_run
from llm_jax.training.tuning import merged

flags.adopt_module_key_flags(entry)
SOURCE = flags.DEFINE_string("source", None, "Work directory, Hugging Face folder or *.gguf.")
TARGET = flags.DEFINE_string("target", None, "The folder to write; it must not be there yet.")
FORMAT = flags.DEFINE_enum("format", "hf", ["hf", "checkpoint"], "Of the target.")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "Of the parameters, with --format=hf."
)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    source, target = entry.required(SOURCE), entry.required(TARGET)
    began = time.perf_counter()
    if Path(target).exists():
        raise ConfigError(f"--target={target} is there already: give a new folder")
    if interop.is_pretrained(source):
        config, params = interop.load_pretrained(source)
        tokenizer = interop.find_tokenizer(source)
    else:
        restored = load_model(source)
        config, params = restored.model.config, merged(restored.params, restored.run)
        if restored.model.head is not None:
            entry.say("the task's head has no place in it: left out")
        tokenizer = load_tokenizer(restored.tokenizer_path)
    if not isinstance(tokenizer, PretrainedTokenizer):
        if FORMAT.value == "hf" and tokenizer is not None:
            print(
                "the run's sentencepiece model has no Hugging Face form: left out", file=sys.stderr
            )
        tokenizer = None
    with tempfile.TemporaryDirectory() as folder:
        if tokenizer is not None:
            tokenizer.save(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if FORMAT.value == "hf":
        interop.save_pretrained(target, config, params, dtype=jnp.dtype(DTYPE.value), files=files)
    else:
        write_checkpoint(target, config, params, files)
    return {
        "family": config.family,
        "parameters": models.build(config).num_params,
        "target": target,
        "seconds": time.perf_counter() - began,
    }


def write_checkpoint(target: str, config, params, files: dict[str, bytes]) -> None:
    """Writes a work directory with the parameters as step 0 of a run with default settings."""
    run = default_config(config.family)
    run.data.sequence_length = 1  # it says nothing of the model: any number of positions has one
    run = dataclasses.replace(parse_run(run), model=config)
    files = files | {"config.json": json.dumps(to_dict(run), indent=2).encode()}
    checkpoints = Checkpoints(target, files=files)
    checkpoints.save(0, {"params": params})
    checkpoints.close()


if __name__ == "__main__":
    entry.launch(main)

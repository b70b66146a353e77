"""Samples for the report, and how many of them are valid Python."""

import ast
import re

import jax
from absl import logging

from llm_jax.data import load_tokenizer
from llm_jax.evaluation.pairs import write_targets
from llm_jax.generation.engine import Engine
from llm_jax.generation.samplers import SamplingOptions
from llm_jax.models import DECODERS
from llm_jax.training.run import RunConfig


def draw_samples(model, params, run: RunConfig, data_directory: str, held_out):
    """Returns what a trained model writes, for the report, and figures about it.

    A decoder continues the prompts of `run.sampling`; an encoder-decoder of pairs writes the
    targets of the held-out ones.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      run: the run's configuration.
      data_directory: with the tokenizer.
      held_out: the validation split's rows.

    Returns:
      `(pairs, figures)`: pairs of prompt and text, and `{"parsed_share": ...}` where the samples
      are Python functions, or what `write_targets` measures. A run of several processes draws
      none, and says so.
    """
    if jax.process_count() > 1:
        logging.warning("no samples: draw them from the checkpoint with experiments.generate")
        return [], {}
    config, seed = run.sampling, run.seed
    if run.objective.name == "answers":
        return _answers(model, params, run, load_tokenizer(data_directory), held_out), {}
    if run.objective.kind == "pairs":
        written, figures = write_targets(
            model,
            params,
            held_out,
            load_tokenizer(data_directory),
            batch_size=run.evaluation.batch_size,
        )
        return [(source, text) for source, _, text in written[: config.num_samples]], figures
    if run.model.family not in DECODERS or not config.prompts:
        return [], {}
    tokenizer = load_tokenizer(data_directory)
    prompts = [prompt for prompt in config.prompts for _ in range(config.num_samples)]
    options = SamplingOptions(
        temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
    )
    results = Engine(model, params, tokenizer).generate(
        [tokenizer.encode_prompt(prompt) for prompt in prompts], options, seed=seed
    )
    pairs = [(prompt, result.text) for prompt, result in zip(prompts, results)]
    if not config.python:
        return pairs, {}
    pairs = [(prompt, first_function(prompt + text)[len(prompt) :]) for prompt, text in pairs]
    share = sum(parses(prompt + text) for prompt, text in pairs) / len(pairs)
    return pairs, {"parsed_share": share}


def first_function(text: str) -> str:
    """Returns `text` up to the next line that begins at the margin: one top-level definition."""
    return re.split(r"\n(?=[^\s#)\]}])", text, maxsplit=1)[0]


def parses(text: str) -> bool:
    """Says whether `ast.parse` accepts `text`."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _answers(model, params, run: RunConfig, tokenizer, held_out) -> list[tuple[str, str]]:
    """Returns held-out questions and the likeliest answers."""
    if model.virtual_tokens:
        logging.warning("no samples: generation with virtual tokens is not there")
        return []
    count = min(run.sampling.num_samples, len(held_out))
    batch = held_out.take(range(count))
    # Where the first weight is, the question ends.
    asked = [
        row[: int(weights.argmax()) + 1].tolist()
        for row, weights in zip(batch["tokens"], batch["weights"])
    ]
    options = SamplingOptions(temperature=0.0, max_new_tokens=run.objective.target_length)
    found = Engine(model, params, tokenizer).generate(asked, options, seed=run.seed)
    return [(tokenizer.decode(ids), result.text) for ids, result in zip(asked, found)]

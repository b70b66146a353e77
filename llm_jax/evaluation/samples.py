"""Samples for the report, and how many of them are valid Python."""

import ast
import re

from llm_jax.data import load_tokenizer
from llm_jax.generation.engine import Engine
from llm_jax.generation.samplers import SamplingOptions
from llm_jax.training.run import SamplingConfig


def draw_samples(model, params, tokenizer_path: str, config: SamplingConfig, seed: int):
    """Returns continuations of the configured prompts, and figures about them.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      tokenizer_path: the sentencepiece model.
      config: what to draw.
      seed: of the draws.

    Returns:
      `(pairs, figures)`: pairs of prompt and text, and `{"parsed_share": ...}` where the samples
      are Python functions.
    """
    if not config.prompts:
        return [], {}
    tokenizer = load_tokenizer(tokenizer_path)
    prompts = [prompt for prompt in config.prompts for _ in range(config.num_samples)]
    options = SamplingOptions(
        temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
    )
    results = Engine(model, params, tokenizer).generate(
        [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts], options, seed=seed
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

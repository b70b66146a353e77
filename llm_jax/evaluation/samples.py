"""Samples for the report, and how many of them are valid Python."""

import ast
import re

from llm_jax.data import load_tokenizer
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
    raise NotImplementedError


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

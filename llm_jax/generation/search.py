"""Beam search from prompts to texts, for decoders and for encoder-decoders of text."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.generation.beam import BeamOptions, continue_prompts, decode_sources
from llm_jax.models import DECODERS, TEXT_TO_TEXT


@dataclasses.dataclass(frozen=True)
class Found:
    """One hypothesis.

    Attributes:
      tokens: without the one that ended it.
      text: of them.
      finish_reason: "eos" (an end token) or "length".
      score: log-probability / length ** length_penalty, less what diversity cost it.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: str
    score: float


def search(
    model, params, prompts: Sequence[Sequence[int]], options: BeamOptions, *, tokenizer
) -> list[list[Found]]:
    """Returns the best `options.num_results` hypotheses of every prompt.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      prompts: token ids, at least one each: the beginning of the text for a decoder, the source
        for an encoder-decoder.
      options: of the search.
      tokenizer: with `decode`, `vocab_size` and `eos_id`.

    Raises:
      ConfigError: an empty prompt, one that is too long, or a family that writes no text.
    """
    if not prompts:
        return []
    config = model.config
    if config.family in DECODERS:
        ends = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
        run, given = continue_prompts, prompts
    elif config.family in TEXT_TO_TEXT:
        ends = (config.eos_token_id,)
        run, given = decode_sources, _sources(config, prompts, options)
    else:
        known = ", ".join((*DECODERS, *TEXT_TO_TEXT))
        raise ConfigError(f"model.family {config.family!r} writes no text: this takes {known}")
    vocab_size = min(config.vocab_size, tokenizer.vocab_size)
    beams = run(model, params, given, options, end_ids=ends, vocab_size=vocab_size)
    return [
        [
            _found(tokens[:length].tolist(), float(score), ends, tokenizer)
            for tokens, length, score in zip(*row)
        ]
        for row in zip(*map(np.asarray, beams))
    ]


def _sources(config, prompts, options: BeamOptions) -> dict:
    lengths = np.array([len(prompt) for prompt in prompts])
    if lengths.min() < 1:
        raise ConfigError("a prompt has no tokens: an encoder-decoder needs a source text")
    positions = getattr(config, "max_positions", None)
    if positions is not None and options.max_new_tokens >= positions:
        raise ConfigError(
            f"max_new_tokens is {options.max_new_tokens} and the model has {positions} positions: "
            f"give at most {positions - 1}"
        )
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)
    tokens = np.full(mask.shape, config.pad_token_id, np.int32)
    tokens[mask > 0] = np.concatenate([np.asarray(prompt) for prompt in prompts])
    return {"input_ids": tokens, "attention_mask": mask}


def _found(tokens, score, ends, tokenizer) -> Found:
    ended = bool(tokens) and tokens[-1] in ends
    tokens = tokens[:-1] if ended else tokens
    return Found(tuple(tokens), tokenizer.decode(tokens), "eos" if ended else "length", score)

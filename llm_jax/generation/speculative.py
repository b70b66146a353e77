"""Speculative decoding: cheap guesses at the next tokens, all checked in one step of the model.

Leviathan et al. 2023 (arXiv:2211.17192), greedy: a guess is kept while it is the model's own most
likely token, so the text is that of plain decoding and only the number of steps is smaller. The
guesses come from a smaller model, or from the text so far, where its last tokens stood before.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.generation import steps
from llm_jax.generation.cache import bucket, first_length, grow

# Longer runs of tokens that stood before are better evidence; more than this adds little.
LONGEST_MATCH = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
    """Where guesses come from.

    Attributes:
      tokens: guesses in a step.
      model: a `llm_jax.models.Model` of the same vocabulary, or None: the text so far.
      params: its parameters.
    """

    tokens: int = 4
    model: Any = None
    params: Any = None

    def __post_init__(self):
        if self.tokens < 1:
            raise ConfigError(f"draft_tokens is {self.tokens}: give 1 or more")

    @functools.cached_property
    def weights(self):
        """Laid out for decoding, see `steps.lay_out`; of no model, `((), None)`."""
        return ((), None) if self.model is None else steps.lay_out(self.model, self.params)

    def check(self, model) -> None:
        """Raises `ConfigError` if the draft's model has another vocabulary than `model`.

        Neither may be of linear attention: its cache takes no token back.
        """
        for each in filter(None, (model, self.model)):
            if each.config.attention_pattern.linear:
                raise ConfigError(
                    "a draft's wrong guesses are taken back, which the cache of linear attention "
                    "(model.attention_pattern.kind 'linear') cannot: leave the draft out"
                )
        if self.model is None:
            return
        own, wanted = self.model.config.vocab_size, model.config.vocab_size
        if own != wanted:
            raise ConfigError(
                f"the draft's vocabulary has {own} tokens and the model's {wanted}: give a draft "
                "with the model's tokenizer"
            )


def write(
    model, params, weights, draft: Draft, tokens, lengths, *, room: int, vocab_size: int
) -> Iterator[list[list[int]]]:
    """Yields each row's new tokens, step by step and without end: 1 up to `draft.tokens + 1`.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      weights: of `steps.lay_out`.
      draft: where guesses come from.
      tokens: int32 [B, S], prompts padded on the right.
      lengths: int32 [B], theirs.
      room: new tokens that any row needs; what comes behind them is void.
      vocab_size: tokens that may be chosen.
    """
    positions, ahead = model.config.max_positions, draft.tokens + 1
    longest, batch = int(lengths.max()), len(lengths)
    most = bucket(longest + room + ahead, positions)
    length = first_length(longest + ahead, most, most)
    read = functools.partial(_read, tokens=tokens, lengths=lengths, length=length, ahead=ahead)
    new, cache = read(model, params, vocab_size=vocab_size)
    text = np.zeros((batch, bucket(longest + room + ahead, 2**30)), np.int32)
    text[:, : tokens.shape[1]] = tokens
    text = jnp.asarray(text).at[jnp.arange(batch), lengths].set(new)
    state = {"text": text, "lengths": jnp.asarray(lengths) + 1, "cache": cache, "guide": None}
    if draft.model is not None:
        state["guide"] = read(draft.model, draft.params, vocab_size=vocab_size)[1]
    new, counts = new[:, None], np.ones(batch, np.int32)
    arrays, layout = weights
    guide_arrays, guide_layout = draft.weights
    known = np.array(lengths)
    while True:
        # Of the step that the host has not read yet, and of the one that is about to run.
        if known.max() + 2 * ahead > length and length < most:
            length = min(2 * length, most)
            state["cache"] = grow(model, state["cache"], length, ahead)
            if draft.model is not None:
                state["guide"] = grow(draft.model, state["guide"], length, ahead)
        upcoming, state = _step(
            model, layout, draft.model, guide_layout, draft.tokens, vocab_size,
            arrays, guide_arrays, state,
        )  # fmt: skip
        counts = np.asarray(counts)
        known = known + counts
        yield [row[:count] for row, count in zip(np.asarray(new).tolist(), counts)]
        new, counts = upcoming


@functools.partial(jax.jit, static_argnames=("model", "length", "ahead", "vocab_size"))
def _read(model, params, *, tokens, lengths, length, ahead, vocab_size):
    """Returns the first new tokens [B] behind the prompts, and the cache."""
    last, cache = steps.read(model, params, tokens, lengths, length, ahead)
    return _likeliest(model, params, last, vocab_size), cache


def _likeliest(model, params, hidden, vocab_size):
    return jnp.argmax(model.logits(params, hidden)[..., :vocab_size], axis=-1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=tuple(range(6)), donate_argnums=(8,))
def _step(model, layout, guide, guide_layout, count, vocab_size, arrays, guide_arrays, state):
    """Returns `(tokens [B, count + 1], how many of them [B])` and the new state."""
    model, params = steps.unrolled(model), steps.together(arrays, layout)
    text, lengths, guide_cache = state["text"], state["lengths"], state["guide"]
    if guide is None:
        guesses = look_up(text, lengths, count)
    else:
        guide, guide_params = steps.unrolled(guide), steps.together(guide_arrays, guide_layout)
        guesses, guide_cache = _ask(
            guide, guide_params, guide_cache, text, lengths, count, vocab_size
        )
    ahead = jnp.arange(count + 1)
    last = jnp.take_along_axis(text, lengths[:, None] - 1, axis=1, mode="clip")
    tokens = jnp.concatenate([last, guesses], axis=1)
    places = lengths[:, None] - 1 + ahead
    hidden, cache = model.hidden(params, tokens, positions=places, cache=state["cache"])
    # What the model says behind each token; true as long as the tokens before were right.
    said = _likeliest(model, params, hidden, vocab_size)
    right = jnp.cumprod(guesses == said[:, :-1], axis=1)
    new = 1 + jnp.sum(right, axis=1)
    places = jnp.where(ahead < new[:, None], lengths[:, None] + ahead, text.shape[1])
    text = text.at[jnp.arange(text.shape[0])[:, None], places].set(said, mode="drop")
    state = {"text": text, "lengths": lengths + new, "cache": cache, "guide": guide_cache}
    return (said, new), state


def look_up(text, lengths, count: int):
    """Guesses that the text goes on as it did where its last tokens stood before.

    Of the last places with the same `LONGEST_MATCH` tokens, or else fewer; where the text behind
    one is shorter than the guess, it repeats itself. Without such a place the guess is the text's
    beginning.

    Args:
      text: int32 [B, N].
      lengths: int32 [B], how much of it is there.
      count: guesses.

    Returns:
      int32 [B, count].
    """
    last = lengths[:, None] - 1
    places = jnp.arange(text.shape[1])[None, :]
    found = jnp.full_like(last, -1)
    same = places < last
    for back in range(LONGEST_MATCH):
        token = jnp.take_along_axis(text, last - back, axis=1, mode="clip")
        same &= (jnp.roll(text, back, axis=1) == token) & (places >= back)
        place = jnp.max(jnp.where(same, places, -1), axis=1, keepdims=True)
        found = jnp.where(place >= 0, place, found)
    ahead = jnp.arange(count) % (last - found)
    return jnp.take_along_axis(text, found + 1 + ahead, axis=1, mode="clip")


def _ask(guide, params, cache, text, lengths, count, vocab_size):
    """Returns the guide's greedy continuation [B, count] and its cache."""
    # If all guesses were right, the guide has not read the last of them: it reads two tokens.
    places = lengths[:, None] - 2 + jnp.arange(2)
    tokens = jnp.take_along_axis(text, places, axis=1, mode="clip")
    guesses = []
    for _ in range(count):
        hidden, cache = guide.hidden(params, tokens, positions=places, cache=cache)
        guesses.append(_likeliest(guide, params, hidden[:, -1], vocab_size))
        tokens, places = guesses[-1][:, None], places[:, -1:] + 1
    return jnp.stack(guesses, axis=1), cache

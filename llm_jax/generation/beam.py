"""Beam search: the likeliest continuations as whole sequences, with one compiled loop.

`beam_search` knows no model: it is given the first logits, a cache, and a step from tokens to
logits. `continue_prompts` and `decode_sources` are that step for decoders and encoder-decoders.
Scores, the length penalty and early stopping are those of `transformers` 5; groups of beams that
avoid each other's tokens are those of Vijayakumar et al. 2016 (arXiv:1610.02424).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.generation import steps

# Beams that are not there; large against any sum of log-probabilities.
NONE = -1.0e9


@dataclasses.dataclass(frozen=True)
class BeamOptions:
    """How a search goes.

    Attributes:
      num_beams: hypotheses kept for each row.
      num_results: of them that are returned, the best first.
      max_new_tokens: the longest continuation, its end token included.
      length_penalty: a finished hypothesis scores its log-probability / length ** penalty.
      early_stopping: True stops a row at `num_beams` finished hypotheses; False when the best
        running one, as long as it is now, would not beat the worst of them; "never" when it could
        not at any length.
      num_groups: equal parts of the beams, each a search of its own; 1 is plain beam search.
      diversity_penalty: at every step a token's log-probability is lower by this for each beam of
        the groups before that has just taken it (Hamming diversity, the paper's Algorithm 1); the
        scores that come out have it in them.
    """

    num_beams: int = 4
    num_results: int = 1
    max_new_tokens: int = 64
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self):
        checks = (
            ("num_beams", self.num_beams >= 1, "1 or more"),
            ("num_results", 1 <= self.num_results <= self.num_beams, "1 up to num_beams"),
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            (
                "num_groups",
                self.num_groups >= 1 and self.num_beams % self.num_groups == 0,
                f"a divisor of num_beams={self.num_beams}",
            ),
            (
                "diversity_penalty",
                self.diversity_penalty > 0 if self.num_groups > 1 else self.diversity_penalty == 0,
                "more than 0 with num_groups from 2 on, and 0 without",
            ),
            ("early_stopping", self.early_stopping in (True, False, "never"), "a bool or 'never'"),
        )
        for name, fits, wanted in checks:
            if not fits:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give {wanted}")

    @property
    def group_size(self) -> int:
        """Beams of a group."""
        return self.num_beams // self.num_groups


class Beams(NamedTuple):
    """What a search found; every array begins with [B, num_results].

    Attributes:
      tokens: int32 [.., max_new_tokens], the end token included, then filled up.
      lengths: int32, how many are tokens.
      scores: float32, log-probability / length ** length_penalty.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


class _State(NamedTuple):
    """Of the loop; B is rows times groups, a row's groups side by side, of K beams each."""

    count: jax.Array  # Tokens that every running beam has.
    running: jax.Array  # [B, K, max_new_tokens]
    running_scores: jax.Array  # [B, K], sums of log-probabilities.
    done: jax.Array  # [B, K, max_new_tokens]
    done_lengths: jax.Array  # [B, K]
    done_scores: jax.Array  # [B, K]
    is_done: jax.Array  # bool [B, K]
    improvable: jax.Array  # bool [B, 1]
    goes_on: jax.Array  # bool, of the whole batch
    logits: jax.Array  # [B, K, V]
    cache: Any


@functools.partial(jax.jit, static_argnames=("step", "options", "end_ids", "fill_id"))
def beam_search(
    step: Callable,
    arguments: Any,
    logits,
    cache,
    *,
    options: BeamOptions,
    end_ids: tuple[int, ...],
    fill_id: int = 0,
) -> Beams:
    """Searches from the logits of the first new token.

    Args:
      step: `step(arguments, tokens [B K], count, cache) -> (logits [B K, V], cache)`: the logits
        behind token number `count` (0 is the first new one) of every beam; a function that stays
        the same object compiles once.
      arguments: a pytree for `step`: parameters and whatever all steps read.
      logits: [B, V].
      cache: a pytree whose arrays are [L, B, ...]; in the loop they are [L, B K, ...], and follow
        their beams.
      options: static.
      end_ids: tokens that end a hypothesis; static.
      fill_id: what stands behind an end; static.
    """
    beams, length = options.group_size, options.max_new_tokens
    rows, vocab_size = logits.shape
    batch = rows * options.num_groups
    kept = max(2, 1 + len(end_ids)) * beams
    if kept > beams * vocab_size:
        raise ConfigError(f"num_beams is {beams} with {vocab_size} tokens: give fewer beams")
    ends = jnp.asarray(end_ids, jnp.int32)
    empty = jnp.full((batch, beams, length), fill_id, jnp.int32)
    state = _State(
        count=jnp.int32(0),
        running=empty,
        # All beams are the prompt: only the first may be continued.
        running_scores=jnp.full((batch, beams), NONE).at[:, 0].set(0.0),
        done=empty,
        done_lengths=jnp.zeros((batch, beams), jnp.int32),
        done_scores=jnp.full((batch, beams), NONE),
        is_done=jnp.zeros((batch, beams), bool),
        improvable=jnp.ones((batch, 1), bool),
        goes_on=jnp.bool_(True),
        logits=jnp.repeat(logits, options.num_beams, axis=0).reshape(batch, beams, vocab_size),
        cache=jax.tree.map(lambda leaf: jnp.repeat(leaf, options.num_beams, axis=1), cache),
    )

    def turn(state: _State) -> _State:
        picked = _continue_groups(state, kept, ends, options)
        chosen, hits, beam_of, running_scores, running = picked
        state = _finish(state, chosen, hits, options)
        count = state.count + 1
        # Of every beam that goes on: which row of the cache is its past.
        past = (jnp.arange(batch)[:, None] * beams + beam_of).reshape(-1)
        follow = jax.tree.map(lambda leaf: jnp.take(leaf, past, axis=1), state.cache)
        tokens = running[:, :, state.count].reshape(-1)
        improvable = state.improvable & _could_improve(state, running_scores, count, options)
        full = jnp.all(state.is_done) if options.early_stopping is True else False
        goes_on = jnp.any(improvable) & ~jnp.bool_(full) & ~jnp.all(hits)

        def compute(_):
            logits, cache = step(arguments, tokens, state.count, follow)
            return logits.astype(jnp.float32).reshape(state.logits.shape), cache

        logits, cache = jax.lax.cond(goes_on, compute, lambda _: (state.logits, follow), None)
        return state._replace(
            count=count,
            running=running,
            running_scores=running_scores,
            improvable=improvable,
            goes_on=goes_on,
            logits=logits,
            cache=cache,
        )

    state = jax.lax.while_loop(lambda state: state.goes_on, turn, state)
    # All groups' hypotheses of a row, the best first.
    scores, best = jax.lax.top_k(state.done_scores.reshape(rows, -1), options.num_results)
    done = state.done.reshape(rows, options.num_beams, length)
    lengths = state.done_lengths.reshape(rows, -1)
    return Beams(
        jnp.take_along_axis(done, best[:, :, None], axis=1),
        jnp.take_along_axis(lengths, best, axis=1),
        scores,
    )


def _continue_groups(state: _State, kept: int, ends, options: BeamOptions):
    """Returns `_continue` of every group, which lowers the tokens that those before it took."""
    groups, length = options.num_groups, options.max_new_tokens
    logs = jax.nn.log_softmax(state.logits, axis=-1)
    fields = (logs, state.running_scores, state.running)
    searching = state.improvable
    if options.early_stopping is True:
        searching = searching & ~jnp.all(state.is_done, axis=1, keepdims=True)
    taken, parts = 0.0, []
    for group in range(groups):
        logs, scores, running = (field[group::groups] for field in fields)
        logs = logs - options.diversity_penalty * taken
        parts.append(_continue(logs, scores, running, state.count, kept, ends, length))
        tokens = parts[-1][-1][:, :, state.count]
        # A group that has ended takes nothing.
        counts = jnp.sum(jax.nn.one_hot(tokens, logs.shape[-1]), axis=1) * searching[group::groups]
        taken = taken + counts[:, None, :]
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:]), *parts
    )


def _continue(logs, running_scores, running, count, kept: int, ends, length: int):
    """Returns the best `kept` continuations, which of them end, and the beams that go on."""
    batch, beams, vocab_size = logs.shape
    scores = logs + running_scores[:, :, None]
    # Twice the beams at least: were the best all to end, as many would be left to go on.
    scores, index = jax.lax.top_k(scores.reshape(batch, -1), kept)
    beam_of, token = index // vocab_size, index % vocab_size
    sequences = jnp.take_along_axis(running, beam_of[:, :, None], axis=1)
    sequences = sequences.at[:, :, count].set(token)
    hits = jnp.any(token[:, :, None] == ends, axis=-1) | (count + 1 >= length)
    going, place = jax.lax.top_k(scores + hits * NONE, beams)
    running = jnp.take_along_axis(sequences, place[:, :, None], axis=1)
    beam_of = jnp.take_along_axis(beam_of, place, axis=1)
    return (scores, sequences), hits, beam_of, going, running


def _finish(state: _State, chosen, hits, options: BeamOptions) -> _State:
    """Returns the state with the hypotheses that ended now, the best of old and new kept."""
    scores, sequences = chosen
    beams = options.group_size
    # Those behind the best `beams` are there to go on, not to end.
    ended = hits & (jnp.arange(scores.shape[1]) < beams)
    scores = scores / (state.count + 1).astype(jnp.float32) ** options.length_penalty
    if options.early_stopping is True:
        scores = scores + jnp.all(state.is_done, axis=-1, keepdims=True) * NONE
    scores = scores + ~state.improvable * NONE + ~ended * NONE
    merged = jnp.concatenate([state.done_scores, scores], axis=1)
    best, place = jax.lax.top_k(merged, beams)

    def gather(old, new):
        both = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(both, place.reshape(place.shape + (1,) * (old.ndim - 2)), axis=1)

    lengths = jnp.full(scores.shape, state.count + 1, jnp.int32)
    return state._replace(
        done=gather(state.done, sequences),
        done_lengths=gather(state.done_lengths, lengths),
        done_scores=best,
        is_done=gather(state.is_done, ended),
    )


def _could_improve(state: _State, running_scores, count, options: BeamOptions):
    """Returns bool [B, 1]: whether the best running beam may still beat a finished one."""
    at = count
    if options.early_stopping == "never" and options.length_penalty > 0.0:
        at = options.max_new_tokens
    best = running_scores[:, :1] / jnp.asarray(at, jnp.float32) ** options.length_penalty
    worst = jnp.min(state.done_scores, axis=1, keepdims=True)
    return jnp.any(best > jnp.where(state.is_done, worst, NONE), axis=-1, keepdims=True)


def continue_prompts(
    model,
    params,
    prompts: Sequence[Sequence[int]],
    options: BeamOptions,
    *,
    end_ids,
    fill_id=0,
    vocab_size: int | None = None,
) -> Beams:
    """Continues every prompt with a decoder, e.g. GPT-2.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      prompts: token ids, at least one each.
      options: of the search.
      end_ids: tokens that end a hypothesis.
      fill_id: what stands behind an end.
      vocab_size: tokens from it on are not chosen; None means the config's.

    Raises:
      ConfigError: an empty prompt, or one that has too few positions left.
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    if lengths.min() < 1:
        raise ConfigError("a prompt has no tokens: begin it with the tokenizer's BOS")
    total = int(lengths.max()) + options.max_new_tokens
    if total > model.config.max_positions:
        raise ConfigError(
            f"a prompt of {lengths.max()} tokens and max_new_tokens={options.max_new_tokens} are "
            f"more than the model's {model.config.max_positions} positions: lower one"
        )
    tokens = np.zeros((len(prompts), lengths.max()), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    logits, cache = _read_prompts(model, params, tokens, lengths, total)
    arguments = (params, jnp.repeat(lengths, options.num_beams))
    settings = {"options": options, "end_ids": tuple(end_ids), "fill_id": fill_id}
    step = _decoder_step(model, vocab_size)
    return beam_search(step, arguments, logits[:, :vocab_size], cache, **settings)


@functools.partial(jax.jit, static_argnames=("model", "total"))
def _read_prompts(model, params, tokens, lengths, total: int):
    last, cache = steps.read(model, params, tokens, lengths, total)
    return model.logits(params, last), cache


@functools.cache
def _decoder_step(model, vocab_size):
    def step(arguments, tokens, count, cache):
        params, lengths = arguments
        positions = (lengths + count)[:, None]
        hidden, cache = model.hidden(params, tokens[:, None], positions=positions, cache=cache)
        return model.logits(params, hidden[:, 0])[:, :vocab_size], cache

    return step


def decode_sources(
    model,
    params,
    inputs: dict,
    options: BeamOptions,
    *,
    end_ids,
    fill_id=0,
    start=None,
    vocab_size: int | None = None,
) -> Beams:
    """Generates targets with an encoder-decoder, e.g. T5, BART or Whisper.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      inputs: the source, as the family's `forward` names it, e.g. `input_ids`.
      options: of the search.
      end_ids: tokens that end a hypothesis.
      fill_id: what stands behind an end.
      start: int [P], the tokens that every target begins with; None means the config's
        `decoder_start_token_id`.
      vocab_size: tokens from it on are not chosen; None means the config's.
    """
    start = np.asarray([model.config.decoder_start_token_id] if start is None else start, np.int32)
    total = len(start) + options.max_new_tokens
    logits, memory, cache = _read_sources(model, params, inputs, start, total)

    def widen(leaf, axis):
        return jnp.repeat(leaf, options.num_beams, axis=axis)

    memory = {
        "key": widen(memory["key"], 1),
        "value": widen(memory["value"], 1),
        "mask": None if memory["mask"] is None else widen(memory["mask"], 0),
    }
    arguments = (params, memory, jnp.int32(len(start)))
    settings = {"options": options, "end_ids": tuple(end_ids), "fill_id": fill_id}
    step = _encoder_decoder_step(model, vocab_size)
    return beam_search(step, arguments, logits[:, :vocab_size], cache, **settings)


@functools.partial(jax.jit, static_argnames=("model", "total"))
def _read_sources(model, params, inputs, start, total: int):
    family = model.family
    memory = family.prepare(model, params, family.encode(model, params, **inputs))
    batch = memory["key"].shape[1]
    tokens = jnp.broadcast_to(start, (batch, len(start)))
    positions = jnp.broadcast_to(jnp.arange(len(start)), tokens.shape)
    cache = model.init_cache(batch, total)
    settings = {"positions": positions, "cache": cache}
    hidden, cache = family.decode(model, params, tokens, memory, **settings)
    return family.logits(model, params, hidden[:, -1]), memory, cache


@functools.cache
def _encoder_decoder_step(model, vocab_size):
    def step(arguments, tokens, count, cache):
        params, memory, begun = arguments
        positions = jnp.full((tokens.shape[0], 1), begun + count, jnp.int32)
        settings = {"positions": positions, "cache": cache}
        hidden, cache = model.family.decode(model, params, tokens[:, None], memory, **settings)
        return model.family.logits(model, params, hidden[:, 0])[:, :vocab_size], cache

    return step

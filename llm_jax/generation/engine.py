"""The generation room's engine: batches of prompts in, text out, one cached token at a time.

Prompts are padded on the right and every row keeps its own position, so padding is neither
attended to nor paid for again. The device is one step ahead of the host: a step's tokens are read
while the next step runs. A row's draws depend on (seed, request, position) alone.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.generation import samplers
from llm_jax.generation.cache import bucket, first_length, grow
from llm_jax.generation.samplers import SamplingOptions
from llm_jax.generation.text import TextStream, check_stop


@dataclasses.dataclass(frozen=True)
class Generation:
    """What became of one prompt.

    Attributes:
      tokens: the generated tokens, without the one that ended the text ("eos").
      text: their text, cut where a stop string begins.
      finish_reason: "eos" (an end token), "stop" (a stop string) or "length" (max_new_tokens, or
        the model's last position).
      prompt_tokens: length of the prompt.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: str
    prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class Timing:
    """Where the time of a call went.

    Attributes:
      first_seconds: until the second token of every row was there: prefill and compilation.
      decode_seconds, decode_tokens: of the tokens behind that.
    """

    first_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Returns the rate of decoding, of all rows together; 0 before a third token."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else 0.0


class Engine:
    """Generates text with one model; keeps a second copy of the weights, laid out for decoding.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      tokenizer: has `stream()`, `vocab_size` and `eos_id`; None works on tokens alone.
      end_ids: tokens that end a row; None means the tokenizer's EOS.
      batch_size: rows computed together; more prompts run in groups of as many.

    Attributes:
      timing: of the last call.
    """

    def __init__(self, model, params, tokenizer=None, *, end_ids=None, batch_size: int = 32):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        self._model, self._params, self._tokenizer = model, params, tokenizer
        if end_ids is None:
            known = tokenizer is not None and tokenizer.eos_id is not None
            end_ids = (tokenizer.eos_id,) if known else ()
        self._end_ids = frozenset(end_ids)
        self._batch_size = batch_size
        # A tokenizer trained on little text may have fewer pieces than the model has rows.
        self._vocab_size = model.config.vocab_size
        if tokenizer is not None:
            self._vocab_size = min(self._vocab_size, tokenizer.vocab_size)
        self._weights = _lay_out(model, params)
        self.timing = Timing()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions | Sequence[SamplingOptions],
        *,
        seed: int = 0,
        stop: Sequence[str] = (),
        on_token: Callable[[int, str], None] | None = None,
        on_end: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continues every prompt; see `generate` below. Calls `on_end(row)` behind a row's end."""
        stop = tuple(stop)
        check_stop(stop)
        if self._tokenizer is None and (stop or on_token):
            raise ConfigError("stop strings and streaming are text: give a tokenizer")
        if isinstance(options, SamplingOptions):
            options = [options] * len(prompts)
        if len(options) != len(prompts):
            raise ConfigError(
                f"{len(options)} sampling options for {len(prompts)} prompts: give one, or one each"
            )
        requests = [
            self._request(index, list(prompt), own, stop)
            for index, (prompt, own) in enumerate(zip(prompts, options))
        ]
        self.timing = Timing()
        for start in range(0, len(requests), self._batch_size):
            self._run(requests[start : start + self._batch_size], seed, on_token, on_end)
        return [request.result() for request in requests]

    def _request(self, index, prompt, options, stop) -> "_Request":
        positions = self._model.config.max_positions
        if not prompt:
            raise ConfigError(f"prompt {index} has no tokens: begin it with the tokenizer's BOS")
        if len(prompt) >= positions:
            raise ConfigError(
                f"prompt {index} has {len(prompt)} tokens and the model {positions} positions: "
                f"give at most {positions - 1} tokens"
            )
        if not 0 <= min(prompt) <= max(prompt) < self._model.config.vocab_size:
            raise ConfigError(
                f"prompt {index} has a token outside 0 .. {self._model.config.vocab_size - 1}: "
                "encode it with the model's own tokenizer"
            )
        stream = TextStream(self._tokenizer.stream() if self._tokenizer else None, stop)
        room = min(options.max_new_tokens, positions - len(prompt))
        return _Request(index, prompt, options, room, stream)

    def _run(self, requests: list["_Request"], seed: int, on_token, on_end) -> None:
        began = time.perf_counter()
        model, vocab_size = self._model, self._vocab_size
        positions = model.config.max_positions
        batch = bucket(len(requests), self._batch_size, smallest=1)
        longest = max(len(request.prompt) for request in requests)
        limit = max(request.room for request in requests)
        total = max(len(request.prompt) + request.room for request in requests)
        length = first_length(longest, total, positions)

        tokens = np.zeros((batch, bucket(longest, length)), np.int32)
        lengths = np.ones(batch, np.int32)
        indices = np.zeros(batch, np.int32)
        for row, request in enumerate(requests):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
            indices[row] = request.index
        settings = [request.options for request in requests]
        settings += [SamplingOptions(temperature=0)] * (batch - len(requests))
        rows, stages = samplers.pack(settings, vocab_size)
        rows = jax.tree.map(jnp.asarray, rows)
        keys = _request_keys(seed, indices)

        shared = {"stages": stages, "vocab_size": vocab_size}
        new, state = _prefill(
            model, self._params, tokens, lengths, keys, rows, length=length, **shared
        )
        alive, count = list(enumerate(requests)), 0
        for step in range(limit):
            upcoming = None
            if step + 1 < limit:
                if longest + step >= length:
                    length = min(2 * length, positions)
                    state["cache"] = grow(model, state["cache"], length)
                upcoming, state = _decode(model, self._weights, new, state, keys, rows, **shared)
            read = np.asarray(new).tolist()
            for row, request in alive:
                count += step > 1
                request.take(read[row], self._end_ids, on_token)
                if request.finish_reason is not None and on_end is not None:
                    on_end(request.index)
            if step == 1:
                first = time.perf_counter()
            alive = [(row, request) for row, request in alive if request.finish_reason is None]
            if not alive:
                break
            new = upcoming
        now = time.perf_counter()
        first = first if step > 0 else now
        self.timing = Timing(
            self.timing.first_seconds + first - began,
            self.timing.decode_seconds + now - first,
            self.timing.decode_tokens + count,
        )


def generate(
    model,
    params,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions | Sequence[SamplingOptions],
    *,
    tokenizer=None,
    seed: int = 0,
    stop: Sequence[str] = (),
    end_ids: Sequence[int] | None = None,
    on_token: Callable[[int, str], None] | None = None,
    batch_size: int = 32,
) -> list[Generation]:
    """Continues every prompt and returns the results in their order.

    In float32 a prompt's continuation depends on (seed, its index in `prompts`, its options) and
    on nothing else in the batch, except where two tokens tie within rounding.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      prompts: token ids, at least one each and fewer than the model's positions.
      options: for all prompts, or one for each.
      tokenizer: for text, stop strings and streaming; None gives tokens alone.
      seed: of the draws.
      stop: strings that end a row's text; they are not part of it.
      end_ids: tokens that end a row; None means the tokenizer's EOS.
      on_token: called as `on_token(row, text)` with each piece of text as soon as it is certain;
        a row's pieces together are its text.
      batch_size: rows computed together.

    Raises:
      ConfigError: an empty or too long prompt, an unknown token, an empty stop string.
    """
    engine = Engine(model, params, tokenizer, end_ids=end_ids, batch_size=batch_size)
    return engine.generate(prompts, options, seed=seed, stop=stop, on_token=on_token)


class _Request:
    """One prompt on its way."""

    def __init__(self, index, prompt, options, room, stream):
        self.index, self.prompt, self.options, self.room = index, prompt, options, room
        self.finish_reason = None
        self._stream, self._tokens = stream, []

    def take(self, token: int, end_ids, on_token) -> None:
        """Adds the next token and decides whether it is the last."""
        released = ""
        if token in end_ids:
            self.finish_reason = "eos"
        else:
            self._tokens.append(token)
            released = self._stream.push(token)
            if self._stream.stopped:
                self.finish_reason = "stop"
            elif len(self._tokens) == self.room:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            released += self._stream.finish()
            if self._stream.stopped:
                self.finish_reason = "stop"
        if on_token is not None and released:
            on_token(self.index, released)

    def result(self) -> Generation:
        return Generation(
            tuple(self._tokens), self._stream.text, self.finish_reason, len(self.prompt)
        )


def _lay_out(model, params):
    """Returns `(weights, axes)` for decoding: each layer's arrays apart, matrices in model.dtype.

    XLA on a CPU copies a layer's slice of a stacked array at every step; arrays that were apart
    before the step are read in place. Vectors (norms, most biases) stay float32, as the model
    reads them.
    """
    axes = model.logical_axes
    leaves, treedef = jax.tree.flatten(params)
    stacked = tuple(bool(names) and names[0] == "layers" for names in treedef.flatten_up_to(axes))
    return _apart(leaves, stacked, model.dtype), (treedef, stacked)


@functools.partial(jax.jit, static_argnames=("stacked", "dtype"))
def _apart(leaves, stacked, dtype):
    def narrow(leaf, in_stack):
        return leaf.astype(dtype) if leaf.ndim - in_stack > 1 else leaf

    return [
        list(narrow(leaf, True)) if in_stack else narrow(leaf, False)
        for leaf, in_stack in zip(leaves, stacked)
    ]


def _together(arrays, layout):
    """Undoes `_apart`; XLA folds the stacking and the layers' slicing away."""
    treedef, stacked = layout
    return treedef.unflatten(
        jnp.stack(array) if in_stack else array for array, in_stack in zip(arrays, stacked)
    )


@jax.jit
def _request_keys(seed, indices):
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(indices)


def _choose(model, params, hidden, seen, keys, positions, rows, stages, vocab_size):
    logits = model.logits(params, hidden)[:, :vocab_size]
    keys = jax.vmap(jax.random.fold_in)(keys, positions) if stages.draw else keys
    tokens = samplers.sample(logits, seen, keys, rows, stages)
    if stages.repetition:
        seen = seen.at[jnp.arange(tokens.shape[0]), tokens].set(True)
    return tokens, seen


@functools.partial(jax.jit, static_argnames=("model", "length", "stages", "vocab_size"))
def _prefill(model, params, tokens, lengths, keys, rows, *, length, stages, vocab_size):
    """Reads the prompts `tokens [B, S]` of `lengths [B]`; returns the first new tokens [B]."""
    batch, width = tokens.shape
    inside = jnp.arange(width) < lengths[:, None]
    hidden, cache = model.hidden(
        params,
        tokens,
        positions=jnp.where(inside, jnp.arange(width), -1),
        cache=model.init_cache(batch, length),
    )
    last = hidden[jnp.arange(batch), lengths - 1]
    seen = None
    if stages.repetition:
        seen = jnp.zeros((batch, vocab_size), bool)
        seen = seen.at[jnp.arange(batch)[:, None], jnp.where(inside, tokens, vocab_size)].set(
            True, mode="drop"
        )
    new, seen = _choose(model, params, last, seen, keys, lengths, rows, stages, vocab_size)
    return new, {"cache": cache, "positions": lengths, "seen": seen}


def _decode(model, weights, tokens, state, keys, rows, *, stages, vocab_size):
    """Takes the tokens [B] that were chosen last; returns the next ones and the new state."""
    arrays, layout = weights
    return _decode_step(model, layout, arrays, tokens, state, keys, rows, stages, vocab_size)


@functools.partial(jax.jit, static_argnums=(0, 1, 7, 8), donate_argnums=(4,))
def _decode_step(model, layout, arrays, tokens, state, keys, rows, stages, vocab_size):
    execution = dataclasses.replace(model.execution, unroll=0)
    model = dataclasses.replace(model, execution=execution)
    params = _together(arrays, layout)
    positions = state["positions"]
    hidden, cache = model.hidden(
        params, tokens[:, None], positions=positions[:, None], cache=state["cache"]
    )
    positions = positions + 1
    new, seen = _choose(
        model, params, hidden[:, 0], state["seen"], keys, positions, rows, stages, vocab_size
    )
    return new, {"cache": cache, "positions": positions, "seen": seen}

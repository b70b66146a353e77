"""The generation room's engine: batches of prompts in, text out, one cached token at a time.

Prompts are padded on the right and every row keeps its own position, so padding is neither
attended to nor paid for again. The device is one step ahead of the host: a step's tokens are read
while the next step runs. A row's draws depend on (seed, request, position) alone.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.generation import samplers, speculative, steps
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
      first_seconds: until the second step was done: prefill and compilation.
      decode_seconds, decode_tokens: of the tokens behind that.
      drafted_tokens, accepted_tokens: guesses of a draft, and those that were right.
    """

    first_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

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
      draft: guesses ahead in greedy decoding; the same text in fewer steps.

    Attributes:
      timing: of the last call.
    """

    def __init__(
        self,
        model,
        params,
        tokenizer=None,
        *,
        end_ids=None,
        batch_size: int = 32,
        draft: speculative.Draft | None = None,
    ):
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        if model.virtual_tokens:
            raise ConfigError(
                f"the model has {model.virtual_tokens} virtual tokens (prompt, ptuning or prefix), "
                "which generation does not know yet: tune it by another method"
            )
        if draft is not None:
            draft.check(model)
        self._draft = draft
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
        self._weights = steps.lay_out(model, params)
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
        if self._draft is not None:
            for own in options:
                if own.temperature > 0 or own.repetition_penalty != 1:
                    raise ConfigError(
                        "a draft is checked by greedy decoding: set temperature=0 and "
                        "repetition_penalty=1, or leave the draft out"
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
        began = first = time.perf_counter()
        alive, count, guesses, right = list(enumerate(requests)), 0, 0, 0
        plain = self._draft is None
        written = self._write(requests, seed) if plain else self._draft_ahead(requests)
        for step, new in enumerate(written):
            for row, request in alive:
                if step and not plain:
                    guesses, right = guesses + self._draft.tokens, right + len(new[row]) - 1
                for token in new[row]:
                    count += step > 1
                    request.take(token, self._end_ids, on_token)
                    if request.finish_reason is not None:
                        break
                if request.finish_reason is not None and on_end is not None:
                    on_end(request.index)
            if step <= 1:
                first = time.perf_counter()
            alive = [(row, request) for row, request in alive if request.finish_reason is None]
            if not alive:
                break
        self.timing = Timing(
            self.timing.first_seconds + first - began,
            self.timing.decode_seconds + time.perf_counter() - first,
            self.timing.decode_tokens + count,
            self.timing.drafted_tokens + guesses,
            self.timing.accepted_tokens + right,
        )

    def _padded(self, requests):
        """Returns the prompts as `tokens [B, S]` and their `lengths [B]`."""
        batch = bucket(len(requests), self._batch_size, smallest=1)
        longest = max(len(request.prompt) for request in requests)
        tokens = np.zeros((batch, bucket(longest, self._model.config.max_positions)), np.int32)
        lengths = np.ones(batch, np.int32)
        for row, request in enumerate(requests):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
        return tokens, lengths

    def _draft_ahead(self, requests):
        room = max(request.room for request in requests)
        sizes = {"room": room, "vocab_size": self._vocab_size}
        shared = (self._model, self._params, self._weights, self._draft)
        return speculative.write(*shared, *self._padded(requests), **sizes)

    def _write(self, requests: list["_Request"], seed: int):
        """Yields each row's new token, step by step."""
        model, vocab_size = self._model, self._vocab_size
        tokens, lengths = self._padded(requests)
        batch, longest = len(lengths), int(lengths.max())
        limit = max(request.room for request in requests)
        total = max(len(request.prompt) + request.room for request in requests)
        most = model.cache_slots(model.config.max_positions)
        length = first_length(longest, total, most)
        indices = np.zeros(batch, np.int32)
        indices[: len(requests)] = [request.index for request in requests]
        settings = [request.options for request in requests]
        settings += [SamplingOptions(temperature=0)] * (batch - len(requests))
        rows, stages = samplers.pack(settings, vocab_size)
        rows = jax.tree.map(jnp.asarray, rows)
        keys = steps.request_keys(seed, indices)
        new, state = steps.prefill(
            model, self._params, tokens, lengths, keys, rows,
            length=length, stages=stages, vocab_size=vocab_size,
        )  # fmt: skip
        arrays, layout = self._weights
        for step in range(limit):
            upcoming = None
            if step + 1 < limit:
                if longest + step >= length and length < most:
                    length = min(2 * length, most)
                    state["cache"] = grow(model, state["cache"], length)
                upcoming, state = steps.decode_step(
                    model, layout, arrays, new, state, keys, rows, stages, vocab_size
                )
            yield [[token] for token in np.asarray(new).tolist()]
            new = upcoming


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

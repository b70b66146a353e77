"""Virtual tokens in front of a text: prompts that are learned, as inputs or as keys and values.

A virtual token is an id behind the rows of the model's token table; `llm_jax.models.Model` puts
them in front of each row and leaves their outputs out. So they take part in masks, positions and
caches like any token.
"""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.attention import Attention
from llm_jax.layers.embed import Table
from llm_jax.layers.partition import named

ENCODERS = ("mlp", "lstm")


@dataclasses.dataclass(frozen=True)
class Virtual:
    """What all methods of virtual tokens have.

    Attributes:
      tokens: their number.
      place: virtual tokens of other methods that stand before these; `llm_jax.peft.adapted` says.
    """

    tokens: int = 20
    place: int = 0

    def __post_init__(self):
        if self.tokens < 1:
            raise ConfigError(f"{type(self).__name__}.tokens is {self.tokens}: give 1 or more")


@dataclasses.dataclass(frozen=True)
class Prompt(Virtual):
    """Input vectors of virtual tokens (Lester et al. 2021, arXiv:2104.08691).

    They begin as pieces of the vocabulary.
    """

    targets = "the token table"

    def intercept(self, call, args, kwargs, context):
        """Gives virtual tokens their vectors, see `flax.linen.intercept_methods`."""
        module = context.module
        wanted = isinstance(module, Table) and module.name == "embedding"
        if not wanted or context.method_name != "__call__":
            return call(*args, **kwargs)
        (indices,) = args
        x = call(indices)
        vectors = self._vectors(module).astype(x.dtype)
        inside = indices - module.rows - self.place
        ours = (inside >= 0) & (inside < self.tokens)
        return jnp.where(ours[..., None], jnp.take(vectors, inside, axis=0, mode="clip"), x)

    def _vectors(self, table: Table):
        """Returns float32 [tokens, D]."""

        def start():
            # Of the table that is declared by now; its last rows may be padding.
            rows = nn.meta.unbox(table.get_variable("params", "table"))
            rows = rows[: max(table.rows - 128, 1)]
            return jax.random.choice(table.make_rng("params"), rows, (self.tokens,))

        return table.variable("adapters", "prompt", named(start, (None, "embed"))).value


@dataclasses.dataclass(frozen=True)
class PTuning(Prompt):
    """Input vectors that a small network makes of learned ones (Liu et al. 2021, arXiv:2103.10385).

    Attributes:
      encoder: "mlp", three layers with ReLU; or "lstm", two layers of a bidirectional LSTM and an
        MLP of two; both as in `peft`.
      hidden: units of the network; 0: as many as the model is wide.
    """

    encoder: str = "mlp"
    hidden: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.encoder not in ENCODERS:
            known = " or ".join(ENCODERS)
            raise ConfigError(f"PTuning.encoder is {self.encoder!r}: give {known}")
        if self.hidden < 0:
            raise ConfigError(f"PTuning.hidden is {self.hidden}: give 0 or more")

    def _vectors(self, table: Table):
        size, hidden = table.features, self.hidden or table.features

        def parameter(name, shape, names, start):
            def first():
                return start(table.make_rng("params"), shape)

            return table.variable("adapters", f"ptuning_{name}", named(first, names)).value

        def small(name, shape, fan_in):
            # U(-1/sqrt(n), 1/sqrt(n)), torch's of linear layers and LSTMs.
            start = functools.partial(
                jax.random.uniform, minval=-(fan_in**-0.5), maxval=fan_in**-0.5
            )
            return parameter(name, shape, (None,) * len(shape), start)

        x = parameter("input", (self.tokens, size), (None, "embed"), jax.random.normal)
        widths = (size, hidden, hidden, size)
        if self.encoder == "lstm":
            for layer in range(2):
                x = jnp.concatenate(
                    [
                        _lstm(
                            x[::way],
                            small(f"lstm_{layer}_in_{way:+d}", (x.shape[1], 4 * hidden), hidden),
                            small(f"lstm_{layer}_state_{way:+d}", (hidden, 4 * hidden), hidden),
                            small(f"lstm_{layer}_bias_{way:+d}", (4 * hidden,), hidden),
                        )[::way]
                        for way in (1, -1)
                    ],
                    axis=-1,
                )
            widths = (2 * hidden, 2 * hidden, size)
        for layer, (inner, outer) in enumerate(itertools.pairwise(widths)):
            x = jax.nn.relu(x) if layer else x
            x = x @ small(f"mlp_{layer}", (inner, outer), inner)
            x = x + small(f"mlp_{layer}_bias", (outer,), inner)
        return x


def _lstm(x, into, state, bias):
    """Returns [T, H] of `x [T, D]` (Hochreiter & Schmidhuber 1997), gates in torch's order."""

    def step(carry, given):
        hidden, cell = carry
        i, f, g, o = jnp.split(given + hidden @ state, 4)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros(state.shape[0])
    return jax.lax.scan(step, (zeros, zeros), x @ into + bias)[1]


@dataclasses.dataclass(frozen=True)
class Prefix(Virtual):
    """Keys (behind rotary positions) and values of virtual tokens, learned for every layer.

    Prefix tuning (Li & Liang 2021, arXiv:2101.00190) and P-tuning v2 (Liu et al. 2021,
    arXiv:2110.07602), without the network that the first makes them by.
    """

    targets = "attention"

    def intercept(self, call, args, kwargs, context):
        """Replaces keys and values, see `flax.linen.intercept_methods`."""
        module = context.module
        wanted = isinstance(module, Attention) and context.method_name == "seen"
        if not wanted or module.path[-1] != "attention":
            return call(*args, **kwargs)
        key, value = args
        end = self.place + self.tokens

        def replaced(name, x):
            shape, names = (self.tokens, *x.shape[2:]), (None, "kv_heads", "head_dim")

            def start():
                return nn.initializers.normal(0.02)(module.make_rng("params"), shape)

            own = module.variable("adapters", f"prefix_{name}", named(start, names)).value
            if x.shape[1] < end:  # decoding goes on behind them; or the shapes' own example
                return x
            own = jnp.broadcast_to(own.astype(x.dtype), (x.shape[0], *shape))
            return jnp.concatenate([x[:, : self.place], own, x[:, end:]], axis=1)

        return replaced("key", key), replaced("value", value)

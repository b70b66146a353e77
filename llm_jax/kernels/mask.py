"""Who may attend to whom, and what scores are before the softmax."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.kernels.pattern import Pattern

MASKED = -1e30


class Span(NamedTuple):
    """Slots `start .. start + size - 1`; the start may be traced."""

    start: Any
    size: int

    def of(self, x, axis: int):
        """Returns the span of `x` along an axis."""
        if isinstance(self.start, int):
            return jax.lax.slice_in_dim(x, self.start, self.start + self.size, axis=axis)
        return jax.lax.dynamic_slice_in_dim(x, self.start, self.size, axis)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Who may attend to whom; every part is optional and all must allow.

    Attributes:
      query_positions: int32 [B, T] or None: the key slot of each query; it sees the slots up to
        and with its own. None means `0 .. T-1`.
      query_segments: int32 [B, T] or None: a query sees only keys of its own segment.
      key_segments: int32 [B, S]; given if and only if `query_segments` is.
      window: int, int32 scalar or None: a query sees only the last so many slots, its own included;
        without `causal` also as many behind it.
      key_positions: int32 [B, S] or None: which slot each key is of; None means `0 .. S-1`.
      causal: whether a query's own slot is the last that it sees; without it
        `query_positions` must be None.
      pattern: which blocks of slots are seen; with anything but "full", queries and keys are of
        the same slots or the keys are a cache.
      windows: the values that `window` may have, where they are known before it is computed (of
        an int they are); a kernel is built for each.
    """

    query_positions: jax.Array | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    window: jax.Array | int | None = None
    key_positions: jax.Array | None = None
    causal: bool = dataclasses.field(default=True, metadata={"static": True})
    pattern: Pattern = dataclasses.field(default=Pattern(), metadata={"static": True})
    windows: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    first: jax.Array | None = None

    def __post_init__(self):
        if isinstance(self.window, int):
            object.__setattr__(self, "windows", (self.window,))

    @property
    def prefix_only(self) -> bool:
        """Whether query `t` sees no key behind slot `t`: half of the work can be left out."""
        return self.causal and self.query_positions is None

    def behind(self, rows: Span, columns: Span) -> jax.Array:
        """Returns int32 [B or 1, rows, columns]: how many slots a key lies before a query."""
        if self.query_positions is None:
            position = (rows.start + jnp.arange(rows.size))[None, :]
        else:
            position = rows.of(self.query_positions, 1)
        if self.key_positions is not None:
            return position[:, :, None] - columns.of(self.key_positions, 1)[:, None, :]
        slots = columns.start + jnp.arange(columns.size)
        return position[:, :, None] - (slots if self.first is None else slots + self.first)

    def allowed(self, rows: Span, columns: Span) -> jax.Array:
        """Returns bool [B or 1, rows, columns]: which keys may be seen, whatever the pattern."""
        behind = self.behind(rows, columns)
        allowed = behind >= 0 if self.causal else jnp.ones(behind.shape, bool)
        if self.window is not None:
            allowed = allowed & (jnp.abs(behind) < self.window)
        if self.query_segments is not None:
            queries, keys = rows.of(self.query_segments, 1), columns.of(self.key_segments, 1)
            allowed = allowed & (queries[:, :, None] == keys[:, None, :])
        return allowed

    def dense(self, queries: int, keys: int) -> jax.Array:
        """Returns bool [B or 1, queries, keys]: which keys may be seen."""
        allowed = self.allowed(Span(0, queries), Span(0, keys))
        if not self.pattern.block_sparse:
            return allowed
        size = self.pattern.block_size
        visible = self.pattern.visible(-(-keys // size), causal=self.causal)
        if self.query_positions is None:
            blocks = np.arange(queries)[None, :] // size
        else:
            blocks = jnp.clip(self.query_positions, 0, keys - 1) // size
        by_query = jnp.asarray(visible)[blocks]
        return allowed & jnp.repeat(by_query, size, axis=-1)[..., :keys]


def tied(mask: Mask, query):
    """Returns both as they are, and none of the mask known before the query is.

    JAX takes what no layer changes out of the scan over layers, and so would compute every block of
    a mask at once and keep it, for all heads: quadratic memory.
    """
    mask = dataclasses.replace(mask, first=jnp.int32(0))
    return jax.lax.optimization_barrier((mask, query))


@dataclasses.dataclass(frozen=True)
class Scores:
    """What scores are before the softmax: `cap tanh(scale q k / cap) - slope |t - s|`.

    Attributes:
      scale: of the products; None means `1 / sqrt(H)`.
      cap: no score is larger (Gemma 2, arXiv:2408.00118); None for none.
      alibi: subtracts each head's slope times the distance (Press et al. 2021,
        arXiv:2108.12409), see `alibi_slopes`.
    """

    scale: float | None = None
    cap: float | None = None
    alibi: bool = False

    def __post_init__(self):
        if self.alibi and self.cap is not None:
            raise ConfigError(
                "model.positions='alibi' and model.attention_cap do not go together: unset one"
            )

    @property
    def scaled_only(self) -> bool:
        """Whether they are scaled products and nothing else."""
        return self.cap is None and not self.alibi

    def factor(self, head_dim: int) -> float:
        """Returns the scale."""
        return 1.0 / math.sqrt(head_dim) if self.scale is None else self.scale

    def of(self, scaled, mask: Mask, rows: Span, columns: Span):
        """Returns the scores [B, K, G, rows, columns] of scaled products, float32."""
        if self.cap is not None:
            return self.cap * jnp.tanh(scaled / self.cap)
        if self.alibi:
            slopes = alibi_slopes(scaled.shape[1] * scaled.shape[2])
            slopes = slopes.reshape(*scaled.shape[1:3], 1, 1)
            return scaled - slopes * jnp.abs(mask.behind(rows, columns))[:, None, None]
        return scaled


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns float32 [num_heads], the slopes of ALiBi (Press et al. 2021, arXiv:2108.12409).

    For `n` heads, a power of two, they are `2^(-8 i / n)`, i from 1 on. Any other number takes
    those of the power of two below it, and every other one of the power above for the rest.
    """
    below = 2 ** int(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * below, 2) / below)
    return np.concatenate([slopes, between[: num_heads - below]]).astype(np.float32)

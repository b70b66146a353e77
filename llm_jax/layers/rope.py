"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout."""

import jax
import jax.numpy as jnp


def rotary_tables(positions, head_dim: int, base: float = 10_000.0):
    """Returns (cosine, sine), each float32 [B, T, head_dim // 2], for int32 `positions [B, T]`.

    Positions that are known while tracing give constants: XLA's CPU backend would otherwise take
    the sines again for every head of every layer that reads the tables.
    """
    with jax.ensure_compile_time_eval():
        frequency = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
        angle = positions[..., None].astype(jnp.float32) * frequency
        return jnp.cos(angle), jnp.sin(angle)


def rotate(x, tables):
    """Rotates `x [B, T, N, H]` by `rotary_tables`: entry i pairs with entry i + H/2."""
    cosine, sine = (table[:, :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)

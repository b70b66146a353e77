"""Dropout whose masks do not depend on how a batch is split.

A mask is a function of (key, site, example id, position) alone, so that accumulation, meshes and
batch order leave every example's masks as they are.
"""

import zlib

import jax
import jax.numpy as jnp


def site_key(key, site: str):
    """Returns the key of a named place in the model, derived from `key`."""
    return jax.random.fold_in(key, zlib.crc32(site.encode()))


def dropout(x, rate: float, key, example_ids):
    """Zeroes entries of `x` with probability `rate` and scales the rest by `1 / (1 - rate)`.

    Args:
      x: [B, ...], floating point. The draw for an entry depends on its flat index behind the
        batch axis; a longer axis 1 leaves the masks of earlier positions unchanged.
      rate: in [0, 1).
      key: of this site, or None to return `x` unchanged.
      example_ids: int32 [B], which draws each row takes.

    Returns:
      [B, ...] like `x` (Srivastava et al. 2014, JMLR 15).
    """
    if key is None or rate == 0.0:
        return x
    keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(example_ids)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))

"""Tables of vectors: tokens in, logits out, learned positions."""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.layers.partition import named
from llm_jax.parallel.sharding import constrain


def padded_rows(vocab_size: int) -> int:
    """Returns the rows of a token table: `vocab_size` up to a multiple of 128.

    They divide over a mesh's tensor axis; the loss masks the padding and export cuts it.
    """
    return -(-vocab_size // 128) * 128


class Table(nn.Module):
    """Vectors looked up by index.

    Attributes:
      rows: number of vectors.
      features: their size.
      row_axis: logical name of the rows, "vocab" or "positions".
      init_std: standard deviation of the normal initializer.
      dtype: of the vectors that are returned; the table is float32.
    """

    rows: int
    features: int
    row_axis: str
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, indices):
        """Returns [..., features] for int32 `indices [...]`, clipped to the table."""
        init = named(nn.initializers.normal(self.init_std), (self.row_axis, "embed"))
        table = self.param("table", init, (self.rows, self.features))
        # Whole vectors, gathered over fsdp as for a matmul: else SPMD would move the activations.
        table = constrain(table, (self.row_axis, "embed"))
        return jnp.take(table, indices, axis=0, mode="clip").astype(self.dtype)

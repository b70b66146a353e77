"""How much arithmetic a model does."""

import dataclasses

from llm_jax.kernels.pattern import Pattern


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of one trained token, forward and backward.

    Recomputation is not counted; a multiply and an add are two operations.

    Attributes:
      matmul: 6 for each weight that multiplies activations, the output table included.
      attention: scores and mixing against a whole row of keys, causal or not.
      formula: in words.
    """

    matmul: float
    attention: float
    formula: str

    @property
    def total(self) -> float:
        """With causal attention halved: what MFU is computed from."""
        return self.matmul + self.attention / 2

    @property
    def total_whole_attention(self) -> float:
        """With attention counted whole, as in Chowdhery et al. 2022 (arXiv:2204.02311)."""
        return self.matmul + self.attention


def row_keys(
    length: int,
    *,
    head_dim: int,
    window: int | None = None,
    pattern: Pattern = Pattern(),
    causal: bool = True,
) -> float:
    """Returns the keys of a row that a token's attention costs, causal or not.

    A causal mask leaves half of them, which `Flops.total` takes off: so this is `length` for full
    attention, and in general the mean number of keys that a token sees, in a decoder twice that.

    Args:
      length: of the row.
      head_dim: which a linear pattern pays in place of keys.
      window: slots seen, in an encoder on both sides; None for all.
      pattern: of the model.
      causal: whether it is a decoder's.
    """
    if pattern.linear:
        return float(head_dim * (1 + causal))
    if pattern.block_sparse:
        blocks = -(-length // pattern.block_size)
        seen = pattern.visible(blocks, causal=causal).sum() / blocks
        return float(min(length, pattern.block_size * (2 * seen - 1 if causal else seen)))
    near = min(window or length, length)
    return length if near == length else 2 * near - near**2 / length

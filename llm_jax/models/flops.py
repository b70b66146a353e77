"""How much arithmetic a model does."""

import dataclasses


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

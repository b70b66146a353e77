"""Weights in few bits: blocks of 64 numbers with one scale each, for parameters that do not train.

"nf4" has the 16 quantiles of a normal distribution (QLoRA, Dettmers et al. 2023, arXiv:2305.14314,
section 3 and appendix E), two to a byte; "int8" has 255 equal steps.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 64
KINDS = ("nf4", "int8")
# Appendix E of the paper.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("codes", "scales"), meta_fields=("kind", "shape")
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """An array in few bits.

    Attributes:
      codes: uint8 [..., n / 2] of "nf4", int8 [..., n] of "int8"; leading axes are those of stacks.
      scales: float32 [..., n / 64], the largest absolute value of each block.
      kind: one of `KINDS`.
      shape: of one array of the stack, n numbers in all.
    """

    codes: jax.Array
    scales: jax.Array
    kind: str
    shape: tuple[int, ...]


def pack(x, kind: str, lead: int = 0) -> Packed:
    """Returns `x` in few bits, each number rounded to the nearest one of its block.

    Args:
      x: float array; behind its `lead` first axes it has a multiple of 64 numbers.
      kind: one of `KINDS`.
      lead: axes that stack arrays.
    """
    shape = x.shape[lead:]
    blocks = x.astype(jnp.float32).reshape(*x.shape[:lead], -1, BLOCK)
    scales = jnp.max(jnp.abs(blocks), axis=-1)
    unit = blocks / jnp.where(scales == 0, 1.0, scales)[..., None]
    flat = unit.reshape(*x.shape[:lead], -1)
    if kind == "int8":
        return Packed(jnp.round(flat * 127).astype(jnp.int8), scales, kind, shape)
    borders = jnp.asarray((NF4[1:] + NF4[:-1]) / 2)
    codes = jnp.searchsorted(borders, flat).astype(jnp.uint8)
    return Packed(codes[..., ::2] << 4 | codes[..., 1::2], scales, kind, shape)


def unpack(packed: Packed):
    """Returns the float32 array [..., *shape] of `packed`."""
    codes, lead = packed.codes, packed.codes.shape[:-1]
    if packed.kind == "int8":
        unit = codes.astype(jnp.float32) / 127
    else:
        pairs = jnp.stack([codes >> 4, codes & 15], axis=-1)
        unit = jnp.take(jnp.asarray(NF4), pairs.reshape(*lead, -1).astype(jnp.int32))
    blocks = unit.reshape(*lead, -1, BLOCK) * packed.scales[..., None]
    return blocks.reshape(*lead, *packed.shape)


def unpacked(tree):
    """Returns `tree` with arrays in place of what is packed."""
    return jax.tree.map(
        lambda leaf: unpack(leaf) if isinstance(leaf, Packed) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Packed),
    )

"""Images as tokens: patches to vectors, and learned position grids at other sizes."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.layers.linear import Projection


class PatchEmbedding(nn.Module):
    """Maps squares of an image to vectors (Dosovitskiy et al. 2020, arXiv:2010.11929).

    A convolution whose stride is its size, computed as one matrix product.

    Attributes:
      patch_size: side of a square, in pixels.
      channels: of the images.
      features: size of a vector.
      use_bias: adds a bias.
      init_std: standard deviation of the normal initializer.
      dtype: of the computation; parameters are float32.
    """

    patch_size: int
    channels: int
    features: int
    use_bias: bool
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels):
        """Returns [B, (H / P) (W / P), features], row by row, of `pixels [B, C, H, W]`.

        Raises:
          ConfigError: another number of channels, or sides that are no multiple of P.
        """
        batch, channels, height, width = pixels.shape
        size = self.patch_size
        if channels != self.channels:
            raise ConfigError(f"images have {channels} channels, the model {self.channels}")
        if height % size or width % size:
            raise ConfigError(
                f"images of {height} x {width} pixels do not divide into patches of {size}: "
                "resize them"
            )
        rows, columns = height // size, width // size
        x = pixels.reshape(batch, channels, rows, size, columns, size)
        x = x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels, size, size)
        return Projection(
            (channels, size, size),
            (self.features,),
            (None, None, None, "embed"),
            self.init_std,
            self.use_bias,
            self.dtype,
            name="projection",
        )(x)


def resample(grid, shape: tuple[int, int], *, antialias: bool = False):
    """Returns [h, w, D] of `grid [H, W, D]`, resampled by bicubic interpolation.

    Equal to `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`; corners of
    pixels, not their centres, are aligned, and edges are repeated. With `antialias` a smaller
    grid averages over more of the old one, and the cubic is Keys' (1981) of -0.5 in place of -0.75.
    """
    weights = _antialiased if antialias else _interpolated
    rows, columns = (
        jnp.asarray(weights(old, new), grid.dtype) for old, new in zip(grid.shape, shape)
    )
    return jnp.einsum("hH,wW,HWd->hwd", rows, columns, grid, precision="highest")


def _cubic(distance, slope: float):
    """Keys' cubic kernel of absolute distances below 2, zero beyond."""
    near = ((slope + 2.0) * distance - (slope + 3.0)) * distance**2 + 1.0
    far = slope * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))


def _interpolated(old: int, new: int) -> np.ndarray:
    """Returns the weights [new, old]: four neighbours each, those outside moved to the edge."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        source = first + offset
        share = _cubic(np.abs(place - source), -0.75)
        np.add.at(weights, (np.arange(new), np.clip(source, 0, old - 1)), share)
    return weights


def _antialiased(old: int, new: int) -> np.ndarray:
    """Returns the weights [new, old]: the kernel widens as the grid shrinks, and sums to one."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * scale
        start = max(math.floor(centre - 2.0 * stretch + 0.5), 0)
        stop = min(math.floor(centre + 2.0 * stretch + 0.5), old)
        source = np.arange(start, stop)
        share = _cubic(np.abs(source - centre + 0.5) / stretch, -0.5)
        weights[row, start:stop] = share / share.sum()
    return weights


def grid_positions(
    table, grid: int, shape: tuple[int, int], *, special: int, resampled: bool, antialias=False
):
    """Returns the positions [special + h w, D] of an image of `shape` (h, w) in patches.

    Args:
      table: [special + grid * grid, D], learned for square images; the first ones are tokens that
        are no patches.
      grid: patches along a side of those images.
      shape: patches of these images, rows and columns.
      special: number of those tokens.
      resampled: other shapes are taken, with the grid resampled.
      antialias: see `resample`.

    Raises:
      ConfigError: another shape, and `resampled` is False.
    """
    if shape == (grid, grid):
        return table
    if not resampled:
        raise ConfigError(
            f"images of {shape[0]} x {shape[1]} patches are not the model's {grid} x {grid}: "
            "resize them, or give interpolate_pos_encoding=True"
        )
    patches = table[special:].reshape(grid, grid, -1)
    patches = resample(patches, shape, antialias=antialias).reshape(-1, table.shape[-1])
    return jnp.concatenate([table[:special], patches])

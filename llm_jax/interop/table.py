"""One declaration of how a family's parameters stand in a file: it reads and it writes.

A table is a list of `Entry`: the name of a tensor in the file, the parameter (or parameters) that
it holds, and the `Layout` between their shapes. Placeholders such as `{layer}` in a name run over
the leading axes of the parameter, which is stacked.
"""

import dataclasses
import itertools
import math
import string
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one parameter lies in a tensor of the file.

    Attributes:
      in_axes: None keeps the order of the axes. A number makes the tensor a matrix whose columns
        are that many first axes of the parameter and whose rows are the others: the weight of
        `torch.nn.Linear`.
      axes: a permutation: axis i of the tensor is axis `axes[i]` of the parameter.
      shape: of the tensor, where the parameter's axes are split; None: as many axes as it has.
      rows: the tensor has only so many rows; the parameter is filled up with zeros.
    """

    in_axes: int | None = None
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    rows: int | None = None

    def to_file(self, parameter: np.ndarray) -> np.ndarray:
        """Returns the tensor of a parameter, without its stacking axes."""
        if self.in_axes is not None:
            columns = math.prod(parameter.shape[: self.in_axes])
            return parameter.reshape(columns, -1).T
        if self.axes is not None:
            parameter = parameter.transpose(self.axes)
        if self.rows is not None:
            parameter = parameter[: self.rows]
        return parameter if self.shape is None else parameter.reshape(self.shape)

    def from_file(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the parameter of `shape` that `tensor` holds; the inverse of `to_file`."""
        if self.in_axes is not None:
            return tensor.T.reshape(shape)
        if self.rows is not None:
            return np.pad(tensor, [(0, shape[0] - self.rows)] + [(0, 0)] * (tensor.ndim - 1))
        if self.axes is not None:
            inner = tuple(shape[axis] for axis in self.axes)
            return tensor.reshape(inner).transpose(np.argsort(self.axes))
        return tensor.reshape(shape)

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the tensor's shape for a parameter of `shape`."""
        return self.to_file(np.broadcast_to(np.float32(0), shape)).shape


FLAT = Layout(shape=(-1,))
SAME = Layout()


def linear(in_axes: int = 1) -> Layout:
    """`torch.nn.Linear`'s weight, [out, in], of a kernel whose first `in_axes` axes are inputs."""
    return Layout(in_axes=in_axes)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name in the file and what it holds.

    Attributes:
      theirs: the tensor's name, with a placeholder for each stacking axis of the parameter.
      ours: the parameter's path, `a/b/c`, or several that the tensor joins along `axis`.
      layout: between a parameter and its part of the tensor.
      axis: of the tensor, along which several parameters lie one behind the other.
      optional: the parameter is zero where a file lacks the tensor.
    """

    theirs: str
    ours: str | tuple[str, ...]
    layout: Layout = SAME
    axis: int = 0
    optional: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters' paths."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def placeholders(self) -> list[str]:
        """The names of the stacking axes, in their order."""
        return [name for _, name, _, _ in string.Formatter().parse(self.theirs) if name]

    def names(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
        """Yields (index along the stacking axes, tensor's name) for a parameter of `shape`."""
        stack = shape[: len(self.placeholders)]
        for index in itertools.product(*map(range, stack)):
            yield index, self.theirs.format(**dict(zip(self.placeholders, index)))

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the file's shape of one slice of a stacked parameter of `shape`."""
        return self.layout.file_shape(shape[len(self.placeholders) :])

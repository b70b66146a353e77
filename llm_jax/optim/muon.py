"""Optimizer room, Muon: momentum made orthogonal, layer by layer.

optax's own Muon corrects its momentum's bias, for which the original has no term, and takes every
product batched; this one follows Keller Jordan's code and takes the cheaper of two ways.
"""

import jax
import jax.numpy as jnp
import optax

from llm_jax.optim.tables import Layout
from llm_jax.optim.transforms import AdamState, one_minus_power, per_leaf, zeros
from llm_jax.parallel.sharding import platform

# The quintic a x + b x^3 + c x^5 whose slope at zero is as large as it can be: five rounds bring
# singular values from [0.001, 1] into about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(x: jax.Array, *, steps: int = 5, method: str = "auto") -> jax.Array:
    """Returns float32 [..., m, n] with the singular vectors of `x` and singular values near 1.

    `steps` rounds of Newton-Schulz on x / |x|: X <- (a + b A + c A^2) X with A = X X^T.
    Jordan 2024, https://kellerjordan.github.io/posts/muon.

    Args:
      x: [..., m, n] floating point; leading axes stack matrices, which a CPU takes one by one.
      steps: rounds.
      method: "direct" multiplies X in every round: steps * (4 m^2 n + 2 m^3) FLOPs, m the smaller
        side. "gram" keeps to the m x m side and multiplies X once: 4 m^2 n + (8 steps - 6) m^3,
        half of it from n = 4 m on; it squares the condition number and so needs float32 products.
        "auto" takes gram on a CPU where n is at least 2 m, direct elsewhere.
    """
    *stack, m, n = x.shape
    if method == "auto":
        wide = max(m, n) >= 2 * min(m, n)
        method = "gram" if wide and platform() == "cpu" else "direct"
    one = _gram if method == "gram" else _direct

    def tall_or_wide(matrix):
        matrix = matrix / (jnp.linalg.norm(matrix) + 1e-7)
        return one(matrix.T, steps).T if m > n else one(matrix, steps)

    one_by_one = platform() == "cpu"
    over_stack = jax.lax.map if one_by_one else lambda f, xs: jax.vmap(f)(xs)
    flat = x.astype(jnp.float32).reshape(-1, m, n)
    return over_stack(tall_or_wide, flat).reshape(*stack, m, n)


def _direct(x, steps: int):
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _gram(x, steps: int):
    a, b, c = QUINTIC
    with jax.default_matmul_precision("highest"):
        gram, total = x @ x.T, None
        for step in range(steps):
            factor = a * jnp.eye(len(gram), dtype=x.dtype) + b * gram + c * (gram @ gram)
            total = factor if total is None else factor @ total
            if step < steps - 1:
                gram = factor @ gram @ factor
        return total @ x


def scale_by_muon(
    layouts: list[Layout],
    *,
    momentum: float,
    nesterov: bool,
    scale: str,
    steps: int,
    method: str,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> optax.GradientTransformation:
    """Muon's direction for the matrices, Adam's for embeddings, output heads and vectors.

    The momentum is m <- momentum m + (1 - momentum) g; with `nesterov` one more such mean of it
    and g is made orthogonal. `scale` "original" multiplies by sqrt(max(1, columns / rows)) (rows
    are inputs here), "match_rms_adamw" by 0.2 sqrt(max(rows, columns)), which gives entries about
    the size of AdamW's: Liu et al. 2025, https://arxiv.org/abs/2502.16982.

    Its state is Adam's, without a `square` for the matrices.
    """

    def is_muon(layout):
        return layout.is_matrix and not layout.lookup

    def init(params):
        def square(layout, p):
            return optax.MaskedNode() if is_muon(layout) else jnp.zeros(p.shape, jnp.float32)

        squares = per_leaf(square, layouts, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros(params), squares)

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        first, second = one_minus_power(beta1, count), one_minus_power(beta2, count)

        def new_mean(layout, g, m):
            beta = momentum if is_muon(layout) else beta1
            return beta * m + (1 - beta) * g

        def new_square(layout, g, v):
            return v if is_muon(layout) else beta2 * v + (1 - beta2) * g * g

        def direction(layout, g, m, v):
            if not is_muon(layout):
                return (m / first) / (jnp.sqrt(v / second) + epsilon)
            if nesterov:
                m = momentum * m + (1 - momentum) * g
            return orthogonal_update(m, layout, scale=scale, steps=steps, method=method)

        means = per_leaf(new_mean, layouts, updates, state.mean)
        squares = per_leaf(new_square, layouts, updates, state.square)
        updates = per_leaf(direction, layouts, updates, means, squares)
        return updates, AdamState(count, means, squares)

    return optax.GradientTransformation(init, update)


def orthogonal_update(x, layout: Layout, *, scale: str, steps: int, method: str) -> jax.Array:
    """Returns `x`, of any rank, with each of its layout's matrices made orthogonal and scaled."""
    columns = 1
    for axis in layout.columns:
        columns *= x.shape[axis]
    rows = 1
    for axis in layout.rows:
        rows *= x.shape[axis]
    size = 0.2 * max(rows, columns) ** 0.5
    if scale == "original":
        size = max(1.0, columns / rows) ** 0.5
    matrices = x.reshape(-1, rows, columns)
    return size * orthogonalize(matrices, steps=steps, method=method).reshape(x.shape)

"""Matrix products in eight bits: fp8 with delayed scaling, int8 with scales of its own operands.

Both round their operands to the format and multiply what is left, forward and for gradients.
Where the hardware has no units for a format XLA widens the operands, which loses nothing, and
multiplies those: the same arithmetic, not faster.

fp8 (Micikevicius et al. 2022, arXiv:2209.05433): e4m3 for activations and weights, e5m2 for
gradients, one scale for a tensor. A tensor's scale comes from the largest absolute values (amax)
that it had in the last `HORIZON` steps, so that rounding waits for no reduction. Scales are powers
of two, which themselves round nothing; then all that is needed of an amax is the exponent of the
scale that it asks for, and a tensor's memory is how many steps ago each exponent was last seen.
The backward pass returns as the memory's gradient how often each exponent was seen in this step.
Counts add up over microbatches, pipeline ticks and repeated uses as gradients do, and the largest
exponent that has one is exactly the largest of all.

int8 (SwitchBack, Wortsman et al. 2023, arXiv:2304.13013, its row- and columnwise variant): forward
and gradient of the input; the weights' gradient, a sum over all tokens, stays in the computation's
dtype.
"""

import jax
import jax.numpy as jnp

# Steps that an amax counts for; the default length of Transformer Engine's histories.
HORIZON = 1024
_LOWEST, _EXPONENTS = -126, 253  # scales are normal float32 numbers: 2**-126 .. 2**126
# Of a product's ages: a row for the input, the kernel and the gradient.
AGES_SHAPE = (3, _EXPONENTS)
_ROWS = (jnp.float8_e4m3fn, jnp.float8_e4m3fn, jnp.float8_e5m2)


def _exponent(x, dtype):
    """Returns the least int32 e, max|x| <= 2**e times the largest of `dtype`, and whether x = 0."""
    amax = jnp.max(jnp.abs(x)).astype(jnp.float32)
    fraction, exponent = jnp.frexp(amax / jnp.finfo(dtype).max.astype(jnp.float32))
    return jnp.where(fraction == 0.5, exponent - 1, exponent), amax == 0.0


def _counts(x, dtype):
    """Returns float32 [exponents], 1 at the one that `x` asks for; a tensor of zeros asks none."""
    exponent, zero = _exponent(x, dtype)
    place = jnp.clip(exponent - _LOWEST, 0, _EXPONENTS - 1)
    return jax.nn.one_hot(jnp.where(zero, -1, place), _EXPONENTS)


def delayed_exponents(ages):
    """Returns int32 [3]: the scales' exponents, the largest ones that were seen lately.

    Args:
      ages: float32 [3, exponents], steps since each was seen. A row in which none is younger than
        `HORIZON` gives 0.
    """
    places = jnp.arange(_EXPONENTS) + _LOWEST
    largest = jnp.max(jnp.where(ages < HORIZON, places, _LOWEST - 1), axis=-1)
    return jnp.where(largest < _LOWEST, 0, largest)


def aged(ages, counts):
    """Returns the ages one step later, of those before and the step's counts, same shape."""
    return jnp.where(counts > 0, 0.0, jnp.minimum(ages + 1.0, HORIZON))


def to_fp8(x, exponent, dtype):
    """Returns `x / 2**exponent` rounded to an fp8 `dtype`.

    What is too large becomes the largest number; an infinity becomes NaN, so that a step which
    overflowed is known by its loss.
    """
    largest = jnp.finfo(dtype).max.astype(jnp.float32)
    scaled = x.astype(jnp.float32) * jnp.ldexp(jnp.float32(1.0), -exponent)
    scaled = jnp.where(jnp.isinf(scaled), jnp.nan, jnp.clip(scaled, -largest, largest))
    return scaled.astype(dtype)


def _product(a, b, axes, exponent):
    """Returns float32 `2**exponent` times the product of two matrices over an axis of each."""
    sums = (((axes[0],), (axes[1],)), ((), ()))
    y = jax.lax.dot_general(a, b, sums, preferred_element_type=jnp.float32)
    return y * jnp.ldexp(jnp.float32(1.0), exponent)


@jax.custom_vjp
def fp8_matmul(x, kernel, ages):
    """Returns `x [N, K] @ kernel [K, M]` in the dtype of `x`, of operands rounded to fp8.

    Its gradients are products of rounded operands as well. `ages`, float32 `AGES_SHAPE`, is the
    memory of the scales; what comes back as its gradient are the counts that `aged` takes.
    """
    return _fp8_forward(x, kernel, ages)[0]


def _fp8_forward(x, kernel, ages):
    of_x, of_kernel, of_gradient = delayed_exponents(ages)
    low_x = to_fp8(x, of_x, _ROWS[0])
    low_kernel = to_fp8(kernel, of_kernel, _ROWS[1])
    y = _product(low_x, low_kernel, (1, 0), of_x + of_kernel).astype(x.dtype)
    seen = jnp.stack([_counts(x, _ROWS[0]), _counts(kernel, _ROWS[1])])
    dtype_of_kernel = jnp.zeros((), kernel.dtype)
    return y, (low_x, low_kernel, (of_x, of_kernel, of_gradient), seen, dtype_of_kernel)


def _fp8_backward(kept, gradient):
    low_x, low_kernel, (of_x, of_kernel, of_gradient), seen, dtype_of_kernel = kept
    low = to_fp8(gradient, of_gradient, _ROWS[2])
    to_x = _product(low, low_kernel, (1, 1), of_gradient + of_kernel)
    to_kernel = _product(low_x, low, (0, 0), of_gradient + of_x)
    of_this = _counts(gradient, _ROWS[2])
    # What no loss depends on, a pipeline's empty tick for one, may hold anything: it is not seen.
    counts = jnp.concatenate([seen, of_this[None]]) * jnp.sum(of_this)
    return to_x.astype(gradient.dtype), to_kernel.astype(dtype_of_kernel.dtype), counts


fp8_matmul.defvjp(_fp8_forward, _fp8_backward)


def to_int8(x, axis: int):
    """Returns `x` in int8 and its float32 scales, one for each slice along `axis`, kept as 1."""
    x = x.astype(jnp.float32)
    amax = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.where(amax == 0.0, 1.0, amax / 127.0)
    return jnp.round(x / scale).astype(jnp.int8), scale


def _int8_product(a, b, axis: int):
    """Returns float32 `a [N, K]` times `b`, both rounded, summed over `axis` of b."""
    (low_a, scale_a), (low_b, scale_b) = to_int8(a, 1), to_int8(b, axis)
    sums = (((1,), (axis,)), ((), ()))
    y = jax.lax.dot_general(low_a, low_b, sums, preferred_element_type=jnp.int32)
    return y.astype(jnp.float32) * scale_a * scale_b.reshape(1, -1)


@jax.custom_vjp
def int8_matmul(x, kernel):
    """Returns `x [N, K] @ kernel [K, M]` in the dtype of `x`, of operands rounded to int8.

    Each row of the left and each column of the right operand has a scale. The gradient of `x` is
    computed alike, from `gradient @ kernel.T`; that of the kernel in the dtype of `x`.
    """
    return _int8_forward(x, kernel)[0]


def _int8_forward(x, kernel):
    return _int8_product(x, kernel, 0).astype(x.dtype), (x, kernel)


def _int8_backward(kept, gradient):
    x, kernel = kept
    to_x = _int8_product(gradient, kernel, 1).astype(x.dtype)
    return to_x, _product(x, gradient, (0, 0), 0).astype(kernel.dtype)


int8_matmul.defvjp(_int8_forward, _int8_backward)

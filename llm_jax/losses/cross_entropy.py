"""Cross-entropy over a vocabulary that never holds all logits.

Logits are made for one range of positions at a time. When a gradient is wanted, the forward pass
makes it too, range by range, while the logits are there: they are computed once and not kept.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax.kernels.attention import MASKED
from llm_jax.parallel.sharding import axis_size, constrain


def cross_entropy_from_hidden(
    hidden,
    embedding,
    targets,
    weights,
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_cap: float | None = None,
    bias=None,
    chunk: int = 512,
):
    """Weighted cross-entropy of next tokens, from hidden states.

    Args:
      hidden: [N, D] or [B, T, D], floating point. Ranges are cut along the axis before the last,
        so that a sharded batch axis stays whole.
      embedding: [padded_vocab, D], the output matrix.
      targets: int32, hidden's leading shape; each in [0, vocab_size).
      weights: float32, the same shape; positions of weight 0 do not count.
      vocab_size: rows of `embedding` that are real; the rest get no probability.
      label_smoothing: in [0, 1): the part of a target's mass that is spread evenly over the
        vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
      z_loss: coefficient of `logsumexp(logits) ** 2` (Chowdhery et al. 2022, arXiv:2204.02311).
      logit_cap: logits are `cap tanh(x / cap)` (Gemma 2, arXiv:2408.00118); None for none.
      bias: [padded_vocab], added to the logits, or None.
      chunk: tokens whose logits are held at once, at least.

    Returns:
      `(loss_sum, weight_sum, nll_sum)`, float32 scalars: the weighted objective, the weights, and
      the weighted negative log-likelihood alone (without gradient).
    """
    if hidden.ndim == 2:
        hidden, targets, weights = hidden[None], targets[None], weights[None]
    else:
        hidden, targets, weights = (_parts(x) for x in (hidden, targets, weights))
    settings = (vocab_size, float(label_smoothing), float(z_loss), chunk, logit_cap)
    weights = weights.astype(jnp.float32)
    loss, nll = _chunked(settings, hidden, embedding, bias, targets, weights)
    return loss, jnp.sum(weights), nll


def _parts(x):
    """Returns `x [B, T, ...]` as [B n, T / n, ...], each of the n devices of a row with its part.

    A range cut from sharded rows would be gathered.
    """
    count = axis_size("seq")
    if count == 1:
        return x
    x = x.reshape(x.shape[0] * count, x.shape[1] // count, *x.shape[2:])
    return constrain(x, ("parts", *[None] * (x.ndim - 1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(settings, hidden, embedding, bias, targets, weights):
    (loss, nll), _ = _run(settings, hidden, embedding, bias, targets, weights, gradients=False)
    return loss, nll


def _forward(settings, hidden, embedding, bias, targets, weights):
    return _run(settings, hidden, embedding, bias, targets, weights, gradients=True)


def _backward(settings, residuals, cotangents):
    del settings
    scale = cotangents[0]
    # Those of hidden states, embedding and bias, which may be None.
    return (*jax.tree.map(lambda d: (d * scale).astype(d.dtype), residuals), None, None)


_chunked.defvjp(_forward, _backward)


def _run(settings, hidden, embedding, bias, targets, weights, *, gradients: bool):
    batch, length, _ = hidden.shape
    step = max(1, min(length, settings[3] // batch))
    loss = nll = jnp.zeros((), jnp.float32)
    table = embedding.astype(hidden.dtype)
    whole = length // step
    # Gradients of what all ranges share: of the embedding, and of the bias where there is one.
    d_shared = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (embedding, bias))

    def one(carry, start, size):
        loss, nll, d_shared = carry
        part = [
            jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in (hidden, targets, weights)
        ]
        loss_part, nll_part, d_part, d_own = _range(
            settings, table, bias, *part, gradients=gradients
        )
        if gradients:
            d_shared = jax.tree.map(jnp.add, d_shared, d_own)
        return (loss + loss_part, nll + nll_part, d_shared), d_part

    carry = (loss, nll, d_shared)
    parts = []
    for index in range(whole):
        carry, part = one(carry, index * step, step)
        parts.append(part)
    if length % step:
        carry, part = one(carry, whole * step, length % step)
        parts.append(part)
    loss, nll, d_shared = carry
    if not gradients:
        return (loss, nll), None
    d_shared = jax.tree.map(lambda d, x: d.astype(x.dtype), d_shared, (embedding, bias))
    return (loss, nll), (jnp.concatenate(parts, axis=1), *d_shared)


def _range(settings, table, bias, hidden, targets, weights, *, gradients: bool):
    """Loss sums of one range and, if asked, gradients of hidden states, and of table and bias."""
    vocab_size, label_smoothing, z_loss, _, logit_cap = settings
    shape = hidden.shape
    # Two-dimensional products: transposed copies of the logits would cost more than they do.
    hidden, targets, weights = hidden.reshape(-1, shape[-1]), targets.ravel(), weights.ravel()
    logits = jnp.einsum("nd,vd->nv", hidden, table, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if logit_cap is not None:
        logits = logit_cap * jnp.tanh(logits / logit_cap)
    column = jnp.arange(table.shape[0])
    if vocab_size < table.shape[0]:
        logits = jnp.where(column < vocab_size, logits, MASKED)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    nll = jnp.sum((normalizer - picked) * weights)
    loss = nll
    if label_smoothing:
        mean = jnp.sum(logits[:, :vocab_size], axis=-1) / vocab_size
        loss = (1.0 - label_smoothing) * nll
        loss = loss + label_smoothing * jnp.sum((normalizer - mean) * weights)
    if z_loss:
        loss = loss + z_loss * jnp.sum(jnp.square(normalizer) * weights)
    if not gradients:
        return loss, nll, None, None
    steep = weights * (1.0 + 2.0 * z_loss * normalizer)
    goal = jnp.where(column == targets[:, None], 1.0 - label_smoothing, 0.0)
    if label_smoothing:
        goal = goal + jnp.where(column < vocab_size, label_smoothing / vocab_size, 0.0)
    d_logits = jnp.exp(logits - normalizer[:, None]) * steep[:, None] - goal * weights[:, None]
    if logit_cap is not None:
        # The padding's logits are far below -cap, and have no gradient.
        d_logits = d_logits * (1.0 - jnp.square(jnp.maximum(logits, -logit_cap) / logit_cap))
    d_bias = None if bias is None else jnp.sum(d_logits, axis=0)
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum("nv,vd->nd", d_logits, table)
    d_table = jnp.einsum("nv,nd->vd", d_logits, hidden, preferred_element_type=jnp.float32)
    return loss, nll, d_hidden.reshape(shape), (d_table, d_bias)

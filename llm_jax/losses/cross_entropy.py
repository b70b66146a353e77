"""Cross-entropy over a vocabulary that never holds all logits.

Logits are made for one range of tokens at a time. When a gradient is wanted, the forward pass
makes it too, range by range, while the logits are there: they are computed once and not kept.

On a mesh each device goes through its own tokens. The output matrix comes to it once, and its
gradients are summed over devices once, not for every range; over `tensor` each keeps its part of
the vocabulary, of the matrix and of the logits.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax.kernels.attention import MASKED
from llm_jax.parallel.mesh import BATCH_AXES
from llm_jax.parallel.sharding import axis_size

UNROLLED = 8  # ranges that need no loop: XLA schedules them together


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
      hidden: [N, D] or [B, T, D], floating point.
      embedding: [padded_vocab, D], the output matrix.
      targets: int32, hidden's leading shape; each in [0, vocab_size).
      weights: float32, the same shape; positions of weight 0 do not count.
      vocab_size: rows of `embedding` that are real; the rest get no probability.
      label_smoothing: in [0, 1): the part of a target's mass that is spread evenly over the
        vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
      z_loss: coefficient of `logsumexp(logits) ** 2` (Chowdhery et al. 2022, arXiv:2204.02311).
      logit_cap: logits are `cap tanh(x / cap)` (Gemma 2, arXiv:2408.00118); None for none.
      bias: [padded_vocab], added to the logits, or None.
      chunk: tokens whose logits a device holds at once.

    Returns:
      `(loss_sum, weight_sum, nll_sum)`, float32 scalars: the weighted objective, the weights, and
      the weighted negative log-likelihood alone (without gradient).
    """
    settings = (vocab_size, float(label_smoothing), float(z_loss), chunk, logit_cap)
    weights = weights.astype(jnp.float32)
    loss, nll = _chunked(settings, hidden, embedding, bias, targets, weights)
    return loss, jnp.sum(weights), nll


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
    """Returns `((loss, nll), gradients of hidden, embedding and bias)`, summed over all devices."""
    table = embedding.astype(hidden.dtype)
    cut = _own_tokens(targets.shape)
    axes, spec = tuple(axis for part in cut for axis in part), PartitionSpec(*cut)

    def on_each(hidden, table, bias, targets, weights):
        sums, d_hidden, d_shared = _ranges(
            settings, hidden, table, bias, targets, weights, gradients=gradients
        )
        return *jax.lax.psum((sums, d_shared), axes), d_hidden

    if axes:
        whole = PartitionSpec()
        on_each = jax.shard_map(
            on_each,
            in_specs=(spec, whole, whole, spec, spec),
            out_specs=(whole, whole, spec),
            axis_names=set(axes),
            check_vma=False,
        )
    sums, d_shared, d_hidden = on_each(hidden, table, bias, targets, weights)
    if not gradients:
        return sums, None
    d_shared = jax.tree.map(lambda d, x: d.astype(x.dtype), d_shared, (embedding, bias))
    return sums, (d_hidden, *d_shared)


def _own_tokens(shape) -> list[tuple[str, ...]]:
    """Returns the mesh axes that divide each axis of tokens [N] or [B, T] among the devices."""
    parts = []
    for size, axes in zip(shape, (BATCH_AXES, ("seq", "pipe"))):
        taken = []
        for axis in axes:
            if axis_size(axis) > 1 and size % axis_size(axis) == 0:
                taken.append(axis)
                size //= axis_size(axis)
        parts.append(tuple(taken))
    return parts


def _ranges(settings, hidden, table, bias, targets, weights, *, gradients: bool):
    """Returns the loss sums of one device's tokens, d_hidden, and gradients of table and bias."""
    shape = hidden.shape
    tokens = hidden.reshape(-1, shape[-1]), targets.ravel(), weights.ravel()
    count = targets.size
    step = max(1, min(settings[3], count))
    # Gradients of what all ranges share: of the table, and of the bias where there is one.
    d_shared = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (table, bias))
    start = (jnp.zeros(()), jnp.zeros(())), d_shared if gradients else None

    def add(sums, part):
        new, d_part = _range(settings, table, bias, *part, gradients=gradients)
        return jax.tree.map(jnp.add, sums, new), d_part

    whole = count // step
    cut = [x[: whole * step].reshape(whole, step, *x.shape[1:]) for x in tokens]
    sums, d_hidden = jax.lax.scan(add, start, cut, unroll=whole <= UNROLLED)
    parts = [d_hidden]
    if count % step:
        sums, d_part = add(sums, [x[whole * step :] for x in tokens])
        parts.append(d_part)
    if not gradients:
        return sums[0], None, None
    d_hidden = jnp.concatenate([part.reshape(-1, shape[-1]) for part in parts])
    return sums[0], d_hidden.reshape(shape), sums[1]


def _range(settings, table, bias, hidden, targets, weights, *, gradients: bool):
    """Returns `(((loss, nll), gradients of table and bias), d_hidden [n, D])` of hidden [n, D]."""
    vocab_size, label_smoothing, z_loss, _, logit_cap = settings
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
        return ((loss, nll), None), None
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
    return ((loss, nll), (d_table, d_bias)), d_hidden

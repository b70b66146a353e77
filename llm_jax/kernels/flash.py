"""FlashAttention on TPU: the Pallas "splash" kernel that comes with JAX, on every mesh.

Dao et al. 2022, arXiv:2205.14135; the kernel visits no block that a causal mask or a window leaves
out, in the backward pass either. The compiler cannot divide a kernel over devices, so that each
device calls it for its own rows and heads.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from llm_jax.kernels.mask import Mask, Scores
from llm_jax.parallel.sharding import (
    ACTIVATION_RULES,
    automatic_axes,
    axis_size,
    partition_spec,
)

# Rows are filled up to whole lanes; blocks are as large as they may be.
LANES, BLOCKS = 128, (512, 256, 128)

# What its result and log-normalizers are called, for a policy of `jax.checkpoint` to keep them.
SAVED = "flash"


def flash(query, key, value, mask: Mask, scores: Scores = Scores(), *, interpret: bool = False):
    """Attention; shapes and types as `llm_jax.kernels.attention.plain`.

    Args:
      query, key, value: [B, T, N, H] and [B, S, K, H].
      mask: without `query_positions` and pattern; a window is one of its `windows`, and then the
        keys are of the queries' own slots.
      scores: without ALiBi.
      interpret: runs the kernel step by step on any backend, for tests.
    """
    segments = None
    if mask.query_segments is not None:
        given = (mask.query_segments, query), (mask.key_segments, key)
        segments = tuple(jnp.broadcast_to(ids, x.shape[:2]) for ids, x in given)
    attend = functools.partial(_attend, mask, scores, interpret)
    if axes := automatic_axes():
        # As many key-value heads as devices that divide the heads, or a multiple.
        parts = axis_size("tensor") * axis_size("seq")
        copies = parts // math.gcd(parts, key.shape[2])
        key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
        names = ("batch", None, "exchanged_heads", "head_dim")
        mesh = jax.sharding.get_abstract_mesh()
        heads = partition_spec(names, query.shape, mesh, ACTIVATION_RULES)
        rows, whole = PartitionSpec(heads[0]), PartitionSpec()
        attend = jax.shard_map(
            attend,
            in_specs=(heads, heads, heads, rows, whole),
            out_specs=heads,
            axis_names=axes,
            check_vma=False,
        )
    return attend(query, key, value, segments, mask.window)


def _attend(mask, scores, interpret, query, key, value, segments, window):
    """Attention of this device's rows and heads."""
    length, keys = query.shape[1], key.shape[1]
    query = query * jnp.asarray(scores.factor(query.shape[-1]), query.dtype)
    rows, columns = -length % LANES, -keys % LANES
    if segments is None and columns and not (mask.causal and keys >= length):
        shape = query.shape[:1]
        segments = jnp.zeros((*shape, length), jnp.int32), jnp.zeros((*shape, keys), jnp.int32)
    if segments is not None:
        # Keys that fill up are of a segment that no query has.
        queries, others = segments
        segments = splash.SegmentIds(
            jnp.pad(queries, [(0, 0), (0, rows)]),
            jnp.pad(others, [(0, 0), (0, columns)], constant_values=-(2**31)),
        )
    query, key, value = (
        jnp.pad(x.swapaxes(1, 2), [(0, 0), (0, 0), (0, more), (0, 0)])
        for x, more in ((query, rows), (key, columns), (value, columns))
    )

    def seen(window):
        kernel = _kernel(mask.causal, window, scores.cap, query.shape, key.shape[2], interpret)
        return jax.vmap(kernel)(query, key, value, segments)

    if window is None or len(mask.windows) == 1:
        out = seen(None if window is None else mask.windows[0])
    else:
        which = jnp.argmax(jnp.asarray(mask.windows) == window)
        out = jax.lax.switch(which, [functools.partial(seen, each) for each in mask.windows])
    return out[:, :, :length].swapaxes(1, 2)


def _kernel(causal, window, cap, query_shape, keys, interpret):
    _, heads, length, _ = query_shape
    if window is not None and window < max(length, keys):
        allowed = masks.LocalMask((length, keys), (window - 1, 0 if causal else window - 1), 0)
    else:
        allowed = (masks.CausalMask if causal else masks.FullMask)((length, keys))
    rows, columns = (next(b for b in BLOCKS if size % b == 0) for size in (length, keys))
    sizes = splash.BlockSizes(
        block_q=rows, block_kv=columns, block_kv_compute=columns,
        block_q_dkv=rows, block_kv_dkv=columns, block_kv_dkv_compute=columns,
        block_q_dq=rows, block_kv_dq=columns,
    )  # fmt: skip
    return splash.make_splash_mha(
        masks.MultiHeadMask([allowed] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )

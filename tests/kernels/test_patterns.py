"""Long rows: what blocks are visited, ALiBi, block-sparse and linear attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores, attention, choose, chunked
from llm_jax.kernels.chunked import _visits
from llm_jax.kernels.linear_attention import linear_attention
from llm_jax.kernels.mask import alibi_slopes
from llm_jax.kernels.pattern import Pattern
from llm_jax.testing import relative_error

SPARSE = Pattern("block_sparse", 4, 3, 1, 2, seed=1)


def arrays(length, heads=4, groups=2, size=8):
    random = np.random.default_rng(0)
    draw = lambda n: random.normal(size=(2, length, n, size)).astype(np.float32)  # noqa: E731
    return (draw(heads), draw(groups), draw(groups)), draw(heads)


def dense(query, key, value, seen, *, bias=0.0, feature=None):
    """Attention as the papers write it, over the keys of `seen`; in the arrays' own type."""
    xp = jnp if isinstance(query, jax.Array) else np
    heads = query.shape[2] // key.shape[2]
    key, value = xp.repeat(key, heads, axis=2), xp.repeat(value, heads, axis=2)
    if feature is None:
        weights = xp.exp(xp.einsum("btnh,bsnh->bnts", query, key) / query.shape[-1] ** 0.5 + bias)
    else:
        weights = xp.einsum("btnh,bsnh->bnts", feature(query, xp), feature(key, xp))
    weights = weights * seen
    return xp.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)


def agrees(function, given, direction, seen, **reference):
    """Compares with `dense`: values in float64, gradients in float32."""

    @jax.jit
    def pulled(*arrays):
        out, pull = jax.vjp(function, *arrays)
        expected = jax.vjp(functools.partial(dense, seen=seen, **reference), *arrays)[1]
        return out, pull(direction), expected(direction)

    out, got, expected = pulled(*given)
    wide = dense(*(x.astype(np.float64) for x in given), np.asarray(seen), **reference)
    assert relative_error(out, wide) < 1e-5
    for ours, theirs in zip(got, expected):
        assert relative_error(ours, theirs) < 1e-5


def test_a_window_visits_its_own_blocks_only():
    visit = _visits(16, 160, 160, Mask(window=jnp.int32(17)))
    assert [(int(f), int(last)) for f, last, _ in map(visit, range(10))] == [
        (max(0, i - 1), i + 1) for i in range(10)
    ]
    visit = _visits(16, 160, 160, Mask(window=jnp.int32(18), causal=False))
    assert [(int(f), int(last)) for f, last, _ in map(visit, range(10))] == [
        (max(0, i - 2), min(10, i + 3)) for i in range(10)
    ]


@pytest.mark.parametrize("mask", [Mask(), Mask(causal=False), Mask(window=np.int32(256))])
def test_memory_of_a_long_row_grows_linearly(mask):
    def bytes_of(length):
        shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        total = jax.grad(lambda *x: jnp.sum(chunked(*x, mask)), argnums=(0, 1, 2))
        return jax.jit(total).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(32768) < 2.2 * bytes_of(16384)


def test_slopes_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    for heads in range(1, 20):
        built = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
        np.testing.assert_allclose(alibi_slopes(heads), built[:, 0, 1], rtol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", ["plain", "ranged", "looped"])
def test_alibi_is_the_formula(implementation, causal):
    given, direction = arrays(37, heads=6)
    position = np.arange(37)
    distance = np.abs(position[:, None] - position)
    slopes = 2.0 ** -np.array([2, 4, 6, 8, 1, 3])
    seen = np.tril(np.ones((37, 37))) if causal else np.ones((37, 37))
    run = {
        "plain": functools.partial(attention, implementation="plain"),
        "ranged": functools.partial(chunked, chunk=8),
        "looped": functools.partial(chunked, chunk=4),
    }[implementation]
    agrees(
        lambda *x: run(*x, Mask(causal=causal), Scores(alibi=True)), given, direction, seen,
        bias=(-slopes[:, None, None] * distance).astype(np.float32),
    )  # fmt: skip


def block_rules(blocks, causal):
    """Which blocks must be seen, and how many there are in all, by the paper's three rules."""
    must, count = np.zeros((blocks, blocks), bool), []
    for i in range(blocks):
        for j in range(i + 1 if causal else blocks):
            near = i - j < SPARSE.window_blocks if causal else abs(i - j) <= 1
            must[i, j] = near or j < SPARSE.global_blocks
            must[i, j] |= i < SPARSE.global_blocks
        last = i + 1 if causal else blocks
        count.append(min(last, must[i].sum() + SPARSE.random_blocks))
    return must, count


@pytest.mark.parametrize("causal", [True, False])
def test_block_sparse_is_near_global_and_random_blocks(causal):
    visible = SPARSE.visible(12, causal=causal)
    must, count = block_rules(12, causal)
    assert visible[must].all()
    assert visible.sum(1).tolist() == count
    if causal:
        assert not np.triu(visible, 1).any()
        # A longer row has the same past, so that a cache may grow.
        np.testing.assert_array_equal(SPARSE.visible(20, causal=True)[:12, :12], visible)
    other = Pattern("block_sparse", 4, 3, 1, 2, seed=2).visible(12, causal=causal)
    assert (other != visible).any()
    rows, length = SPARSE.visits(64, causal=causal)[0], SPARSE.window_blocks + 1 + 2
    assert (rows[1:] <= length).all()


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", ["plain", "chunked"])
def test_block_sparse_attends_to_its_blocks(implementation, causal, segments):
    given, direction = arrays(46)
    ids = np.repeat([[1, 2], [3, 4]], [20, 26], axis=1).astype(np.int32)
    mask = Mask(causal=causal, pattern=SPARSE)
    visible = SPARSE.visible(12, causal=causal)
    seen = np.zeros((2, 1, 46, 46))
    for b, _, t, s in np.ndindex(seen.shape):
        seen[b, 0, t, s] = visible[t // 4, s // 4] and (s <= t or not causal)
        if segments and ids[b, t] != ids[b, s]:
            seen[b, 0, t, s] = 0
    if segments:
        mask = Mask(None, ids, ids, causal=causal, pattern=SPARSE)
    agrees(
        lambda *x: attention(*x, mask, implementation=implementation), given, direction, seen
    )  # fmt: skip


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_is_the_formula(causal, segments):
    given, direction = arrays(46)
    # Of one segment all tokens are adjacent.
    ids = np.repeat([[1, 2, 0], [4, 7, 9]], [19, 20, 7], axis=1).astype(np.int32)
    mask = Mask(None, ids, ids, causal=causal) if segments else Mask(causal=causal)
    seen = np.tril(np.ones((46, 46))) if causal else np.ones((46, 46))
    if segments:
        seen = seen * (ids[:, None, :, None] == ids[:, None, None, :])
    agrees(
        lambda *x: linear_attention(*x, mask, chunk=8), given, direction, seen,
        feature=lambda x, xp: xp.where(x > 0, x + 1, xp.exp(xp.minimum(x, 0))),
    )  # fmt: skip


def test_choices_that_do_not_go_together_are_refused():
    shape = {"platform": "gpu", "query_shape": (2, 64, 4, 16), "dtype": jnp.bfloat16}
    assert choose("auto", **shape) == "cudnn"
    assert choose("auto", **shape, pattern=SPARSE) == "chunked"
    assert choose("auto", **shape, scores=Scores(cap=30.0)) == "chunked"
    assert choose("auto", **shape, pattern=Pattern("linear")) == "linear"
    with pytest.raises(ConfigError, match="has a softmax"):
        choose("plain", **shape, pattern=Pattern("linear"))
    with pytest.raises(ConfigError, match="no scores to drop"):
        choose("auto", **shape, pattern=Pattern("linear"), bias=True)
    with pytest.raises(ConfigError, match="choose one of full"):
        Pattern("sparse")
    with pytest.raises(ConfigError, match="block_size is 0"):
        Pattern("block_sparse", 0)
    check = functools.partial(
        Pattern("linear").check, causal=True, window=None, alibi=False, dropout_rate=0.0
    )
    for bad in ({"window": 8}, {"alibi": True}, {"dropout_rate": 0.1}):
        with pytest.raises(ConfigError, match="unset one"):
            check(**bad)
    with pytest.raises(ConfigError, match="odd"):
        Pattern("block_sparse", window_blocks=2).check(
            causal=False, window=None, alibi=False, dropout_rate=0.0
        )

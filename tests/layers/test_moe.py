import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.layers import moe
from llm_jax.layers.moe import Experts
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import build, parse_config
from llm_jax.models.mixtral import hidden_and_router
from llm_jax.testing import relative_error

TINY = {
    "family": "mixtral", "num_layers": 2, "num_heads": 4, "hidden_size": 32, "mlp_size": 16,
    "vocab_size": 101, "max_positions": 24, "num_experts": 4,
}  # fmt: skip


def inputs(per_token=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 7, 8)).astype(np.float32)
    kernels = [rng.standard_normal(shape).astype(np.float32) * 0.3
               for shape in ((5, 8, 6), (5, 8, 6), (5, 6, 8))]  # fmt: skip
    logits = rng.standard_normal((3, 7, 5)).astype(np.float32)
    return x, logits, kernels, Experts(5, per_token)


def dense(x, logits, kernels, experts, keep=None):
    """All experts on all tokens, and a weight of zero where one was not chosen."""
    weights, choices = moe.route(logits, experts)
    if keep is not None:
        weights = weights * keep
    mixed = (jax.nn.one_hot(choices, 5) * weights[..., None]).sum(-2)
    gate, up, down = kernels
    inner = jax.nn.silu(jnp.einsum("btd,edf->btef", x, gate)) * jnp.einsum("btd,edf->btef", x, up)
    return jnp.einsum("btef,efd,bte->btd", inner, down, mixed)


@pytest.mark.parametrize("per_token", [1, 3])
@pytest.mark.parametrize("factor", [None, 5.0])
def test_every_choice_is_computed_with_exact_gradients(per_token, factor):
    x, logits, kernels, experts = inputs(per_token)
    slope = np.random.default_rng(1).standard_normal(x.shape)

    def ours(x, logits, kernels):
        args = (x, *moe.route(logits, experts), kernels, jax.nn.silu)
        y = moe.dropless(*args) if factor is None else moe.with_capacity(*args, factor)
        return (y * slope).sum()

    def theirs(x, logits, kernels):
        return (dense(x, logits, kernels, experts) * slope).sum()

    got = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(x, logits, kernels)
    expected = jax.jit(jax.value_and_grad(theirs, (0, 1, 2)))(x, logits, kernels)
    assert relative_error(got, expected) < 1e-5


def test_a_full_expert_drops_what_comes_later_in_the_row():
    x, logits, kernels, experts = inputs()
    weights, choices = moe.route(logits, experts)
    room, keep = 3, np.ones(choices.shape)  # ceil(1.0 * 7 * 2 / 5)
    for row, count in np.ndindex(3, 5):
        for place, (t, k) in enumerate(np.argwhere(np.asarray(choices[row]) == count)):
            keep[row, t, k] = place < room
    assert 0 < (keep == 0).sum() < 10
    got = moe.with_capacity(x, weights, choices, kernels, jax.nn.silu, 1.0)
    assert relative_error(got, dense(x, logits, kernels, experts, keep)) < 1e-5


@pytest.mark.parametrize("group", ["batch", "sequence"])
def test_balance_loss_is_that_of_the_paper(group):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 6, 4))
    weights = (rng.random((3, 6)) < 0.7).astype(np.float32)
    rows = [slice(0, 3)] if group == "batch" else [slice(i, i + 1) for i in range(3)]
    expected = 0.0
    for part in rows:
        seen = logits[:, part][:, weights[part] > 0].reshape(-1, 4)
        p = np.exp(seen) / np.exp(seen).sum(-1, keepdims=True)
        f = np.zeros(4)
        for token in seen:
            f[np.argsort(token)[-2:]] += 1 / len(seen)
        expected += 4 * (f * p.mean(0)).sum() * weights[part].sum()
    loss, weight = moe.load_balance_loss(logits, weights, per_token=2, group=group)
    assert weight == weights.sum()
    assert relative_error(loss, np.float64(expected)) < 1e-5
    z, weight = moe.router_z_loss(logits, weights)
    squares = (np.log(np.exp(logits).sum(-1)) ** 2 * weights).sum()
    assert relative_error(z, squares) < 1e-5
    assert weight == weights.sum()


def test_even_routing_has_the_least_loss():
    even = jnp.zeros((1, 1, 8, 4))
    chosen = jax.nn.one_hot(jnp.arange(8) % 4, 4)[None, None]
    loss, weight = moe.load_balance_loss(even + 1e-4 * chosen, jnp.ones((1, 8)), per_token=1)
    assert loss / weight == pytest.approx(1.0, rel=1e-5)
    skewed = even.at[..., 0].set(9.0)
    loss, weight = moe.load_balance_loss(skewed, jnp.ones((1, 8)), per_token=1)
    assert loss / weight > 3.9


@pytest.mark.parametrize("capacity", [None, 1.0])
def test_a_model_of_experts_trains_and_decodes(capacity):
    model = build(parse_config(TINY | {"capacity_factor": capacity, "shared_mlp_size": 8}))
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    tokens = np.random.default_rng(0).integers(101, size=(2, 12), dtype=np.int32)
    batch = {"tokens": tokens, "targets": tokens, "weights": np.ones((2, 12), np.float32)}
    gradients = jax.jit(jax.grad(lambda p: next_token_loss(model, p, batch)[0][0]))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))
    hidden, router = hidden_and_router(model, params, tokens)
    assert router.shape == (2, 2, 12, 4)
    assert relative_error(hidden, model.hidden(params, tokens)[0]) < 1e-6
    if capacity is None:
        run = jax.jit(lambda t, p, c: model.hidden(params, t, positions=p, cache=c))
        first, cache = run(tokens[:, :8], np.tile(np.arange(8), (2, 1)), model.init_cache(2, 12))
        assert relative_error(first, hidden[:, :8]) < 1e-5
        for place in range(8, 12):
            one, cache = run(tokens[:, place : place + 1], np.full((2, 1), place), cache)
            assert relative_error(one[:, 0], hidden[:, place]) < 1e-5


@pytest.mark.slow
def test_training_balances_each_row_so_that_accumulation_is_exact():
    rng = np.random.default_rng(0)
    tokens = rng.integers(101, size=(2, 4, 12), dtype=np.int32)
    batch = {"tokens": tokens[0], "targets": tokens[1]}
    batch["weights"] = rng.integers(2, size=(4, 12)).astype(np.float32)

    def sums(coefficient, group, rows=slice(0, 4)):
        options = {"balance_coefficient": coefficient, "balance_group": group}
        model = build(parse_config(TINY | options))
        params = jax.tree.map(lambda leaf: 3.0 * leaf, jax.jit(model.init)(jax.random.key(0)))
        part = {name: value[rows] for name, value in batch.items()}
        router = hidden_and_router(model, params, part["tokens"])[1]
        balance = moe.load_balance_loss(router, part["weights"], per_token=2, group=group)[0]
        return np.array([next_token_loss(model, params, part)[0][0], balance])

    for group in ("sequence", "batch"):
        without, _ = sums(0.0, group)
        loss, balance = sums(0.5, group)
        assert loss - without == pytest.approx(0.5 * balance, rel=1e-3)
    whole = sums(0.5, "sequence")
    parts = sums(0.5, "sequence", slice(0, 1)) + sums(0.5, "sequence", slice(1, 4))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.slow
def test_training_adds_the_router_z_loss_of_the_paper():
    rng = np.random.default_rng(0)
    tokens = rng.integers(101, size=(2, 4, 12), dtype=np.int32)
    batch = {"tokens": tokens[0], "targets": tokens[1]}
    batch["weights"] = rng.integers(2, size=(4, 12)).astype(np.float32)

    def run(coefficient, rows=slice(0, 4)):
        model = build(parse_config(TINY | {"router_z_coefficient": coefficient}))
        params = jax.tree.map(lambda leaf: 3.0 * leaf, jax.jit(model.init)(jax.random.key(0)))
        part = {name: value[rows] for name, value in batch.items()}
        router = hidden_and_router(model, params, part["tokens"])[1]
        return float(next_token_loss(model, params, part)[0][0]), np.asarray(router, np.float64)

    without, router = run(0.0)
    squares = np.log(np.exp(router).sum(axis=-1)) ** 2  # equation 5, of each layer
    expected = 0.5 * (squares * batch["weights"]).sum()
    assert run(0.5)[0] - without == pytest.approx(expected, rel=1e-4)
    parts = run(0.5, slice(0, 1))[0] + run(0.5, slice(1, 4))[0]
    assert parts == pytest.approx(run(0.5)[0], rel=1e-6)


def test_only_chosen_experts_count_as_arithmetic():
    flops = build(parse_config(TINY | {"shared_mlp_size": 8})).flops_per_token(12)
    layer = 32 * 32 * 4 + 3 * 32 * (2 * 16 + 8) + 32 * 4 + 32
    assert flops.matmul == 6 * (2 * layer + 128 * 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts_per_token": 5}, "5 of 4"),
        ({"experts_per_token": 0}, "0 of 4"),
        ({"capacity_factor": 0.0}, "capacity_factor"),
        ({"shared_mlp_size": 0}, "shared"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"balance_group": "world"}, "balance_group"),
        ({"balance_coefficient": -1.0}, "balance_coefficient"),
        ({"router_z_coefficient": -1.0}, "router_z_coefficient"),
    ],
)
def test_impossible_mixtures_are_refused(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(TINY | change)
    assert "\n" not in str(caught.value)


def test_an_unknown_group_is_refused():
    with pytest.raises(ConfigError, match="'batch' or 'sequence'"):
        moe.load_balance_loss(jnp.zeros((1, 1, 1, 2)), jnp.ones((1, 1)), per_token=1, group="all")

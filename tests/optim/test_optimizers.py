"""Ten steps of every optimizer against torch's in float64, or the paper's formula in float64.

The references see each layer as a tensor of its own: stacking layers must change nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.optim import OPTIMIZERS, OptimConfig, build, schedule, state_axes
from llm_jax.optim import muon as muon_module
from tests.optim.trees import AXES, is_lookup, is_matrix, params, tensors

STEPS = 10
KEYS = {
    "learning_rate": 2e-2,
    "schedule": "linear",
    "warmup_steps": 3,
    "final_fraction": 0.0,
    "clip_norm": 0.0,
    "weight_decay": 0.3,
}


def gradient(p, step, seed=1):
    """Of a quadratic bowl with noise, so that an error in one step is felt in the next."""
    draw = np.random.default_rng([seed, step])
    return jax.tree.map(
        lambda x: (0.3 * np.asarray(x) + draw.normal(0, 0.4, x.shape)).astype(np.float32), p
    )


def run(config, start, gradients=None):
    """Returns the parameters after ten steps and the gradients that were seen."""
    transformation = build(config, start, STEPS, AXES)
    update = jax.jit(transformation.update)
    p, state, seen = start, transformation.init(start), []
    for step in range(STEPS):
        seen.append(gradient(p, step) if gradients is None else gradients[step])
        updates, state = update(seen[-1], state, p)
        p = optax.apply_updates(p, updates)
    return p, [tensors(g) for g in seen]


def assert_same(given, expected, start):
    """Within 1e-6 of the largest parameter, and everything has moved."""
    given = tensors(given)
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        error = np.abs(given[key] - value).max()
        assert error < 1e-6 * np.abs(value).max(), (key, error)
        assert np.abs(given[key] - start[key]).max() > 1e-3, key


def torch_run(make, config, start, seen, decay_of):
    torch = pytest.importorskip("torch", reason="the `reference` extra is not installed")
    rate = schedule(config, STEPS)
    p = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start.items()}
    groups = [{"params": [x], "weight_decay": decay_of(key)} for key, x in p.items()]
    optimizer = make(torch.optim, groups)
    for step, grads in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        for key, value in grads.items():
            p[key].grad = torch.tensor(value)
        optimizer.step()
    return {key: x.detach().numpy() for key, x in p.items()}


TORCH = {
    "adamw": (
        {"beta1": 0.8, "beta2": 0.97, "epsilon": 1e-3},
        lambda t, groups: t.AdamW(groups, betas=(0.8, 0.97), eps=1e-3),
    ),
    "adamw defaults": (
        {"beta2": 0.999, "epsilon": 1e-8},
        lambda t, groups: t.AdamW(groups),
    ),
    "sgd plain": ({"momentum": 0.0}, lambda t, groups: t.SGD(groups, momentum=0.0)),
    "sgd": ({"momentum": 0.8}, lambda t, groups: t.SGD(groups, momentum=0.8)),
    "sgd nesterov": (
        {"momentum": 0.8, "nesterov": True},
        lambda t, groups: t.SGD(groups, momentum=0.8, nesterov=True),
    ),
    "adafactor": ({}, lambda t, groups: t.Adafactor(groups, eps=(2.0**-23, 1e-3))),
    "adafactor fast": (
        {"learning_rate": 3.0, "beta2": 0.6, "epsilon": 0.1, "weight_decay": 0.01},
        lambda t, groups: t.Adafactor(groups, beta2_decay=-0.6, eps=(2.0**-23, 0.1)),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_equal_torch(name):
    keys, make = TORCH[name]
    config = OptimConfig(**KEYS | {"name": name.split()[0]} | keys)
    begin = params()
    given, seen = run(config, begin)
    start = tensors(begin)
    expected = torch_run(
        make, config, start, seen, lambda key: config.weight_decay if is_matrix(key) else 0.0
    )
    assert_same(given, expected, start)


def formula_run(step_of, config, start, seen):
    """`step_of(key, memory, t, g, p, decay) -> u` for p <- p - rate * u, all in float64."""
    rate = schedule(config, STEPS)
    p = {key: value.copy() for key, value in start.items()}
    memory = {key: {} for key in p}
    for step, grads in enumerate(seen):
        for key, g in grads.items():
            decay = config.weight_decay if is_matrix(key) else 0.0
            p[key] = p[key] - float(rate(step)) * step_of(
                key, memory[key], step + 1, g, p[key], decay
            )
    return p


def adam(memory, t, g, beta1, beta2, epsilon):
    m = memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
    v = memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
    return m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def lamb_step(key, memory, t, g, p, decay):
    u = adam(memory, t, g, 0.9, 0.999, 1e-6) + decay * p
    return u * np.linalg.norm(p) / np.linalg.norm(u) if is_matrix(key) else u


def lion_step(key, memory, t, g, p, decay):
    m = memory.get("m", 0.0)
    memory["m"] = 0.99 * m + 0.01 * g
    return np.sign(0.9 * m + 0.1 * g) + decay * p


def newton_schulz(x, rounds=5):
    x = x / (np.linalg.norm(x) + 1e-7)
    flipped = x.shape[0] > x.shape[1]
    x = x.T if flipped else x
    for _ in range(rounds):
        a = x @ x.T
        x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
    return x.T if flipped else x


def muon_step(scale, nesterov):
    def step(key, memory, t, g, p, decay):
        if is_lookup(key) or not is_matrix(key):
            return adam(memory, t, g, 0.9, 0.95, 1e-8) + decay * p
        m = memory["m"] = 0.95 * memory.get("m", 0.0) + 0.05 * g
        inputs, outputs = g.shape
        size = 0.2 * max(g.shape) ** 0.5 if scale == "rms" else max(1, outputs / inputs) ** 0.5
        return size * newton_schulz(0.05 * g + 0.95 * m if nesterov else m) + decay * p

    return step


FORMULAS = {
    "lamb": ({}, lamb_step),
    "lion": ({"learning_rate": 1e-2}, lion_step),
    "muon": ({}, muon_step("rms", nesterov=True)),
    "muon original": ({"muon_scale": "original"}, muon_step("original", nesterov=True)),
    "muon plain": ({"nesterov": False}, muon_step("rms", nesterov=False)),
    "muon direct": ({"newton_schulz": "direct"}, muon_step("rms", nesterov=True)),
    "muon gram": ({"newton_schulz": "gram"}, muon_step("rms", nesterov=True)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_ten_steps_equal_the_formula(name):
    keys, step_of = FORMULAS[name]
    config = OptimConfig(**KEYS | {"name": name.split()[0]} | keys)
    begin = params()
    given, seen = run(config, begin)
    start = tensors(begin)
    assert_same(given, formula_run(step_of, config, start, seen), start)


def test_lamb_leaves_zero_tensors_free_to_move():
    begin = jax.tree.map(np.zeros_like, params())
    given, _ = run(OptimConfig(**KEYS | {"name": "lamb"}), begin)
    for key, value in tensors(given).items():
        assert np.isfinite(value).all()
        assert np.abs(value).max() > 1e-3, key


@pytest.mark.parametrize("method", ["direct", "gram", "auto"])
@pytest.mark.parametrize("shape", [(2, 12, 40), (40, 12), (20, 20)])
def test_orthogonalize_keeps_singular_vectors_and_evens_values(method, shape):
    x = np.random.default_rng(0).normal(size=shape)
    given = np.asarray(muon_module.orthogonalize(jnp.asarray(x), method=method), np.float64)
    assert given.shape == shape
    for one, result in zip(x.reshape(-1, *shape[-2:]), given.reshape(-1, *shape[-2:])):
        tolerance = 3e-5 if method == "gram" else 1e-5
        np.testing.assert_allclose(result, newton_schulz(one), rtol=0, atol=tolerance)
        u, _, vt = np.linalg.svd(one, full_matrices=False)
        core = u.T @ result @ vt.T
        values = np.diag(core)
        np.testing.assert_allclose(core, np.diag(values), rtol=0, atol=tolerance)
        assert values.min() > 0.4
        assert values.max() < 1.3


def test_orthogonalize_of_zero_is_zero():
    assert not np.asarray(muon_module.orthogonalize(jnp.zeros((3, 4, 9)))).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_axes_mirror_the_state(name):
    p = params()
    transformation = build(OptimConfig(name=name), p, STEPS, AXES)
    axes = state_axes(transformation, p, AXES)
    state = jax.eval_shape(transformation.init, p)
    leaves, treedef = jax.tree.flatten(state)
    named = treedef.flatten_up_to(axes)
    for leaf, names in zip(leaves, named, strict=True):
        assert type(names) is tuple
        assert len(names) == leaf.ndim
    moments = [n for leaf, n in zip(leaves, named) if leaf.ndim]
    given = jax.tree.leaves(AXES, is_leaf=lambda x: isinstance(x, tuple))
    expected = {"adamw": 2, "lamb": 2, "lion": 1, "sgd": 1, "muon": 1}
    if name in expected:
        assert moments[: len(given) * expected[name]] == given * expected[name]
    if name == "adafactor":
        assert ("layers", "embed", None, None) in moments
        assert ("layers", None, "heads", "head_dim") in moments
        assert ("layers", "heads", "head_dim", None) in moments


def test_state_axes_replicate_what_mirrors_no_parameter():
    p = {"w": np.zeros((4, 6), np.float32)}

    def init(params):
        per_row = jax.tree.map(lambda x: jnp.zeros(x.shape[:1]), params)
        return {"count": jnp.zeros(()), "per_row": per_row, "wide": {"w": jnp.zeros((4, 7))}}

    axes = state_axes(optax.GradientTransformation(init, None), p, {"w": ("embed", "mlp")})
    assert axes == {"count": (), "per_row": {"w": (None,)}, "wide": {"w": (None, None)}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_float32_and_a_donated_update_keeps_its_form(name):
    begin = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params())
    transformation = build(OptimConfig(name=name), begin, STEPS, AXES)
    state = transformation.init(begin)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }

    def step(p, state):
        updates, state = transformation.update(p, state, p)
        return optax.apply_updates(p, updates), state

    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    donated = jax.jit(step, donate_argnums=(0, 1))
    compiled = donated.lower(begin, state).compile()
    size = sum(x.nbytes for x in jax.tree.leaves((begin, state)))
    assert compiled.memory_analysis().alias_size_in_bytes == size
    p, state = donated(begin, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(p))


def test_clipping_by_value_then_by_global_norm():
    start = params()
    plain = {"name": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 1.0}
    plain |= {"weight_decay": 0.0}
    config = OptimConfig(**plain, clip_value=0.3, clip_norm=0.7)
    transformation = build(config, start, STEPS, AXES)
    grads = gradient(start, 0)
    updates, _ = transformation.update(grads, transformation.init(start), start)
    cut = {key: np.clip(g, -0.3, 0.3) for key, g in tensors(grads).items()}
    norm = np.sqrt(sum((g**2).sum() for g in cut.values()))
    assert norm > 0.7
    for key, u in tensors(updates).items():
        np.testing.assert_allclose(u, -cut[key] * 0.7 / norm, rtol=1e-5, atol=1e-9)

    small = jax.tree.map(lambda g: g * np.float32(1e-3), grads)
    updates, _ = transformation.update(small, transformation.init(start), start)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(small)):
        np.testing.assert_array_equal(u, -g)

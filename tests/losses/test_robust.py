"""Robust losses against their formulas in float64, on a model small enough to write down."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.losses import robust
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.robust import RobustConfig, robust_loss
from tests.training.test_tuning import run_of

KEY = jax.random.key(3)
SIZES = np.array([5, 3, 4, 2])


@dataclasses.dataclass(frozen=True)
class Linear:
    """Logits of the mean word vector: a model whose gradients can be written down."""

    noise: float = 0.0

    @property
    def config(self):
        return type("Config", (), {"hidden_size": 6})

    def word_vectors(self, params, tokens):
        return params["table"][tokens]

    def read(self, params, tokens, mask, *, token_types=None, dropout_key=None, example_ids=None,
             perturbation=None):  # fmt: skip
        x = self.word_vectors(params, tokens)
        x = x if perturbation is None else x + perturbation
        x = jnp.sum(x * mask[..., None], axis=1) / jnp.sum(mask, axis=1)[:, None]
        logits = jnp.tanh(x) @ params["out"]
        if self.noise:
            logits = logits + self.noise * jax.random.normal(dropout_key, logits.shape)
        return logits


def given():
    rng = np.random.default_rng(0)
    params = {"table": rng.normal(size=(9, 6)), "out": rng.normal(size=(6, 3))}
    batch = {
        "tokens": rng.integers(0, 9, (4, 5), dtype=np.int32),
        "mask": (np.arange(5) < SIZES[:, None]).astype(np.int32),
        "labels": np.array([0, 2, 1, 2], np.int32),
        "weights": np.array([1, 1, 0.5, 2], np.float32),
        "example_ids": np.array([7, 1, 4, 9], np.int32),
    }
    return params, batch


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def logits64(params, batch, i, moved):
    n = SIZES[i]
    mean = (params["table"][batch["tokens"][i, :n]] + moved).mean(0)
    return np.tanh(mean) @ params["out"], mean


def slope64(params, batch, i, moved, toward=None):
    """The gradient by the real word vectors of cross-entropy, or of KL from `toward`."""
    z, mean = logits64(params, batch, i, moved)
    wanted = np.eye(3)[batch["labels"][i]] if toward is None else toward
    by_mean = (params["out"] @ (softmax(z) - wanted)) * (1 - np.tanh(mean) ** 2)
    return np.tile(by_mean / SIZES[i], (SIZES[i], 1))


def nll64(params, batch, i, moved):
    return -np.log(softmax(logits64(params, batch, i, moved)[0])[batch["labels"][i]])


def radius64(params, batch, i, epsilon):
    return epsilon * np.linalg.norm(params["table"][batch["tokens"][i, : SIZES[i]]])


def unit64(x):
    return x / np.linalg.norm(x)


def step64(now, gradient, radius, size):
    now = now + size * radius * unit64(gradient)
    return now * min(1, radius / np.linalg.norm(now))


def points64(params, batch, i, config):
    """Where each method takes its loss, in float64."""
    radius, n = radius64(params, batch, i, config.epsilon), SIZES[i]
    shape, own = (5, 6), robust.site_key(KEY, "robust_start")
    key = jax.random.fold_in(own, batch["example_ids"][i])
    now = np.zeros((n, 6))
    if config.adversarial == "fgm":
        return [radius * unit64(slope64(params, batch, i, now))]
    if config.adversarial == "vat":
        clean = softmax(logits64(params, batch, i, now)[0])
        now = unit64(np.asarray(jax.random.normal(key, shape), np.float64)[:n])
        for _ in range(config.steps):
            moved = config.step_size * radius * now
            now = unit64(slope64(params, batch, i, moved, clean))
        return [radius * now]
    if config.adversarial == "freelb":
        drawn = np.asarray(jax.random.uniform(key, shape), np.float64)[:n]
        now = (2 * drawn - 1) * radius / np.sqrt(n * 6)
    points = [now]
    for _ in range(config.steps):
        gradient = slope64(params, batch, i, points[-1])
        points.append(step64(points[-1], gradient, radius, config.step_size))
    return points[:-1] if config.adversarial == "freelb" else points[-1:]


@pytest.mark.parametrize("name", robust.ADVERSARIAL[1:])
def test_the_loss_and_its_gradient_are_those_of_the_formula(name):
    params, batch = given()
    config = RobustConfig(name, 0.4, 0.7, 3, 1.0 if name == "freelb" else 0.6)
    run = jax.jit(jax.value_and_grad(
        lambda p: _sums(robust_loss(Linear(), p, batch, dropout_key=KEY, config=LossConfig(),
                                    robust=config)), has_aux=True,
    ))  # fmt: skip
    (total, sums), grads = run(jax.tree.map(jnp.float32, params))
    points = [points64(params, batch, i, config) for i in range(4)]
    clean64 = [softmax(logits64(params, batch, i, 0)[0]) for i in range(4)]

    def expected(params):
        clean = adversarial = 0
        for i, weight in enumerate(batch["weights"]):
            clean += weight * nll64(params, batch, i, 0)
            for point in points[i]:
                if name == "vat":
                    q = softmax(logits64(params, batch, i, point)[0])
                    found = np.sum(clean64[i] * np.log(clean64[i] / q))
                else:
                    found = nll64(params, batch, i, point)
                adversarial += weight * found / len(points[i])
        whole = adversarial if name == "freelb" else clean + 0.6 * adversarial
        return whole, clean, adversarial

    whole, clean, adversarial = expected(params)
    assert float(total) == pytest.approx(whole, rel=1e-5)
    assert float(sums["clean"]) == pytest.approx(clean, rel=1e-5)
    assert float(sums["adversarial"]) == pytest.approx(adversarial, rel=1e-4)
    for row, column in ((0, 0), (3, 2), (5, 1)):  # where the points stay as they are
        changed = [{**params, "out": params["out"].copy()} for _ in range(2)]
        for side, one in zip((1, -1), changed):
            one["out"][row, column] += side * 1e-5
        slope = (expected(changed[0])[0] - expected(changed[1])[0]) / 2e-5
        assert float(grads["out"][row, column]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def _sums(found):
    (total, _), sums = found
    return total, sums


def test_r_drop_is_two_draws_and_half_of_both_divergences():
    params, batch = given()
    model, w = Linear(noise=0.5), batch["weights"]
    found = robust_loss(model, jax.tree.map(jnp.float32, params), batch, dropout_key=KEY,
                        config=LossConfig(), robust=RobustConfig(r_drop=0.7))  # fmt: skip
    p, q = (
        softmax(
            np.stack([logits64(params, batch, i, 0)[0] for i in range(4)])
            + 0.5 * np.asarray(jax.random.normal(key, (4, 3)), np.float64)
        )
        for key in (KEY, robust.site_key(KEY, "r_drop"))
    )
    apart = np.sum(w * np.sum((p - q) * np.log(p / q), axis=-1)) / 2
    nll = -np.sum(w * np.log((p * q)[np.arange(4), batch["labels"]])) / 2
    assert float(found[1]["r_drop"]) == pytest.approx(apart, rel=1e-4)
    assert float(found[0][0]) == pytest.approx(nll + 0.7 * apart, rel=1e-5)


def test_mixed_word_vectors_give_the_mixed_loss_of_both_labels():
    params, batch = given()
    found = robust_loss(Linear(), jax.tree.map(jnp.float32, params), batch, dropout_key=KEY,
                        config=LossConfig(), robust=RobustConfig(mixing=0.5))  # fmt: skip
    key, w = robust.site_key(KEY, "mixing"), batch["weights"]
    other, total = np.asarray(robust.partners(key, 4)), 0
    assert sorted(other) == [0, 1, 2, 3]
    assert np.all(other != np.arange(4))
    real = params["table"][batch["tokens"]] * batch["mask"][..., None]
    for i, example in enumerate(batch["example_ids"]):
        own = jax.random.fold_in(robust.site_key(key, "robust_start"), example)
        share, j = float(jax.random.beta(own, 0.5, 0.5)), other[i]
        mean = (share * real[i] + (1 - share) * real[j]).sum(0) / max(SIZES[i], SIZES[j])
        logs = np.log(softmax(np.tanh(mean) @ params["out"]))
        labels = batch["labels"]
        total -= w[i] * (share * logs[labels[i]] + (1 - share) * logs[labels[j]])
    assert float(found[0][0]) == pytest.approx(total, rel=1e-5)
    assert float(found[0][1]) == pytest.approx(w.sum())


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ({"adversarial": "fgsm"}, {}, "robust.adversarial is 'fgsm'"),
        ({"adversarial": "pgd", "epsilon": 0.0}, {}, "robust.epsilon is 0.0: give more than 0"),
        ({"mixing": 0.2, "r_drop": 1.0}, {}, "robust.mixing is 0.2 beside"),
        ({"adversarial": "freelb", "adversarial_weight": 2.0}, {}, "leave it 1"),
        ({"mixing": 0.2}, {"accumulation": 8}, "a microbatch has one example"),
        ({"r_drop": 1.0}, {"dropout": 0.0}, "no dropout to draw twice"),
        ({"adversarial": "vat"}, {"target": "number"}, "objective.target is 'number'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(section, changes, words):
    changes = {"robust": section} | changes
    if changes.pop("dropout", None) is not None:
        changes |= {"tuning": {"head": {"outputs": 3, "dropout_rate": 0.0}}}
        changes |= {"model": {"family": "bert", "max_positions": 32, "dropout_rate": 0.0,
                              "attention_dropout_rate": 0.0, "pooler": False}}  # fmt: skip
    if target := changes.pop("target", None):
        changes |= {"objective": {"name": "text_classification", "target": target}}
    with pytest.raises(ConfigError) as error:
        run_of(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)

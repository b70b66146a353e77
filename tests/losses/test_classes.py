"""The loss of classes against PyTorch: class weights, soft labels, smoothing, the focal factor."""

import dataclasses
import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.losses.classes import one_class_loss, several_classes_loss
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.registry import check_loss
from llm_jax.training import tuning
from tests.data.test_labelled_rows import prepared
from tests.training.test_tuning import run_of, trained

torch = pytest.importorskip("torch")

WEIGHTS = "0.5,2.0,0.0,1.25"
CONFIGS = [
    LossConfig(),
    LossConfig(class_weights=WEIGHTS),
    LossConfig(class_weights=WEIGHTS, label_smoothing=0.2),
    LossConfig(class_weights=WEIGHTS, label_smoothing=0.1, focal_gamma=2.0),
    LossConfig(focal_gamma=0.5),
]
NAMES = ["plain", "weighted", "smoothed", "all", "focal"]


def given(kind, seed=0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(9, 4)).astype(np.float32) * 3
    labels = {
        "one": np.array([0, 1, 1, 2, 3, 3, 0, 1, 2], np.int32),
        "soft": draw.dirichlet(np.ones(4), 9).astype(np.float32),
        "several": (draw.random((9, 4)) < 0.4).astype(np.float32),
    }[kind]
    return logits, labels, np.array([1] * 7 + [0] * 2, np.float32)  # rows that only fill up


def of_torch(kind, logits, labels, config):
    """Returns PyTorch's mean loss and its gradient, of the examples that count, in float64."""
    logits = torch.tensor(logits[:7], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(labels[:7])
    labels = labels.long() if kind == "one" else labels.double()
    weight = torch.tensor(config.by_class()).double() if config.class_weights else None
    smooth, gamma = config.label_smoothing, config.focal_gamma
    if kind == "several":
        goal = labels * (1 - smooth) + smooth / 2
        if gamma:
            p, shares = torch.sigmoid(logits), 1.0 if weight is None else weight
            each = goal * (1 - p) ** gamma * p.log() + (1 - goal) * p**gamma * (1 - p).log()
            loss = -(each * shares).mean()
        else:
            loss = torch.nn.BCEWithLogitsLoss(weight=weight)(logits, goal)
    elif gamma:
        p = torch.softmax(logits, 1)
        hard = torch.nn.functional.one_hot(labels, 4).double() if kind == "one" else labels
        goal = hard * (1 - smooth) + smooth / 4
        shares = torch.ones(4).double() if weight is None else weight
        count = shares[labels].sum() if kind == "one" else 7
        loss = -(shares * goal * (1 - p) ** gamma * p.log()).sum() / count
    else:
        loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smooth)(logits, labels)
    loss.backward()
    return float(loss.detach()), logits.grad.numpy()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("kind", ["one", "soft", "several"])
def test_classes_cost_what_torch_says_and_pull_as_there(kind, config):
    logits, labels, weights = given(kind)
    loss = several_classes_loss if kind == "several" else one_class_loss

    def mean(logits):
        (total, weight), sums = loss(logits, labels, weights, config)
        return total / weight, (sums, weight)

    (found, (sums, weight)), gradient = jax.value_and_grad(mean, has_aux=True)(logits)
    want, pull = of_torch(kind, logits, labels, config)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    np.testing.assert_allclose(gradient[:7], pull, atol=1e-6 * np.abs(pull).max())
    assert not np.any(gradient[7:])
    counted = np.ones(7)
    if kind == "one" and config.class_weights:
        counted = np.array(config.by_class())[labels[:7]]
    assert weight == pytest.approx(counted.sum())
    if kind == "one":
        right = (logits.argmax(1) == labels)[:7]
        plain = -np.asarray(jax.nn.log_softmax(logits))[range(7), labels[:7]]
        np.testing.assert_allclose(sums["accuracy"], (right * counted).sum(), rtol=1e-6)
        np.testing.assert_allclose(sums["nll"], (plain * counted).sum(), rtol=1e-6)
    else:
        assert sums["nll"] / 7 == pytest.approx(of_torch(kind, logits, labels, CONFIGS[0])[0])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_what_is_certain_has_a_finite_gradient(gamma):
    config = LossConfig(focal_gamma=gamma)
    logits = jnp.array([[200.0, -200.0], [-200.0, 200.0]])
    ones = jnp.ones(2)
    for loss, labels in (
        (one_class_loss, jnp.array([0, 0])),
        (several_classes_loss, jnp.array([[1.0, 0.0], [1.0, 0.0]])),
    ):
        gradient = jax.grad(lambda x: loss(x, labels, ones, config)[0][0])(logits)  # noqa: B023
        assert np.all(np.isfinite(gradient))
        assert not np.any(gradient[0])
        assert np.any(gradient[1])


def test_microbatches_of_unequal_class_weight_add_up():
    loss = {"class_weights": "0.1,1.0,7.0", "focal_gamma": 1.0}
    whole = trained(run_of(loss=loss))[3]
    parts = trained(run_of(loss=loss, accumulation=4))[3]
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    assert abs(whole[0] - trained(run_of(), steps=1)[3][0]) > 1e-2


def test_balanced_weights_are_those_of_the_train_split(tmp_path):
    texts = [(f"{n} good film {n % 7}", "pos" if n % 4 else "neg") for n in range(200)]
    manifest, parts = prepared(tmp_path, texts)
    assert manifest.labels["names"] == ["neg", "pos"]
    members = np.bincount(parts["train"].labels)
    assert manifest.labels["members"]["train"] == members.tolist()
    assert members[0] < members[1] / 2
    run = run_of(loss={"class_weights": "balanced"}, tuning={"head": {"outputs": 0}})
    found = tuning.completed(run, manifest).loss.by_class()
    np.testing.assert_allclose(found, members.sum() / (2 * members), rtol=1e-12)
    assert np.mean(np.array(found)[parts["train"].labels]) == pytest.approx(1)

    several = [(text, f"{label},x" if n % 2 else label) for n, (text, label) in enumerate(texts)]
    _, parts = prepared(tmp_path, several, "several", target="classes")
    manifest = data.load_manifest(tmp_path / "several")
    assert manifest.labels["members"]["train"] == tuple(parts["train"].labels.sum(0))
    empty = dataclasses.replace(
        manifest, labels=manifest.labels | {"members": {"train": [3, 0, 1]}}
    )
    with pytest.raises(ConfigError, match="class 'pos' is empty"):
        tuning.completed(run, empty)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"focal_gamma": -1.0}, "loss.focal_gamma is -1.0: give at least 0"),
        ({"class_weights": "balnced"}, "loss.class_weights is 'balnced': give balanced, or a num"),
        ({"class_weights": "1,-2"}, "loss.class_weights is '1,-2'"),
        ({"class_weights": "0,0"}, "loss.class_weights is '0,0'"),
    ],
)
def test_impossible_values_are_refused(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        LossConfig(**changes)


@pytest.mark.parametrize(
    ("name", "target", "changes", "said"),
    [
        ("next_token", None, {"focal_gamma": 2.0}, "loss.focal_gamma is 2.0, which objective.name"),
        ("masked_lm", None, {"class_weights": "1,2"}, "loss.class_weights is '1,2', which"),
        ("masked_patches", None, {"label_smoothing": 0.1}, "loss.label_smoothing is 0.1, which"),
        ("text_classification", "number", {"label_smoothing": 0.1}, "objective.target 'number'"),
        ("text_classification", "classes", {"z_loss": 0.1}, "loss.z_loss is 0.1, which"),
        ("text_classification", "class", {"class_weights": "1,2,3"}, "has 3 numbers and the"),
        (
            "classification",
            None,
            {"class_weights": "balanced"},
            "finetune takes them from the data",
        ),
        ("text_classification", "class", {"class_weights": "1,2", "z_loss": 1.0}, ""),
        ("text_classification", "classes", {"focal_gamma": 2.0, "label_smoothing": 0.1}, ""),
        ("token_classification", None, {"focal_gamma": 2.0, "label_smoothing": 0.1}, ""),
        ("next_token", None, {"z_loss": 0.1, "label_smoothing": 0.1}, ""),
    ],
)
def test_an_objective_takes_the_keys_that_it_can_use(name, target, changes, said):
    objective = OBJECTIVES[name](**({"target": target} if target else {}))
    refused = pytest.raises(ConfigError, match=re.escape(said)) if said else nullcontext()
    with refused:
        check_loss(objective, LossConfig(**changes), 2)


def test_what_has_no_use_is_refused_before_training():
    with pytest.raises(ConfigError, match="has 2 numbers and the head 3 classes"):
        trained(run_of(loss={"class_weights": "1,2"}), steps=0)

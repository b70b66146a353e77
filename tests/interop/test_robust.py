"""Robust losses and their gradients against torch in float64, on a BERT of `transformers`."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.interop import load_pretrained
from llm_jax.layers.dropout import site_key
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.robust import RobustConfig, robust_loss
from llm_jax.models.heads import Head
from llm_jax.testing import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

KEY = jax.random.key(5)
SIZES = np.array([7, 4, 6])
SHAPE = (7, 32)


def given():
    rng = np.random.default_rng(0)
    mask = (np.arange(7) < SIZES[:, None]).astype(np.int32)
    return {
        "tokens": rng.integers(5, 97, (3, 7), dtype=np.int32) * mask,
        "mask": mask,
        "labels": np.array([0, 2, 1], np.int32),
        "weights": np.array([1, 0.5, 2], np.float32),
        "example_ids": np.array([8, 3, 11], np.int32),
    }


def drawn(batch, draw):
    """What each example's own key gives, nothing at padding."""
    own = site_key(KEY, "robust_start")
    found = [draw(jax.random.fold_in(own, one), SHAPE) for one in batch["example_ids"]]
    return torch.tensor(np.asarray(found, np.float64)) * torch.tensor(batch["mask"])[..., None]


def by_example(x):
    return x / x.flatten(1).norm(dim=1)[:, None, None]


def expected(network, head, batch, config):
    """The loss in float64, the papers' formulas written out; its gradients are left in place."""
    mask, labels = torch.tensor(batch["mask"]), torch.tensor(batch["labels"]).long()
    weights = torch.tensor(batch["weights"]).double()
    words = network.embeddings.word_embeddings(torch.tensor(batch["tokens"]))
    own = (words * mask[..., None]).detach().flatten(1).norm(dim=1)
    radius = (config.epsilon * own)[:, None, None]

    def read(moved, words):
        states = network(inputs_embeds=words + moved, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        return (mean @ head[0] + head[1]).log_softmax(-1)

    def nll(logs):
        return -(weights * logs[range(3), labels]).sum()

    clean = read(0.0, words)
    goal = clean.detach()

    def harm(logs):
        if config.adversarial == "vat":
            return (weights * (goal.exp() * (goal - logs)).sum(-1)).sum()
        return nll(logs)

    def slope(moved):
        moved = moved.clone().requires_grad_()
        found = torch.autograd.grad(harm(read(moved, words.detach())), moved)[0]
        return by_example(found * mask[..., None])

    now, points = torch.zeros(3, *SHAPE, dtype=torch.float64), []
    if config.adversarial == "freelb":
        size = (mask.sum(1) * SHAPE[1]).sqrt()[:, None, None]
        now = (2 * drawn(batch, jax.random.uniform) - 1) * mask[..., None] * radius / size
    if config.adversarial == "vat":
        now = by_example(drawn(batch, jax.random.normal))
    for _ in range(config.steps):
        points.append(now)
        if config.adversarial == "vat":
            now = slope(config.step_size * radius * now)
            continue
        size = 1.0 if config.adversarial == "fgm" else config.step_size
        now = now + size * radius * slope(now)
        now = now * (radius / now.flatten(1).norm(dim=1)[:, None, None]).clamp(max=1.0)
    if config.adversarial != "freelb":
        points = [radius * now if config.adversarial == "vat" else now]
    moved = sum(harm(read(point, words)) for point in points) / len(points)
    return moved if config.adversarial == "freelb" else nll(clean) + 0.5 * moved


@pytest.mark.parametrize("name", ["pgd", "fgm", "freelb", "vat"])
def test_it_is_that_of_the_reference(name, reference):
    hf = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    network, folder = reference(transformers.BertModel, hf)
    config, params = load_pretrained(folder)
    model = models.build(config)
    model = dataclasses.replace(model, head=Head(outputs=3, pooling="mean", dropout_rate=0.0))
    params = model.grown(params, jax.random.key(0))
    batch = given()
    weight = 1.0 if name == "freelb" else 0.5
    robust = RobustConfig(name, 0.2, 0.7, 1 if name == "fgm" else 3, weight)

    def loss(params):
        more = {"dropout_key": KEY, "config": LossConfig(), "robust": robust}
        return robust_loss(model, params, batch, **more)[0][0]

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    network = network.double()
    head = [
        torch.tensor(
            np.asarray(params["task_head"]["output"][part], np.float64), requires_grad=True
        )
        for part in ("kernel", "bias")
    ]
    total = expected(network, head, batch, robust)
    total.backward()
    assert float(found) == pytest.approx(total.item(), rel=1e-5)
    for ours, theirs in (
        (grads["task_head"]["output"]["kernel"], head[0]),
        (grads["embedding"]["table"][:97], network.embeddings.word_embeddings.weight),
        (grads["layers"]["mlp"]["up"]["kernel"][1],
         network.encoder.layer[1].intermediate.dense.weight),
    ):  # fmt: skip
        theirs = theirs.grad.numpy()
        ours = np.asarray(ours)
        ours = ours.T if ours.shape != theirs.shape else ours
        assert relative_error(ours, theirs) < 1e-5

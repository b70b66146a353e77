"""Every objective's loss against PyTorch's cross-entropy over the whole of `models.forward`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.losses import registry
from llm_jax.losses.images import class_loss, masked_patch_loss, patches_of
from llm_jax.losses.language_model import LossConfig
from llm_jax.losses.masked_language_model import masked_token_loss
from llm_jax.losses.sequence_to_sequence import shifted_right, target_loss

SMALL = {"num_heads": 2, "hidden_size": 32, "vocab_size": 150}
BERT = SMALL | {"num_layers": 2, "max_positions": 40, "head": "masked_lm", "pooler": False}
SEQ2SEQ = SMALL | {"num_encoder_layers": 2, "num_decoder_layers": 2, "mlp_size": 48}
VIT = {
    "num_layers": 2, "num_heads": 2, "hidden_size": 32, "image_size": 12, "patch_size": 4,
    "num_channels": 3, "pooler": "none",
}  # fmt: skip


def made(family, config):
    model = models.build(models.parse_config({"family": family, **config}))

    @jax.jit
    def init():
        noise = iter(jax.random.split(jax.random.key(1), 100))
        params = model.init(jax.random.key(0))
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(noise), x.shape), params)

    return model, init()


def cross_entropy(logits, targets, weights, smoothing=0.0):
    """Returns PyTorch's weighted sum; logits [..., V]."""
    torch = pytest.importorskip("torch")
    logits = torch.tensor(np.asarray(logits, np.float64)).reshape(-1, logits.shape[-1])
    each = torch.nn.functional.cross_entropy(
        logits, torch.tensor(np.array(targets, np.int64)).ravel(), reduction="none",
        label_smoothing=smoothing,
    )  # fmt: skip
    return float((each * torch.tensor(np.array(weights, np.float64)).ravel()).sum())


def masked_batch(length=24, picks=4):
    draw = np.random.default_rng(0)
    segments = np.repeat([[1, 2]], length // 2, axis=1) * np.ones((3, 1), int)
    return {
        "tokens": draw.integers(3, 150, (3, length)),
        "segment_ids": segments,
        "positions": np.tile(np.arange(length // 2), (3, 2)),
        "picked": np.sort(draw.permuted(np.tile(np.arange(length), (3, 1)), axis=1)[:, :picks]),
        "targets": draw.integers(3, 150, (3, picks)),
        "weights": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], np.float32),
    }


@pytest.mark.parametrize("padding_id", [None, 1])
def test_masked_tokens_cost_what_the_whole_logits_say(padding_id):
    model, params = made("bert", BERT | {"padding_id": padding_id})
    batch = masked_batch()
    (loss, weight), sums = jax.jit(lambda p: masked_token_loss(model, p, batch))(params)
    # `forward` takes one sequence a row: give it each document by itself.
    documents = batch["tokens"].reshape(6, 12)
    logits = models.forward(model.config, params, input_ids=documents)["logits"]
    logits = np.asarray(logits).reshape(3, 24, -1)
    picked = np.take_along_axis(logits, batch["picked"][..., None], axis=1)
    np.testing.assert_allclose(
        loss, cross_entropy(picked, batch["targets"], batch["weights"]), rtol=2e-6
    )
    assert weight == 6
    assert sums["nll"] == loss


def test_gradients_of_masked_tokens_reach_table_and_bias():
    model, params = made("bert", BERT)
    batch = masked_batch()

    def naive(params):
        states = model.apply(
            params, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"]
        )["transformed"]
        logits = model.family.logits(model.config, params, states)
        logits = jnp.take_along_axis(logits, batch["picked"][..., None], axis=1)
        each = jax.nn.log_softmax(logits)
        each = jnp.take_along_axis(each, batch["targets"][..., None], axis=-1)[..., 0]
        return -jnp.sum(each * batch["weights"])

    ours = jax.jit(jax.grad(lambda p: masked_token_loss(model, p, batch)[0][0]))(params)
    theirs = jax.jit(jax.grad(naive))(params)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), ours, theirs)
    assert float(jnp.abs(ours["head_bias"]).max()) > 0.01


def pairs_batch():
    draw = np.random.default_rng(1)
    mask = (np.arange(9) < np.array([[9], [5]])).astype(np.int32)
    return {
        "source": draw.integers(3, 150, (2, 9)) * mask,
        "source_mask": mask,
        "targets": draw.integers(3, 150, (2, 6)),
        "weights": (np.arange(6) < np.array([[4], [6]])).astype(np.float32),
    }


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("t5", {"head_dim": 16}),
        ("bart", {"pad_token_id": 0, "max_positions": 32}),
        ("seq2seq", {}),
    ],
)
def test_targets_cost_what_the_whole_logits_say(family, more, smoothing):
    model, params = made(family, SEQ2SEQ | {"pad_token_id": 0} | more)
    batch = pairs_batch()
    config = LossConfig(label_smoothing=smoothing)
    (loss, weight), sums = jax.jit(lambda p: target_loss(model, p, batch, config=config))(params)
    logits = models.forward(
        model.config,
        params,
        input_ids=batch["source"],
        attention_mask=batch["source_mask"],
        decoder_input_ids=shifted_right(batch["targets"], model.config.decoder_start_token_id),
    )["logits"]
    want = cross_entropy(logits, batch["targets"], batch["weights"], smoothing)
    np.testing.assert_allclose(loss, want, rtol=2e-6)
    plain = cross_entropy(logits, batch["targets"], batch["weights"])
    np.testing.assert_allclose(sums["nll"], plain, rtol=2e-6)
    assert weight == 10


def test_the_decoder_sees_the_targets_one_place_later():
    assert shifted_right(np.array([[5, 6, 7]]), 2).tolist() == [[2, 5, 6]]


def image_batch():
    draw = np.random.default_rng(2)
    return {
        "pixels": draw.normal(size=(3, 3, 12, 12)).astype(np.float32),
        "labels": np.array([1, 4, 0]),
        "weights": np.array([1.0, 1.0, 0.0], np.float32),
        "masked": draw.random((3, 9)) < 0.6,
    }


def test_classes_cost_what_the_logits_say():
    model, params = made("vit", VIT | {"head": "classification", "num_classes": 5})
    batch, config = image_batch(), LossConfig(label_smoothing=0.2)
    (loss, weight), sums = jax.jit(lambda p: class_loss(model, p, batch, config=config))(params)
    logits = models.forward(model.config, params, pixel_values=batch["pixels"])["logits"]
    want = cross_entropy(logits, batch["labels"], batch["weights"], 0.2)
    np.testing.assert_allclose(loss, want, rtol=2e-6)
    right = np.asarray(logits).argmax(-1)[:2] == batch["labels"][:2]
    assert (weight, sums["accuracy"]) == (2, right.sum())


def test_masked_patches_cost_what_transformers_says():
    torch = pytest.importorskip("torch")
    model, params = made("vit", VIT | {"head": "pixels", "mask_token": True})
    batch = image_batch()
    (loss, weight), _ = jax.jit(lambda p: masked_patch_loss(model, p, batch))(params)
    outputs = models.forward(
        model.config, params, pixel_values=batch["pixels"], bool_masked_pos=batch["masked"]
    )
    # As ViTForMaskedImageModeling does: pixels by pixel_shuffle, L1 over masked ones.
    states = np.asarray(outputs["patches"]).reshape(3, 3, 3, -1).transpose(0, 3, 1, 2)
    painted = torch.nn.functional.pixel_shuffle(torch.tensor(states), 4).numpy()
    mask = batch["masked"].reshape(3, 3, 3).repeat(4, 1).repeat(4, 2)[:, None]
    error = np.abs(painted - batch["pixels"]).mean(axis=1, keepdims=True) * mask
    want = error[:2].sum() / 16
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert weight == batch["masked"][:2].sum()
    assert patches_of(batch["pixels"], 4).shape == (3, 9, 48)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_loss_and_refuses_other_families(name):
    task = registry.TASKS[name]
    other = next(family for family in models.FAMILIES if family not in task.families)
    config = models.parse_config({"family": other})
    with pytest.raises(ConfigError, match=f"'{name}' trains .*, not model.family '{other}'"):
        registry.check(OBJECTIVES[name](), config)


def test_a_model_without_the_head_is_refused():
    config = models.parse_config({"family": "bert"})
    with pytest.raises(ConfigError, match="model.head is 'none'.*'masked_lm'"):
        registry.check(OBJECTIVES["masked_lm"](), config)
    config = models.parse_config({"family": "t5"})
    with pytest.raises(ConfigError, match="model.eos_token_id is 1.*needs 2"):
        registry.check(OBJECTIVES["span_corruption"](), config)


def test_work_of_masked_tokens_counts_the_logits_that_are_made():
    model, _ = made("bert", BERT)
    whole = model.flops_per_token(40).total
    objective = OBJECTIVES["masked_lm"](mask_rate=0.25)
    head = 6.0 * model.config.padded_vocab * model.config.hidden_size
    assert registry.work(objective, model, 40).flops.total == pytest.approx(whole - 0.75 * head)


def test_patches_of_another_size_than_the_models_are_refused():
    head = {"family": "vit", "head": "pixels", "mask_token": True, **VIT}
    with pytest.raises(ConfigError, match="objective.patch_size is 16 and model.patch_size 4"):
        registry.check(OBJECTIVES["masked_patches"](), models.parse_config(head))


def test_work_of_an_example_counts_source_and_target():
    model, _ = made("t5", SEQ2SEQ | {"head_dim": 16})
    work = registry.work(OBJECTIVES["pairs"](target_length=10), model, 30)
    assert work.tokens == 40
    both = models.encoder_decoder.flops(model.config, 3.0, 30, 10)
    np.testing.assert_allclose(work.tokens * work.flops.total, 10 * both.total, rtol=1e-12)

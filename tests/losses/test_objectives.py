"""Every objective's loss against PyTorch's cross-entropy over the whole of `models.forward`."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.interop import load_pretrained
from llm_jax.losses import registry
from llm_jax.losses.images import class_loss, masked_patch_loss, patches_of
from llm_jax.losses.language_model import LossConfig, next_token_loss
from llm_jax.losses.masked_language_model import masked_token_loss, sentence_pair_loss
from llm_jax.losses.sequence_to_sequence import shifted_right, target_loss
from llm_jax.testing import random_batch

# The plain objective, and one with all that can be added to it.
CONFIGS = [LossConfig(), LossConfig(label_smoothing=0.1, z_loss=0.01)]
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


def whole(model, params, **inputs):
    """Returns what `models.forward` does."""
    return jax.jit(lambda p, i: models.forward(model.config, p, **i))(params, inputs)


def cross_entropy(logits, targets, weights, config=CONFIGS[0]):
    """Returns PyTorch's weighted sum; logits [..., V]."""
    torch = pytest.importorskip("torch")
    logits = torch.tensor(np.asarray(logits, np.float64)).reshape(-1, logits.shape[-1])
    each = torch.nn.functional.cross_entropy(
        logits, torch.tensor(np.array(targets, np.int64)).ravel(), reduction="none",
        label_smoothing=config.label_smoothing,
    )  # fmt: skip
    each += config.z_loss * logits.logsumexp(-1) ** 2
    return float((each * torch.tensor(np.array(weights, np.float64)).ravel()).sum())


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "smoothed"])
def test_next_tokens_cost_what_the_whole_logits_say(config):
    model, params = made("llama", SMALL | {"num_layers": 1, "logit_cap": 2.0})
    batch = random_batch(vocab=150)
    for name in ("segment_ids", "positions"):
        del batch[name]
    (loss, weight), sums = jax.jit(lambda p: next_token_loss(model, p, batch, config=config))(
        params
    )
    logits = whole(model, params, input_ids=batch["tokens"])["logits"]
    assert np.abs(logits).max() < 2
    given = logits, batch["targets"], batch["weights"]
    np.testing.assert_allclose(loss, cross_entropy(*given, config), rtol=2e-6)
    np.testing.assert_allclose(sums["nll"], cross_entropy(*given), rtol=2e-6)
    assert weight == batch["weights"].sum()


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


@pytest.mark.parametrize(("padding_id", "config"), zip([None, 1], CONFIGS))
def test_masked_tokens_cost_what_the_whole_logits_say(padding_id, config):
    model, params = made("bert", BERT | {"padding_id": padding_id})
    batch = masked_batch()
    (loss, weight), sums = jax.jit(
        lambda p: masked_token_loss(model, p, batch, config=config)
    )(params)  # fmt: skip
    # `forward` takes one sequence a row: give it each document by itself.
    documents = batch["tokens"].reshape(6, 12)
    logits = whole(model, params, input_ids=documents)["logits"]
    logits = np.asarray(logits).reshape(3, 24, -1)
    picked = np.take_along_axis(logits, batch["picked"][..., None], axis=1)
    given = picked, batch["targets"], batch["weights"]
    np.testing.assert_allclose(loss, cross_entropy(*given, config), rtol=2e-6)
    np.testing.assert_allclose(sums["nll"], cross_entropy(*given), rtol=2e-6)
    assert weight == 6


def test_pairs_cost_what_transformers_says():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=150, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=40, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.BertForPreTraining(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        ours, params = load_pretrained(folder)
    model = models.build(ours)
    batch = masked_batch() | {
        "weights": np.ones((3, 4), np.float32),
        "segment_ids": np.ones((3, 24), int),
        "positions": np.tile(np.arange(24), (3, 1)),
        "token_types": np.tile(np.arange(24) > 11, (3, 1)).astype(int),
        "labels": np.array([0, 1, 1]),
    }
    labels = np.full((3, 24), -100)
    np.put_along_axis(labels, batch["picked"], batch["targets"], 1)
    want = network(
        torch.tensor(batch["tokens"]), token_type_ids=torch.tensor(batch["token_types"]),
        labels=torch.tensor(labels), next_sentence_label=torch.tensor(batch["labels"]),
    )  # fmt: skip

    def mean(params, batch):
        (loss, weight), sums = sentence_pair_loss(model, params, batch)
        return loss / weight, (sums, weight)

    (loss, (sums, weight)), gradients = jax.jit(jax.value_and_grad(mean, has_aux=True))(
        params, batch
    )
    np.testing.assert_allclose(loss, float(want.loss), rtol=1e-5)
    assert weight == 12
    right = want.seq_relationship_logits.argmax(1).numpy() == batch["labels"]
    assert sums["accuracy"] == 4 * right.sum()
    want.loss.backward()
    bias = network.cls.seq_relationship.bias.grad.numpy()
    np.testing.assert_allclose(gradients["head_pair"]["bias"], bias, rtol=1e-4, atol=1e-6)
    # A row of weight 0 counts for nothing, whatever its label.
    batch["weights"][2] = 0
    first, _ = mean(params, batch)
    batch["labels"][2] = 0
    np.testing.assert_array_equal(mean(params, batch)[0], first)
    batch["labels"][1] = 0
    assert abs(mean(params, batch)[0] - first) > 1e-3


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


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "smoothed"])
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("t5", {"head_dim": 16}),
        ("bart", {"pad_token_id": 0, "max_positions": 32}),
        pytest.param("seq2seq", {}, marks=pytest.mark.slow),
    ],
)
def test_targets_cost_what_the_whole_logits_say(family, more, config):
    model, params = made(family, SEQ2SEQ | {"pad_token_id": 0} | more)
    batch = pairs_batch()
    (loss, weight), sums = jax.jit(lambda p: target_loss(model, p, batch, config=config))(params)
    logits = whole(
        model,
        params,
        input_ids=batch["source"],
        attention_mask=batch["source_mask"],
        decoder_input_ids=shifted_right(batch["targets"], model.config.decoder_start_token_id),
    )["logits"]
    given = logits, batch["targets"], batch["weights"]
    np.testing.assert_allclose(loss, cross_entropy(*given, config), rtol=2e-6)
    np.testing.assert_allclose(sums["nll"], cross_entropy(*given), rtol=2e-6)
    assert weight == 10


def test_the_bias_of_barts_logits_is_no_parameter_to_train():
    """In transformers it is a buffer, `final_logits_bias`."""
    model, params = made("bart", SEQ2SEQ | {"pad_token_id": 0, "max_positions": 32})
    gradient = jax.jit(jax.grad(lambda p: target_loss(model, p, pairs_batch())[0][0]))(params)
    zero = {name: not any(map(np.any, jax.tree.leaves(part))) for name, part in gradient.items()}
    assert [name for name in zero if zero[name]] == ["logits_bias"]


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
    batch, config = image_batch(), CONFIGS[1]
    run = jax.jit(lambda batch: class_loss(model, params, batch, config=config))
    logits = whole(model, params, pixel_values=batch["pixels"])["logits"]
    # The image of weight 0 is named right as well, and does not count.
    batch["labels"][2] = np.asarray(logits)[2].argmax()
    (loss, weight), sums = run(batch)
    given = logits, batch["labels"], batch["weights"]
    np.testing.assert_allclose(loss, cross_entropy(*given, config), rtol=2e-6)
    np.testing.assert_allclose(sums["nll"], cross_entropy(*given), rtol=2e-6)
    right = np.asarray(logits).argmax(-1)[:2] == batch["labels"][:2]
    assert (weight, sums["accuracy"]) == (2, right.sum())


def test_masked_patches_cost_what_transformers_says():
    torch = pytest.importorskip("torch")
    model, params = made("vit", VIT | {"head": "pixels", "mask_token": True})
    batch = image_batch()
    (loss, weight), _ = jax.jit(lambda p: masked_patch_loss(model, p, batch))(params)
    outputs = whole(
        model, params, pixel_values=batch["pixels"], bool_masked_pos=batch["masked"]
    )  # fmt: skip
    # As ViTForMaskedImageModeling does: pixels by pixel_shuffle, L1 over masked ones.
    states = np.asarray(outputs["patches"]).reshape(3, 3, 3, -1).transpose(0, 3, 1, 2)
    painted = torch.nn.functional.pixel_shuffle(torch.tensor(states), 4).numpy()
    mask = batch["masked"].reshape(3, 3, 3).repeat(4, 1).repeat(4, 2)[:, None]
    error = np.abs(painted - batch["pixels"]).mean(axis=1, keepdims=True) * mask
    want = error[:2].sum() / 16
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert weight == batch["masked"][:2].sum()
    assert patches_of(batch["pixels"], 4).shape == (3, 9, 48)


@pytest.mark.parametrize(
    ("loss", "family", "config", "batch"),
    [
        (next_token_loss, "gpt2", SMALL | {"num_layers": 1}, lambda: random_batch(batch=3)),
        (masked_token_loss, "bert", BERT, masked_batch),
        (target_loss, "seq2seq", SEQ2SEQ | {"pad_token_id": 0}, pairs_batch),
        (class_loss, "vit", VIT | {"head": "classification", "num_classes": 5}, image_batch),
    ],
)
def test_an_example_drops_the_same_wherever_it_stands_in_a_batch(loss, family, config, batch):
    model, params = made(family, config | {"dropout_rate": 0.3})
    batch = batch()
    batch["weights"] = batch["weights"] + 0.5  # every example counts
    count = len(batch["weights"])
    batch["example_ids"] = np.arange(count, dtype=np.int32)

    @jax.jit
    def run(batch, key):
        return loss(model, params, batch, dropout_key=key)[0][0]

    key = jax.random.key(0)
    backwards = {name: value[::-1] for name, value in batch.items()}
    others = batch | {"example_ids": batch["example_ids"] + count}
    dropped = run(batch, key)
    np.testing.assert_allclose(run(backwards, key), dropped, rtol=3e-6)
    for other in (run(batch, None), run(others, key), run(batch, jax.random.key(1))):
        assert abs(other - dropped) > 3e-5 * dropped


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


def test_work_of_an_image_counts_its_patches_and_the_class_token():
    model, _ = made("vit", VIT | {"head": "classification", "num_classes": 5})
    work = registry.work(OBJECTIVES["classification"](), model, 99)
    assert work.tokens == 9 + 1
    assert work.flops == model.flops_per_token(10)


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "smoothed"])
def test_soft_labels_cost_what_pytorch_says(config):
    torch = pytest.importorskip("torch")
    model, params = made("vit", VIT | {"head": "classification", "num_classes": 5})
    batch = image_batch()
    batch["labels"] = np.random.default_rng(0).dirichlet(np.ones(5), 3).astype(np.float32)
    (loss, weight), sums = jax.jit(lambda b: class_loss(model, params, b, config=config))(batch)
    logits = np.asarray(whole(model, params, pixel_values=batch["pixels"])["logits"], np.float64)
    each = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(np.float64(batch["labels"])), reduction="none",
        label_smoothing=config.label_smoothing,
    )  # fmt: skip
    each += config.z_loss * torch.tensor(logits).logsumexp(-1) ** 2
    np.testing.assert_allclose(
        loss, float((each * torch.tensor(batch["weights"])).sum()), rtol=2e-6
    )
    right = logits.argmax(-1) == batch["labels"].argmax(-1)
    assert (weight, sums["accuracy"]) == (2, (right * batch["weights"]).sum())

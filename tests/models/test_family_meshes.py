"""One member of every family trains on a mesh as on one device; see also training/test_meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models, optim
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import bert
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import batch_sharding, tree_shardings
from llm_jax.testing import random_batch, relative_error
from tests.training.test_meshes import STEPS, fit

pytestmark = pytest.mark.slow

ROWS, SOURCE, TARGET, VOCAB = 16, 12, 10, 97
MESH = MeshConfig(data=2, fsdp=2, tensor=2)
# At its end weights have moved by up to 0.03, as large as they began.
ADAMW = optim.OptimConfig(name="adamw", learning_rate=2e-3, warmup_steps=5, clip_norm=1.0)

WIDTHS = {"num_heads": 4, "hidden_size": 32, "mlp_size": 64}
TEXT = {"vocab_size": VOCAB, "max_positions": 32}
IMAGE = {"image_size": 16, "patch_size": 4}
RATES = {"dropout_rate": 0.1, "attention_dropout_rate": 0.1}
TOWER = WIDTHS | {"num_layers": 2}
TOWERS = WIDTHS | {"num_encoder_layers": 2, "num_decoder_layers": 2, "vocab_size": VOCAB}
TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
CONFIGS = {
    "llama": TOWER | TEXT | RATES | {"num_kv_heads": 2, "qk_norm": True},
    # What Gemma 3 adds: norms on both sides, sliding layers with a base of their own.
    "gemma": TOWER | TEXT | RATES | {
        "family": "llama", "num_kv_heads": 1, "placement": "both", "norm_offset": 1.0,
        "window": 4, "layer_types": ("sliding_attention", "full_attention"),
        "local_rotary_base": 1e3, "scaled_embedding": True, "tied_embeddings": True,
        "logit_cap": 20.0,
    },
    "mixtral": TOWER | TEXT | RATES | {
        "num_kv_heads": 2, "num_experts": 4, "balance_coefficient": 0.1, "shared_mlp_size": 32,
    },
    "bert": TOWER | TEXT | RATES | {"head": "masked_lm", "pooler": False},
    "vit": TOWER | IMAGE | RATES | {
        "num_registers": 2, "layer_scale": 0.5, "head": "classification", "num_classes": 10,
        "pooler": "none",
    },
    "clip": {
        "text": TOWER | TEXT | {"attention_dropout_rate": 0.1},
        "image": TOWER | IMAGE | {"attention_dropout_rate": 0.1},
        "projection_size": 16, "end_id": None,
    },
    "t5": TOWERS | RATES | {
        "head_dim": 8, "gated": True, "tied_embeddings": False, "scaled_output": False,
    },
    "bart": TOWERS | RATES | TOKENS | {"max_positions": 32},
    "seq2seq": TOWERS | RATES | {"max_positions": 32},
    "whisper": TOWERS | RATES | TOKENS | {
        "max_positions": 32, "num_mel_bins": 8, "source_positions": SOURCE,
    },
}  # fmt: skip


def cross_entropy(logits, targets, weights):
    """Returns `(sum, weight)` of logits [..., V]."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(losses * weights), jnp.sum(weights)


def masked_loss(model, params, batch, random):
    outputs = bert.forward(
        model, params, input_ids=batch["tokens"], attention_mask=batch["mask"], **random
    )
    return cross_entropy(outputs["logits"], batch["targets"], batch["weights"])


def class_loss(model, params, batch, random):
    outputs = model.apply(params, batch["pixels"], **random)
    return cross_entropy(outputs["logits"], batch["classes"], jnp.ones(ROWS))


def contrastive_loss(model, params, batch, random):
    outputs = model.apply(params, batch["tokens"], pixels=batch["pixels"], **random)
    both = [outputs[name] for name in ("logits_per_text", "logits_per_image")]
    ones = jnp.ones(ROWS)
    sums = [cross_entropy(logits, jnp.arange(ROWS), ones)[0] for logits in both]
    return sum(sums) / 2, jnp.sum(ones)


def target_loss(model, params, batch, random):
    if model.config.family == "whisper":
        source = {"input_features": batch["features"]}
    else:
        source = {"input_ids": batch["source"], "attention_mask": batch["source_mask"]}
    hidden, _ = model.apply(params, decoder_input_ids=batch["tokens"], **source, **random)
    logits = model.family.logits(model, params, hidden)
    return cross_entropy(logits, batch["targets"], batch["weights"])


LOSSES = {"bert": masked_loss, "vit": class_loss, "clip": contrastive_loss}


def batch_of(seed):
    """Returns inputs for every family."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, SOURCE, (ROWS, 1))
    features = rng.standard_normal((ROWS, 8, 2 * SOURCE)).astype(np.float32)
    return random_batch(seed, batch=ROWS, length=TARGET) | {
        "mask": (np.arange(TARGET) < lengths).astype(np.int32),
        "source": rng.integers(0, VOCAB, (ROWS, SOURCE), dtype=np.int32),
        "source_mask": (np.arange(SOURCE) < lengths).astype(np.int32),
        "features": features,
        "pixels": rng.standard_normal((ROWS, 3, 16, 16)).astype(np.float32),
        "classes": rng.integers(0, 10, ROWS, dtype=np.int32),
    }


def parts(name):
    """Returns the model, its loss and three batches."""
    model = models.build(models.parse_config({"family": name} | CONFIGS[name]))

    def loss(params, batch, key):
        if model.config.family in models.DECODERS:
            return next_token_loss(model, params, batch, dropout_key=key)
        random = {"dropout_key": key, "example_ids": batch["example_ids"]}
        return LOSSES.get(model.config.family, target_loss)(model, params, batch, random), {}

    return model, loss, [batch_of(seed) for seed in range(3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_twenty_steps_with_dropout_equal_one_device(name):
    made = parts(name)
    expected, norm, _, _ = fit(*made, MeshConfig(data=1), ADAMW)
    got, got_norm, now, shardings = fit(*made, MESH, ADAMW)
    assert len(got) == STEPS
    assert got[-1] < got[0] - 0.02
    print(f"{name}: {np.max(np.abs(np.divide(got, expected) - 1)):.1e}", got[0], got[-1])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(got_norm - norm) < 1e-5 * norm
    for leaf, sharding in zip(jax.tree.leaves(now), jax.tree.leaves(shardings)):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_gradient_equals_one_device_on_every_parameter(name):
    model, loss, batches = parts(name)
    start = jax.jit(model.init)(jax.random.key(0))
    batch, key = batches[0], jax.random.key(1)

    @jax.jit
    @jax.grad
    def gradient(params, batch):
        (total, weight), _ = loss(params, batch, key)
        return total / weight

    expected = jax.device_get(gradient(start, batch))
    mesh = make_mesh(MESH)
    placed = jax.device_put(start, tree_shardings(start, model.logical_axes, mesh))
    with jax.set_mesh(mesh):
        got = jax.device_get(gradient(placed, jax.device_put(batch, batch_sharding(mesh))))
    error = relative_error(got, expected)
    print(f"{name}: {error:.1e}")
    assert error < 1e-5
    assert jax.tree.map(np.any, got) == jax.tree.map(np.any, expected)

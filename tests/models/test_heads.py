"""Heads against torch: what they pool, their layers, and BERT's classifier of transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained
from llm_jax.models.heads import Head
from llm_jax.testing import relative_error, tiny_model


class Sizes:
    hidden_size = 8


def states(seed=0):
    draw = np.random.default_rng(seed)
    real = np.arange(6) < np.array([6, 2, 1, 4])[:, None]
    return draw.normal(size=(4, 6, 8)).astype(np.float32), real


def of(head, seed=0):
    params = jax.tree.map(
        lambda x: x.unbox(),
        head.init(jax.random.key(seed), Sizes),
        is_leaf=lambda x: hasattr(x, "unbox"),
    )
    return jax.tree.map(lambda x: x + 0.3, params)


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "none"])
@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_head_computes(pooling, hidden):
    x, real = states()
    head = Head(outputs=3, pooling=pooling, hidden=hidden)
    params = of(head)
    want = {
        "first": x[:, 0],
        "last": np.stack([row[mask][-1] for row, mask in zip(x, real)]),
        "mean": np.stack([row[mask].mean(axis=0) for row, mask in zip(x, real)]),
        "none": x,
    }[pooling]
    if hidden:
        want = np.tanh(want @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    want = want @ params["output"]["kernel"] + params["output"]["bias"]
    found = head.apply(params, jnp.asarray(x), jnp.asarray(real))
    assert found.dtype == jnp.float32
    assert relative_error(found, np.asarray(want)) < 1e-6


def test_first_and_last_are_of_the_real_tokens_where_padding_stands_in_front():
    x, real = states()
    turned = x[:, ::-1], real[:, ::-1]
    for pooling, other in (("first", "last"), ("last", "first")):
        head = Head(outputs=2, pooling=pooling)
        params = of(head)
        one = head.apply(params, jnp.asarray(turned[0]), jnp.asarray(turned[1]))
        two = Head(outputs=2, pooling=other).apply(params, jnp.asarray(x), jnp.asarray(real))
        assert relative_error(one, np.asarray(two)) < 1e-6


def test_attention_is_a_weighted_sum_of_the_real_tokens():
    x, real = states()
    head = Head(outputs=2, pooling="attention")
    params = of(head)
    hidden = np.tanh(x @ params["query"]["kernel"] + params["query"]["bias"])
    scores = (hidden @ params["score"]["kernel"] + params["score"]["bias"])[..., 0]
    weights = np.where(real, np.exp(scores), 0.0)
    pooled = np.einsum("bt,btd->bd", weights / weights.sum(axis=1, keepdims=True), x)
    want = pooled @ params["output"]["kernel"] + params["output"]["bias"]
    assert relative_error(head.apply(params, jnp.asarray(x), jnp.asarray(real)), want) < 1e-5


def test_dropout_of_a_head_is_of_the_example():
    x, real = states()
    head = Head(outputs=3, hidden=True, dropout_rate=0.5)
    params, key = of(head), jax.random.key(3)
    ids = jnp.arange(4)

    def read(rows):
        return head.apply(
            params, jnp.asarray(x[rows]), jnp.asarray(real[rows]), dropout_key=key,
            example_ids=ids[jnp.asarray(rows)],
        )  # fmt: skip

    whole, plain = read([0, 1, 2, 3]), head.apply(params, jnp.asarray(x), jnp.asarray(real))
    assert relative_error(read([2, 1]), np.asarray(whole)[[2, 1]]) < 1e-6
    assert relative_error(whole, np.asarray(plain)) > 1e-2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pooling": "max"}, "head.pooling is 'max': choose one of first, last"),
        ({"outputs": -1}, "head.outputs is -1"),
        ({"dropout_rate": 1.0}, "head.dropout_rate is 1.0"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Head(**given)


def test_a_classifier_of_transformers_is_a_head_here(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=48,
        vocab_size=97, max_position_embeddings=40, num_labels=3, initializer_range=0.2,
    )).eval()  # fmt: skip
    network.bert.save_pretrained(tmp_path / "base")
    config, params = load_pretrained(tmp_path / "base")
    model = dataclasses.replace(
        models.build(config), head=Head(outputs=3, pooling="first", hidden=True)
    )
    own = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    params["task_head"] = {
        "hidden": {
            "kernel": own["bert.pooler.dense.weight"].T, "bias": own["bert.pooler.dense.bias"],
        },
        "output": {"kernel": own["classifier.weight"].T, "bias": own["classifier.bias"]},
    }  # fmt: skip
    tokens = np.random.default_rng(0).integers(1, 97, (3, 9))
    mask = (np.arange(9) < np.array([9, 4, 7])[:, None]).astype(np.int64)
    with torch.no_grad():
        want = network(torch.tensor(tokens), attention_mask=torch.tensor(mask)).logits.numpy()
    found = jax.jit(model.read)(params, tokens.astype(np.int32), mask.astype(np.int32))
    assert relative_error(found, want) < 1e-5


def test_a_decoder_reads_its_last_real_token():
    model = dataclasses.replace(tiny_model(), head=Head(outputs=2, pooling="last"))
    params = model.init(jax.random.key(0))
    tokens = jnp.arange(12).reshape(2, 6)
    mask = jnp.array([[1] * 6, [1] * 3 + [0] * 3])
    found = model.read(params, tokens, mask)
    alone = model.read(params, tokens[1:, :3], mask[1:, :3])
    assert relative_error(found[1:], np.asarray(alone)) < 1e-5

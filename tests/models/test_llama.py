import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Execution, build, parse_config
from llm_jax.models.llama import FULL, SLIDING
from llm_jax.testing import relative_error

TINY = {
    "family": "llama", "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_size": 32,
    "mlp_size": 48, "vocab_size": 101, "max_positions": 24,
}  # fmt: skip
GEMMA = TINY | {
    "num_layers": 3, "window": 5, "layer_types": (SLIDING, FULL), "norm_offset": 1.0,
    "placement": "both", "activation": "gelu_tanh", "attention_cap": 1.5, "logit_cap": 2.0,
    "query_scalar": 12.0, "scaled_embedding": True, "tied_embeddings": True, "qk_norm": True,
    "local_rotary_base": 50.0,
    "rotary_scaling": {"kind": "yarn", "factor": 4.0, "original_positions": 10},
}  # fmt: skip
CASES = {"llama": TINY, "window": TINY | {"window": 6}, "gemma": GEMMA}


def tiny(mapping, execution=Execution(attention="plain"), dtype=jnp.float32):
    model = build(parse_config(mapping), execution, dtype)
    params = jax.jit(model.init)(jax.random.key(1))
    leaves, treedef = jax.tree.flatten(params)
    noise = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(noise, leaves)]
    return model, treedef.unflatten(leaves)


def batch_of(rows=3, length=24):
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(101, size=(rows, length), dtype=np.int32),
        "targets": rng.integers(101, size=(rows, length), dtype=np.int32),
        "weights": rng.integers(2, size=(rows, length)).astype(np.float32),
    }


@pytest.mark.parametrize("places", ["given", "from_zero"])
@pytest.mark.parametrize("name", CASES)
def test_cached_decoding_equals_the_full_forward_pass(name, places):
    model, params = tiny(CASES[name])
    tokens = batch_of()["tokens"]

    def logits(hidden):
        return np.asarray(model.logits(params, hidden))

    expected = logits(jax.jit(model.hidden)(params, tokens)[0])
    # Without places a ring takes padding for tokens.
    lengths = np.array([11, 11, 11] if (name, places) == ("window", "from_zero") else [7, 3, 11])
    prompt = np.where(np.arange(11) < lengths[:, None], np.arange(11), -1)
    cache = model.init_cache(3, 24)
    run = jax.jit(
        lambda tokens, positions, cache: model.hidden(
            params, tokens, positions=positions, cache=cache
        )
    )
    hidden, cache = run(tokens[:, :11], prompt if places == "given" else None, cache)
    for row, length in enumerate(lengths):
        assert relative_error(logits(hidden)[row, :length], expected[row, :length]) < 1e-5
    for _ in range(13):
        row_tokens = np.take_along_axis(tokens, lengths[:, None], axis=1)
        hidden, cache = run(row_tokens, lengths[:, None], cache)
        assert relative_error(logits(hidden)[:, 0], expected[np.arange(3), lengths]) < 1e-5
        lengths = lengths + 1


@pytest.mark.parametrize(
    "execution",
    [Execution(attention="plain", loss_chunk=20), Execution(unroll=0, remat="full")],
    ids=["plain", "chunked"],
)
def test_the_loss_of_capped_logits_equals_plain_autodiff(execution):
    model, params = tiny(GEMMA, execution)
    reference, _ = tiny(GEMMA)
    batch = batch_of()

    def plain(params):
        hidden, _ = reference.hidden(params, batch["tokens"])
        log_p = jax.nn.log_softmax(reference.logits(params, hidden))
        nll = -jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        return (nll * batch["weights"]).sum()

    expected = jax.jit(jax.value_and_grad(plain))(params)
    got = jax.jit(jax.value_and_grad(lambda p: next_token_loss(model, p, batch)[0][0]))(params)
    assert relative_error(got[0], expected[0]) < 1e-5
    assert relative_error(got[1], expected[1]) < 1e-5
    hidden, _ = model.hidden(params, batch["tokens"])
    assert np.abs(model.logits(params, hidden)).max() <= 2.0


def test_a_sliding_layer_sees_its_window_only():
    model, params = tiny(TINY | {"num_layers": 1, "window": 4})
    tokens = batch_of(rows=1)["tokens"]
    other = np.array(tokens)
    other[0, 8] = (other[0, 8] + 1) % 101
    run = jax.jit(model.hidden)
    changed = np.abs(run(params, tokens)[0] - run(params, other)[0])[0].max(axis=-1) > 1e-6
    assert list(np.flatnonzero(changed)) == [8, 9, 10, 11]


def test_segments_are_read_as_if_alone():
    model, params = tiny(GEMMA)
    tokens = batch_of(rows=1)["tokens"]
    segments = np.repeat(np.array([[1, 2]], np.int32), [10, 14], axis=1)
    positions = np.concatenate([np.arange(10), np.arange(14)])[None]
    run = jax.jit(model.hidden)
    packed, _ = run(params, tokens, positions=positions, segment_ids=segments)
    assert relative_error(packed[:, :10], run(params, tokens[:, :10])[0]) < 1e-5
    assert relative_error(packed[:, 10:], run(params, tokens[:, 10:])[0]) < 1e-5


def test_dropout_is_the_rows_own_and_off_without_a_key():
    model, params = tiny(TINY | {"dropout_rate": 0.3, "attention_dropout_rate": 0.2})
    tokens, ids, key = batch_of()["tokens"], np.array([7, 1, 5]), jax.random.key(0)
    run = jax.jit(model.hidden)
    whole, _ = run(params, tokens, dropout_key=key, example_ids=ids)
    part, _ = run(params, tokens[1:], dropout_key=key, example_ids=ids[1:])
    assert relative_error(part, whole[1:]) < 1e-5
    assert np.abs(run(params, tokens)[0] - whole).max() > 0.1


def test_bf16_stays_near_fp32():
    tokens = batch_of()["tokens"]
    model, params = tiny(GEMMA)
    half, _ = tiny(GEMMA, dtype=jnp.bfloat16)
    got = half.hidden(params, tokens)[0]
    assert got.dtype == jnp.bfloat16
    assert relative_error(got.astype(np.float32), model.hidden(params, tokens)[0]) < 0.1


def test_every_parameter_names_its_axes():
    for mapping in CASES.values():
        model = build(parse_config(mapping))
        shapes, tree = jax.tree.flatten(model.abstract_params)
        for names, shape in zip(tree.flatten_up_to(model.logical_axes), shapes):
            assert len(names) == len(shape.shape)


def test_flops_count_weights_and_windows():
    flops = build(parse_config(TINY | {"window": 8, "layer_types": (SLIDING, FULL)}))
    flops = flops.flops_per_token(20)
    weights = 2 * (32 * 8 * (2 * 4 + 2 * 2) + 3 * 32 * 48) + 128 * 32
    assert flops.matmul == 6 * weights
    # Tokens 1 .. 8 of the sliding layer see as many keys, the 12 others 8; whole rows are halved.
    seen = (sum(range(8)) + 4 + 12 * 8) / 20 + 20 / 2
    assert flops.attention / 2 == pytest.approx(12 * 4 * 8 * seen)
    whole = build(parse_config(TINY)).flops_per_token(20)
    assert whole.attention == 2 * 2 * 3 * 2 * 20 * 32


def test_the_header_names_the_attention_that_capped_scores_get(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    names = {}
    for name in ("llama", "gemma"):
        model = build(parse_config(CASES[name]), Execution(), jnp.bfloat16)
        names[name] = model.kernels(1, 16)["attention"]
    assert names == {"llama": "cudnn", "gemma": "chunked"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 30}, "num_heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"head_dim": 7}, "even"),
        ({"num_layers": 0}, "num_layers"),
        ({"window": 0}, "window"),
        ({"logit_cap": 0.0}, "logit_cap"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"activation": "gleu"}, "activation"),
        ({"placement": "post"}, "placement"),
        ({"layer_types": ("local",), "window": 3}, "layer_types"),
        ({"layer_types": (SLIDING,)}, "window"),
        ({"attention_biases": ("gate",)}, "attention_biases"),
        ({"rotary_scaling": {"kind": "ntk", "factor": 2.0}}, "ntk"),
        ({"num_layer": 3}, "num_layers"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(TINY | change)
    assert "\n" not in str(caught.value)

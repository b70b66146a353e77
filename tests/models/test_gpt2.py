import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.losses.language_model import next_token_loss
from llm_jax.models import Execution, build, parse_config
from llm_jax.testing import MODERN_CHOICES

TINY = {
    "num_layers": 3,
    "num_heads": 4,
    "hidden_size": 32,
    "vocab_size": 101,
    "max_positions": 24,
}
MODERN = {**TINY, **MODERN_CHOICES}


PLAIN = Execution(attention="plain")


def tiny(execution=PLAIN, mapping=TINY, dtype=jnp.float32):
    model = build(parse_config(mapping), execution, dtype)
    params = model.init(jax.random.key(1))
    noise = iter(jax.random.split(jax.random.key(2), 100))
    # Far from initialization, where norms are 1 and biases 0.
    return model, jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), params
    )


def batch_of(rows=3, length=24, vocab_size=101, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(vocab_size, size=(rows, length), dtype=np.int32),
        "targets": rng.integers(vocab_size, size=(rows, length), dtype=np.int32),
        "weights": rng.integers(2, size=(rows, length)).astype(np.float32),
    }


def close(got, expected, tolerance=1e-5):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def close_trees(got, expected):
    """The bar on gradients: to the largest of all, and each tensor that is not near zero."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def compare(got, expected):
        assert np.abs(got - expected).max() <= 1e-5 * largest
        if np.abs(expected).max() > 1e-3 * largest:
            close(got, expected)

    jax.tree.map(compare, got, expected)


def from_torch(state, num_layers, padded_vocab):
    """The names of transformers' GPT2LMHeadModel, as this model's parameters."""

    def stacked(name, shape=None, part=None):
        layers = []
        for layer in range(num_layers):
            value = state[f"transformer.h.{layer}.{name}"]
            if part is not None:
                value = np.split(value, 3, axis=-1)[part]
            layers.append(value if shape is None else value.reshape(shape))
        return np.stack(layers)

    size = state["transformer.wte.weight"].shape[1]
    heads, head_dim = TINY["num_heads"], size // TINY["num_heads"]

    def projection(part):
        return {
            "kernel": stacked("attn.c_attn.weight", (size, heads, head_dim), part),
            "bias": stacked("attn.c_attn.bias", (heads, head_dim), part),
        }

    def norm(name):
        return {"scale": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

    table = state["transformer.wte.weight"]
    return {
        "embedding": {"table": np.pad(table, ((0, padded_vocab - len(table)), (0, 0)))},
        "positions": {"table": state["transformer.wpe.weight"]},
        "layers": {
            "attention_norm": norm("ln_1"),
            "attention": {
                "query": projection(0),
                "key": projection(1),
                "value": projection(2),
                "output": {
                    "kernel": stacked("attn.c_proj.weight", (heads, head_dim, size)),
                    "bias": stacked("attn.c_proj.bias"),
                },
            },
            "mlp_norm": norm("ln_2"),
            "mlp": {
                "up": {"kernel": stacked("mlp.c_fc.weight"), "bias": stacked("mlp.c_fc.bias")},
                "down": {
                    "kernel": stacked("mlp.c_proj.weight"),
                    "bias": stacked("mlp.c_proj.bias"),
                },
            },
        },
        "final_norm": {
            "scale": state["transformer.ln_f.weight"],
            "bias": state["transformer.ln_f.bias"],
        },
    }


@pytest.fixture(scope="module")
def reference():
    """Logits, loss sum and gradients of a random fp32 GPT2LMHeadModel, in numpy."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=TINY["vocab_size"],
            n_positions=TINY["max_positions"],
            n_embd=TINY["hidden_size"],
            n_layer=TINY["num_layers"],
            n_head=TINY["num_heads"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    batch = batch_of()
    logits = peer(input_ids=torch.tensor(batch["tokens"]).long()).logits
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(batch["targets"]).long().flatten(), reduction="none"
    )
    loss = (nll * torch.tensor(batch["weights"]).flatten()).sum()
    loss.backward()
    state = {name: leaf.detach().numpy() for name, leaf in peer.named_parameters()}
    gradients = {name: leaf.grad.numpy() for name, leaf in peer.named_parameters()}
    return batch, logits.detach().numpy(), float(loss.detach()), state, gradients


@pytest.mark.parametrize("attention", ["auto", "plain", "chunked", "xla"])
def test_logits_and_gradients_equal_transformers(reference, attention):
    batch, logits, loss, state, gradients = reference
    model, _ = tiny(Execution(attention=attention, loss_chunk=20))
    layers, padded = TINY["num_layers"], model.config.padded_vocab
    params = from_torch(state, layers, padded)
    hidden, _ = jax.jit(model.hidden)(params, batch["tokens"])
    close(model.logits(params, hidden), logits)

    def total(params):
        return next_token_loss(model, params, batch)[0][0]

    got_loss, got = jax.jit(jax.value_and_grad(total))(params)
    close(got_loss, loss)
    expected = from_torch(gradients, layers, padded)
    close_trees(got, expected)


@pytest.mark.parametrize("places", ["given", "from_zero"])
@pytest.mark.parametrize("mapping", [TINY, MODERN], ids=["gpt2", "modern"])
def test_cached_decoding_equals_the_full_forward_pass(mapping, places):
    model, params = tiny(mapping=mapping)
    tokens = batch_of()["tokens"]
    expected, _ = model.hidden(params, tokens)
    lengths = np.array([7, 3, 11])
    prompt = np.where(np.arange(11) < lengths[:, None], np.arange(11), -1)
    cache = model.init_cache(3, 24)
    run = jax.jit(
        lambda tokens, positions, cache: model.hidden(
            params, tokens, positions=positions, cache=cache
        )
    )
    hidden, cache = run(tokens[:, :11], prompt if places == "given" else None, cache)
    for row, length in enumerate(lengths):
        close(hidden[row, :length], expected[row, :length])
    for _ in range(13):
        row_tokens = np.take_along_axis(tokens, lengths[:, None], axis=1)
        hidden, cache = run(row_tokens, lengths[:, None], cache)
        close(hidden[:, 0], np.asarray(expected)[np.arange(3), lengths])
        lengths = lengths + 1


def test_a_cache_too_short_for_a_text_is_refused():
    model, params = tiny()
    with pytest.raises(ConfigError, match="24 tokens do not fit a cache of 8 slots"):
        model.hidden(params, batch_of()["tokens"], cache=model.init_cache(3, 8))


@pytest.mark.parametrize(
    "execution",
    [
        Execution(unroll=0),
        Execution(unroll=2),
        Execution(remat="full"),
        Execution(remat="dots", unroll=0),
        Execution(remat="dots_no_batch"),
        Execution(remat="attention"),
        Execution(remat="offload"),
        Execution(loss_chunk=7),
        Execution(attention="chunked"),
    ],
    ids=str,
)
def test_execution_leaves_results_unchanged(execution):
    batch = batch_of()
    mapping = {**TINY, "dropout_rate": 0.2}

    def run(execution):
        model, params = tiny(execution, mapping)

        def total(params):
            return next_token_loss(model, params, batch, dropout_key=jax.random.key(5))[0][0]

        return jax.jit(jax.value_and_grad(total))(params)

    (loss, gradients), (expected_loss, expected) = run(execution), run(PLAIN)
    close(loss, expected_loss)
    close_trees(gradients, expected)


def test_dropout_does_not_depend_on_how_the_batch_is_split():
    model, params = tiny(mapping={**TINY, "dropout_rate": 0.3, "attention_dropout_rate": 0.2})
    tokens = batch_of(rows=4)["tokens"]
    ids, key = np.array([7, 1, 5, 2]), jax.random.key(0)

    def run(rows):
        hidden, _ = model.hidden(params, tokens[rows], dropout_key=key, example_ids=ids[rows])
        return hidden

    whole = run(np.arange(4))
    close(np.concatenate([run(np.array([0])), run(np.array([1, 2, 3]))]), whole)
    close(run(np.array([3, 2, 1, 0])), whole[::-1])
    other, _ = model.hidden(params, tokens, dropout_key=key, example_ids=ids + 1)
    assert np.abs(other - whole).max() > 0.1


def test_segments_are_read_as_if_alone():
    model, params = tiny()
    tokens = batch_of(rows=1)["tokens"]
    segments = np.repeat(np.array([[1, 2]], np.int32), [10, 14], axis=1)
    positions = np.concatenate([np.arange(10), np.arange(14)])[None]
    packed, _ = model.hidden(params, tokens, positions=positions, segment_ids=segments)
    close(packed[:, :10], model.hidden(params, tokens[:, :10])[0])
    close(packed[:, 10:], model.hidden(params, tokens[:, 10:])[0])


def test_padded_vocabulary_is_cut_from_logits_and_gets_no_gradient():
    model, params = tiny()
    batch = batch_of()
    assert params["embedding"]["table"].shape == (128, 32)
    hidden, _ = model.hidden(params, batch["tokens"])
    assert model.logits(params, hidden).shape == (3, 24, 101)
    gradients = jax.grad(lambda p: next_token_loss(model, p, batch)[0][0])(params)
    assert np.all(np.asarray(gradients["embedding"]["table"])[101:] == 0)


def test_initialization_is_that_of_the_paper():
    model = build(parse_config({**TINY, "hidden_size": 128, "num_layers": 8}))
    layers = model.init(jax.random.key(0))["layers"]
    residual = 0.02 / (2 * 8) ** 0.5
    for path, expected in {
        ("attention", "query"): 0.02,
        ("attention", "output"): residual,
        ("mlp", "up"): 0.02,
        ("mlp", "down"): residual,
    }.items():
        kernel = np.asarray(layers[path[0]][path[1]]["kernel"])
        assert abs(kernel.std() / expected - 1) < 0.02
        assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    assert np.all(np.asarray(layers["mlp"]["up"]["bias"]) == 0)


def test_every_parameter_names_its_axes():
    for mapping in (TINY, MODERN):
        model = build(parse_config(mapping))
        shapes, tree = jax.tree.flatten(model.abstract_params)
        for names, shape in zip(tree.flatten_up_to(model.logical_axes), shapes):
            assert len(names) == len(shape.shape)
        init = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.all(
            jax.tree.map(lambda a, b: a.shape == b.shape, init, model.abstract_params)
        )


def test_flops_of_the_benchmark_shape():
    model = build(
        parse_config(
            {
                "num_layers": 6,
                "num_heads": 6,
                "hidden_size": 384,
                "vocab_size": 4096,
                "max_positions": 256,
            }
        )
    )
    flops = model.flops_per_token(256)
    weights = 6 * 12 * 384**2 + 4096 * 384
    assert flops.matmul == 6 * weights
    # Two products of 256 x 384 a token, layer and pass; three passes; two operations each.
    assert flops.attention == 2 * 2 * 3 * 6 * 256 * 384
    assert flops.total == flops.matmul + flops.attention / 2
    assert round(flops.total_whole_attention * 8 * 256 / 1e9) == 164


def test_gpt2_small_has_the_parameters_of_the_paper():
    model = build(parse_config({"family": "gpt2"}))
    padding = (model.config.padded_vocab - 50257) * 768
    assert model.num_params - padding == 124_439_808


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 30}, "num_heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"activation": "gleu"}, "gelu"),
        ({"num_layer": 3}, "num_layers"),
        ({"family": "gpt5"}, "gpt2"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"positions": "rotary", "head_dim": 3}, "head_dim"),
        ({"num_layers": 0}, "num_layers"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config({**TINY, **change})
    assert "\n" not in str(caught.value)


def test_a_sequence_longer_than_the_positions_is_refused():
    model, params = tiny()
    with pytest.raises(ConfigError, match="24 positions"):
        model.hidden(params, np.zeros((1, 25), np.int32))


@pytest.mark.parametrize(
    "change", [{"attention": "fast"}, {"remat": "all"}, {"unroll": -1}, {"loss_chunk": 0}]
)
def test_unknown_executions_are_refused(change):
    with pytest.raises(ConfigError):
        Execution(**change)


def test_bf16_stays_near_fp32():
    batch = batch_of()
    model, params = tiny()
    expected, _ = model.hidden(params, batch["tokens"])
    half, _ = tiny(dtype=jnp.bfloat16)
    got, _ = half.hidden(params, batch["tokens"])
    assert got.dtype == jnp.bfloat16
    assert np.abs(got.astype(np.float32) - expected).max() < 0.05 * np.abs(expected).max()

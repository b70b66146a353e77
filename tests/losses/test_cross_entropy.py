import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.losses.cross_entropy import cross_entropy_from_hidden
from llm_jax.losses.language_model import LossConfig
from llm_jax.parallel.mesh import MeshConfig, make_mesh

VOCAB, PADDED, WIDTH = 50, 64, 12


def inputs():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(3, 11, WIDTH)).astype(np.float32)
    table = random.normal(size=(PADDED, WIDTH)).astype(np.float32)
    targets = random.integers(VOCAB, size=(3, 11), dtype=np.int32)
    weights = random.uniform(0, 2, size=(3, 11)).astype(np.float32)
    weights[0, :4] = 0.0
    return hidden, table, targets, weights


def close(got, expected, tolerance=1e-5):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("chunk", [1, 6, 12, 1000])
@pytest.mark.parametrize(
    ("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.02)]
)
def test_loss_and_gradients_equal_torch_in_float64(chunk, smoothing, z_loss):
    torch = pytest.importorskip("torch")
    hidden, table, targets, weights = inputs()
    h, e = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (hidden, table))
    logits = (h @ e.T)[..., :VOCAB].flatten(0, 1)
    goal, w = torch.tensor(targets).long().flatten(), torch.tensor(weights).double().flatten()
    cross = torch.nn.functional.cross_entropy(
        logits, goal, reduction="none", label_smoothing=smoothing
    )
    expected = (w * (cross + z_loss * logits.logsumexp(-1) ** 2)).sum()
    (3.0 * expected).backward()
    nll = (w * torch.nn.functional.cross_entropy(logits, goal, reduction="none")).sum()

    def run(hidden, table):
        loss, weight, nll = cross_entropy_from_hidden(
            hidden,
            table,
            targets,
            weights,
            vocab_size=VOCAB,
            label_smoothing=smoothing,
            z_loss=z_loss,
            chunk=chunk,
        )
        return 3.0 * loss, (weight, nll)

    (loss, (weight, got_nll)), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(
        hidden, table
    )
    close(loss, 3.0 * expected.item())
    close(run(hidden, table)[0], 3.0 * expected.item())
    close(weight, weights.sum())
    close(got_nll, nll.item())
    close(gradients[0], h.grad.numpy())
    close(gradients[1], e.grad.numpy())
    assert np.all(np.asarray(gradients[1])[VOCAB:] == 0)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.2, 0.02)])
def test_capped_logits_equal_plain_autodiff(smoothing, z_loss):
    hidden, table, targets, weights = inputs()

    def plain(hidden, table):
        logits = 2.0 * jnp.tanh((hidden @ table.T)[..., :VOCAB] / 2.0)
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        goal = (1 - smoothing) * jax.nn.one_hot(targets, VOCAB) + smoothing / VOCAB
        nll = normalizer - (goal * logits).sum(-1)
        return (weights * (nll + z_loss * normalizer**2)).sum()

    def chunked(hidden, table):
        return cross_entropy_from_hidden(
            hidden, table, targets, weights, vocab_size=VOCAB, label_smoothing=smoothing,
            z_loss=z_loss, logit_cap=2.0, chunk=12,
        )[0]  # fmt: skip

    expected, wanted = jax.jit(jax.value_and_grad(plain, (0, 1)))(hidden, table)
    got, gradients = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, table)
    close(got, expected)
    close(jax.jit(chunked)(hidden, table), expected)
    for gradient, want in zip(gradients, wanted):
        close(gradient, want)


def test_flat_hidden_states_give_the_same():
    hidden, table, targets, weights = inputs()
    flat = [hidden.reshape(-1, WIDTH), table, targets.ravel(), weights.ravel()]
    got = cross_entropy_from_hidden(*flat, vocab_size=VOCAB, chunk=7)
    expected = cross_entropy_from_hidden(hidden, table, targets, weights, vocab_size=VOCAB)
    for a, b in zip(got, expected):
        close(a, b)


def test_no_array_holds_the_logits_of_the_whole_batch():
    hidden, table = jnp.zeros((2, 64, 16)), jnp.zeros((4096, 16))
    targets, weights = jnp.zeros((2, 64), jnp.int32), jnp.ones((2, 64))

    def loss(hidden, table):
        return cross_entropy_from_hidden(
            hidden, table, targets, weights, vocab_size=4096, chunk=16
        )[0]

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, table))
    assert "f32[16,4096]" in text
    assert "f32[128,4096]" not in text
    assert "f32[2,64,4096]" not in text


@pytest.mark.parametrize(
    "axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "seq": 2, "pipe": 2}], ids=str
)
def test_devices_share_tokens_and_vocabulary_and_sum_once(axes):
    random = np.random.default_rng(1)
    hidden = random.normal(size=(8, 24, WIDTH)).astype(np.float32)
    table = random.normal(size=(PADDED, WIDTH)).astype(np.float32)
    targets = random.integers(VOCAB, size=(8, 24), dtype=np.int32)
    weights = random.uniform(0, 2, size=(8, 24)).astype(np.float32)
    settings = {"vocab_size": VOCAB, "chunk": 4, "label_smoothing": 0.1, "z_loss": 0.01}

    def loss(hidden, table, targets, weights):
        return cross_entropy_from_hidden(hidden, table, targets, weights, **settings)[0]

    expected, gradients = jax.value_and_grad(loss, (0, 1))(hidden, table, targets, weights)
    mesh = make_mesh(MeshConfig(**axes))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "seq"))
    by_part = NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))
    placed = [
        jax.device_put(x, place)
        for x, place in zip((hidden, table, targets, weights), (rows, by_part, rows, rows))
    ]
    with jax.set_mesh(mesh):
        both = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(None, (rows, by_part)))
        program = both.lower(*placed).compile().as_text()
        got, got_gradients = both(*placed)
    close(got, expected)
    for gradient, want in zip(got_gradients, gradients):
        close(gradient, want)
    own = PADDED // axes.get("tensor", 1)
    assert f"f32[4,{own}]" in program
    assert own == PADDED or f"f32[4,{PADDED}]" not in program
    # Of all that is summed or gathered for a range, nothing has the table's width and height.
    moved = re.findall(
        r"= (.*) (?:all-reduce|all-gather|reduce-scatter)\(.*op_name=\"(.*?)\"", program
    )
    tables = [name for shape, name in moved if re.search(rf"\[({own}|{PADDED}),\d+\]", shape)]
    assert tables
    assert not any("while" in name for name in tables)


@pytest.mark.parametrize("change", [{"label_smoothing": 1.0}, {"z_loss": -1.0}])
def test_impossible_objectives_are_refused(change):
    with pytest.raises(ConfigError):
        LossConfig(**change)

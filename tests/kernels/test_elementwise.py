import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels.activation import gelu_tanh
from llm_jax.kernels.layer_norm import layer_norm

torch = pytest.importorskip("torch")


def close(got, expected, tolerance=1e-5):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def double(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=True)


def test_gelu_and_its_gradient_equal_torch():
    x, d_y = 3 * jax.random.normal(jax.random.key(0), (2, 7, 33))
    peer = double(x)
    expected = torch.nn.functional.gelu(peer, approximate="tanh")
    expected.backward(double(d_y).detach())
    out, pull = jax.vjp(gelu_tanh, x)
    close(out, expected.detach().numpy())
    close(pull(d_y)[0], peer.grad.numpy())


@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm_and_its_gradients_equal_torch(with_bias):
    x, d_y = 2 + jax.random.normal(jax.random.key(0), (2, 3, 5, 24))
    scale, bias = jax.random.normal(jax.random.key(1), (2, 24))
    arrays = (x, scale, bias) if with_bias else (x, scale)
    peers = [double(a) for a in arrays]
    expected = torch.nn.functional.layer_norm(peers[0], (24,), *peers[1:], eps=1e-5)
    expected.backward(double(d_y).detach())

    def run(x, scale, bias=None):
        return layer_norm(x, scale, bias, 1e-5)

    out, pull = jax.vjp(run, *arrays)
    close(out, expected.detach().numpy())
    for got, peer in zip(pull(d_y), peers):
        close(got, peer.grad.numpy())


def test_layer_norm_reads_bfloat16_and_counts_in_float32():
    x = jax.random.normal(jax.random.key(0), (4, 24), jnp.bfloat16)
    out, pull = jax.vjp(lambda x: layer_norm(x, jnp.ones(24), None, 1e-5), x)
    assert out.dtype == jnp.float32
    assert pull(out)[0].dtype == jnp.bfloat16

import math
import types

import jax
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.joined import JoinedRows
from llm_jax.evaluation.by_position import loss_by_position
from llm_jax.models import build, parse_config
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings

CONFIG = {"family": "llama", "num_layers": 1, "num_heads": 2, "hidden_size": 16, "mlp_size": 16,
          "vocab_size": 61, "max_positions": 16, "dropout_rate": 0.5}  # fmt: skip


class Rows:
    """Five rows of 8 tokens, in which a fifth of the targets do not count."""

    sequence_length, split = 8, "validation"
    manifest = types.SimpleNamespace(parts={}, inputs={})
    documents = bytes = tokens = 1

    def __init__(self):
        rng = np.random.default_rng(0)
        self.tokens_, self.targets = rng.integers(0, 61, (2, 5, 8), dtype=np.int32)
        self.weights = (rng.random((5, 8)) < 0.8).astype(np.float32)

    def __len__(self):
        return 5

    def take(self, indices, randoms=()):
        weights = self.weights[indices] * (np.asarray(indices) >= 0)[:, None]
        return {"tokens": self.tokens_[indices], "targets": self.targets[indices],
                "weights": weights.astype(np.float32)}  # fmt: skip


@pytest.mark.parametrize("axes", [{"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_ranges_have_the_mean_of_their_tokens(axes):
    model = build(parse_config(CONFIG))
    params = jax.jit(model.init)(jax.random.key(0))
    rows = JoinedRows(Rows(), 16)
    whole = rows.take(np.arange(3))
    logits = model.logits(params, model.hidden(params, whole["tokens"])[0])
    logits = np.asarray(logits, np.float64)
    chosen = np.take_along_axis(logits, whole["targets"][..., None], axis=-1)[..., 0]
    nats = (np.log(np.exp(logits).sum(axis=-1)) - chosen) * whole["weights"]
    mesh = make_mesh(MeshConfig(**axes))
    placed = jax.device_put(params, tree_shardings(params, model.logical_axes, mesh))
    with jax.set_mesh(mesh):
        got = loss_by_position(model, placed, rows, batch_size=2, width=4)
        with pytest.raises(ConfigError, match="5 tokens does not divide rows of 16"):
            loss_by_position(model, placed, rows, batch_size=2, width=5)
    assert list(got) == ["0-3", "4-7", "8-11", "12-15"]
    for index, value in enumerate(got.values()):
        part = slice(4 * index, 4 * index + 4)
        expected = nats[:, part].sum() / whole["weights"][:, part].sum()
        assert math.isclose(value, expected, rel_tol=1e-5)

import math

import jax
import numpy as np
import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig
from llm_jax.data.objectives import NextToken
from llm_jax.evaluation.perplexity import evaluate, loss_by_part
from llm_jax.models import build, parse_config
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings

CONFIG = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_size": 32,
    "vocab_size": 384,
    "max_positions": 32,
    "dropout_rate": 0.5,  # which an evaluation has none of
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    for index in range(40):
        lines = (f"def function_{index}_{i}(x):\n    return {i} * x + {index}\n" for i in range(9))
        (root / f"{index}.txt").write_text("".join(lines) + "é🦜", encoding="utf-8")
    config = DataConfig(source="text", path=str(root), sequence_length=32)
    data.prepare(config, vocab_size=CONFIG["vocab_size"], directory=str(root / "data"))
    return root / "data"


@pytest.fixture(scope="module")
def trained():
    model = build(parse_config(CONFIG))

    @jax.jit
    def init():
        params = model.init(jax.random.key(0))
        noise = iter(jax.random.split(jax.random.key(1), 100))
        return jax.tree.map(
            lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), params
        )

    return model, init()


def by_hand(model, params, rows):
    """Nats and tokens in float64, row by row from the model's logits."""
    nats, tokens = 0.0, 0
    for index in range(len(rows)):
        row = rows[index]
        hidden, _ = model.hidden(
            params,
            row["tokens"][None],
            positions=row["positions"][None],
            segment_ids=row["segment_ids"][None],
        )
        logits = np.asarray(model.logits(params, hidden), np.float64)[0]
        shifted = logits - logits.max(-1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        chosen = log_probability[np.arange(len(logits)), row["targets"]]
        nats -= (chosen * row["weights"]).sum()
        tokens += int(row["weights"].sum())
    return nats, tokens


def test_equals_the_sum_by_hand(directory, trained):
    rows = data.open_split(directory, "validation")
    nats, tokens = by_hand(*trained, rows)
    size = data.load_manifest(directory).bytes["validation"]
    assert len(rows) % 3  # the last batch has rows of weight 0
    result = evaluate(*trained, rows, batch_size=3)
    assert set(result) == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
    assert result["loss"] == pytest.approx(nats / tokens, rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert (result["tokens"], result["bytes"]) == (tokens, size)
    again = evaluate(*trained, rows, batch_size=7)
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert again["tokens"] == tokens


def test_a_limit_takes_the_first_rows(directory, trained):
    rows = data.open_split(directory, "train")
    few = evaluate(*trained, rows, batch_size=4, limit=7)
    assert few["tokens"] == sum(int(rows[i]["weights"].sum()) for i in range(8))
    share = few["tokens"] / rows.tokens
    assert few["bytes"] == round(rows.bytes * share)
    bits = few["loss"] * few["tokens"] / math.log(2)
    assert few["bits_per_byte"] == pytest.approx(bits / (rows.bytes * share), rel=1e-6)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_any_mesh_gives_the_same(directory, trained, mesh):
    model, params = trained
    rows = data.open_split(directory, "validation")
    mesh = make_mesh(MeshConfig(**mesh))
    sharded = jax.device_put(params, tree_shardings(params, model.logical_axes, mesh))
    with jax.set_mesh(mesh):
        result = evaluate(model, sharded, rows, batch_size=5)
    expected = evaluate(model, params, rows, batch_size=5)
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert result["tokens"] == expected["tokens"]


def test_a_batch_of_nothing_is_refused(directory, trained):
    rows = data.open_split(directory, "validation")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        evaluate(*trained, rows, batch_size=0)


def test_each_part_of_a_mixture_has_its_loss(trained, tmp_path):
    model, params = trained
    parts = {}
    for name, word in (("first", "alpha"), ("second", "omega")):
        folder = tmp_path / name
        folder.mkdir()
        for index in range(40):
            (folder / f"{index}.txt").write_text(f"{word} {index}\n" * 9)
        parts[name] = {"source": "text", "path": str(folder)}
    config = DataConfig(source="mixture", sequence_length=32, mixture=parts)
    data.prepare(config, vocab_size=CONFIG["vocab_size"], directory=str(tmp_path / "data"))
    rows = data.open_split(tmp_path / "data", "validation")
    given = {"batch_size": 4, "objective": NextToken()}
    losses = loss_by_part(model, params, rows, **given)
    counts = {
        name: part.take(range(len(part)))["weights"].sum() for name, part in rows.parts.items()
    }
    mean = sum(losses[f"loss_{name}"] * count for name, count in counts.items())
    whole = evaluate(model, params, rows, **given)["loss"]
    assert mean / sum(counts.values()) == pytest.approx(whole, rel=1e-6)
    assert losses["loss_first"] != pytest.approx(losses["loss_second"], rel=1e-3)
    assert loss_by_part(model, params, rows.parts["first"], **given) == {}

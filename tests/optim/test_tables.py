"""Tables of (pattern, value), layouts from axis names, and layer-wise decay."""

import jax
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.optim import OptimConfig, build
from llm_jax.optim.tables import layouts, match, paths
from tests.optim.trees import AXES, LAYERS, MATRICES, is_matrix, params, tensors

PLAIN = {
    "name": "sgd",
    "momentum": 0.0,
    "schedule": "constant",
    "learning_rate": 0.5,
    "clip_norm": 0.0,
    "weight_decay": 0.0,
}


def step(gradient_scale=1.0, **keys):
    """One update of plain SGD from a gradient of ones, by tensor."""
    p = params()
    transformation = build(OptimConfig(**PLAIN | keys), p, 10, AXES)
    grads = jax.tree.map(lambda x: np.full_like(x, gradient_scale), p)
    updates, _ = transformation.update(grads, transformation.init(p), p)
    return tensors(updates)


def test_layouts_tell_layers_rows_and_columns():
    p = params()
    for path, leaf, layout in zip(paths(p), jax.tree.leaves(p), layouts(p, AXES), strict=True):
        assert layout.is_matrix == (path in MATRICES), path
        assert layout.stacked == ((0,) if path.startswith("layers/") else ())
        assert layout.lookup == path.endswith("table")
        if layout.is_matrix:
            sides = [
                int(np.prod([leaf.shape[axis] for axis in axes]))
                for axes in (layout.rows, layout.columns)
            ]
            assert tuple(sides) == MATRICES[path]


def test_layouts_refuse_names_of_another_rank():
    with pytest.raises(ConfigError, match="parameter w has 2 axes"):
        layouts({"w": np.zeros((2, 3))}, {"w": ("embed",)})


def test_weight_decay_spares_vectors_unless_told():
    start = tensors(params())
    for key, u in step(0.0, weight_decay=0.2).items():
        np.testing.assert_allclose(u, -0.5 * 0.2 * start[key] * is_matrix(key), rtol=1e-6)
    table = ((".*/kernel", 1.0), ("head/.*", 0.5), (".*", 0.0))
    for key, u in step(0.0, weight_decay=0.2, weight_decay_table=table).items():
        share = 1.0 if key[0].endswith("kernel") else 0.5 if key[0].startswith("head") else 0.0
        np.testing.assert_allclose(u, -0.5 * 0.2 * start[key] * share, rtol=1e-6)


def test_learning_rate_table_takes_the_first_match():
    table = (("layers/.*/query/.*", 0.0), ("layers/.*", 3.0), (".*", 1.0))
    for (path, _), u in step(learning_rate_table=table).items():
        expected = 0.0 if "query/" in path else 3.0 if path.startswith("layers/") else 1.0
        np.testing.assert_allclose(u, -0.5 * expected)


def test_rate_of_zero_leaves_bits_alone():
    p = params()
    table = (("embedding/.*", 0.0), (".*", 1.0))
    config = OptimConfig(name="adamw", learning_rate_table=table)
    transformation = build(config, p, 10, AXES)
    updates, _ = transformation.update(p, transformation.init(p), p)
    table = np.asarray(p["embedding"]["table"] + updates["embedding"]["table"])
    assert table.tobytes() == p["embedding"]["table"].tobytes()
    assert not np.array_equal(p["head"]["table"], p["head"]["table"] + updates["head"]["table"])


def test_layer_decay_falls_towards_the_bottom():
    for (path, layer), u in step(layer_decay=0.8).items():
        height = {"embedding": LAYERS}.get(path.split("/")[0], 0)
        power = height if layer is None else LAYERS - 1 - layer
        np.testing.assert_allclose(u, -0.5 * 0.8**power, rtol=1e-6, err_msg=path)


def test_layer_decay_needs_one_stack_of_layers():
    p = {"w": np.zeros((2, 3), np.float32)}
    with pytest.raises(ConfigError, match="over stacks of \\[\\] layers"):
        build(OptimConfig(layer_decay=0.9), p, 10, {"w": ("embed", "mlp")})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((("a/.*", 1.0),), "matches no b/x"),
        (((".*", 1.0), ("c/.*", 2.0)), "'c/.*' matches none of a/x, a/y, b/x"),
        ((("a", 1.0), (".*", 1.0)), "'a' matches none"),
        ((("a/(", 1.0),), "no regular expression"),
        ((("a/.*", "1"),), "give pairs"),
        ((("a/.*",),), "give pairs"),
        (("a/.*", 1.0), "give pairs"),
        ((("a/.*", True),), "give pairs"),
    ],
)
def test_match_refuses_in_one_line(table, message):
    with pytest.raises(ConfigError, match="optim.some_table") as error:
        match(table, ["a/x", "a/y", "b/x"], "optim.some_table")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_match_names_a_few_of_many():
    with pytest.raises(ConfigError, match="and 94 more"):
        match((("p0", 1.0),), [f"p{i}" for i in range(101)], "optim.some_table")


def test_match_takes_whole_paths_and_the_first_pattern():
    table = (("a/x", 1.0), ("a/.*", 2.0), (".*", 3.0))
    assert match(table, ["a/x", "a/xy", "b/a/x"], "optim.some_table") == [1.0, 2.0, 3.0]

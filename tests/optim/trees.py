"""A small model's parameters: stacked layers, heads, biases, norms, embedding and output head."""

import jax
import numpy as np

LAYERS = 3
AXES = {
    "embedding": {"table": ("vocab", "embed")},
    "final_norm": {"scale": ("embed",)},
    "head": {"table": ("vocab", "embed")},
    "layers": {
        "attention": {
            "output": {"kernel": ("layers", "heads", "head_dim", "embed")},
            "query": {
                "bias": ("layers", "heads", "head_dim"),
                "kernel": ("layers", "embed", "heads", "head_dim"),
            },
            "query_norm": {"scale": ("layers", "head_dim")},
            "value": {"kernel": ("layers", "embed", None, "head_dim")},
        },
        "mlp": {"up": {"kernel": ("layers", "embed", "mlp")}},
    },
}
SIZES = {"vocab": 11, "embed": 6, "layers": LAYERS, "heads": 2, "head_dim": 4, "mlp": 16, None: 1}
# (rows, columns) of the matrices; the others are vectors.
MATRICES = {
    "embedding/table": (11, 6),
    "head/table": (11, 6),
    "layers/attention/output/kernel": (8, 6),
    "layers/attention/query/kernel": (6, 8),
    "layers/attention/value/kernel": (6, 4),
    "layers/mlp/up/kernel": (6, 16),
}


def is_names(node):
    return isinstance(node, tuple)


def params(seed=0, dtype=np.float32):
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda names: draw.normal(0, 0.5, [SIZES[n] for n in names]).astype(dtype),
        AXES,
        is_leaf=is_names,
    )


def tensors(tree):
    """The tree in float64 as independent tensors: {(path, layer): vector or matrix}."""
    apart = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = "/".join(entry.key for entry in path)
        leaf = np.asarray(leaf, np.float64)
        shape = MATRICES.get(name, (-1,))
        if name.startswith("layers/"):
            for layer in range(LAYERS):
                apart[name, layer] = leaf[layer].reshape(shape)
        else:
            apart[name, None] = leaf.reshape(shape)
    return apart


def is_matrix(key):
    return key[0] in MATRICES


def is_lookup(key):
    return key[0] in ("embedding/table", "head/table")

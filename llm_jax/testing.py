"""What tests share: tiny models, random batches, and the measure of agreement."""

import jax
import numpy as np

from llm_jax import models

# What later decoders changed in GPT-2's block, all at once.
MODERN_CHOICES = {
    "num_kv_heads": 2,
    "positions": "rotary",
    "qk_norm": True,
    "norm": "rms_norm",
    "use_bias": False,
    "activation": "relu_squared",
    "tied_embeddings": False,
}


def tiny_config(**changes) -> dict:
    """Returns `config.model` of a GPT-2 that runs in milliseconds, with `changes`."""
    return {
        "family": "gpt2",
        "num_layers": 2,
        "num_heads": 4,
        "hidden_size": 32,
        "vocab_size": 97,
        "max_positions": 32,
        **changes,
    }


def tiny_model(execution: models.Execution = models.Execution(), **changes) -> models.Model:
    """Returns the model of `tiny_config(**changes)`."""
    return models.build(models.parse_config(tiny_config(**changes)), execution)


def random_batch(
    seed: int = 0, *, batch: int = 8, length: int = 16, vocab: int = 97
) -> dict[str, np.ndarray]:
    """Returns a batch of packed documents, [batch, length], whose rows differ much in weight."""
    rng = np.random.default_rng(seed)
    stream = rng.integers(0, vocab, (batch, length + 1), dtype=np.int32)
    segments = np.cumsum(rng.random((batch, length)) < 0.15, axis=1).astype(np.int32)
    first = np.concatenate([np.ones((batch, 1), bool), np.diff(segments, axis=1) > 0], axis=1)
    places = np.arange(length, dtype=np.int32)
    starts = np.maximum.accumulate(np.where(first, places, 0), axis=1)
    weights = (rng.random((batch, length)) < rng.random((batch, 1))).astype(np.float32)
    return {
        "tokens": stream[:, :-1],
        "targets": stream[:, 1:],
        "weights": weights,
        "segment_ids": segments,
        "positions": (places - starts).astype(np.int32),
        "example_ids": np.arange(batch, dtype=np.int32),
    }


def relative_error(got, expected) -> float:
    """Returns the largest difference between two trees, relative to the largest value expected."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    assert len(got) == len(expected)
    largest = max(np.max(np.abs(np.asarray(e, np.float64))) for e in expected)
    difference = max(
        np.max(np.abs(np.asarray(g, np.float64) - np.asarray(e, np.float64)))
        for g, e in zip(got, expected)
    )
    return float(difference / largest)

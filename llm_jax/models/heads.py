"""Heads: what a task reads from the hidden states of a model of any family.

Their parameters stand beside the family's own, under `params["task_head"]`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.linear import Projection
from llm_jax.models.checks import check_choice

POOLINGS = ("first", "last", "mean", "attention", "none")


@dataclasses.dataclass(frozen=True)
class Head:
    """A pooling, perhaps a hidden layer, and a linear layer.

    Attributes:
      outputs: numbers it gives, of each example or, with pooling "none", of each token; 0: as many
        as the data ask for.
      pooling: which states an example is read from: "first" or "last" (of its real tokens), "mean"
        (of all), "attention" (a sum by weights softmax(w tanh(W x)), Yang et al. 2016), or "none".
      hidden: puts tanh(W x) before the linear layer, as BERT's pooler does.
      dropout_rate: before both layers.
      init_std: of all matrices.
    """

    outputs: int = 0
    pooling: str = "first"
    hidden: bool = False
    dropout_rate: float = 0.1
    init_std: float = 0.02

    def __post_init__(self):
        check_choice(self, "pooling", POOLINGS, "head")
        if self.outputs < 0:
            raise ConfigError(f"head.outputs is {self.outputs}: give 0 or more")
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(f"head.dropout_rate is {self.dropout_rate}: give 0 or more, below 1")

    def init(self, key, config):
        """Returns fresh parameters, boxed with their axes, for states of a `config`'s model."""
        size = config.hidden_size
        given = jnp.zeros((1, 1, size)), jnp.ones((1, 1), bool)
        return _Module(self, size).init(key, *given)["params"]

    def apply(self, params, states, real, *, dropout_key=None, example_ids=None):
        """Returns float32 [B, outputs], or [B, T, outputs] with pooling "none".

        Args:
          params: of `init`.
          states: [B, T, D], of the model.
          real: bool [B, T]; at least one of each row is true.
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; needed with a dropout key.
        """
        return _Module(self, states.shape[-1]).apply(
            {"params": params}, states, real, dropout_key, example_ids
        )


class _Module(nn.Module):
    head: Head
    size: int

    @nn.compact
    def __call__(self, states, real, dropout_key=None, example_ids=None):
        head, x = self.head, self._pooled(states, real)

        def dropped(x, site):
            if dropout_key is None:
                return x
            return dropout(x, head.dropout_rate, site_key(dropout_key, site), example_ids)

        if head.hidden:
            x = jnp.tanh(self._linear("hidden", self.size, dropped(x, "task_head_hidden")))
        y = self._linear("output", head.outputs, dropped(x, "task_head"))
        return y.astype(jnp.float32)

    def _pooled(self, states, real):
        if self.head.pooling == "none":
            return states
        places = jnp.arange(states.shape[1])
        if self.head.pooling == "attention":
            scores = self._linear("score", 1, jnp.tanh(self._linear("query", self.size, states)))
            scores = jnp.where(real, scores[..., 0].astype(jnp.float32), -jnp.inf)
            weights = jax.nn.softmax(scores, axis=-1)
        elif self.head.pooling == "mean":
            weights = real / jnp.sum(real, axis=1, keepdims=True)
        else:
            order = jnp.where(real, places, -1 if self.head.pooling == "last" else len(places))
            pick = jnp.argmax if self.head.pooling == "last" else jnp.argmin
            weights = places == pick(order, axis=1)[:, None]
        return jnp.einsum("bt,btd->bd", weights.astype(states.dtype), states)

    def _linear(self, name, size, x):
        sizes = ((x.shape[-1],), (size,))
        std = self.head.init_std
        return Projection(*sizes, ("embed", None), std, True, x.dtype, name=name)(x)

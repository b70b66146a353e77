"""A mixture of experts in place of a block's MLP: a router sends each token to a few gated MLPs.

Shazeer et al. 2017 (arXiv:1701.06538); Fedus et al. 2021 (Switch, arXiv:2101.03961); dropless as
MegaBlocks (Gale et al. 2022, arXiv:2211.15841).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.kernels.grouped import grouped_product
from llm_jax.layers.linear import Projection
from llm_jax.layers.mlp import ACTIVATIONS, MLP
from llm_jax.layers.partition import named
from llm_jax.parallel.exchange import exchange
from llm_jax.parallel.mesh import BATCH_AXES
from llm_jax.parallel.sharding import automatic_axes, axis_size, constrain, widened

AXIS = "expert"


@dataclasses.dataclass(frozen=True)
class Experts:
    """What a mixture is made of.

    Attributes:
      count: number of experts.
      per_token: how many of them see a token.
      normalize: the weights of a token's experts are made to sum to 1.
      capacity_factor: None computes every choice. A number gives each expert room for so many
        times the choices of a row that it would get if all got as many; what comes later in the
        row is dropped, and only its residual goes on.
      shared_size: hidden units of an expert that sees all tokens behind a gate of its own
        (Qwen2, arXiv:2407.10671); None for none.
    """

    count: int
    per_token: int
    normalize: bool = True
    capacity_factor: float | None = None
    shared_size: int | None = None

    def __post_init__(self):
        if not 1 <= self.per_token <= self.count:
            raise ConfigError(
                f"experts per token are {self.per_token} of {self.count}: give 1 to {self.count}"
            )
        if self.capacity_factor is not None and self.capacity_factor <= 0:
            raise ConfigError(f"capacity_factor is {self.capacity_factor}: give more than 0")
        if self.shared_size is not None and self.shared_size < 1:
            raise ConfigError(f"the shared expert's size is {self.shared_size}: give at least 1")


class MoE(nn.Module):
    """Experts `down(activation(gate(x)) * up(x))` over `x [B, T, D]`, mixed by a router.

    Attributes:
      experts: how many, and how they are chosen.
      hidden_size, mlp_size: of one expert.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      init_std, output_std: of the matrices; of those that end the branch.
      dtype: of the computation; the router's softmax is float32.
    """

    experts: Experts
    hidden_size: int
    mlp_size: int
    activation: str
    init_std: float
    output_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns `(y [B, T, D], router's logits float32 [B, T, E])`."""
        size, experts = self.hidden_size, self.experts
        router = Projection(
            (size,), (experts.count,), ("embed", None), self.init_std, False, self.dtype,
            exact=True, name="router",
        )  # fmt: skip
        logits = router(x).astype(jnp.float32)
        weights, choices = route(logits, experts)
        kernels = [
            self._kernel("gate", (size, self.mlp_size), ("embed", "mlp"), self.init_std),
            self._kernel("up", (size, self.mlp_size), ("embed", "mlp"), self.init_std),
            self._kernel("down", (self.mlp_size, size), ("mlp", "embed"), self.output_std),
        ]
        activation = ACTIVATIONS[self.activation]
        x = x.astype(self.dtype)
        if experts.capacity_factor is None:
            y = dropless(x, weights, choices, kernels, activation)
        else:
            y = with_capacity(x, weights, choices, kernels, activation, experts.capacity_factor)
        if experts.shared_size is not None:
            stds = {"init_std": self.init_std, "output_std": self.output_std}
            shared = MLP(
                size, experts.shared_size, self.activation, False, gated=True, dtype=self.dtype,
                name="shared", **stds,
            )  # fmt: skip
            gate = Projection(
                (size,), (1,), ("embed", None), self.init_std, False, self.dtype,
                exact=True, name="shared_gate",
            )  # fmt: skip
            y = y + jax.nn.sigmoid(gate(x)) * shared(x)
        return constrain(y, ("batch", "length", "embed")), logits

    def _kernel(self, name, shape, names, std):
        init = named(nn.initializers.normal(std), ("experts", *names))
        return self.param(name, init, (self.experts.count, *shape)).astype(self.dtype)


def route(logits, experts: Experts):
    """Returns a token's weights float32 and experts int32, both [..., k], of `logits [..., E]`."""
    weights, choices = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), experts.per_token)
    if experts.normalize:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, choices


def dropless(x, weights, choices, kernels, activation):
    """Returns [B, T, D]: every token by every expert that it chose.

    On a mesh each device sorts its own tokens. Over the axis `expert` it has some experts and a
    part of the batch: tokens go to their experts' devices, and come back. Over `tensor` it has a
    part of every expert's hidden units.

    Args:
      x: [B, T, D].
      weights, choices: [B, T, k] of `route`.
      kernels: gate and up [E, D, F], down [E, F, D].
      activation: a function.
    """
    axes = automatic_axes()
    if not axes:
        return _grouped(x, weights, choices, kernels, activation)

    (wide_x, wide), narrowed = widened((x, kernels))

    compute = _grouped if axis_size(AXIS) == 1 else _dispatched

    def on_each(x, weights, choices, kernels):
        x, kernels = narrowed((x, kernels))
        y = compute(x, weights, choices, kernels, activation)
        if axis_size("tensor") > 1:
            y = jax.lax.psum(y.astype(jnp.float32), "tensor")
        return y.astype(x.dtype)

    rows = PartitionSpec(BATCH_AXES, "seq")
    inner, outer = PartitionSpec(AXIS, None, "tensor"), PartitionSpec(AXIS, "tensor")
    return jax.shard_map(
        on_each,
        in_specs=(rows, rows, rows, [inner, inner, outer]),
        out_specs=rows,
        axis_names=axes,
        check_vma=False,
    )(wide_x, weights, choices, wide)


def _dispatched(x, weights, choices, kernels, activation):
    """As `_grouped` of all experts, of which each device of the axis `expert` has its part.

    Tokens go to the devices of the experts that they chose, and what comes out of those goes back.
    """
    shape, count = x.shape, choices.shape[-1]
    flat, choices = x.reshape(-1, shape[-1]), choices.reshape(-1)
    devices, experts = axis_size(AXIS), kernels[0].shape[0]
    order = jnp.argsort(choices, stable=True)
    sizes = jnp.bincount(choices, length=devices * experts).astype(jnp.int32)
    sizes = jax.lax.all_gather(sizes, AXIS).reshape(devices, devices, experts)
    counts = jnp.sum(sizes, axis=-1)
    room = devices * choices.size  # all tokens of all devices may choose one device's experts
    received = exchange(flat[order // count], counts, room, AXIS)
    # From each device, those for the first expert come first; behind all of them is nothing.
    mine = sizes[:, jax.lax.axis_index(AXIS)].reshape(-1)
    mine = jnp.append(mine, room - jnp.sum(mine))
    names = jnp.append(jnp.tile(jnp.arange(experts), devices), experts)
    chosen = jnp.repeat(names, mine, total_repeat_length=room)[:, None]
    outputs = _grouped(received, jnp.ones((room, 1)), chosen, kernels, activation)
    outputs = exchange(outputs, counts.T, choices.size, AXIS)
    return _mixed(outputs, order, weights, shape)


def _grouped(x, weights, choices, kernels, activation):
    """Returns [..., D] like x, the sum over those choices that are experts 0 .. E-1 of the kernels.

    Tokens are sorted by expert, and each product runs over one ragged group per expert. A choice
    of expert E is of none.
    """
    gate, up, down = kernels
    shape, count, experts = x.shape, choices.shape[-1], gate.shape[0]
    flat, choices = x.reshape(-1, shape[-1]), choices.reshape(-1)
    order = jnp.argsort(choices, stable=True)
    sizes = jnp.bincount(choices, length=experts).astype(jnp.int32)
    inputs = flat[order // count]
    inner = activation(grouped_product(inputs, gate, sizes))
    inner = inner * grouped_product(inputs, up, sizes)
    outputs = grouped_product(inner, down, sizes)
    return _mixed(outputs, order, weights, shape)


def _mixed(outputs, order, weights, shape):
    """Returns the sum over choices, by weight, of `outputs` that lie in the choices' `order`."""
    weights = weights.reshape(-1, weights.shape[-1], 1).astype(outputs.dtype)
    outputs = outputs[jnp.argsort(order)].reshape(*weights.shape[:2], shape[-1])
    return jnp.sum(outputs * weights, axis=1).reshape(shape)


def with_capacity(x, weights, choices, kernels, activation, factor: float):
    """Returns [B, T, D]: as `dropless`, but an expert takes a row's first choices only.

    Its room is `ceil(factor T k / E)` of each row, and at least 1. Earlier tokens come first, so
    that no token changes what an earlier one gets, nor one row another.
    """
    gate, up, down = kernels
    batch, length, count = choices.shape
    room = max(1, math.ceil(factor * length * count / gate.shape[0]))
    flat = choices.reshape(batch, length * count)
    chosen = jax.nn.one_hot(flat, gate.shape[0], dtype=jnp.int32)
    before = jnp.take_along_axis(jnp.cumsum(chosen, axis=1), flat[..., None], axis=2)[..., 0] - 1
    rows = jnp.arange(batch)[:, None]
    slots = jnp.zeros((batch, gate.shape[0], room, x.shape[-1]), x.dtype)
    slots = slots.at[rows, flat, before].set(jnp.repeat(x, count, axis=1), mode="drop")
    # Here tokens go to the devices of their experts, and below they come back.
    slots = constrain(slots, ("batch", None, None, "embed"))
    slots = constrain(slots, ("expert_batch", "experts", None, "embed"))
    inner = activation(jnp.einsum("becd,edf->becf", slots, gate))
    inner = inner * jnp.einsum("becd,edf->becf", slots, up)
    outputs = jnp.einsum("becf,efd->becd", inner, down)
    outputs = constrain(outputs, ("batch", None, None, "embed"))
    taken = outputs.at[rows, flat, before].get(mode="fill", fill_value=0)
    taken = taken.reshape(batch, length, count, -1)
    return jnp.sum(taken * weights[..., None].astype(taken.dtype), axis=2)


def load_balance_loss(logits, weights, *, per_token: int, group: str = "batch"):
    """The loss that spreads tokens over experts (Switch, equations 4 to 6): `E sum_e f_e p_e`.

    `f_e` is how many of a group's tokens chose expert e, `p_e` its mean probability there, both
    over all layers; it is `per_token` where all experts get as many.

    Args:
      logits: router's, float32 [L, B, T, E].
      weights: float32 [B, T], 0 where a token does not count.
      per_token: choices of a token.
      group: "batch": all rows together, as `transformers` has it, so that the sum over
        microbatches is that of their own groups; "sequence": each row alone, so that it does not
        matter how rows are batched.

    Returns:
      `(loss_sum, weight_sum)`: the groups' losses times their tokens, and the tokens.
    """
    if group not in ("batch", "sequence"):
        raise ConfigError(f"balance group {group!r} is unknown: choose 'batch' or 'sequence'")
    axes, count = ((0, 1, 2) if group == "batch" else (0, 2)), logits.shape[-1]
    probabilities = jax.nn.softmax(logits, axis=-1)
    chosen = jax.nn.one_hot(jax.lax.top_k(logits, per_token)[1], count).sum(axis=-2)
    weights = weights.astype(jnp.float32)
    total = logits.shape[0] * (jnp.sum(weights) if group == "batch" else jnp.sum(weights, axis=1))
    safe = jnp.maximum(total, 1e-9)[..., None]
    share = jnp.sum(chosen * weights[..., None], axis=axes) / safe
    mean = jnp.sum(probabilities * weights[..., None], axis=axes) / safe
    losses = count * jnp.sum(share * mean, axis=-1)
    return jnp.sum(losses * total) / logits.shape[0], jnp.sum(weights)


def router_z_loss(logits, weights):
    """`logsumexp(logits) ** 2` summed over layers (Zoph et al. 2022, arXiv:2202.08906, eq. 5).

    It is each token's own, so that it has no group: any split of a batch adds up to the whole.

    Takes router's logits [L, B, T, E] and weights [B, T]; returns `(loss_sum, weight_sum)`.
    """
    squares = jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return jnp.sum(squares * weights), jnp.sum(weights)

"""The generation room's compiled steps: prompts in, one token of every row after the other out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from llm_jax.generation import samplers
from llm_jax.kernels.packed import Packed, unpacked


def lay_out(model, params):
    """Returns `(weights, axes)` for decoding: each layer's arrays apart, matrices in model.dtype.

    XLA on a CPU copies a layer's slice of a stacked array at every step; arrays that were apart
    before the step are read in place. Vectors (norms, most biases) stay float32, as the model
    reads them. What is packed is unpacked: a token is one multiplication by each weight.
    """
    axes = model.logical_axes
    leaves, treedef = jax.tree.flatten(params, is_leaf=lambda leaf: isinstance(leaf, Packed))
    stacked = tuple(bool(names) and names[0] == "layers" for names in treedef.flatten_up_to(axes))
    return _apart(leaves, stacked, model.dtype), (treedef, stacked)


@functools.partial(jax.jit, static_argnames=("stacked", "dtype"))
def _apart(leaves, stacked, dtype):
    def narrow(leaf, in_stack):
        leaf = unpacked(leaf)
        return leaf.astype(dtype) if leaf.ndim - in_stack > 1 else leaf

    return [
        list(narrow(leaf, True)) if in_stack else narrow(leaf, False)
        for leaf, in_stack in zip(leaves, stacked)
    ]


def together(arrays, layout):
    """Undoes `_apart`; XLA folds the stacking and the layers' slicing away."""
    treedef, stacked = layout
    return treedef.unflatten(
        jnp.stack(array) if in_stack else array for array, in_stack in zip(arrays, stacked)
    )


def unrolled(model):
    """Returns `model` with its layers one behind the other, which `lay_out`'s weights are for."""
    return dataclasses.replace(model, execution=dataclasses.replace(model.execution, unroll=0))


@jax.jit
def request_keys(seed, indices):
    """Returns a key [B] of the seed for each request."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(indices)


def _choose(model, params, hidden, seen, keys, positions, rows, stages, vocab_size):
    logits = model.logits(params, hidden)[:, :vocab_size]
    keys = jax.vmap(jax.random.fold_in)(keys, positions) if stages.draw else keys
    tokens = samplers.sample(logits, seen, keys, rows, stages)
    if stages.repetition:
        seen = seen.at[jnp.arange(tokens.shape[0]), tokens].set(True)
    return tokens, seen


def read(model, params, tokens, lengths, length: int, ahead: int = 0):
    """Reads prompts; returns the hidden state [B, D] of each one's last token, and the cache.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      tokens: int32 [B, S], padded on the right.
      lengths: int32 [B], of the prompts.
      length, ahead: of `Model.init_cache`.
    """
    batch, width = tokens.shape
    cache = model.init_cache(batch, length, ahead=ahead)
    positions = None
    if width > model.cache_slots(length, ahead=ahead):
        # Padding would take the slots of tokens in a ring, or be a part of a state for good;
        # elsewhere new tokens cover it.
        positions = jnp.where(jnp.arange(width) < lengths[:, None], jnp.arange(width), -1)
    hidden, cache = model.hidden(params, tokens, positions=positions, cache=cache)
    return hidden[jnp.arange(batch), lengths - 1], cache


@functools.partial(jax.jit, static_argnames=("model", "length", "stages", "vocab_size"))
def prefill(model, params, tokens, lengths, keys, rows, *, length, stages, vocab_size):
    """Reads the prompts `tokens [B, S]` of `lengths [B]`; returns the first new tokens [B]."""
    last, cache = read(model, params, tokens, lengths, length)
    seen = None
    if stages.repetition:
        batch, width = tokens.shape
        inside = jnp.arange(width) < lengths[:, None]
        seen = jnp.zeros((batch, vocab_size), bool)
        seen = seen.at[jnp.arange(batch)[:, None], jnp.where(inside, tokens, vocab_size)].set(
            True, mode="drop"
        )
    new, seen = _choose(model, params, last, seen, keys, lengths, rows, stages, vocab_size)
    return new, {"cache": cache, "positions": lengths, "seen": seen}


@functools.partial(jax.jit, static_argnums=(0, 1, 7, 8), donate_argnums=(4,))
def decode_step(model, layout, arrays, tokens, state, keys, rows, stages, vocab_size):
    """Takes the tokens [B] that were chosen last; returns the next ones and the new state."""
    model, params = unrolled(model), together(arrays, layout)
    positions = state["positions"]
    hidden, cache = model.hidden(
        params, tokens[:, None], positions=positions[:, None], cache=state["cache"]
    )
    positions = positions + 1
    new, seen = _choose(
        model, params, hidden[:, 0], state["seen"], keys, positions, rows, stages, vocab_size
    )
    return new, {"cache": cache, "positions": positions, "seen": seen}

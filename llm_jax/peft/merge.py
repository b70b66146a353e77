"""Adapters that are linear in the weights become part of them, and leave them again."""

import jax.numpy as jnp
from jax import tree_util

from llm_jax.configuration import ConfigError
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import Lora, column_norms, reached


def merge(params, adapters, methods: tuple):
    """Returns parameters that compute without `adapters` what `params` do with them.

    Raises:
      ConfigError: a method that no weights can stand for.
    """
    return _changed(params, adapters, methods, back=False)


def unmerge(params, adapters, methods: tuple):
    """Returns what `params` were before `merge`, to rounding.

    Raises:
      ConfigError: a method that no weights can stand for, or whose merging forgets: the lengths of
        DoRA's columns.
    """
    return _changed(params, adapters, methods, back=True)


def _changed(params, adapters, methods, back: bool):
    params = tree_util.tree_map(lambda leaf: leaf, params)  # new dicts, the same arrays
    known = {"lora": Lora, "ia3": IA3}
    for method in methods:
        if not isinstance(method, tuple(known.values())):
            raise ConfigError(f"{type(method).__name__} is not linear: it cannot be merged")
        if back and getattr(method, "magnitudes", False):
            raise ConfigError("DoRA's merging forgets: keep the parameters from before it")
    # What multiplies a whole product comes last, and goes first.
    order = sorted(methods, key=lambda method: isinstance(method, IA3), reverse=back)
    for method in order:
        for path, own in _layers(adapters, "lora_a" if isinstance(method, Lora) else "ia3"):
            layer = params
            for key in path:
                layer = layer[key]
            change = _lora if isinstance(method, Lora) else _ia3
            layer.update(change(method, "/".join(path), layer, own, back))
    return params


def _layers(tree, name: str, path=()):
    """Yields (path, parameters) of the layers whose adapters have `name`."""
    if name in tree:
        yield path, tree
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _layers(value, name, (*path, key))


def _lora(method: Lora, path: str, layer: dict, own: dict, back: bool) -> dict:
    kernel, a, b = layer["kernel"], own["lora_a"], own["lora_b"]
    lead = (a.ndim - 1) + (b.ndim - 1) - kernel.ndim  # axes of stacked layers
    stack = kernel.shape[:lead]
    a, b = a.reshape(*stack, -1, method.rank), b.reshape(*stack, method.rank, -1)
    delta = method.scale * jnp.matmul(a, b, precision="highest")
    flat = kernel.reshape(delta.shape)
    new = flat - delta if back else flat + delta
    if method.magnitudes:
        magnitude = own["lora_magnitude"].reshape(*stack, -1)
        new = new * (magnitude / column_norms(flat, delta))[..., None, :]
    return {"kernel": new.reshape(kernel.shape).astype(kernel.dtype)}


def _ia3(method: IA3, path: str, layer: dict, own: dict, back: bool) -> dict:
    kernel, factor = layer["kernel"], 1 / own["ia3"] if back else own["ia3"]
    module = type("Path", (), {"path": tuple(path.split("/"))})()
    if reached(module, method.inputs):
        extra = kernel.ndim - factor.ndim
        return {"kernel": kernel * factor.reshape(*factor.shape, *(1,) * extra)}
    lead = path.split("/").count("layers")  # axes of stacked layers
    extra = kernel.ndim - factor.ndim
    shape = (*factor.shape[:lead], *(1,) * extra, *factor.shape[lead:])
    changed = {"kernel": kernel * factor.reshape(shape)}
    if "bias" in layer:
        changed["bias"] = layer["bias"] * factor
    return changed

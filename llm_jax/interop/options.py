"""Options of a config.json that a family must have as it has them, and none other."""

from collections.abc import Mapping
from typing import Any

from llm_jax.configuration import ConfigError

# `transformers`' names of activations, by ours.
ACTIVATIONS = {
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "gelu": ("gelu",),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
    "quick_gelu": ("quick_gelu",),
    "relu_squared": ("relu2",),
}


def activation(name: str) -> str:
    """Returns our name of an activation."""
    for ours, theirs in ACTIVATIONS.items():
        if name in theirs:
            return ours
    known = sorted(name for names in ACTIVATIONS.values() for name in names)
    raise ConfigError(f"config.json: activation {name!r} is unknown: known are {', '.join(known)}")


def demand(mapping: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where `mapping` has another value than `required`; absent is fine."""
    for name, value in required.items():
        if name in mapping and mapping[name] != value:
            raise ConfigError(
                f"config.json: {name} is {mapping[name]!r}; only {value!r} can be computed here"
            )


def demand_defaults(
    config: Any, reference: Any, names: tuple[str, ...], kind: str, path: str = "model"
) -> None:
    """Raises `ConfigError` where `config`, at `path`, is not `reference` in what `kind` has not."""
    for name in names:
        if getattr(config, name) != getattr(reference, name):
            raise ConfigError(
                f"a {kind} has {path}.{name}={getattr(reference, name)!r} only, this one "
                f"{getattr(config, name)!r}: it cannot be written as one"
            )

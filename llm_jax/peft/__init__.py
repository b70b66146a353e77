"""Parameter-efficient fine-tuning: what is added to a model that stays as it is.

    model = peft.adapted(model, methods)               # the same functions, with places for more
    adapters = model.new_adapters(params, key)         # the only parameters that train
    dataclasses.replace(model, adapters=adapters).apply(params, ...)

A method adds its own parameters to layers that it names by their paths, such as
`layers/attention/query`; the layers themselves know of none. Several work together.
"""

import dataclasses

from llm_jax.configuration import ConfigError
from llm_jax.models import Model
from llm_jax.peft.bottleneck import Bottleneck
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import Lora
from llm_jax.peft.merge import merge, unmerge

METHODS = {"lora": Lora, "ia3": IA3, "bottleneck": Bottleneck}

__all__ = ["IA3", "METHODS", "Bottleneck", "Lora", "adapted", "merge", "unmerge"]


def adapted(model: Model, methods: tuple) -> Model:
    """Returns `model` with places for the parameters of `methods`.

    Args:
      model: of any family.
      methods: `Lora`, `IA3`, `Bottleneck`, each at most once.

    Raises:
      ConfigError: a method is there twice, or names no layer of the model.
    """
    kinds = [type(method) for method in methods]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"{kind.__name__} is given twice: give it once, with all its targets")
    for method in methods:
        # Each alone, so that the one without a target is named.
        if dataclasses.replace(model, interceptors=(method.intercept,)).adapter_axes is None:
            raise ConfigError(
                f"{type(method).__name__}.targets is {method.targets!r}, which is no layer of a "
                f"{model.config.family}: give a pattern of paths such as 'attention/(query|value)'"
            )
    return dataclasses.replace(model, interceptors=tuple(one.intercept for one in methods))

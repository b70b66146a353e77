"""Parameter-efficient fine-tuning: what is added to a model that stays as it is.

    model = peft.adapted(model, methods)    # the same functions, with places for more
    params = model.grown(params, key)       # with params["adapters"], the only ones that train
    model.apply(params, ...)

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
from llm_jax.peft.prompt import Prefix, Prompt, PTuning, Virtual

__all__ = [
    "IA3",
    "Bottleneck",
    "Lora",
    "PTuning",
    "Prefix",
    "Prompt",
    "adapted",
    "merge",
    "unmerge",
]


def adapted(model: Model, methods: tuple) -> Model:
    """Returns `model` with places for the parameters of `methods`.

    Args:
      model: of any family.
      methods: `Lora`, `IA3`, `Bottleneck`, `Prefix`, `Prompt`, `PTuning`, each at most once; their
        virtual tokens stand in this order.

    Raises:
      ConfigError: a method is there twice, or names no layer of the model.
    """
    kinds = [type(method) for method in methods]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"{kind.__name__} is given twice: give it once, with all its targets")
    virtual, placed = 0, []
    for method in methods:
        # Each alone, so that the one without a target is named.
        if isinstance(method, Virtual):
            method = dataclasses.replace(method, place=virtual)
            virtual += method.tokens
        placed.append(method)
        alone = dataclasses.replace(model, interceptors=(method.intercept,))
        if "adapters" not in alone.abstract_params:
            raise ConfigError(
                f"{type(method).__name__}.targets is {method.targets!r}, which is no layer of a "
                f"{model.config.family}: give a pattern of paths such as 'attention/(query|value)'"
            )
    interceptors = tuple(method.intercept for method in placed)
    return dataclasses.replace(model, interceptors=interceptors, virtual_tokens=virtual)
